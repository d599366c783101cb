"""A gateway of this user's that runs: found by its socket file, asked as a client is, so that no model is loaded."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from crayon.completion import (
    Completion,
    FinishReason,
    PrivacyReport,
    Reason,
    Route,
    Source,
    Timings,
    Usage,
)
from crayon.errors import (
    BudgetError,
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    PrivacyError,
    PromptTooLongError,
    ServerError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.local_only import local_only
from crayon.private_file import gateway_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from crayon.config import Settings
    from crayon.messages import Message
    from crayon.sdk import Crayon

LOOK_S = 0.5
"""Longest that a command waits to hear whether a gateway is there."""
_WISHES = ("mode", "private", "blend", "free", "timeout")
_FORMS = ("regex", "choices", "grammar", "show_format")


class GatewayState(NamedTuple):
    """What a gateway says of itself."""

    pid: int
    settings: str
    running: int
    models: tuple[str, ...]
    uptime_s: float
    address: str


class TextPiece(NamedTuple):
    """Some more of an answer's text."""

    text: str


def look(timeout: float = LOOK_S) -> GatewayState | None:
    """Return what the running gateway says of itself; None where there is none that answers this user."""
    path = gateway_socket()
    if not path.is_socket():
        return None
    connection = _Connection(str(path), timeout)
    try:
        connection.request("GET", "/crayon/process")
        reply = connection.getresponse()
        if reply.status != http.client.OK:
            return None  # it wants a token, or still loads
        found = json.loads(reply.read(2**20))
        return GatewayState(
            int(found["pid"]), str(found["settings"]), int(found["running"]), tuple(map(str, found["models"])),
            float(found["uptime_s"]), str(found["address"]),
        )  # fmt: skip
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def usable(settings: Settings) -> bool:
    """Whether a gateway runs that answers as these settings say."""
    if settings.privacy.action == "ask" or settings.sampling.ignore_eos:
        return False  # a gateway asks nobody, and has no field for the other
    found = look()
    if found is None:
        return False
    from crayon.config.fingerprint import fingerprint

    return found.settings == fingerprint(settings)


class GatewayClient:
    """Stands in for a `crayon.Crayon`: answers come from the gateway; for all else a client is opened here.

    Args:
        settings: what each request says: mode, privacy, patience and sampling.
        open_client: opens a client of one's own.
    """

    def __init__(self, settings: Settings, open_client: Callable[[Settings], Crayon]) -> None:
        self._settings = settings
        self._open = open_client
        self._own: Crayon | None = None

    def stream(self, messages: Sequence[Message], **options: Any) -> GatewayStream:
        """Return an answer as it is written; keywords as of `Crayon.stream`."""
        settings = self._settings
        sampling = {**settings.sampling.model_dump(exclude={"ignore_eos"}), **options}
        wishes = {"mode": settings.mode, "private": settings.private, "timeout": settings.timeout}
        for name in _WISHES:
            if options.get(name) is not None:
                wishes[name] = sampling.pop(name)
            sampling.pop(name, None)
        wishes["private"] = bool(wishes["private"]) or local_only()
        sampling.pop("last_profile", None)  # each question is looked at by itself
        forms = {name: sampling.pop(name) for name in _FORMS if name in sampling}
        form = None
        if forms or "response_format" in sampling:
            from crayon.constraints.response_format import form_of

            given = {
                **forms,
                **({"response_format": sampling["response_format"]} if "response_format" in sampling else {}),
            }
            form = form_of(**given)
        body = {
            **{name: value for name, value in sampling.items() if value not in (None, ())},
            "model": "crayon",
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "crayon": {**{name: value for name, value in wishes.items() if value is not None}, **forms},
        }
        if isinstance(body.get("response_format"), dict):
            schema = {"name": "answer", "schema": body["response_format"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return GatewayStream(body, form)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._own is None:
            self._own = self._open(self._settings)
        return getattr(self._own, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.close()


class GatewayStream:
    """An answer of the gateway; leaving the `with` block ends it there, too."""

    def __init__(self, body: Mapping[str, Any], form: Any = None) -> None:
        self._body = body
        self._form = form
        self._connection = _Connection(str(gateway_socket()), None)
        self._text: list[str] = []
        self._report: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._finish = FinishReason.STOP

    def __iter__(self) -> Iterator[TextPiece]:
        """Yield pieces of text as they come.

        Raises:
            CrayonError: what the gateway said went wrong.
        """
        try:
            self._connection.request(
                "POST", "/v1/chat/completions", json.dumps(self._body), {"content-type": "application/json"}
            )
            reply = self._connection.getresponse()
            if reply.status != http.client.OK:
                raise error_of(reply.status, json.loads(reply.read(2**20))["error"])
            for line in reply:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield from self._chunk(json.loads(line[6:]))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            if isinstance(error, CrayonError):
                raise
            raise ServerUnavailableError(
                f"the gateway is gone ({type(error).__name__}); --no-gateway does without"
            ) from None
        if self._report is None:
            raise ServerInterruptedError("the gateway broke off its answer", "".join(self._text))

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[TextPiece]:
        if "error" in chunk:
            raise error_of(200, chunk["error"], "".join(self._text))
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                self._text.append(text)
                yield TextPiece(text)
            if choice.get("finish_reason"):
                self._finish = FinishReason(choice["finish_reason"])
        self._report = chunk.get("crayon") or self._report
        self._usage = chunk.get("usage") or self._usage

    @property
    def completion(self) -> Completion:
        """The whole answer, after its last piece.

        Raises:
            CancelledError: it was not read to its end.
        """
        if self._report is None:
            raise CancelledError("the answer was closed before it was complete")
        text, usage = "".join(self._text), self._usage
        return Completion(
            text=text,
            route=route_of(self._report),
            model=self._report["model"],
            finish_reason=self._finish,
            usage=Usage(
                usage.get("prompt_tokens", 0),
                usage.get("completion_tokens", 0),
                usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
            ),
            timings=Timings(**self._report["timings"]),
            ttft_ms=self._report["ttft_ms"],
            total_ms=self._report["total_ms"],
            probability=self._report["probability"],
            document=None if self._form is None else self._form.read(text, self._finish),
            withheld=self._report["withheld"],
        )

    def close(self) -> None:
        """End the answer."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def route_of(report: Mapping[str, Any]) -> Route:
    """Return the route that a reply tells."""
    privacy = report.get("privacy")
    source = report.get("fallback_from")
    return Route(
        source=Source(report["source"]),
        reason=Reason(report["reason"]),
        score=report["score"],
        threshold=report["threshold"],
        scope=report["scope"],
        fallback_from=None if source is None else Source(source),
        fallback_error=report["fallback_error"],
        customization=report["customization"],
        profile=report["profile"],
        evidence=tuple(report.get("evidence") or ()),
        switched_from=report.get("switched_from"),
        server=report["server"],
        bytes_sent=report["bytes_sent"],
        encode_ms=report.get("encode_ms"),
        holdback_ms=report.get("holdback_ms"),
        discarded_tokens=report.get("discarded_tokens", 0),
        privacy=None
        if privacy is None
        else PrivacyReport(tuple(privacy["found"]), privacy["action"], privacy["dropped_turns"]),
    )


def error_of(status: int, said: Mapping[str, Any], partial: str = "") -> CrayonError:
    """Return the error that a reply tells, of the kind that the SDK would have raised."""
    message, code = str(said.get("message", f"the gateway answered {status}")), said.get("code")
    match code:
        case "context_length_exceeded":
            return PromptTooLongError(int(said["n_prompt_tokens"]), int(said["n_ctx"]) - 1)
        case "invalid_value":
            field = str(said.get("param"))
            return InvalidRequestError(field.removeprefix("crayon."), message.removeprefix(f"{field}: "))
        case "private":
            return PrivacyError(message)
        case "budget_exceeded":
            limit, _, problem = message.partition(": ")
            return BudgetError(limit, problem.removesuffix("; nothing was sent"))
        case "overloaded":
            return OverloadedError(message, 1.0)
        case "deadline_exceeded":
            return DeadlineExceededError(message, partial)
        case "unavailable" | "loading" | "stopping":
            return ServerInterruptedError(message, partial) if partial else ServerUnavailableError(message)
        case _:
            return ServerInterruptedError(message, partial) if partial else ServerError(message)


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
