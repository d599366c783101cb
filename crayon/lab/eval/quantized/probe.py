"""One quantization, measured in a process of its own: its peak of memory is this model's and no other's.

Run as a program it reads what to measure from standard input, one JSON object, and writes one JSON object a line to
standard output: {"step": 1} for each answer, at the end {"result": ...} or {"error": ...}.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.customising.choices import choice_values, rule_for
from crayon.data.texts import quality_text
from crayon.device.prepare import WINDOW, TurnBench
from crayon.engine import Delta, GenerateRequest, ScoreRequest, deadline_after
from crayon.errors import CrayonError, EngineError, PromptTooLongError
from crayon.lab.eval.quantized.exams import Exam
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.completion import Blend
    from crayon.device import DeviceEngine
    from crayon.llama.model import Model

PATIENCE_S = 600.0
TOO_LONG = -1
_WORDS = "the sea and the wind over an old harbour where boats come home "


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure: a file, its name and source, the pool whose members answer, the exams, and how often."""

    path: str
    name: str
    source_sha256: str
    pool: str | None
    exams: tuple[Exam, ...]
    windows: int
    runs: int
    prompt_tokens: int
    answer_tokens: int

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Order:
        """Return the order that `dataclasses.asdict` made this of."""
        return cls(**{**raw, "exams": tuple(Exam.parse(exam) for exam in raw["exams"])})

    @property
    def steps(self) -> int:
        """How many steps are told."""
        return sum(exam.count for exam in self.exams) + 2 * self.runs + self.windows


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came out.

    Args:
        load_s: seconds from the file to an engine that takes questions; the file was in the system's cache.
        ttft_ms: of each run, milliseconds from a question of `prompt_tokens` or so to its first text.
        peak_bytes: the most memory that this process ever had, the model's file in it.
        prefill_tps: prompt tokens a second of each run, and
        decode_tps: answer tokens.
        nll: of each window of our text, the sum of -ln p of its tokens and their number.
        answers: for each exam the option taken for each question, -1 where the question did not fit.
    """

    load_s: float
    ttft_ms: tuple[float, ...]
    peak_bytes: int
    prefill_tps: tuple[float, ...]
    decode_tps: tuple[float, ...]
    nll: tuple[tuple[float, int], ...]
    answers: dict[str, tuple[int, ...]]

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> ProbeResult:
        """Return what `dataclasses.asdict` made this of."""
        return cls(
            raw["load_s"],
            tuple(raw["ttft_ms"]),
            raw["peak_bytes"],
            tuple(raw["prefill_tps"]),
            tuple(raw["decode_tps"]),
            tuple((total, count) for total, count in raw["nll"]),
            {name: tuple(taken) for name, taken in raw["answers"].items()},
        )

    @property
    def perplexity(self) -> float:
        """On our text."""
        return math.exp(sum(total for total, _ in self.nll) / sum(count for _, count in self.nll))


def probe(order: Order, step: Callable[[], None]) -> ProbeResult:
    """Measure one file: first as the device runs it, then the bare model's rates and perplexity.

    Raises:
        ModelFileError: the file cannot be run.
        AdapterError: the pool does not fit.
    """
    from crayon.adapters import Pool, find_pool
    from crayon.device import DeviceEngine
    from crayon.llama import smoke
    from crayon.llama.model import Model

    smoke.check()  # once a machine, and not part of loading
    pools = [Pool.open(find_pool(order.pool))] if order.pool else []
    started = time.perf_counter()
    with DeviceEngine(order.path, name=order.name, source_sha256=order.source_sha256, pools=pools) as engine:
        load_s = time.perf_counter() - started
        ttft = [_ttft(engine, order.prompt_tokens, run, step) for run in range(order.runs + 1)][1:]
        answers = {exam.name: _sit(engine, exam, step) for exam in order.exams}
        peak = peak_bytes()
    with Model(order.path) as model:
        turns = _turns(model, order, step)
        nll = _nll(model, order.windows, step)
    return ProbeResult(
        load_s,
        tuple(ttft),
        peak,
        tuple(order.prompt_tokens / read for read, _ in turns),
        tuple(order.answer_tokens / wrote for _, wrote in turns),
        nll,
        answers,
    )


def peak_bytes() -> int:
    """Return the most memory this process ever had.

    From Linux' own mark where there is one: what `getrusage` says there holds the parent's peak too.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # another system
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _ttft(engine: DeviceEngine, prompt_tokens: int, run: int, step: Callable[[], None]) -> float:
    # The number comes first, so that no run finds another's prefix in the cache.
    text = f"{1000 + run}: go on with this story. " + _WORDS * max(1, (prompt_tokens - 40) // len(_WORDS.split()))
    messages = (Message("system", f"{1000 + run}."), Message("user", text))
    request = GenerateRequest(
        messages=messages, sampling=Sampling(max_tokens=4, temperature=0.0), deadline=deadline_after(PATIENCE_S)
    )
    started = time.perf_counter()
    first = None
    for event in engine.generate(request):
        if isinstance(event, Delta) and first is None:
            first = time.perf_counter() - started
    if run:
        step()
    # An answer of no text (a model may end at once) is first heard of at its end.
    return 1000 * (first if first is not None else time.perf_counter() - started)


def _sit(engine: DeviceEngine, exam: Exam, step: Callable[[], None]) -> tuple[int, ...]:
    blend = _blend(engine, exam.member)
    taken = []
    for item in exam.items():
        request = ScoreRequest(
            messages=(Message("user", item.prompt),), continuations=item.choices, blend=blend,
            deadline=deadline_after(PATIENCE_S),
        )  # fmt: skip
        try:
            scores = engine.score(request, ended=True).result(PATIENCE_S).scores
        except PromptTooLongError:
            taken.append(TOO_LONG)
        else:
            # As the device chooses: a blend was taught where an answer ends, the plain base was not.
            rule = rule_for(item.choices, ended=blend is not None)
            taken.append(int(np.argmax(choice_values(scores, rule))))
        step()
    return tuple(taken)


def _blend(engine: DeviceEngine, member: int | None) -> Blend | None:
    from crayon.completion import Blend

    if member is None:
        return None
    if not engine.pools:
        raise EngineError("a member of a pool is to answer, and there is no pool")
    pool = engine.pools[0]
    return Blend(pool.id, tuple(float(k == member) for k in range(len(pool))))


def _turns(model: Model, order: Order, step: Callable[[], None]) -> list[tuple[float, float]]:
    with TurnBench(model, order.prompt_tokens, order.answer_tokens) as bench:
        bench.turn()  # first touches are not measured
        found = []
        for _ in range(order.runs):
            found.append(bench.turn())
            step()
        return found


def _nll(model: Model, windows: int, step: Callable[[], None]) -> tuple[tuple[float, int], ...]:
    tokens = model.tokenize(quality_text())
    found = []
    with TurnBench(model, 1, 1) as bench:
        for window in _cut(tokens, windows):
            log_p = bench.log_probabilities(window)[:-1]
            target = np.asarray(window[1:])
            total = -float(log_p[np.arange(len(target)), target].sum(dtype=np.float64))
            found.append((total, len(target)))
            step()
    if not found:
        raise EngineError("the text for perplexity is too short")
    return tuple(found)


def _cut(tokens: Sequence[int], windows: int) -> list[Sequence[int]]:
    return [tokens[start : start + WINDOW] for start in range(0, len(tokens) - 1, WINDOW)][:windows]


def main() -> None:
    """Read an order, measure, and write what came out."""

    def say(what: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    try:
        measured = probe(Order.parse(json.loads(sys.stdin.read())), lambda: say({"step": 1}))
    except CrayonError as error:
        say({"error": str(error)})
        return
    say({"result": asdict(measured)})


if __name__ == "__main__":
    main()
