"""What is measured of each quantization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crayon.errors import InvalidRequestError

SOURCE = "source"
TYPES = (SOURCE, "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "IQ4_NL", "Q4_0")
TASKS = ("arc_easy", "piqa", "social_iqa")
BIAS, TRUTH = "bbq", "truthfulqa"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedSettings:
    """How much to measure of each quantization.

    Args:
        types: the published file ("source") and llama.cpp's names of types.
        tasks: data sets whose options are scored, on the plain model.
        customised: tasks of the pool, each answered under its own member (0: none).
        items: most questions of a task.
        bias: most questions of `bbq` (0: none), and
        truth: of `truthfulqa`.
        windows: of 256 tokens of our text, for perplexity.
        runs: how often each time is taken.
        prompt_tokens: read, and
        answer_tokens: written in a typical turn.
        seed: of every draw.

    Raises:
        InvalidRequestError: a value is out of range, or a type is unknown.
    """

    types: tuple[str, ...] = TYPES
    tasks: tuple[str, ...] = TASKS
    customised: int = 3
    items: int = 150
    bias: int = 996
    truth: int = 80
    windows: int = 64
    runs: int = 5
    prompt_tokens: int = 200
    answer_tokens: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        from crayon.llama.quantize import FILE_TYPES

        known = (SOURCE, *FILE_TYPES)
        for name in self.types:
            if name not in known:
                raise InvalidRequestError("--type", f"{name!r} is unknown; choose from {', '.join(known)}")
        for field, value, least in (
            ("--type", len(self.types), 1),
            ("--items", self.items, 2),
            ("--runs", self.runs, 1),
            ("windows", self.windows, 1),
        ):
            if value < least:
                raise InvalidRequestError(field, f"must be at least {least}")

    @classmethod
    def quick(cls, **values: Any) -> QuantizedSettings:
        """Return settings for about ten minutes with a small model on two cores; `values` take precedence."""
        return replace(cls(customised=2, items=24, bias=96, truth=40, windows=16, runs=3), **values)
