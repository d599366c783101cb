"""Asks several servers for their health while they are in use, and looks their names up again."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crayon.client.balancer import Health
from crayon.errors import EngineClosedError
from crayon.local_only import local_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.client.balancer import Balancer

# Nothing is asked while nobody uses the client: a device's radio should sleep.
IDLE_S = 30.0
NAMES_S = 30.0
_TICK_S = 0.25
_SERVING = health_pb2.HealthCheckResponse.SERVING
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Prober:
    """A thread that lives while a client is in use; it tells a balancer how the servers are.

    Args:
        balancer: is told.
        channel: returns the channel to a server.
        timeout: seconds that one server has to answer.
        on_silent: hears of servers that have not answered for some checks.
        look_up: looks names up again and tells the balancer; may block, and runs in a thread of its own. None where
            there are no names.
    """

    def __init__(
        self,
        balancer: Balancer,
        channel: Callable[[str], grpc.Channel],
        *,
        timeout: float,
        on_silent: Callable[[str], None],
        look_up: Callable[[], None] | None = None,
    ) -> None:
        self._balancer = balancer
        self._channel = channel
        self._timeout = timeout
        self._on_silent = on_silent
        self._look_up = look_up
        self._condition = threading.Condition()
        self._closed = False
        self._used = 0.0
        self._thread: threading.Thread | None = None
        self._looking: threading.Thread | None = None
        self._looked = 0.0
        self.looked_up = threading.Event()
        """Set when names have been looked up once, or need not be."""
        if look_up is None:
            self.looked_up.set()

    def used(self) -> None:
        """Hear that a request is about to be sent: begin, or go on, to ask."""
        with self._condition:
            self._used = time.monotonic()
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._balancer.wake()
            self._thread = threading.Thread(target=self._run, name="crayon-prober", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop asking, and wait for the end of the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._closed or time.monotonic() - self._used > IDLE_S:
                    self._thread = None
                    return
            if not local_only():
                self._look_up_again()
                # One server is only asked by its requests.
                for address in self._balancer.due() if len(self._balancer.addresses) > 1 else ():
                    self._ask(address)
            with self._condition:
                self._condition.wait_for(lambda: self._closed, _TICK_S)

    def _ask(self, address: str) -> None:
        try:
            stub = health_pb2_grpc.HealthStub(self._channel(address))
            call = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        except (ValueError, EngineClosedError):
            # The client was closed meanwhile; or it went through a fork, and its requests say so.
            return
        call.add_done_callback(partial(self._answered, address))

    def _answered(self, address: str, call: Any) -> None:
        code = call.code()
        if code is grpc.StatusCode.OK:
            health = Health.SERVING if call.result().status == _SERVING else Health.NOT_SERVING
        else:
            # Whoever refuses is there: it has no health service, or wants a token that health needs not.
            health = Health.AWAY if code in _AWAY else Health.SERVING
        if self._balancer.checked(address, health, silent=code is grpc.StatusCode.DEADLINE_EXCEEDED):
            self._on_silent(address)

    def _look_up_again(self) -> None:
        if self._look_up is None or (self._looking is not None and self._looking.is_alive()):
            return
        now = time.monotonic()
        if self.looked_up.is_set() and now - self._looked < NAMES_S:
            return
        self._looked = now
        look_up = self._look_up

        def run() -> None:
            try:
                look_up()
            finally:
                self.looked_up.set()

        # The system's resolver knows no deadline; it must not hold up the checks.
        self._looking = threading.Thread(target=run, name="crayon-names", daemon=True)
        self._looking.start()
