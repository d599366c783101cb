"""The search itself, in two stages as in NanoFlow: structure from the fitted cost, then shares by measurement.

Stage I enumerates batches, sequences, kind of cache, nano-batches and the turns of blends, and predicts what a full
server delivers within the latency target. Stage II measures with the host's work running: what an engine does that was
told nothing, threads for that, the best three structures, then each knob that no cost can decide. Another choice is
held only where measurement says that it gains more than the noise, and again when it is measured once more beside
the untuned engine, for the best of many is flattered by noise: no search ends below what there was without it. Overlap
comes after that, and is measured once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from crayon.server.tuning.choice import MAX_BLENDS, TunedSettings
from crayon.server.tuning.saturation import ExpectedLoad, Steady, steady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crayon.server.cost.step_cost import StepCost
    from crayon.server.tuning.interference import Interference
    from crayon.server.tuning.journal import Journal
    from crayon.server.tuning.rig import Rig

MARGIN = 1.03
"""What another choice must gain over the one that is held: less is noise."""
UNTUNED_BATCH, UNTUNED_SEQS = 512, 8
_TOP = 3
_TO_HOLD = 4  # measurements that it takes to hold another choice: both, and both again
_QUANTA = (0, 64, 256, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What is searched.

    Args:
        max_batch, max_seqs: the largest.
        cores: cores that may compute.
        overlap: whether two contexts can be bound to cores of their own.
        trial_s: seconds of one measurement.
        quick: only batch, sequences and threads, and no fewer sequences than without a search: what it measures is a
            full server, and callers who wait for a place are not in it.
    """

    max_batch: int
    max_seqs: int
    cores: int
    overlap: bool
    trial_s: float
    quick: bool = False


def untuned(space: SearchSpace, workload: ExpectedLoad) -> TunedSettings:
    """Return what an engine does that was told nothing, as far as the space goes."""
    seqs = min(UNTUNED_SEQS, space.max_seqs)
    batch = max(seqs, min(UNTUNED_BATCH, space.max_batch, workload.n_ctx))
    return TunedSettings(n_batch=batch, n_seq_max=seqs, threads=space.cores, kv_unified=False)


@dataclass(slots=True)
class SearchResult:
    """What the search chose, and why."""

    choice: TunedSettings
    rate: float = 0.0
    predicted: list[dict[str, Any]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    interference: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)

    def evidence(self) -> dict[str, Any]:
        """Return all but the choice, as JSON."""
        return {
            "predicted": self.predicted,
            "measured": self.measured,
            "interference": self.interference,
            "skipped": self.skipped,
            "why": self.why,
        }


def structures(cost: StepCost, space: SearchSpace, workload: ExpectedLoad) -> list[tuple[TunedSettings, Steady]]:
    """Return every structure with its prediction: those within the latency target first, then the fastest."""
    found = [(choice, steady(cost, choice, workload)) for choice in _enumerate(space, workload)]

    def order(item: tuple[TunedSettings, Steady]) -> tuple[float, ...]:
        choice, load = item
        late = max(0.0, load.longest_s - workload.itl_target_s)
        # Of equals the smallest: it takes less memory and ends a step sooner.
        return (late, -round(load.tokens_per_s, 6), choice.nano, choice.quantum, choice.n_batch, choice.n_seq_max)

    return sorted(found, key=order)


def _enumerate(space: SearchSpace, workload: ExpectedLoad) -> Iterator[TunedSettings]:
    blends = workload.blends > 1
    fewest = untuned(space, workload).n_seq_max if space.quick else 1
    for n_batch in _powers(16, min(space.max_batch, workload.n_ctx)):
        for n_seq_max in _powers(fewest, min(space.max_seqs, n_batch)):
            for unified in (True, False) if workload.n_ctx // n_seq_max >= workload.longest else (True,):
                for nano in (1, 2):
                    for quantum in _QUANTA if blends else (0,):
                        for max_blends in (1, 2, MAX_BLENDS) if blends else (MAX_BLENDS,):
                            yield TunedSettings(
                                n_batch=n_batch,
                                n_seq_max=n_seq_max,
                                threads=space.cores,
                                nano=nano,
                                kv_unified=unified,
                                quantum=quantum,
                                max_blends=max_blends,
                            )


def _powers(low: int, high: int) -> list[int]:
    return [size for size in (2**i for i in range(20)) if low <= size <= high] or [max(1, high)]


def search(
    rig: Rig,
    cost: StepCost,
    space: SearchSpace,
    workload: ExpectedLoad,
    journal: Journal,
    left: Callable[[], float],
    say: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Return the best choice.

    Args:
        rig: measures.
        cost: of a call, for stage I.
        space: what is searched.
        workload: what is asked.
        journal: keeps what was measured, so that a killed search repeats nothing.
        left: seconds that are left; without any, what is not measured yet is listed as skipped.
        say: told what is measured.
    """
    return _Search(rig, cost, space, workload, journal, left, say).run()


class _Search:
    def __init__(
        self,
        rig: Rig,
        cost: StepCost,
        space: SearchSpace,
        workload: ExpectedLoad,
        journal: Journal,
        left: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._rig, self._cost, self._space, self._workload = rig, cost, space, workload
        self._journal, self._left, self._say = journal, left, say
        self._rates: dict[TunedSettings, float | None] = {}
        self._late: dict[TunedSettings, float] = {}

    def run(self) -> SearchResult:
        ranked = structures(self._cost, self._space, self._workload)
        plain = [item for item in ranked if item[0].kv_unified and item[0].nano == 1]
        found = self._found = SearchResult(untuned(self._space, self._workload))
        found.predicted = [_row(choice, load) for choice, load in ranked[:12]]
        found.why["structure"] = f"the untuned engine's, or the best of {len(ranked)} predicted, by measurement"
        if self._space.quick and self._left() < _TO_HOLD * self._needs(
            steady(self._cost, found.choice, self._workload)
        ):
            # Nothing that is measured alone could be taken.
            found.why["structure"] = "the untuned engine's: no time to measure it beside another, twice"
            found.skipped.append("every trial")
            return found
        self._threads()
        for choice, _ in plain[:_TOP]:
            self._try(replace(choice, threads=found.choice.threads))
        self._blends()
        if self._space.quick:
            found.why["kv_unified"] = "as in the structure that is held: not searched apart in the quick mode"
            found.why["nano"] = "not searched in the quick mode"
        else:
            self._nano()
            self._cache()
        self._again()
        self._overlap()
        return found

    def _threads(self) -> None:
        cores, found = self._space.cores, self._found
        for threads in sorted({cores, cores - 1, cores // 2} - {0}, reverse=True):
            self._try(replace(found.choice, threads=threads))
        kept = cores - found.choice.threads
        found.why["threads"] = f"{kept} of {cores} cores kept for the host, measured with its work running"

    def _nano(self) -> None:
        wanted = replace(self._found.choice, nano=2)
        self._found.why["nano"] = self._verdict("two calls a step", wanted, self._try(wanted))

    def _cache(self) -> None:
        found, workload = self._found, self._workload
        # The best split one, which may need fewer sequences for each to hold the longest request.
        most = max(1, workload.n_ctx // workload.longest)
        seqs = min(found.choice.n_seq_max if found.choice.kv_unified else self._space.max_seqs, _powers(1, most)[-1])
        if not found.choice.kv_unified and seqs in {1, found.choice.n_seq_max}:
            found.why["kv_unified"] = "split, as without a search: nothing that was measured is better"
            return
        if seqs == 1:
            found.why["kv_unified"] = "unified: a split cache would hold one request of the longest kind only"
            return
        wanted = replace(found.choice, kv_unified=False, n_seq_max=seqs)
        found.why["kv_unified"] = self._verdict(f"a cache split for {seqs}", wanted, self._try(wanted))

    def _blends(self) -> None:
        why = self._found.why
        if self._workload.blends < 2:
            why["quantum"] = "0: one blend never waits for its turn"
        else:
            choice = self._found.choice
            why["quantum"] = f"{choice.quantum}, with {choice.max_blends} blends a step: predicted from the cost"

    def _again(self) -> None:
        """Measure the choice once more beside the untuned engine, and take that one back where the gain was noise."""
        found, plain = self._found, untuned(self._space, self._workload)
        better = found.choice
        if better == plain:
            return
        rate, beside = self._once_more(better), self._once_more(plain)
        if rate is None or beside is None:
            found.why["structure"] += f"; no time was left to measure {better} again"
        else:
            found.why["structure"] += f"; again {rate:.0f} tokens/s for {better}, {beside:.0f} untuned"
            if rate > MARGIN * beside:
                return
        found.choice, found.rate = plain, self._rates[plain] or 0.0
        found.why["threads"] = "all cores, as without a search: nothing better was better twice"
        for knob in {"nano", "kv_unified"} & set(found.why):
            found.why[knob] += "; taken back"

    def _once_more(self, choice: TunedSettings) -> float | None:
        """Return a second measurement of a choice; None if there was no time."""
        name, load = f"again, trial of {choice}", steady(self._cost, choice, self._workload)
        if not self._time_for(name, self._needs(load)):
            return None
        rate = float(self._journal.measure(name, partial(self._trial, choice, load))["tokens_per_s"])
        self._say(f"again {choice}: {rate:.0f} tokens/s")
        return rate

    def _trial(self, choice: TunedSettings, load: Steady) -> dict[str, Any]:
        return self._rig.trial(choice, load, self._workload, self._space.trial_s).as_json()

    def _overlap(self) -> None:
        found, space = self._found, self._space
        if not space.overlap:
            found.why["overlap"] = "none: this system cannot bind threads, or there is one core only"
            return
        choice = found.choice
        load = steady(self._cost, choice, self._workload)
        splits = {space.cores // 2} if space.quick else {space.cores // 4, space.cores // 2, 3 * space.cores // 4}
        best = 0.0
        for prefill in sorted(splits - {0, space.cores}):
            name = f"overlap of {choice}, {prefill} of {space.cores} cores for prompts"
            if not self._time_for(name, self._needs(load, overlap=True)):
                continue
            run = partial(self._rig.interference, choice, load, self._workload, prefill, 2 * space.trial_s)
            got = self._journal.measure(name, partial(_as_json, run))
            found.interference.append(got)
            best = max(best, got["tokens_per_s"])
            if got["tokens_per_s"] > MARGIN * found.rate:
                found.rate = got["tokens_per_s"]
                found.choice = replace(choice, overlap="dual", threads=space.cores - prefill, prefill_threads=prefill)
        if not found.interference:
            found.why["overlap"] = "none: no time was left to measure it"
        else:
            alone = self._rates.get(choice)
            beside = "" if alone is None else f" against {alone:.0f} without"
            found.why["overlap"] = f"{found.choice.overlap}: {best:.0f} tokens/s with it{beside}, measured"

    def _try(self, choice: TunedSettings) -> float | None:
        """Measure a choice, and hold it if it is better than the one held; None if there was no time."""
        if choice in self._rates:
            return self._rates[choice]
        name = f"trial of {choice}"
        load = steady(self._cost, choice, self._workload)
        # Time that is kept: to measure what is found once more, and overlap, which only measurement decides.
        spare = 2 * self._needs(load) + (self._needs(load, overlap=True) if self._space.overlap else 0.0)
        if self._rates and not self._time_for(name, self._needs(load) + spare):
            self._rates[choice] = None
            return None
        got = self._journal.measure(name, partial(self._trial, choice, load))
        rate, late = float(got["tokens_per_s"]), max(0.0, got["longest_s"] - self._workload.itl_target_s)
        if replace(choice, threads=self._space.cores) == untuned(self._space, self._workload):
            late = 0.0  # its batch is only what a step may hold at most: the engine keeps its steps short itself
        self._say(f"{choice}: {rate:.0f} tokens/s, {1000 * got['longest_s']:.0f} ms between tokens")
        found = self._found
        found.measured.append({**_row(choice, load), "measured": got})
        self._rates[choice], self._late[choice] = rate, late
        held = self._late.get(found.choice, 0.0)
        # A step that is late counts only beside one that is not, or much later.
        slack = 0.2 * self._workload.itl_target_s
        if found.rate == 0 or late < held - slack or (late <= held + slack and rate > MARGIN * found.rate):
            found.choice, found.rate = choice, rate
        return rate

    def _needs(self, load: Steady, *, overlap: bool = False) -> float:
        """Return about how long a measurement takes, filling its cache and the fewest steps included."""
        fill = self._workload.depth * self._cost.per_token + self._cost.base + self._cost.weights
        steps = max(self._space.trial_s, 6 * load.longest_s)
        return 2 * (fill + steps) if overlap else fill + steps

    def _time_for(self, name: str, seconds: float) -> bool:
        if name in self._journal or self._left() > seconds:
            return True
        self._found.skipped.append(name)
        return False

    def _verdict(self, what: str, wanted: TunedSettings, rate: float | None) -> str:
        if rate is None:
            return f"{what}: no time was left to measure it"
        taken = "taken" if self._found.choice == wanted else "not taken"
        return f"{what}: {rate:.0f} tokens/s, the choice has {self._found.rate:.0f}, {taken}"


def _as_json(run: Callable[[], Interference]) -> dict[str, Any]:
    return run().as_json()


def _row(choice: TunedSettings, load: Steady) -> dict[str, Any]:
    return {"choice": choice.as_json(), "tokens_per_s": load.tokens_per_s, "longest_s": load.longest_s}
