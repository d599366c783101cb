"""Everything Crayon raises.

::

    CrayonError
    ├── InvalidRequestError          a field of the request is wrong; names the field and the fix
    │   ├── PromptTooLongError       the prompt leaves no room for an answer in the context
    │   └── ChatTemplateError        this model's chat template does not take these messages
    ├── ConfigError                  a setting is wrong; names the key and where it came from
    ├── PrivacyError                 the request must stay on the device and cannot be answered there
    ├── BudgetError                  the budget for the server is used up, and only the server may answer
    ├── MissingExtraError            an optional dependency is not installed
    ├── ModelError
    │   ├── UnknownModelError        no such path, catalogue name or reference
    │   ├── ModelFileError           truncated, foreign or unsupported file
    │   └── DownloadError            no source could deliver the file
    │       ├── HashMismatchError    what came is not what the catalogue promises
    │       └── NoSpaceError         the disk is full
    ├── AdapterError                 an adapter or blend cannot be used
    │   └── AdapterMismatchError     made for another base model
    ├── EngineError                  the engine itself failed
    │   ├── LibraryError             wrong llama.cpp, or its smoke test failed
    │   ├── NoMemoryError            the machine has too little memory left
    │   ├── KvFullError              no room in the KV cache for a batch
    │   ├── NotFiniteError           the model computes nan, not numbers
    │   ├── AbortedError             a running step was aborted from another thread
    │   └── EngineClosedError        used after close()
    ├── AnswerFormatError            the answer is not what response_format asks for; carries the text
    ├── CancelledError               the caller cancelled
    ├── DeadlineExceededError        the deadline passed, queued or decoding
    ├── OverloadedError              no room now; carries retry_after
    └── ServerError                  the remote side
        ├── ServerUnavailableError   unreachable, loading or draining
        ├── ServerInterruptedError   broke off after its first token; carries the partial text
        └── ServerRejectedError      the server refused the call, or cannot do what it asks
            ├── UnauthenticatedError   no token, or a wrong or revoked one
            └── PermissionDeniedError  the server knows the caller, and this is not allowed to it

Only the CLI turns these into messages and exit codes.
"""

from __future__ import annotations

import traceback
from typing import Any


class CrayonError(Exception):
    """Base of all errors raised by Crayon. They pass through pickle, and so between processes, with their fields."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args`, which are the message and not what made it.
        return _remade, (type(self), self.args, dict(self.__dict__))


def _remade(kind: type[CrayonError], args: tuple[Any, ...], fields: dict[str, Any]) -> CrayonError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidRequestError(CrayonError, ValueError):
    """A field of a request is wrong. `field` names it; the message says how to mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.problem = message


class PromptTooLongError(InvalidRequestError):
    """The prompt does not fit the context: shorten it, or send it to a model with a larger window."""

    def __init__(self, prompt_tokens: int, limit: int, field: str = "messages") -> None:
        super().__init__(
            field,
            f"the prompt has {prompt_tokens} tokens, at most {limit} fit (one is kept for the answer); "
            "shorten it, start a new conversation, or use a model with a larger context",
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class ChatTemplateError(InvalidRequestError):
    """The model's chat template refuses the messages or cannot render them; another model's may take them."""

    def __init__(self, message: str) -> None:
        super().__init__("messages", message)


class ConfigError(CrayonError):
    """A setting is wrong. `key` names it, `source` says where it was read, `problem` is the rest."""

    def __init__(self, key: str, message: str, source: str = "") -> None:
        where = f" (from {source})" if source else ""
        super().__init__(f"{key}{where}: {message}")
        self.key = key
        self.problem = message
        self.source = source


class PrivacyError(CrayonError):
    """The request must not leave the device and cannot be answered there."""


class BudgetError(CrayonError):
    """The budget for the server is used up, and no device may answer. `limit` names its setting; nothing was sent."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(f"{limit}: {message}; nothing was sent")
        self.limit = limit


class MissingExtraError(CrayonError, ImportError):
    """An optional dependency is missing: install the named extra."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'crayon-llm[{extra}]'")
        self.extra = extra


class ModelError(CrayonError):
    """A model cannot be found, fetched or read."""


class UnknownModelError(ModelError):
    """No such path, catalogue name or reference; `crayon models ls` lists what there is."""


class ModelFileError(ModelError):
    """The file is truncated, not a GGUF, or of a kind this library cannot run."""


class DownloadError(ModelError):
    """No source could deliver the file; the message lists what each source said."""


class HashMismatchError(DownloadError):
    """The bytes that came are not those that the catalogue promises; nothing was kept."""


class NoSpaceError(DownloadError):
    """The disk is full; nothing half-written was kept."""


class AdapterError(CrayonError):
    """An adapter or a blend cannot be used."""


class AdapterMismatchError(AdapterError):
    """The adapter or pool was made for another base model."""


class EngineError(CrayonError):
    """The engine failed in a way that is not the caller's doing."""


class LibraryError(EngineError):
    """llama-cpp-python has the wrong version, or its smoke test failed: reinstall the pinned one."""


class NoMemoryError(EngineError):
    """The machine has too little memory left: close other programs, or take a smaller context or model."""


class KvFullError(EngineError):
    """The KV cache has no room for the batch; nothing was changed: remove sequences or send a smaller batch."""


class NotFiniteError(EngineError):
    """The model computed what is no number: its file is damaged, or its values are too large for the cache."""


class AbortedError(EngineError):
    """A running step was aborted from another thread; rows already computed stay in the KV cache."""


class EngineClosedError(EngineError):
    """The engine, or the object that owns it, was closed before or during the call."""


class AnswerFormatError(CrayonError, ValueError):
    """The answer was cut before its end, or is not what `response_format` asks for; `partial` holds its text."""

    def __init__(self, message: str, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class CancelledError(CrayonError):
    """The caller cancelled."""


class DeadlineExceededError(CrayonError, TimeoutError):
    """The deadline passed before the answer was complete; what there was is in `partial`."""

    def __init__(self, message: str = "the deadline passed", partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class OverloadedError(CrayonError):
    """No room for the request now: try again after `retry_after` seconds.

    `subject` is whose room it is: the server's, or a client's own, by the name that the server knows it by.
    """

    def __init__(self, message: str, retry_after: float = 1.0, subject: str = "server") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.subject = subject


class ServerError(CrayonError):
    """The remote server failed or refused."""


class ServerUnavailableError(ServerError):
    """The server cannot be reached, is loading or is draining: safe to retry."""


class ServerInterruptedError(ServerError):
    """The server broke off after its first token. `partial` holds the text received so far."""

    def __init__(self, message: str, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class ServerRejectedError(ServerError):
    """The server refused the call: wrong or missing credentials, or a feature it does not have."""


class UnauthenticatedError(ServerRejectedError):
    """The call carried no token, or one that the server does not take: give the right one, do not try again as is."""


class PermissionDeniedError(ServerRejectedError):
    """The server knows who calls, and does not allow this call to them."""


def fault_report(fault: BaseException) -> str:
    """Return kind and place of a foreign exception for a log, without its words: they may quote a prompt."""
    return f"{type(fault).__name__}\n{''.join(traceback.format_tb(fault.__traceback__))}"
