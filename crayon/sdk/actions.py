"""The alphabet of a turn: what its driver is asked to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from crayon.completion import Completion, Source
    from crayon.customising.support import Support
    from crayon.engine import GenerateRequest
    from crayon.errors import CrayonError
    from crayon.messages import ToolCall
    from crayon.token_options import TokenLogprob


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed `text` on the device and judge it by the query gate until `until`; `embedded`, `failed`, `timed_out`."""

    text: str
    until: float | None


@dataclass(frozen=True, slots=True)
class Generate:
    """Cancel the running stream, if any, and start `request` at `source`; then `begun` or `failed`.

    `support` is what a customisation's samples say of the query: its turns are in the request already, and where it has
    answers, one of them is wanted.
    """

    source: Source
    request: GenerateRequest
    support: Support | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read the running stream's next event until `until`; then `received`, `failed` or `timed_out`."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Emit:
    """Show `text`, what the model thought, which tools it calls and how likely it was to the caller, then `shown`."""

    text: str
    source: Source
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class Fail:
    """The turn failed: raise the error."""

    error: CrayonError


Action: TypeAlias = Embed | Generate | Read | Emit | Done | Fail
