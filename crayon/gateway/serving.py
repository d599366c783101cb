"""A gateway under uvicorn: bind, answer while the models load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import uvicorn

from crayon.errors import ConfigError
from crayon.gateway.application import build
from crayon.gateway.local_socket import LocalSocket
from crayon.gateway.opening import tokens_of
from crayon.wire.address import UNIX, bare, is_local, join
from crayon.wire.certificates import read_authorities, read_certified_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

    from crayon.config import GatewaySettings
    from crayon.gateway.shared.gateway import Gateway
    from crayon.server.tokens import TokenStore

# Idle connections of clients that keep theirs.
_IDLE_S = 60
_BACKLOG = 512


def check_listening(settings: GatewaySettings) -> tuple[str, ...]:
    """Check where a gateway is to listen and who may ask there; return what its operator should hear.

    Raises:
        ConfigError: other machines could read along or ask, and nothing says that they may.
    """
    if settings.host.startswith(UNIX):
        raise ConfigError("host", "must be an address of this machine; HTTP clients know no socket files")
    tls = _has_tls(settings)
    if is_local(settings.host):
        return ()
    if not tls and not settings.insecure_plain_text:
        raise ConfigError(
            "host",
            f"{settings.host!r} may be reached from other machines, and without TLS prompts would travel as plain "
            "text; give --tls-cert and --tls-key, or listen on 127.0.0.1 (--insecure-plain-text does it all the same)",
        )
    known = settings.tokens_file is not None or settings.tokens or settings.tls_client_ca is not None
    if not known and not settings.insecure_no_tokens:
        raise ConfigError(
            "host",
            f"{settings.host!r} may be reached from other machines, and whoever reaches it could ask; give "
            "--tokens-file or --tls-client-ca (--insecure-no-tokens does without)",
        )
    said = []
    if not tls:
        said.append(f"INSECURE: plain HTTP on {settings.host}: who can listen on the network reads prompts and tokens")
    if not known:
        said.append(f"INSECURE: no tokens on {settings.host}: whoever can reach the port may ask")
    return tuple(said)


def _has_tls(settings: GatewaySettings) -> bool:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return True
    if settings.tls_cert is not None or settings.tls_key is not None or settings.tls_client_ca is not None:
        raise ConfigError("tls_cert", "TLS needs both --tls-cert and --tls-key")
    return False


def listen(settings: GatewaySettings) -> socket.socket:
    """Return the socket that a gateway listens on.

    Raises:
        ConfigError: the address is taken, or none of this machine.
    """
    host = "127.0.0.1" if settings.host == "localhost" else bare(settings.host)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        hint = "choose another --port (0 picks a free one)"
        raise ConfigError("port", f"cannot listen on {join(host, settings.port)}: {error.strerror}; {hint}") from None
    return listener


def address_of(settings: GatewaySettings, listener: socket.socket) -> str:
    """Return what clients take as their base URL, without a path."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if _has_tls(settings) else 'http'}://{join(host, port)}"


class GatewayServer:
    """uvicorn around a gateway's routes, on a socket that is bound before anything is loaded.

    Args:
        gateway: who answers; whoever made it opens and closes it.
        settings: where, and who may ask.
        tokens: whose tokens are taken, where they are not those of `settings`.

    Raises:
        ConfigError: the address cannot be listened on, or tokens or certificates cannot be used.
    """

    def __init__(self, gateway: Gateway, settings: GatewaySettings, tokens: TokenStore | None = None) -> None:
        self._gateway = gateway
        self._tokens = tokens_of(settings) if tokens is None else tokens
        self._drain = settings.drain_seconds
        app = build(gateway, settings, self._tokens, loads=False)
        config = _config(app, settings)
        self._server = _Server(config)
        self._certificates = (settings.tls_cert, settings.tls_key) if _has_tls(settings) else None
        self._socket = listen(settings)
        self.address = address_of(settings, self._socket)
        self._local = LocalSocket()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer from now on; until the gateway is loaded, that it is being loaded."""
        sockets = [self._socket]
        if self._gateway.panel is not None and self._certificates is None:
            self._gateway.panel.address = self.address
            local = self._local.listen()
            sockets += [] if local is None else [local]
        self._task = asyncio.create_task(self._server.serve(sockets=sockets))
        begun = asyncio.ensure_future(self._server.begun.wait())
        await asyncio.wait({self._task, begun}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()

    def reload(self) -> str:
        """Read tokens and certificates again, and say what came of it."""
        said = []
        if self._tokens is not None:
            done = self._tokens.reload()
            said.append(f"{len(self._tokens.current)} token(s)" + ("" if done else ", as before: the file is unusable"))
        context = self._server.config.ssl
        if self._certificates is not None and context is not None:
            cert, key = self._certificates
            try:
                if cert is not None and key is not None:
                    read_certified_key(cert, key, "tls_cert", "tls_key")
                    context.load_cert_chain(cert, key)
                said.append("certificates")
            except ConfigError as error:
                said.append(f"certificates as before: {error}")
        return "reloaded: " + ("; ".join(said) or "nothing is in files")

    async def stop(self) -> None:
        """Take no more requests, let the running ones end within `drain_seconds`, and close the port."""
        self._gateway.draining = True
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
        self._local.close()


class _Server(uvicorn.Server):
    """uvicorn, whose signals are handled by who runs it, and who hears when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def _config(app: ASGIApp, settings: GatewaySettings) -> uvicorn.Config:
    if _has_tls(settings) and settings.tls_cert is not None and settings.tls_key is not None:
        read_certified_key(settings.tls_cert, settings.tls_key, "tls_cert", "tls_key")
        if settings.tls_client_ca is not None:
            read_authorities(settings.tls_client_ca, "tls_client_ca")
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,  # it would quote paths with their queries; ours is in access.py
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        backlog=_BACKLOG,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_client_ca is None else str(settings.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
    )


async def serve(
    gateway: Gateway,
    settings: GatewaySettings,
    *,
    on_bound: Callable[[str], None],
    on_ready: Callable[[str], None],
    on_drain: Callable[[int], None],
    on_reload: Callable[[str], None],
) -> None:
    """Answer until SIGTERM, SIGINT or cancellation; a second signal ends the process. SIGHUP reads tokens again.

    Args:
        gateway: who answers; opened and closed here.
        settings: where, and who may ask.
        on_bound: called with the address before the models are loaded.
        on_ready: called with it once they are.
        on_drain: called with the number of running requests when it begins to stop.
        on_reload: called with what came of it after a SIGHUP.

    Raises:
        ConfigError: the address cannot be listened on, or tokens or certificates cannot be used.
        CrayonError: nobody can answer: the models cannot be loaded.
    """
    server = GatewayServer(gateway, settings)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)
    loop.add_signal_handler(signal.SIGHUP, lambda: on_reload(server.reload()))
    await server.start()
    on_bound(server.address)
    loading, stopping = asyncio.create_task(gateway.load()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            on_ready(server.address)
            await stopping
    finally:
        stopping.cancel()
        loading.cancel()
        on_drain(gateway.running)
        await server.stop()
        await gateway.close()
