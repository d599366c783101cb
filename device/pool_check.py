"""`crayon pool check`: proves on the model itself that a pool does what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.image import gguf_bytes
from crayon.adapters.lora import LoraTensors
from crayon.adapters.memory_file import MemoryFile
from crayon.blending import PoolBlends, check_bases
from crayon.completion import Blend
from crayon.errors import AdapterError, AdapterMismatchError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool

    Logits = NDArray[np.float32]

TEXTS = (
    "What is the capital of France?",
    "Please book me a flight to Lisbon on Friday.",
    "Is it true that whales are mammals? Answer yes or no.",
    "My card was declined at the petrol station, what now?",
)
AGREES = 0.1
"""Most difference between live scales and the blend made before, as a part of what the blend changes."""
ROUNDING = 2.0
"""Differences up to this many times the model's own rounding are none.

Where weights are quantized, llama.cpp rounds activations to 8 bits before each product. The smallest change, even
another order of adding up, makes some of them fall the other way, and thirty layers later logits differ by tenths. How
much that is for this model is measured: with members at a thousandth of their size.
"""
_THOUSANDTH = 1e-3
_LEAST = 1e-4  # what a model of full precision rounds
_MEASURED = 2  # members that rounding is measured with


@dataclass(frozen=True, slots=True)
class PoolFinding:
    """One thing that was checked: whether it holds, and what was seen."""

    check: str
    ok: bool
    said: str


def check_pool(
    pool: Pool,
    model_path: Path | str,
    *,
    source_sha256: str = "",
    name: str = "",
    threads: int | None = None,
    progress: Callable[[PoolFinding], None] | None = None,
) -> list[PoolFinding]:
    """Check a pool on its model; what does not hold is a finding, not an error.

    Args:
        pool: that was opened, so its own numbers and hashes hold.
        model_path: the file to run, published or prepared.
        source_sha256: hash of the published file, where it is known.
        name: of the model, for messages.
        threads: compute threads (None: the cores this process may use).
        progress: told of each finding at once.

    Raises:
        ModelFileError: the model cannot be run.
        EngineError: no memory for the context.
    """
    found: list[PoolFinding] = []
    with Model(model_path) as model:
        for finding in _findings(pool, model, source_sha256, name or model.path.stem, threads):
            found.append(finding)
            if progress is not None:
                progress(finding)
    return found


def _findings(pool: Pool, model: Model, source_sha256: str, name: str, threads: int | None) -> Iterator[PoolFinding]:
    try:
        check_bases((pool,), model, source_sha256, name)
    except AdapterMismatchError as error:
        yield PoolFinding("base", ok=False, said=str(error))
        return  # what would be computed now means nothing
    yield PoolFinding("base", ok=True, said=f"made for {pool.manifest.base.name}, and {name} is it")
    prompts = [model.tokenize_chat([Message("user", text)]) for text in TEXTS]
    size = sum(map(len, prompts))
    with Context(
        model, n_ctx=size, n_batch=size, n_seq_max=len(prompts), n_outputs_max=len(prompts), threads=threads
    ) as context:
        probe = _Probe(context, prompts)
        yield _zero(pool, model, probe)
        loaded: list[Adapter] = []
        blends = PoolBlends(model, (pool,), contexts=(context,), capacity=1)
        try:
            for k in range(len(pool)):
                yield _member(pool, k, model, probe, loaded)
            if len(loaded) == len(pool):
                for weights in _mixtures(len(pool)):
                    yield _agree(weights, blends, pool, loaded, probe)
        finally:
            context.set_adapters()
            blends.close()
            for adapter in loaded:
                adapter.close()


class _Probe:
    """Computes the logits after a few prompts."""

    def __init__(self, context: Context, prompts: Sequence[Sequence[int]]) -> None:
        self._context = context
        self._batch = Batch(sum(map(len, prompts)))
        self._rows = [self._batch.add(tokens, 0, i, "last")[-1] for i, tokens in enumerate(prompts)]

        self.base = self.logits()
        self.rounding = _LEAST

    def logits(self, adapters: Sequence[tuple[Adapter, float]] = ()) -> Logits:
        """Return logits under these adapters, (prompts, vocabulary)."""
        self._context.set_adapters(adapters)
        self._context.clear()
        self._context.decode(self._batch)
        return np.stack([self._context.logits(row) for row in self._rows])

    def change(self, adapters: Sequence[tuple[Adapter, float]]) -> float:
        """Return by how much these adapters move logits, root mean square."""
        return _mean(self.logits(adapters) - self.base)

    def measure_rounding(self, adapter: Adapter) -> None:
        """See how much of a change is rounding only."""
        self.rounding = max(self.rounding, self.change([(adapter, _THOUSANDTH)]))


def _zero(pool: Pool, model: Model, probe: _Probe) -> PoolFinding:
    """Compute with an adapter of B = 0, which is added like any other, and with one of scale 0: both are the base."""
    blank = {target: (a, np.zeros_like(b)) for target, (a, b) in pool.member(0).tensors.items()}
    try:
        with (
            _load(model, LoraTensors(blank, 1.0), pool, "the blend of zeros") as zeros,
            _load(model, pool.member(0), pool, pool.names[0]) as member,
        ):
            off = max(float(np.abs(probe.logits([one]) - probe.base).max()) for one in ((zeros, 1.0), (member, 0.0)))
            probe.logits()  # applies none of them any more
    except AdapterError as error:
        return PoolFinding("zero is the base", ok=False, said=str(error))
    said = f"a blend of zeros and a scale of 0 move logits by {off:.2g}"
    return PoolFinding("zero is the base", ok=off == 0.0, said=said)


def _member(pool: Pool, k: int, model: Model, probe: _Probe, loaded: list[Adapter]) -> PoolFinding:
    """Load a member, adding it to `loaded`, and see that it does something."""
    check = f"member {pool.names[k]}"
    try:
        adapter = _load(model, pool.member(k), pool, pool.names[k])
    except AdapterError as error:
        return PoolFinding(check, ok=False, said=str(error))
    loaded.append(adapter)
    if len(loaded) <= _MEASURED:
        probe.measure_rounding(adapter)
    moved, noise = probe.change([(adapter, 1.0)]), probe.rounding
    if not np.isfinite(moved):
        return PoolFinding(check, ok=False, said="scale 1 makes logits that are no numbers")
    ok = moved > ROUNDING * noise
    said = f"scale 1 moves logits by {moved:.3g} on average, rounding alone by {noise:.2g}"
    return PoolFinding(check, ok=ok, said=said if ok else f"{said}: it has no effect")


def _agree(
    weights: tuple[float, ...], blends: PoolBlends, pool: Pool, members: list[Adapter], probe: _Probe
) -> PoolFinding:
    live = probe.logits(list(zip(members, weights, strict=True)))
    with blends(Blend(pool.id, weights)) as adapters:
        before = probe.logits(adapters)
    off, change = _mean(before - live), _mean(before - probe.base)
    noise = probe.rounding
    said = (
        f"live scales differ from the blend by {off:.2g} on average, the blend from the base by {change:.3g} "
        f"(allowed: {AGREES:.0%} of that, or {ROUNDING:g} times rounding, {noise:.2g})"
    )
    return PoolFinding(
        f"blend of {sum(map(bool, weights))}", ok=off <= max(AGREES * change, ROUNDING * noise), said=said
    )


def _mixtures(count: int) -> list[tuple[float, ...]]:
    """Return the weights to try: two members, and all of them unevenly, one against the others."""
    two = tuple(0.6 if k == 0 else 0.4 if k == count - 1 else 0.0 for k in range(count))
    rising = np.arange(1, count + 1) / (count * (count + 1) / 2)
    rising[0] = -rising[0]
    return [two, tuple(float(weight) for weight in rising)][: min(count, 2)]


def _load(model: Model, lora: LoraTensors, pool: Pool, name: str) -> Adapter:
    with MemoryFile(gguf_bytes(lora, pool.manifest.base.architecture)) as file:
        return Adapter(model, file.path, name=f"{name} of pool {pool.id}")


def _mean(difference: Logits) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
