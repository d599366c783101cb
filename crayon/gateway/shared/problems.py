"""What went wrong, as HTTP says it: one table from Crayon's errors to statuses, and each dialect's way to write it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from crayon.errors import (
    AdapterError,
    BudgetError,
    CancelledError,
    ConfigError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    ModelError,
    OverloadedError,
    PrivacyError,
    PromptTooLongError,
    ServerError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownModelError,
    fault_report,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("crayon.gateway")

UNAVAILABLE_RETRY_S = 2.0
GONE = 499  # what nobody reads: the client has hung up
# Clients try these again by themselves: where that would only cost, they are told not to.
_TRIED_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})


class Dialect(StrEnum):
    """Whose routes a client speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An answer that says why there is none. `retry_after`: seconds until it may be worth while; None: it is not."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """What clients read before the body."""
        if self.retry_after is not None:
            return {
                "retry-after": str(max(1, math.ceil(self.retry_after))),
                "retry-after-ms": str(math.ceil(1000 * self.retry_after)),
            }
        return {"x-should-retry": "false"} if self.status in _TRIED_AGAIN else {}

    def body(self, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON that a dialect's clients read."""
        if dialect is Dialect.ANTHROPIC:
            return {"type": "error", "error": {"type": _anthropic_kind(self), "message": self.message, **self.extra}}
        if dialect is Dialect.OLLAMA:
            return {"error": self.message}
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code, **self.extra}
        return {"error": error}


class HttpError(CrayonError):
    """A request that is refused for what it is in HTTP: its route, host, token or size."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: BaseException, names: Mapping[str, str] | None = None) -> Problem:
    """Return what a client is told of an error.

    Args:
        error: any; what is none of ours is logged without its words, and told without them.
        names: what a route calls the fields that the SDK has other names for.
    """
    if isinstance(error, HttpError):
        return error.problem
    if isinstance(error, PromptTooLongError):
        limit = error.limit + 1  # one token is kept for the answer
        message = (
            f"This model's maximum context length is {limit} tokens, and the prompt has {error.prompt_tokens} "
            f"(at most {error.limit} fit beside an answer): shorten it, or use a model with a larger context."
        )
        numbers = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": limit}
        return Problem(
            status=400, message=message, param=_named(error, names), code="context_length_exceeded", extra=numbers
        )
    if isinstance(error, InvalidRequestError):
        param = _named(error, names)
        return Problem(status=400, message=f"{param}: {error.problem}", param=param, code="invalid_value")
    if isinstance(error, CrayonError):
        return _of_ours(error)
    logger.error("an answer failed unexpectedly: %s", fault_report(error))
    return Problem(
        status=500, message="the gateway failed; its log has the place", kind="server_error", code="internal"
    )


def _of_ours(error: CrayonError) -> Problem:
    said = str(error)
    match error:
        case UnknownModelError():
            return Problem(status=404, message=said, param="model", code="model_not_found")
        case OverloadedError():
            kind, after = "rate_limit_error", error.retry_after
            return Problem(status=429, message=said, kind=kind, code="overloaded", retry_after=after)
        case BudgetError():
            return Problem(status=429, message=said, kind="insufficient_quota", code="budget_exceeded")
        case PrivacyError():
            return Problem(status=403, message=said, kind="permission_error", code="private")
        case AdapterError():
            return Problem(status=400, message=said, param="model", code="customization_unusable")
        case DeadlineExceededError():
            return Problem(status=408, message=said, kind="timeout_error", code="deadline_exceeded")
        case CancelledError():
            return Problem(status=GONE, message=said, kind="server_error", code="cancelled")
        case ServerUnavailableError() | EngineClosedError():
            kind, after = "service_unavailable_error", UNAVAILABLE_RETRY_S
            return Problem(status=503, message=said, kind=kind, code="unavailable", retry_after=after)
        case ServerRejectedError():
            return Problem(status=502, message=said, kind="server_error", code="server_rejected")
        case ServerError():
            return Problem(status=502, message=said, kind="server_error", code="server_failed")
        case ModelError() | ConfigError():
            return Problem(status=500, message=said, kind="server_error", code="model_unusable")
        case _:
            return Problem(status=500, message=said, kind="server_error", code="engine_failed")


def _named(error: InvalidRequestError, names: Mapping[str, str] | None) -> str:
    """Return the field as the request has it: its first part may have another name there."""
    head = error.field.split(".")[0].split("[")[0]
    return (names or {}).get(head, head) + error.field[len(head) :]


def _anthropic_kind(problem: Problem) -> str:
    known = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
    }
    return known.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
