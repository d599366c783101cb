"""The two engines of a client: given as objects, or opened on first use from a reference and an address."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from crayon.completion import Source
from crayon.engine import Engine
from crayon.errors import CrayonError, EngineClosedError, EngineError, InvalidRequestError, NoMemoryError
from crayon.local_only import check_local_only
from crayon.sdk.call.device_failures import is_devices_own
from crayon.sdk.call.engine_options import DEVICE_OPTIONS, SERVER_OPTIONS, check_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.client.balancer import EndpointStatus
    from crayon.customising.customization import Customization
    from crayon.engine import GenerateRequest, ScoreRequest
    from crayon.ledger import Ledger

logger = logging.getLogger("crayon.sdk")

# The setting `device.model` of the command line: it decides for programs that leave the choice open, too.
MODEL_VARIABLE = "CRAYON_DEVICE__MODEL"

# A device that could not be opened is left alone for so long, while a server answers.
RETRY_DEVICE_S = 60.0


class Engines:
    """Opens what is asked for, once, and closes what it opened; safe to use from several threads.

    Raises:
        InvalidRequestError: an argument is no reference and no engine, or both are missing.
    """

    def __init__(
        self,
        device: str | os.PathLike[str] | Engine | None,
        server: str | Sequence[str] | Engine | None,
        device_options: Mapping[str, Any] | None,
        server_options: Mapping[str, Any] | None,
    ) -> None:
        given = {Source.DEVICE: _given("device", device), Source.SERVER: _given("server", server)}
        if all(value is None for value in given.values()):
            raise InvalidRequestError("device", "neither a device model nor a server is given; pass one")
        self._references = {source: value for source, value in given.items() if isinstance(value, str)}
        self._options = {
            Source.DEVICE: check_options("device_options", device_options, DEVICE_OPTIONS),
            Source.SERVER: check_options("server_options", server_options, SERVER_OPTIONS),
        }
        self._opened = {source: value for source, value in given.items() if isinstance(value, Engine)}
        self._owned: list[Engine] = []
        self._ledger: Ledger | None = None
        self._customization: Customization | None = None
        self._locks = {source: threading.Lock() for source in Source}
        self._closed = False
        self._lost: tuple[CrayonError, float] | None = None  # why the device could not be opened, and when

    def note_in(self, ledger: Ledger) -> None:
        """Have the server's connection note what it sends; one that was passed in, unless it does so elsewhere."""
        self._ledger = ledger
        server = self._opened.get(Source.SERVER)
        if getattr(server, "ledger", ledger) is None:
            server.ledger = ledger  # type: ignore[union-attr] # an attribute of remote engines

    def configured(self, source: Source) -> bool:
        """Whether there is such an engine, opened or not."""
        return source in self._opened or source in self._references

    def opened(self, source: Source) -> bool:
        """Whether `open(source)` returns without delay."""
        return source in self._opened

    @property
    def opening_device(self) -> bool:
        """Whether the device's model is being opened."""
        return self._locks[Source.DEVICE].locked()

    def suit(self, customization: Customization | None) -> None:
        """Have the device's model, if it is left open which and is not open yet, be what this was made for."""
        if customization is not None:
            self._customization = customization

    def open(self, source: Source, others: Sequence[Source] = ()) -> Engine:
        """Return an engine, opening it on first use: that blocks while a model is fetched and loaded.

        Args:
            source: which one.
            others: who else may answer. Where the server may, a device that could not be opened a moment ago is not
                tried again: that takes its time.

        Raises:
            EngineClosedError: after `close`.
            ModelError: the device's model cannot be found, fetched or read.
            PrivacyError: it is the server, and CRAYON_LOCAL_ONLY is on.
        """
        self.check_open()
        if source is Source.SERVER:
            check_local_only()  # the policy said so before; here it holds for what was decided earlier, too
        if source in self._opened:
            return self._opened[source]
        if source is Source.DEVICE and Source.SERVER in others and self._lost is not None:
            error, when = self._lost
            if time.monotonic() < when + RETRY_DEVICE_S:
                raise error
        with self._locks[source]:
            self.check_open()
            if source not in self._opened:
                engine = self._open(source)
                self._owned.append(engine)
                self._opened[source] = engine
                self._lost = None if source is Source.DEVICE else self._lost
            return self._opened[source]

    def lost_device(self, error: CrayonError, sources: Sequence[Source]) -> bool:
        """Return whether the server is to answer because the device cannot be opened; that is said once a while."""
        if Source.SERVER not in sources or not is_devices_own(error):
            return False
        if self._lost is None or self._lost[0] is not error:
            self._lost = (error, time.monotonic())
            logger.warning("the device's model cannot be opened, so the server answers: %s", error)
        return True

    def check_open(self) -> None:
        """Raise EngineClosedError after `close`."""
        if self._closed:
            raise EngineClosedError("this client was closed; make a new one")

    def close(self) -> None:
        """Close the engines that were opened here. Engines that were passed in stay the caller's."""
        self._closed = True
        for lock in self._locks.values():
            with lock:  # an opening that has begun is waited for, so that nothing stays open
                pass
        while self._owned:
            self._owned.pop().close()

    def _open(self, source: Source) -> Engine:
        """Open one; whatever goes wrong is an error of ours."""
        opener = self._open_device if source is Source.DEVICE else self._open_server
        try:
            return opener(self._references[source], self._options[source])
        except CrayonError:
            raise
        except MemoryError:
            raise NoMemoryError(f"too little memory to open the {source}: close other programs, or take less") from None
        except Exception as error:
            raise EngineError(f"the {source} cannot be opened ({type(error).__name__}: {error})") from error

    def _open_server(self, address: str, options: Mapping[str, Any]) -> Engine:
        from crayon.client.remote import RemoteEngine

        return RemoteEngine(address, ledger=self._ledger, **options)

    def _open_device(self, reference: str, options: Mapping[str, Any]) -> Engine:
        from crayon.device import DeviceEngine, auto
        from crayon.models import is_auto

        custom, pinned = self._customization, os.environ.get(MODEL_VARIABLE, "").strip()
        if is_auto(reference) and pinned:
            reference = pinned
        elif is_auto(reference) and custom is not None:
            own = auto.made_for(custom.base_sha256, options.get("models_dir"))
            if own is not None:
                logger.debug("auto takes %s: customisation %s was made for it", own, custom.name)
                reference = own
        engine = DeviceEngine.open(reference, **options)
        model, wanted = engine.models()[0], options.get("n_ctx")
        if wanted is not None and model.context_tokens < wanted:
            logger.warning(
                "a context of %d tokens was asked for; %s was made for %d, and has these",
                wanted,
                model.name,
                model.context_tokens,
            )
        return engine

    # -- what a server may tell beyond the engine contract

    @property
    def server_away(self) -> bool:
        """Whether the server's circuit breaker is open; a server not yet used is not known to be away."""
        state = getattr(self.breaker, "state", None)
        return str(getattr(state, "value", state)).lower() == "open"

    @property
    def breaker(self) -> object:
        """The server's circuit breaker, if it has one and was used."""
        return getattr(self._opened.get(Source.SERVER), "breaker", None)

    @property
    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """How each of the servers stands, if it can say so and was used."""
        tell = getattr(self._opened.get(Source.SERVER), "endpoints", None)
        return tuple(tell()) if callable(tell) else ()

    @property
    def server_address(self) -> str | None:
        """The server's address, if it has one."""
        address = getattr(self._opened.get(Source.SERVER), "address", None)
        return address if isinstance(address, str) else self._references.get(Source.SERVER)

    def request_bytes(self, request: GenerateRequest | ScoreRequest) -> int:
        """Return how many bytes of a request leave this process; an engine within it sends none."""
        count = getattr(self._opened.get(Source.SERVER), "request_bytes", None)
        return int(count(request)) if callable(count) else 0


def _given(field: str, value: object) -> str | Engine | None:
    if value is None or isinstance(value, Engine):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if field == "server" and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = ",".join(value)
    if isinstance(value, str) and value.strip():
        return value
    what = "a model reference" if field == "device" else "an address such as 'localhost:50051', several of them"
    raise InvalidRequestError(field, f"must be {what}, an engine or None, not {value!r}")
