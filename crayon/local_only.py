"""The hard switch: CRAYON_LOCAL_ONLY keeps everything on this device, whatever else is said.

It is read at every request and not remembered, so nothing that was opened or decided before can pass it by.
"""

from __future__ import annotations

import os

from crayon.errors import PrivacyError

LOCAL_ONLY = "CRAYON_LOCAL_ONLY"
OFF = frozenset({"", "0", "false", "no", "off"})


def local_only() -> bool:
    """Return whether the switch is on: any value does that but the empty one, 0, false, no and off.

    Its name counts in any case, like that of the settings.
    """
    return any(name.upper() == LOCAL_ONLY and value.strip().casefold() not in OFF for name, value in os.environ.items())


def check_local_only() -> None:
    """Refuse to turn to a server while the switch is on.

    Raises:
        PrivacyError: it is on; nothing was sent.
    """
    if local_only():
        raise PrivacyError(f"{LOCAL_ONLY} is on, so no server is asked: unset it to allow one; nothing was sent")
