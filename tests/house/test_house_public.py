"""What callers see of the package, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import crayon

# The whole public surface: adding a name is a decision, losing one breaks callers.
PUBLIC = [
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
HEAVY = {"llama_cpp", "grpc", "torch", "numpy", "pydantic", "prompt_toolkit", "rich", "typer", "huggingface_hub"}


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules in memory after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_stays_light() -> None:
    assert loaded_by("import crayon") & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_stays_light(arguments: list[str]) -> None:
    loaded = loaded_by(f"from crayon.cli.shared.app import run\nrun({arguments!r})")
    assert loaded & HEAVY == {"typer"}


@pytest.mark.parametrize("command", ["ask", "choose", "chat", "models", "doctor", "config"])
def test_help_of_a_command_loads_no_engine(command: str) -> None:
    loaded = loaded_by(f"from crayon.cli.shared.app import run\nrun([{command!r}, '--help'])")
    # typer itself checks a command's options with pydantic
    assert loaded & HEAVY <= {"typer", "pydantic"}


def test_the_public_names_are_these() -> None:
    assert sorted(crayon.__all__) == PUBLIC


def test_every_public_name_can_be_imported() -> None:
    for name in PUBLIC:
        assert getattr(crayon, name) is not None
