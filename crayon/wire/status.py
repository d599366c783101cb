"""The one table between Crayon's errors and gRPC statuses, used by server and client.

=========================  ====================  ==========================================================
error                      status                google.rpc details, besides ErrorInfo with the reason
=========================  ====================  ==========================================================
InvalidRequestError        INVALID_ARGUMENT      BadRequest.field_violations
PromptTooLongError         INVALID_ARGUMENT      the same; token counts in ErrorInfo.metadata
UnknownModelError          NOT_FOUND             ResourceInfo
AdapterMismatchError       FAILED_PRECONDITION   -
AdapterError               FAILED_PRECONDITION   -
OverloadedError            RESOURCE_EXHAUSTED    RetryInfo, QuotaFailure; trailer grpc-retry-pushback-ms
DeadlineExceededError      DEADLINE_EXCEEDED     -
CancelledError             CANCELLED             -
UnauthenticatedError       UNAUTHENTICATED       -
PermissionDeniedError      PERMISSION_DENIED     -
ServerRejectedError        UNIMPLEMENTED         -
ServerUnavailableError     UNAVAILABLE           RetryInfo; so is EngineClosedError, which reads as this one
anything else              INTERNAL              an incident id and nothing more; reads as ServerError
=========================  ====================  ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from crayon.errors import (
    AdapterError,
    AdapterMismatchError,
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PromptTooLongError,
    ServerError,
    ServerRejectedError,
    ServerUnavailableError,
    UnauthenticatedError,
    UnknownModelError,
)
from crayon.wire.unreachable import unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message as ProtoMessage

DOMAIN = "crayon"
UNAVAILABLE_RETRY_S = 1.0
# Trailers share HTTP/2's header limit of 8 KiB, and percent-encoding may triple a character's bytes.
_MAX_MESSAGE_BYTES = 1000
_MAX_RETRY_S = 3600.0
# What grpc says of bytes that cannot be parsed.
_UNREADABLE = "Exception deserializing response!"

# Subclasses stand before their bases: the first row that fits is taken.
TABLE: tuple[tuple[type[CrayonError], grpc.StatusCode, str], ...] = (
    (PromptTooLongError, grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG"),
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (UnknownModelError, grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    (AdapterMismatchError, grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_BASE_MISMATCH"),
    (AdapterError, grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_UNUSABLE"),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (CancelledError, grpc.StatusCode.CANCELLED, "CANCELLED"),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (ServerRejectedError, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED"),
    (ServerUnavailableError, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (EngineClosedError, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
)
INTERNAL_REASON = "INTERNAL"


class RpcFailure(Protocol):
    """What grpc raises for an RPC that failed, in its sync and in its aio form."""

    def code(self) -> grpc.StatusCode | None:
        """Return the status code."""
        ...

    def details(self) -> str | None:
        """Return the status message."""
        ...

    def trailing_metadata(self) -> Any:
        """Return the trailers."""
        ...


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A failed RPC's end, ready for `context.abort`."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def error_to_status(error: BaseException, incident: str) -> RpcStatus:
    """Return the status of `error`; what is not in the table becomes INTERNAL and shows `incident` only."""
    for kind, code, reason in TABLE:
        if isinstance(error, kind):
            message = _short(str(error))
            return _status(code, message, reason, _metadata(error), _details(error, message))
    message = f"the server failed; its log has more under incident {incident}"
    return _status(grpc.StatusCode.INTERNAL, message, INTERNAL_REASON, {"incident": incident}, [])


def _status(
    code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str], details: list[ProtoMessage]
) -> RpcStatus:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    packed = []
    for detail in (info, *details):
        packed.append(AnyProto())
        packed[-1].Pack(detail)
    rich = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed))
    trailers = list(rich.trailing_metadata)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        wait = next(detail for detail in details if isinstance(detail, error_details_pb2.RetryInfo))
        trailers.append(("grpc-retry-pushback-ms", str(wait.retry_delay.ToMilliseconds())))
    return RpcStatus(code, message, tuple(trailers))


def _metadata(error: BaseException) -> dict[str, str]:
    if isinstance(error, PromptTooLongError):
        return {"prompt_tokens": str(error.prompt_tokens), "limit": str(error.limit)}
    return {}


def _details(error: BaseException, message: str) -> list[ProtoMessage]:
    match error:
        case InvalidRequestError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field[:100], description=_short(error.problem)
            )
            return [error_details_pb2.BadRequest(field_violations=[violation])]
        case UnknownModelError():
            return [error_details_pb2.ResourceInfo(resource_type="model", description=message)]
        case OverloadedError():
            quota = error_details_pb2.QuotaFailure.Violation(subject=_short(error.subject), description=message)
            return [_retry_info(error.retry_after), error_details_pb2.QuotaFailure(violations=[quota])]
        case ServerUnavailableError() | EngineClosedError():
            return [_retry_info(UNAVAILABLE_RETRY_S)]
        case _:
            return []


def _short(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


def _retry_info(seconds: float) -> ProtoMessage:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(int(1000 * min(max(seconds, 0.0), _MAX_RETRY_S)))
    return cast("ProtoMessage", info)


# -- client side


def error_from_rpc(failure: RpcFailure) -> CrayonError:
    """Return the error that the server raised, or the one that fits a status which is not from Crayon."""
    code = failure.code() or grpc.StatusCode.UNKNOWN
    message = failure.details() or code.name
    if message == _UNREADABLE:
        message = "the server's answer breaks the protocol: it is no message; do client and server have one version?"
    details = _Details.read(failure)
    if code is grpc.StatusCode.UNAVAILABLE and not details.reason:
        message = unreachable(message)
    make = _BY_REASON.get(details.reason) or _BY_CODE.get(code) or _server_error
    return make(message, details)


@dataclass(frozen=True, slots=True)
class _Details:
    """The parts of google.rpc details that we read."""

    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    field: str = "request"
    problem: str = ""
    retry_after: float = 1.0
    subject: str = "server"

    @classmethod
    def read(cls, failure: RpcFailure) -> _Details:
        try:
            rich = rpc_status.from_call(failure)
            return cls() if rich is None else cls(**_unpack(rich.details))
        except (ValueError, DecodeError):
            # Trailers from a proxy or a broken server: the code alone still tells enough.
            return cls()

    def number(self, name: str) -> int:
        value = dict(self.metadata).get(name, "")
        return int(value) if value.isascii() and value.isdigit() else 0


def _unpack(details: list[AnyProto]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    info, bad, retry, quota = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.QuotaFailure(),
    )
    for detail in details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            found["reason"] = info.reason
            found["metadata"] = tuple(info.metadata.items())
        elif detail.Unpack(bad) and bad.field_violations:
            found["field"] = bad.field_violations[0].field or "request"
            found["problem"] = bad.field_violations[0].description
        elif detail.Unpack(quota) and quota.violations:
            found["subject"] = quota.violations[0].subject or "server"
        elif detail.Unpack(retry):
            found["retry_after"] = min(max(retry.retry_delay.ToMilliseconds() / 1000.0, 0.0), _MAX_RETRY_S)
    return found


def _invalid(message: str, details: _Details) -> CrayonError:
    return InvalidRequestError(details.field, details.problem or message)


def _too_long(_message: str, details: _Details) -> CrayonError:
    return PromptTooLongError(details.number("prompt_tokens"), details.number("limit"), details.field)


def _overloaded(message: str, details: _Details) -> CrayonError:
    return OverloadedError(message, details.retry_after, details.subject)


def _plain(kind: type[CrayonError]) -> Callable[[str, _Details], CrayonError]:
    return lambda message, _details: kind(message)


_server_error = _plain(ServerError)

_BY_REASON: dict[str, Callable[[str, _Details], CrayonError]] = {
    **{reason: _plain(kind) for kind, _, reason in TABLE},
    "INVALID_REQUEST": _invalid,
    "PROMPT_TOO_LONG": _too_long,
    "OVERLOADED": _overloaded,
    # EngineClosedError on this side would mean that the caller closed its own client.
    "SHUTTING_DOWN": _plain(ServerUnavailableError),
    INTERNAL_REASON: _server_error,
}

# Statuses that gRPC itself, a proxy or another server made.
_BY_CODE: dict[grpc.StatusCode, Callable[[str, _Details], CrayonError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.NOT_FOUND: _plain(UnknownModelError),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: _plain(DeadlineExceededError),
    grpc.StatusCode.CANCELLED: _plain(CancelledError),
    grpc.StatusCode.UNAVAILABLE: _plain(ServerUnavailableError),
    grpc.StatusCode.UNIMPLEMENTED: _plain(ServerRejectedError),
    grpc.StatusCode.UNAUTHENTICATED: _plain(UnauthenticatedError),
    grpc.StatusCode.PERMISSION_DENIED: _plain(PermissionDeniedError),
    grpc.StatusCode.FAILED_PRECONDITION: _plain(ServerRejectedError),
}
