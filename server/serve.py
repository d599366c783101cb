"""The life of a server: bind, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from crayon.errors import ConfigError
from crayon.server.access import AccessInterceptor
from crayon.server.certificates import Certificates
from crayon.server.doors import Doors
from crayon.server.health_port import HealthPort
from crayon.server.interceptor import StatusInterceptor
from crayon.server.limits import ClientLimits
from crayon.server.observers import Observing
from crayon.server.service import InferenceService
from crayon.server.tokens import TokenStore
from crayon.server.watches import BoundedHealth
from crayon.v1 import inference_pb2, inference_pb2_grpc
from crayon.wire.address import UNIX, bare
from crayon.wire.limits import MAX_METADATA_BYTES, MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crayon.engine import Engine
    from crayon.errors import CrayonError
    from crayon.server.config import ServeConfig

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How long an engine may take to close; one that hangs must not keep the process.
_CLOSE_S = 30.0
# How long a load that was told to end may take to do so: nobody waits for what it brings.
_LOAD_ENDS_S = 0.5
# Health watches never end by themselves; they, and the last statuses, get this long once the answers are out.
_LAST_WORDS_S = 1.0
MAX_CALLS = 256
_SILENT_MS = 5_000


async def serve(
    config: ServeConfig,
    engine_factory: Callable[[], Engine],
    *,
    on_ready: Callable[[str], None] | None = None,
    on_metrics: Callable[[str], None] | None = None,
    on_drain: Callable[[int], None] | None = None,
    on_left: Callable[[], None] | None = None,
    on_reload: Callable[[str], None] | None = None,
    beside: Beside | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; then drain, close the engine and return.

    A second signal ends the process at once. SIGHUP reads tokens and certificates again, where they are in files.

    Args:
        config: where to listen and how to stop.
        engine_factory: makes the engine; runs in a thread while health says NOT_SERVING.
        on_ready: called with the address to connect to, once the engine is loaded.
        on_metrics: called with the address that metrics are read at, as soon as there is one.
        on_drain: called with the number of running requests when the server begins to stop.
        on_left: called last, if the engine hangs and does not close, or still loads and cannot be interrupted; its
            threads may then hold up the process's end. One that still loads is closed when it has.
        on_reload: called with what came of it after a SIGHUP.
        beside: what else answers with the engine, in this loop.

    Raises:
        ConfigError: the address cannot be listened on, or tokens or certificates are unusable.
        CrayonError: whatever `engine_factory` raised.
    """
    server = Server(config, beside)
    address = await server.start()
    if on_metrics is not None and server.metrics_address:
        on_metrics(server.metrics_address)
    stop = asyncio.Event()
    with _signals(stop.set), _hangup(server, on_reload or log.info):
        loading = asyncio.create_task(server.load(engine_factory))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                if on_ready is not None:
                    on_ready(address)
                await stopping
        finally:
            stopping.cancel()
            loading.cancel()
            if on_drain is not None:
                on_drain(server.running)
            if not await server.stop() and on_left is not None:
                on_left()


@runtime_checkable
class FailureReporting(Protocol):
    """An engine that can break down while it serves, and says so."""

    def on_failure(self, tell: Callable[[CrayonError], None]) -> None:
        """Call `tell` once, from any thread, if the engine breaks down; at once if it already has."""
        ...


class Beside(Protocol):
    """What else answers with a server's engine, in the same loop: it starts, drains and ends with the server."""

    async def start(self) -> None:
        """Listen; there is no engine yet."""
        ...

    async def opened(self, engine: Engine, limits: ClientLimits) -> None:
        """Answer with this engine, within these limits of each client."""
        ...

    def reload(self) -> None:
        """Read tokens and certificates again."""
        ...

    async def stop(self) -> None:
        """Take no more requests, and let the running ones end; the engine is closed afterwards."""
        ...


class Server:
    """One listening server. `start`, `load`, and at last `stop`, in one event loop.

    Args:
        config: where to listen and how to stop.
        beside: what else answers with the engine.

    Raises:
        ConfigError: tokens or certificates are unusable.
    """

    def __init__(self, config: ServeConfig, beside: Beside | None = None) -> None:
        self._config = config
        self._beside = beside
        self._limits = ClientLimits(config.limits)
        self._service = InferenceService(default_deadline=config.default_deadline, max_deadline=config.max_deadline)
        self._doors = Doors()
        self._health = BoundedHealth(self._doors.refused)
        self._loading: Future[Engine] | None = None
        self._failing: asyncio.Task[None] | None = None
        self._probed = HealthPort(config, self._health)
        self._tokens = TokenStore(config.tokens_file, config.tokens) if config.wants_tokens else None
        self._certificates = None if config.tls is None else Certificates(config.tls)
        self._observing = Observing(config)
        # Who observes sees what all others make of a call. Then: nobody who may not call makes others work.
        access = AccessInterceptor(self._tokens, self._limits, self._doors)
        interceptors = (*self._observing.interceptors, access, StatusInterceptor())
        self._server = grpc.aio.server(interceptors=interceptors, options=_options(config))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    @property
    def running(self) -> int:
        """How many RPCs are being answered."""
        return self._service.running

    @property
    def metrics_address(self) -> str:
        """Where metrics are read; empty where there are none."""
        return self._observing.address

    async def start(self) -> str:
        """Listen, saying NOT_SERVING, and return the address to connect to.

        Raises:
            ConfigError: the address is taken or not ours.
        """
        await self._say(_NOT_SERVING)
        self._observing.start()
        address = self._config.address()
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError as error:
            self._observing.stop()
            raise ConfigError("port", f"cannot listen on {address}: {_why(self._config) or error}") from None
        await self._probed.start()
        await self._server.start()
        self._doors.watch(port)
        if self._beside is not None:
            await self._beside.start()
        return self._config.address(port)

    @property
    def reloads(self) -> bool:
        """Whether there is anything for `reload` to read."""
        return self._config.tokens_file is not None or self._certificates is not None

    def reload(self) -> str:
        """Read tokens and certificates again, and say what came of it; what cannot be used is logged and left."""
        said = []
        if self._tokens is not None:
            done = self._tokens.reload()
            said.append(f"{len(self._tokens.current)} token(s)" + ("" if done else ", as before: the file is unusable"))
        if self._certificates is not None:
            done = self._certificates.reload()
            said.append("certificates" + ("" if done else " as before: a file is unusable"))
        if self._beside is not None:
            self._beside.reload()
        return "reloaded: " + "; ".join(said)

    async def load(self, engine_factory: Callable[[], Engine]) -> None:
        """Make the engine in a thread, then say SERVING, until the engine breaks down.

        Raises:
            CrayonError: whatever `engine_factory` raised.
        """
        self._loading = _in_thread(engine_factory, "crayon-load")
        # Shielded: a load cannot be interrupted, and `stop` has to close what comes out of it.
        engine = self._service.engine = await asyncio.shield(asyncio.wrap_future(self._loading))
        self._observing.watch(engine)
        if self._beside is not None:
            await self._beside.opened(engine, self._limits)
        await self._say(_SERVING)
        if isinstance(engine, FailureReporting):
            self._failing = asyncio.create_task(self._watch(engine))

    async def _watch(self, engine: FailureReporting) -> None:
        loop, failed = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: CrayonError) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(failed.set)

        engine.on_failure(tell)
        await failed.wait()
        # The port stays open: whoever calls learns with a status what is wrong, and health tells the others.
        log.critical("the engine has broken down; health says NOT_SERVING: start the server again")
        await self._say(_NOT_SERVING)

    async def stop(self) -> bool:
        """Say NOT_SERVING, take no more requests, let the running ones end within `drain_seconds`, close the engine.

        Requests that still run then end with UNAVAILABLE. Returns whether nothing is left behind: False if the engine
        hangs, or still loads; what comes out of that load is closed.
        """
        self._service.draining = True
        if self._failing is not None:
            self._failing.cancel()
        self._doors.stop()
        self._observing.serves(yes=False)
        await self._health.enter_graceful_shutdown()
        # Clients are told to go elsewhere at once, but nothing is cut off here: the longest part is waited for below.
        beside = None if self._beside is None else asyncio.create_task(self._beside.stop())
        closing = asyncio.create_task(self._server.stop(self._config.drain_seconds + 10 * _LAST_WORDS_S))
        try:
            await asyncio.wait_for(self._service.idle(), self._config.drain_seconds)
        except TimeoutError:
            log.warning("%d requests still run after %s s and are ended", self.running, self._config.drain_seconds)
        if beside is not None:
            await beside
        closed = await self._unload()
        await self._server.stop(_LAST_WORDS_S)
        await closing
        await asyncio.to_thread(self._observing.stop)
        # Last: whoever probes hears NOT_SERVING until there is nothing left to ask.
        await self._probed.stop()
        return closed

    async def _unload(self) -> bool:
        loading = self._loading
        if loading is None:
            return True
        with contextlib.suppress(Exception):  # it is told below, or was
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(loading)), _LOAD_ENDS_S)
        if not loading.done():
            log.warning("the engine is still loading and is left behind")
            loading.add_done_callback(_close_late)
            return False
        return loading.exception() is not None or await _closed(loading.result())

    async def _say(self, status: int) -> None:
        self._observing.serves(yes=status == _SERVING)
        for name in ("", SERVICE):
            await self._health.set(name, status)


def _options(config: ServeConfig) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would share its clients at random instead of the second one failing.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        # Ours is some hundred bytes. Without the second, what is between the two would be refused at random.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # A long prefill sends nothing: pings find a client that has vanished without a word, and free its slot.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # As in crayon/client/channel.py.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping for the same reason. gRPC's default takes more than one in 5 minutes for an attack.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # One connection may have so many calls: a client shares one among many threads, and queues what is more.
        ("grpc.max_concurrent_streams", MAX_CALLS),
        # Who opens a connection and does not speak, or does not answer the first frames, is let go of soon.
        ("grpc.server_handshake_timeout_ms", _SILENT_MS),
        ("grpc.http2.settings_timeout", _SILENT_MS),
        # So is who has had nothing to ask for a while; a client connects again with its next call.
        ("grpc.max_connection_idle_ms", 60_000),
    ]


def check_access(config: ServeConfig) -> None:
    """Find out early whether `config`'s tokens and certificates can be used.

    Raises:
        ConfigError: they cannot, and why.
    """
    if config.wants_tokens:
        TokenStore(config.tokens_file, config.tokens)
    if config.tls is not None:
        Certificates(config.tls)


def check_free(config: ServeConfig) -> None:
    """Find out early whether `config`'s address can be listened on; only `Server.start` really takes it.

    Raises:
        ConfigError: it cannot, and why.
    """
    why = _why(config)
    if why:
        raise ConfigError("port", f"cannot listen on {config.address()}: {why}")


def _why(config: ServeConfig) -> str:
    """Ask the operating system why an address cannot be bound; gRPC does not tell."""
    if config.host.startswith(UNIX):
        folder = Path(config.host.removeprefix(UNIX)).parent
        return "" if os.access(folder, os.W_OK) else f"cannot write to {folder}"
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            bare(config.host), config.port, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen()
    except OSError as error:
        return f"{error.strerror or error}; choose another --port (0 picks a free one)"
    return ""


def _in_thread(work: Callable[[], Result], name: str) -> Future[Result]:
    """Run in a daemon thread, which a process can leave behind; asyncio's own pool would be waited for."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the future is awaited
            future.set_exception(error)

    # In the caller's context: who reads a log of one format reads that of this thread, too.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True).start()
    return future


def _close_late(loading: Future[Engine]) -> None:
    """Close what came of a load that nobody waited for."""
    if loading.exception() is None:
        loading.result().close()


async def _closed(engine: Engine) -> bool:
    """Close an engine, and return whether that came to an end."""
    closing = asyncio.wrap_future(_in_thread(engine.close, "crayon-close"))
    await asyncio.wait({closing}, timeout=_CLOSE_S)
    if not closing.done():
        log.critical("the engine does not close within %g s and is left behind", _CLOSE_S)
        return False
    closing.result()
    return True


@contextlib.contextmanager
def _hangup(server: Server, tell: Callable[[str], None]) -> Iterator[None]:
    """Reload on SIGHUP, if there is anything to; else it ends the process, as it does when a terminal is closed."""
    if not server.reloads or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGHUP)
    loop.add_signal_handler(signal.SIGHUP, lambda: tell(server.reload()))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first signal; the second finds the system's own handler, which ends the process."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; an embedding program stops us by cancellation.
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def first() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop()

    for number in _SIGNALS:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
