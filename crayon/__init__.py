"""Crayon: a small customised LLM on the device, a larger one over gRPC when it is needed.

::

    from crayon import Crayon

    with Crayon(server="localhost:50051") as crayon:
        answer = crayon.ask("How can I sleep better?")
        print(answer, answer.route.source, answer.route.reason)

Names are loaded when they are first used, so `import crayon` alone stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.completion import (
        Blend,
        Chosen,
        Completion,
        FinishReason,
        Mode,
        PrivacyReport,
        Reason,
        Route,
        Source,
        Timings,
        Usage,
    )
    from crayon.customising.customization import Customization, Expectation
    from crayon.customising.profiles import Profile
    from crayon.customising.samples import Sample, read_samples
    from crayon.data import load_scope, scope_names
    from crayon.engine import ContinuationScore, EncodeResult, Engine, ScoreResult
    from crayon.errors import (
        AdapterError,
        AdapterMismatchError,
        AnswerFormatError,
        BudgetError,
        CancelledError,
        ChatTemplateError,
        ConfigError,
        CrayonError,
        DeadlineExceededError,
        DownloadError,
        EngineClosedError,
        EngineError,
        HashMismatchError,
        InvalidRequestError,
        LibraryError,
        MissingExtraError,
        ModelError,
        ModelFileError,
        NoMemoryError,
        NoSpaceError,
        OverloadedError,
        PermissionDeniedError,
        PrivacyError,
        PromptTooLongError,
        ServerError,
        ServerInterruptedError,
        ServerRejectedError,
        ServerUnavailableError,
        UnauthenticatedError,
        UnknownModelError,
    )
    from crayon.messages import Message, ToolCall
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.hardness import Hardness
    from crayon.router.record import CalibrationRecord
    from crayon.router.scope import Scope
    from crayon.router.targets import MaxDeviceError, MinQuality, ServerShare
    from crayon.sampling import Sampling
    from crayon.sdk import (
        AnswerStream,
        AsyncAnswerStream,
        AsyncConversation,
        AsyncCrayon,
        CallOptions,
        ClientStatus,
        Conversation,
        Crayon,
        Piece,
        Privacy,
    )
    from crayon.sdk.tool_loop import ToolRun
    from crayon.tool import Tool

_HOMES = {
    "crayon.completion": (
        "Blend", "Chosen", "Completion", "FinishReason", "Mode", "PrivacyReport", "Reason", "Route", "Source",
        "Timings", "Usage",
    ),
    "crayon.customising.customization": ("Customization", "Expectation"),
    "crayon.customising.profiles": ("Profile",),
    "crayon.customising.samples": ("Sample", "read_samples"),
    "crayon.data": ("load_scope", "scope_names"),
    "crayon.engine": ("ContinuationScore", "EncodeResult", "Engine", "ScoreResult"),
    "crayon.errors": (
        "AdapterError", "AdapterMismatchError", "AnswerFormatError", "BudgetError", "CancelledError",
        "ChatTemplateError", "ConfigError", "CrayonError", "DeadlineExceededError", "DownloadError",
        "EngineClosedError", "EngineError", "HashMismatchError", "InvalidRequestError", "LibraryError",
        "MissingExtraError", "ModelError", "ModelFileError", "NoMemoryError", "NoSpaceError", "OverloadedError",
        "PermissionDeniedError", "PrivacyError", "PromptTooLongError", "ServerError",
        "ServerInterruptedError", "ServerRejectedError", "ServerUnavailableError", "UnauthenticatedError",
        "UnknownModelError",
    ),
    "crayon.messages": ("Message", "ToolCall"),
    "crayon.router.budget": ("Budget",),
    "crayon.router.conditions": ("Conditions",),
    "crayon.router.hardness": ("Hardness",),
    "crayon.router.record": ("CalibrationRecord",),
    "crayon.router.scope": ("Scope",),
    "crayon.router.targets": ("MaxDeviceError", "MinQuality", "ServerShare"),
    "crayon.sampling": ("Sampling",),
    "crayon.sdk": (
        "AnswerStream", "AsyncAnswerStream", "AsyncConversation", "AsyncCrayon", "CallOptions", "ClientStatus",
        "Conversation", "Crayon", "Piece", "Privacy",
    ),
    "crayon.sdk.tool_loop": ("ToolRun",),
    "crayon.tool": ("Tool",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterError",
    "AdapterMismatchError",
    "AnswerFormatError",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncConversation",
    "AsyncCrayon",
    "Blend",
    "Budget",
    "BudgetError",
    "CalibrationRecord",
    "CallOptions",
    "CancelledError",
    "ChatTemplateError",
    "Chosen",
    "ClientStatus",
    "Completion",
    "Conditions",
    "ConfigError",
    "ContinuationScore",
    "Conversation",
    "Crayon",
    "CrayonError",
    "Customization",
    "DeadlineExceededError",
    "DownloadError",
    "EncodeResult",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "Expectation",
    "FinishReason",
    "Hardness",
    "HashMismatchError",
    "InvalidRequestError",
    "LibraryError",
    "MaxDeviceError",
    "Message",
    "MinQuality",
    "MissingExtraError",
    "Mode",
    "ModelError",
    "ModelFileError",
    "NoMemoryError",
    "NoSpaceError",
    "OverloadedError",
    "PermissionDeniedError",
    "Piece",
    "Privacy",
    "PrivacyError",
    "PrivacyReport",
    "Profile",
    "PromptTooLongError",
    "Reason",
    "Route",
    "Sample",
    "Sampling",
    "Scope",
    "ScoreResult",
    "ServerError",
    "ServerInterruptedError",
    "ServerRejectedError",
    "ServerShare",
    "ServerUnavailableError",
    "Source",
    "Timings",
    "Tool",
    "ToolCall",
    "ToolRun",
    "UnauthenticatedError",
    "UnknownModelError",
    "Usage",
    "load_scope",
    "read_samples",
    "scope_names",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'crayon' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
