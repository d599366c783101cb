"""Which model `auto` takes: the larger one where memory and speed allow it, else the small one. A decision, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LARGER: Final = "qwen2.5-coder-0.5b-instruct"
SMALL: Final = "smollm2-135m-instruct"

# What the larger model keeps for one token in one context: keys and values of 24 layers, 2 heads of 64, in 16 bits.
KV_BYTES: Final = 2 * 24 * 2 * 64 * 2
# What it takes beside its file and its two contexts (one answers, one embeds): measured, 767 MiB in all with 4,096
# tokens, 469 of them the file and 96 the caches.
BESIDE_BYTES: Final = 200 * 2**20
SPARE_BYTES: Final = 512 * 2**20  # stays free, for the program around it and for others

# What a customised device computes for a question of 30 tokens while some 400 tokens of examples are kept: the question
# with its template (45), the rest of 4 labels (12), and the embedding, through at most half of the layers (15).
# `choose` and `encode` took 0.85 to 1.05 times as long as these 72 tokens in pieces of 32, on both models.
ANSWER_TOKENS: Final = 45 + 12 + 15
MOST_ANSWER_S: Final = 1.0
LEAST_DECODE_TPS: Final = 8.0

# From SmolLM2's published file to the larger model's: writing goes with the parameters (494 against 135 million; 3.3 to
# 3.6 times as slow side by side on one core), reading less so, with the kernels of their types (2.25 times as slow).
PARAMETERS: Final = 494 / 135
PREFILL_SCALE: Final = 2.25
LEAST_CORES: Final = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model is here: prompt tokens a second in pieces of 32, answer tokens a second."""

    prefill_tps: float
    decode_tps: float

    @property
    def answer_s(self) -> float:
        """Seconds until a customised task's question is answered."""
        return ANSWER_TOKENS / self.prefill_tps

    @property
    def enough(self) -> bool:
        """Whether it is quick enough to be the device's model."""
        return self.answer_s <= MOST_ANSWER_S and self.decode_tps >= LEAST_DECODE_TPS

    def of_larger(self) -> Speed:
        """Return the larger model's speed, guessed from this one of the small model's published file."""
        return Speed(self.prefill_tps / PREFILL_SCALE, self.decode_tps / PARAMETERS)

    def __str__(self) -> str:
        return f"{self.answer_s:.2f} s for a question, {self.decode_tps:.0f} tokens/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the choice rests on.

    Args:
        larger_here: whether the larger model is on this machine, and
        small_here: the small one.
        may_fetch: whether an absent model may be fetched.
        need: bytes of memory that the larger model takes.
        room: bytes of memory that this process may still take.
        disk_need: bytes that fetching the larger model takes on the disk for a moment.
        disk_room: free bytes there.
        cores: that may be used.
        vectors: whether the CPU has the vector instructions that the fast kernels want.
        speed: the larger model's, measured; None where it could not be.
        small_speed: of the small model's published file, measured; None where it was not.
        undisturbed: whether nothing else kept the machine busy while the speed was measured.
    """

    larger_here: bool
    small_here: bool
    may_fetch: bool
    need: int
    room: int
    disk_need: int
    disk_room: int
    cores: int
    vectors: bool
    speed: Speed | None = None
    small_speed: Speed | None = None
    undisturbed: bool = True

    @property
    def fits(self) -> bool:
        """Whether the larger model leaves room to spare."""
        return self.room >= self.need + SPARE_BYTES

    @property
    def promising(self) -> bool:
        """Whether the larger model, not yet here, can be fetched and kept and is likely to be quick enough."""
        return self.may_fetch and self.fits and self.disk_room >= self.disk_need and self._promised

    @property
    def _promised(self) -> bool:
        return self.vectors and self.cores >= LEAST_CORES


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model to take, by its name in the catalogue, and why, in a sentence for the user."""

    model: str
    why: str


def choose_device(facts: Facts) -> ModelChoice:
    """Return which of the two models the device takes."""
    against = _against(facts)
    if against is None:
        return ModelChoice(LARGER, _for(facts))
    if facts.larger_here and not facts.small_here and not facts.may_fetch:
        return ModelChoice(LARGER, f"nothing else is here and nothing may be fetched, though {against}")
    return ModelChoice(SMALL, against)


def _against(facts: Facts) -> str | None:
    """Return what speaks against the larger model, None if nothing does."""
    if not facts.fits:
        return f"{LARGER} takes {_mib(facts.need)} and {_mib(SPARE_BYTES)} to spare, {_mib(facts.room)} are free"
    if facts.larger_here:
        if facts.speed is None:
            return f"the speed of {LARGER} could not be measured"
        if not facts.speed.enough:
            return f"{LARGER} is too slow here: {_measured(facts, facts.speed)}; {_wanted()}"
        return None
    if not facts.may_fetch:
        return f"{LARGER} is not here and nothing may be fetched"
    if facts.disk_room < facts.disk_need:
        return f"fetching {LARGER} takes {_mib(facts.disk_need)} of disk, {_mib(facts.disk_room)} are free"
    if facts.cores < LEAST_CORES:
        return f"{LARGER} wants {LEAST_CORES} cores, {facts.cores} may be used"
    if not facts.vectors:
        return f"{LARGER} is slow on a CPU without AVX2 or dot products"
    if facts.small_speed is not None and not facts.small_speed.of_larger().enough:
        guess = facts.small_speed.of_larger()
        return f"{LARGER} would be too slow here, by the speed of {SMALL}: {_measured(facts, guess)}; {_wanted()}"
    return None


def _for(facts: Facts) -> str:
    memory = f"takes {_mib(facts.need)} of {_mib(facts.room)} free"
    if facts.speed is not None:
        return f"{memory}; {_measured(facts, facts.speed)}"
    return f"{memory}; not here yet, {facts.cores} cores promise to be quick enough; timed once it is here"


def _measured(facts: Facts, speed: Speed) -> str:
    return f"{speed}" + ("" if facts.undisturbed else " (the machine is busy, so it is measured again the next time)")


def _wanted() -> str:
    return f"wanted are at most {MOST_ANSWER_S:g} s and {LEAST_DECODE_TPS:g} tokens/s"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
