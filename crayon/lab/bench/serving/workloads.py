"""What the servers are asked: pairs of lengths, constant or from real traces, and when they arrive."""

from __future__ import annotations

import csv
import gzip
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.data.qa import DEFAULT_FOLDER
from crayon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALE = 8  # the traces are of models on GPUs; an eighth of their lengths suits a CPU
ALIGN = 256  # contexts are made in steps of this

CONSTANT = "128/64"
CONVERSATION, CODE, MOONCAKE = "azure conversation 1/8", "azure code 1/8", "mooncake 1/8"
TRACES = {
    CONVERSATION: "azure_2023_conv.csv.gz",
    CODE: "azure_2023_code.csv.gz",
    MOONCAKE: "mooncake_conversation.csv.gz",
}
WORKLOADS = (CONSTANT, *TRACES)


@dataclass(frozen=True, slots=True)
class TextPair:
    """Tokens of a prompt, with its template, and tokens of its answer."""

    prompt: int
    answer: int

    @property
    def total(self) -> int:
        """Tokens of both."""
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests by their lengths.

    Args:
        name: as printed.
        pairs: one for each request, in the order they are sent.
        skipped: rows of the trace that are longer than a request may be, of all `rows`.
        rows: of the trace; 0 for constant lengths.
        raised: requests of `pairs` that were lengthened to what the shortest chat prompt needs.
    """

    name: str
    pairs: tuple[TextPair, ...]
    skipped: int = 0
    rows: int = 0
    raised: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all requests, prompts and answers."""
        return sum(pair.total for pair in self.pairs)

    @property
    def context(self) -> int:
        """The context that the longest request needs, in whole steps."""
        longest = max(pair.total for pair in self.pairs)
        return math.ceil((longest + 1) / ALIGN) * ALIGN

    def describe(self) -> str:
        """Say how many requests these are, and which rows are not among them."""
        text = f"{len(self.pairs)} requests, {self.tokens} tokens"
        if self.rows:
            text += f"; {self.skipped} of {self.rows} rows over the context skipped"
        if self.raised:
            text += f"; {self.raised} prompts lengthened to the shortest chat prompt"
        return text


def constant(requests: int, prompt: int = 128, answer: int = 64) -> Workload:
    """Return a workload of equal requests."""
    return Workload(f"{prompt}/{answer}", (TextPair(prompt, answer),) * requests)


def scaled(rows: Sequence[TextPair], scale: int = SCALE) -> list[TextPair]:
    """Return each length divided by `scale`, rounded, and at least 1."""
    return [TextPair(max(1, round(row.prompt / scale)), max(1, round(row.answer / scale))) for row in rows]


def from_trace(
    name: str,
    rows: Sequence[TextPair],
    *,
    context: int,
    tokens: int,
    most: int,
    shortest: int = 1,
    seed: int = 0,
) -> Workload:
    """Draw requests of a trace at random until there are `tokens` or `most`; the same ones for the same seed.

    Args:
        name: of the workload.
        rows: the trace as it is, not yet scaled.
        context: most tokens of a request; longer rows are skipped and counted.
        tokens: about how many tokens the requests have together.
        most: most requests.
        shortest: what a prompt has at least; shorter ones are lengthened and counted.
        seed: of the draw.

    Raises:
        ConfigError: no row fits.
    """
    fitting, skipped = [], 0
    for row in scaled(rows):
        if row.total > context:
            skipped += 1
        else:
            fitting.append(row)
    if not fitting:
        raise ConfigError("context", f"no row of {name} fits {context} tokens")
    picked: list[TextPair] = []
    raised = total = 0
    for at in np.random.default_rng(seed).permutation(len(fitting)):
        row = fitting[int(at)]
        if row.prompt < shortest:
            raised += 1
            row = TextPair(shortest, row.answer)
        picked.append(row)
        total += row.total
        if total >= tokens or len(picked) >= most:
            break
    return Workload(name, tuple(picked), skipped, len(rows), raised)


def load_trace(name: str) -> list[TextPair]:
    """Read the lengths of one of `TRACES` from the folder that CRAYON_DATA names.

    Raises:
        ConfigError: the file is not there, or a row of it is not numbers.
    """
    path = Path(os.environ.get("CRAYON_DATA") or DEFAULT_FOLDER) / "traces" / TRACES[name]
    if not path.is_file():
        raise ConfigError("CRAYON_DATA", f"{path} is not there; set CRAYON_DATA to a folder that has it")
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                pairs.append(TextPair(int(row["input_tokens"]), int(row["output_tokens"])))
            except (KeyError, TypeError, ValueError):
                raise ConfigError("CRAYON_DATA", f"{path}:{line}: has no lengths of a request") from None
    return pairs


def even_thirds(pairs: Sequence[TextPair], seed: int = 0) -> list[TextPair]:
    """Return the requests in an order in which each third has as many long and short answers, at random within it.

    Else what a trace happens to have last looks, in a short window, like a queue that grows. The thirds are those of
    `poisson_arrivals`.
    """
    thirds: tuple[list[TextPair], ...] = ([], [], [])
    for at, pair in enumerate(sorted(pairs, key=lambda pair: (pair.answer, pair.prompt), reverse=True)):
        block, place = divmod(at, 3)
        # There and back again, so that no third has the longest of every block.
        back = block % 2 and 3 * block + 3 <= len(pairs)
        thirds[2 - place if back else place].append(pair)
    rng = np.random.default_rng(seed)
    return [third[int(at)] for third in thirds for at in rng.permutation(len(third))]


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> list[float]:
    """Return when `count` requests arrive in a window of `count / rate` seconds, as those of a Poisson process do.

    The same seed gives the same pattern at every rate, only faster or slower: every server meets the same arrivals. The
    number is fixed, in the whole window and in each third of it, so that the rate is exactly the one that was asked
    for, and a queue that grows is the server's doing: in a short window chance alone would miss it by a fifth.
    """
    third = count / rate / 3
    numbers = [count // 3 + (part < count % 3) for part in range(3)]
    rng = np.random.default_rng(seed)
    times = [rng.uniform(part * third, (part + 1) * third, number) for part, number in enumerate(numbers)]
    return sorted(float(at) for at in np.concatenate(times))
