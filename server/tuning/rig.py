"""What the search measures with: the contract, and llama.cpp behind it."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from crayon.blending import PoolBlends
from crayon.completion import Blend
from crayon.llama.context import Context
from crayon.server.cost.step_cost import StepShape, shape_of
from crayon.server.scheduler.nano_batches import in_parts
from crayon.server.steps.step_plan import NanoBatch, Resource, Row
from crayon.server.tuning.filled import Filled
from crayon.server.tuning.host_load import HostLoad, host_share
from crayon.server.tuning.interference import interfere
from crayon.server.tuning.saturation import CELLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crayon.adapters.pool import Pool
    from crayon.blending import Lease
    from crayon.llama.model import Model
    from crayon.server.cost.profile import ProfileStep
    from crayon.server.steps.limits import StepLimits
    from crayon.server.tuning.choice import TunedSettings
    from crayon.server.tuning.interference import Interference
    from crayon.server.tuning.profiler import Timer
    from crayon.server.tuning.saturation import ExpectedLoad, Steady

_FEWEST = 3  # of each kind of step; fewer say nothing where one may be an outlier


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """A choice, measured with the host's work beside it.

    Args:
        tokens_per_s: tokens read and written a second.
        longest_s: median of the steps that read a prompt: what an answer waits for.
        steps: steps that ran.
    """

    tokens_per_s: float
    longest_s: float
    steps: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


class Rig(Protocol):
    """Measures."""

    def timer(self, limits: StepLimits, threads: int) -> Any:  # a context manager of a Timer
        """Open what times single calls."""
        ...

    def trial(self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, seconds: float) -> TrialRun:
        """Run a choice's steps for about so long, with the host's work beside them."""
        ...

    def interference(
        self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, prefill_cores: int, seconds: float
    ) -> Interference:
        """Read and write at the same time on cores of their own, and one after the other on all."""
        ...


class LlamaRig:
    """llama.cpp on a loaded model; `pools` give the adapters that blends change between."""

    def __init__(self, model: Model, pools: Sequence[Pool] = ()) -> None:
        self._model = model
        self._pools = tuple(pools)

    @contextmanager
    def timer(self, limits: StepLimits, threads: int) -> Iterator[Timer]:
        """Open a context that times single calls."""
        with (
            Context(
                self._model,
                n_ctx=limits.kv_capacity,
                n_batch=limits.max_tokens,
                n_seq_max=limits.max_seqs,
                n_outputs_max=limits.outputs,
                threads=threads,
            ) as context,
            self._leases(context) as leases,
        ):
            yield _LlamaTimer(context, leases)

    def trial(self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, seconds: float) -> TrialRun:
        """Run the steps of a full server, reading and writing in their proportion."""
        writing, reading = steps_of(load, workload)
        with (
            Context(
                self._model,
                n_ctx=workload.n_ctx,
                n_batch=choice.n_batch,
                n_seq_max=choice.n_seq_max,
                n_outputs_max=min(max(choice.n_seq_max, 64), choice.n_batch),
                threads=choice.threads,
                kv_unified=choice.kv_unified,
            ) as context,
            self._leases(context) as leases,
            HostLoad(self._model, host_share(load, workload)),
        ):
            filled = Filled(context)
            filled.fill(max(1, load.decoding), workload.depth)
            times: dict[bool, list[float]] = {False: [], True: []}
            end, debt, turn = time.perf_counter() + seconds, 0.0, 0
            while time.perf_counter() < end or min(map(len, times.values())) < _FEWEST:
                debt += load.share
                reads = debt >= 1
                debt -= reads
                if time.perf_counter() >= end:  # what there are too few of
                    reads = len(times[True]) < _FEWEST
                took = 0.0
                for rows in _calls(reading if reads else writing, load.groups, choice.nano):
                    if leases and workload.blends > 1:
                        begun = time.perf_counter()
                        context.set_adapters(leases[turn % len(leases)])
                        took, turn = took + time.perf_counter() - begun, turn + 1
                    took += filled.run(rows)
                times[reads].append(took)
        read, write = statistics.median(times[True]), statistics.median(times[False])
        if load.decoding:
            rate = load.decoding * workload.tokens / workload.answer / (load.share * read + (1 - load.share) * write)
        else:
            rate = workload.tokens / (workload.prompt / load.chunk * read + workload.answer * write)
        return TrialRun(
            tokens_per_s=rate, longest_s=read if load.decoding else write, steps=sum(map(len, times.values()))
        )

    def interference(
        self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, prefill_cores: int, seconds: float
    ) -> Interference:
        """Measure two contexts at once."""
        with HostLoad(self._model, host_share(load, workload)):
            return interfere(self._model, choice, load, workload, prefill_cores, seconds)

    @contextmanager
    def _leases(self, context: Context) -> Iterator[list[Lease]]:
        """Give two blends to change between; none without a pool."""
        if not self._pools:
            yield []
            return
        blends = PoolBlends(self._model, self._pools, contexts=(context,))
        members = len(self._pools[0])
        leases = [blends(Blend(self._pools[0].id, (weight, *(0.0,) * (members - 1)))) for weight in (0.5, 1.0)]
        try:
            yield leases
        finally:
            context.set_adapters()
            for lease in leases:
                lease.release()
            blends.close()


class _LlamaTimer:
    """Times single calls on a context with a unified cache."""

    def __init__(self, context: Context, leases: Sequence[Lease]) -> None:
        self._filled = Filled(context)
        self._context = context
        self._leases = leases
        self._turn = 0
        self._warm = False

    def time(self, recipe: ProfileStep) -> list[float]:
        """Return the seconds of each repeat."""
        self._filled.fill(recipe.sequences, recipe.depth)
        rows, times = recipe.rows(), []
        if not self._warm:
            # The first call of a context also makes its graph and touches its memory.
            self._filled.run(rows)
            self._warm = True
        for _ in range(recipe.repeats):
            begun = time.perf_counter()
            if recipe.switch and self._leases:
                self._turn += 1
                self._context.set_adapters(self._leases[self._turn % len(self._leases)])
            change = time.perf_counter() - begun
            times.append(self._filled.run(rows) + change)
        self._context.set_adapters()
        return times

    def shape(self, recipe: ProfileStep) -> StepShape:
        """Return what is computed: attention over all used cells, as the cache is unified."""
        used = recipe.sequences * (recipe.depth + recipe.tokens)
        switches = int(recipe.switch and bool(self._leases))
        return shape_of(recipe.rows(), switches, cells=-(-used // CELLS) * CELLS)


def steps_of(load: Steady, workload: ExpectedLoad) -> tuple[list[Row], list[Row]]:
    """Return the rows of a step that only writes, and of one that reads too."""
    writing = [Row("tune", seq, workload.depth, 1, 1) for seq in range(max(1, load.decoding))]
    if load.decoding:
        return writing, [*writing, Row("tune", load.decoding, 0, load.chunk, 1)]
    return writing, [Row("tune", 0, workload.depth, load.chunk, 1)]


def _calls(rows: list[Row], groups: int, nano: int) -> Iterator[list[Row]]:
    """Yield the engine calls of a step: one a group, or several as the engine makes them of nano-batches."""
    for group in range(min(groups, len(rows))):
        mine = rows[group::groups]
        writing, reading = [row for row in mine if row.tokens == 1], [row for row in mine if row.tokens > 1]
        both = ((Resource.DECODE, writing), (Resource.PREFILL, reading))
        call = [NanoBatch("", resource, tuple(some)) for resource, some in both if some]
        for part in in_parts(call, min(nano, len(call))):  # no row is cut: what a call adds is removed after it
            yield [row for batch in part for row in batch.rows]
