"""What the exit code of `crayon` says: one table for the program, `crayon --help` and docs/reference/cli.md."""

from __future__ import annotations

from dataclasses import dataclass

from crayon import errors


@dataclass(frozen=True, slots=True)
class ExitCode:
    """One row: the code, what it says, and the errors that end with it (subclasses included)."""

    code: int
    meaning: str
    errors: tuple[type[BaseException], ...] = ()


OK = 0
UNEXPECTED = 1
USAGE = 2
MODEL = 3
SERVER = 4
DEADLINE = 5
OVERLOADED = 6
PRIVACY = 7
BUDGET = 8
INTERRUPTED = 130
BROKEN_PIPE = 141

EXIT_CODES: tuple[ExitCode, ...] = (
    ExitCode(OK, "success"),
    ExitCode(UNEXPECTED, "unexpected error, the engine failed, or doctor found a fault", (errors.CrayonError,)),
    ExitCode(USAGE, "wrong usage, request or setting", (errors.InvalidRequestError, errors.ConfigError)),
    ExitCode(
        MODEL,
        "model, download, adapter, library or extra missing or unusable",
        (errors.ModelError, errors.AdapterError, errors.LibraryError, errors.MissingExtraError),
    ),
    ExitCode(SERVER, "server unreachable, interrupted or refusing", (errors.ServerError,)),
    ExitCode(DEADLINE, "deadline passed", (errors.DeadlineExceededError,)),
    ExitCode(OVERLOADED, "no room now, try again later", (errors.OverloadedError,)),
    ExitCode(PRIVACY, "private, and the device cannot answer it", (errors.PrivacyError,)),
    ExitCode(BUDGET, "the budget for the server is used up, and only the server may answer", (errors.BudgetError,)),
    ExitCode(INTERRUPTED, "interrupted (Ctrl-C)", (errors.CancelledError, KeyboardInterrupt)),
    ExitCode(BROKEN_PIPE, "the reader of the output went away", (BrokenPipeError,)),
)


def exit_code(error: BaseException) -> int:
    """Return the code of the row that names the error's class, or the nearest of its bases."""
    for cls in type(error).__mro__:
        for row in EXIT_CODES:
            if cls in row.errors:
                return row.code
    return UNEXPECTED


def exit_code_table() -> str:
    """Return the table as text, a line a code."""
    return "\n".join(f"  {row.code:>3}  {row.meaning}" for row in EXIT_CODES)
