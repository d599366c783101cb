"""The gRPC channel to a server: its settings, and its life."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

import grpc

from crayon.errors import EngineClosedError
from crayon.wire.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from grpc import Channel

    from crayon.client.access import ServerAccess


class LazyChannel:
    """A channel that is opened at first use, once, and knows when it cannot be used any more.

    Args:
        access: the server, and how it is spoken to.
        connect_timeout: seconds for one attempt to connect.
        target: where to connect to, if that is one of several places behind the server's name. The certificate must
            be for the name all the same.
    """

    def __init__(self, access: ServerAccess, *, connect_timeout: float, target: str | None = None) -> None:
        self._access = access
        self._target = access.address if target is None else target
        self._options: list[tuple[str, int | str]] = [*channel_options(connect_timeout, local=access.local)]
        if self._target != access.address:
            self._options.append(("grpc.default_authority", access.address))
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._pid = os.getpid()
        self._finalizer: weakref.finalize[..., LazyChannel] | None = None
        self.closed = False

    def get(self) -> Channel:
        """Return the channel; this never waits for the network.

        Raises:
            EngineClosedError: after `close`, or in a process forked after the first use.
        """
        self.check_fork()
        with self._lock:
            if self.closed:
                raise EngineClosedError("the client was closed")
            if self._channel is None:
                self._pid = os.getpid()
                credentials = self._access.credentials()
                if credentials is None:
                    self._channel = grpc.insecure_channel(self._target, options=self._options)
                else:
                    self._channel = grpc.secure_channel(self._target, credentials, options=self._options)
                # Also runs when the interpreter ends, so that no call is under way while it is torn down.
                self._finalizer = weakref.finalize(self, _close, self._channel, self._pid)
            return self._channel

    def close(self) -> None:
        """Cancel what runs and disconnect. Safe to call twice, and in a forked process."""
        if self.forked:
            return
        with self._lock:
            self.closed = True
            if self._finalizer is not None:
                self._finalizer()

    def check_fork(self) -> None:
        """Raise EngineClosedError in a process forked after the first use."""
        if self.forked:
            # gRPC's threads are not in this process: a call would hang.
            raise EngineClosedError("this client was used before the process forked; make a new one before forking")

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that uses the channel."""
        return self._channel is not None and self._pid != os.getpid()


def _close(channel: Channel, pid: int) -> None:
    if pid == os.getpid():
        channel.close()


def channel_options(connect_timeout: float, *, local: bool) -> list[tuple[str, int]]:
    """Return the settings of every channel to a server, `local` to this machine or not."""
    return [
        # See attempts.py.
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # In gRPC this is the time that one attempt to connect may take; its default is 20 s.
        ("grpc.min_reconnect_backoff_ms", int(1000 * connect_timeout)),
        # A server that comes back is found within 2 s, not within gRPC's 2 minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A server that vanished without a word is noticed within 30 s, and then the stream ends with UNAVAILABLE.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # gRPC measures bandwidth with pings of its own, and while one of those is not answered sends no other: its
        # default patience with them is a minute.
        ("grpc.http2.ping_timeout_ms", 10_000),
        # Its default lets two pings pass in silence, then one a minute; a long prefill is silent.
        ("grpc.http2.max_pings_without_data", 0),
        # No proxy on the way to this machine, and no connection shared with (and closed by) another client.
        ("grpc.enable_http_proxy", int(not local)),
        ("grpc.use_local_subchannel_pool", 1),
    ]
