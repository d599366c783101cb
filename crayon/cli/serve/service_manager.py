"""What a service manager such as systemd is told, where one started us: sd_notify(3) with `Type=notify`."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, STOPPING = "READY=1", "STOPPING=1"


def tell_service_manager(state: str) -> None:
    """Send `state` to the socket that `NOTIFY_SOCKET` names; without one, or where nobody listens, do nothing."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    # A name that begins with @ is in the abstract namespace, which the kernel writes with a zero byte.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages:
        messages.connect(address)
        messages.send(state.encode())
