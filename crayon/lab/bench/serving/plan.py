"""What one run of the race measures, sized for its time: the default takes at most 40 minutes, quick at most 10."""

from __future__ import annotations

from dataclasses import dataclass

from crayon.lab.bench.serving.tuning import SLOTS
from crayon.lab.bench.serving.workloads import CODE, CONSTANT, CONVERSATION, MOONCAKE, WORKLOADS

OFFLINE, ONLINE, LONG_PROMPT = "offline", "online", "long_prompt"
SINGLE, BLENDS, PREFIX = "single", "blends", "prefix"
CONCURRENCY = "concurrency"
PARTS = (OFFLINE, ONLINE, LONG_PROMPT, SINGLE, BLENDS, PREFIX, CONCURRENCY)
AGAINST_LLAMA_SERVER = frozenset({OFFLINE, ONLINE, LONG_PROMPT, PREFIX, CONCURRENCY})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model's share of the race.

    Args:
        reference: the model; where it was prepared for this machine, the prepared file.
        workloads: those run offline.
        tokens: about so many in one offline run.
        requests: most requests of one offline run, and those of the constant workload.
        runs: pairs of offline runs, ours and theirs in turn.
        online: workloads run with Poisson arrivals.
        first_seconds: bound of the 95th percentile of the time to the first token.
        parts: which parts this model takes part in.
        openvino: workloads that OpenVINO GenAI is asked, too.
        searched: workloads on which both servers' best flags are searched; others take those of the last one.
        flags_of: the model whose flags a search begins with, where a whole one would take too long: of each server's
            only one is searched again (`tuning.AGAIN`).
        probes: runs of one search for a rate.
    """

    reference: str
    workloads: tuple[str, ...]
    tokens: int
    requests: int
    runs: int
    online: tuple[str, ...]
    first_seconds: float
    parts: frozenset[str]
    openvino: tuple[str, ...]
    searched: tuple[str, ...] = (CONSTANT,)
    flags_of: str | None = None
    probes: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole race.

    Args:
        models: each with its share.
        context: most tokens of one request; longer rows of a trace are skipped.
        search_requests: requests of one trial while the best flags are searched.
        slots: numbers of slots that are searched.
        probe_seconds: in which requests arrive, in one of them.
        arrivals: requests that it has at least, for which it may take twice as long.
        long_prompt: tokens of the prompt that must not stop the others.
        concurrencies: clients at once, for the curve of throughput.
    """

    models: tuple[ModelPlan, ...]
    context: int = 2048
    search_requests: int = 16
    slots: tuple[int, ...] = SLOTS
    probe_seconds: float = 15.0
    arrivals: int = 20
    long_prompt: int = 4000
    concurrencies: tuple[int, ...] = (1, 8, 32)


SMALL, CODER, LARGE = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"

FULL = Plan(
    models=(
        ModelPlan(
            reference=SMALL,
            workloads=WORKLOADS,
            tokens=6000,
            requests=32,
            runs=3,
            online=(CONSTANT,),
            first_seconds=2.0,
            parts=frozenset(PARTS),
            openvino=(CONSTANT, CONVERSATION),
            searched=(CONSTANT, CODE),
        ),
        ModelPlan(
            reference=CODER,
            workloads=WORKLOADS,
            tokens=2000,
            requests=12,
            runs=2,
            online=(),
            first_seconds=10.0,
            parts=frozenset({OFFLINE, SINGLE}),
            openvino=(CONSTANT,),
            flags_of=SMALL,
        ),
        ModelPlan(
            reference=LARGE,
            workloads=(CONSTANT, CONVERSATION),
            tokens=3000,
            requests=16,
            runs=1,
            online=(CONVERSATION,),
            first_seconds=10.0,
            parts=frozenset({OFFLINE, ONLINE}),
            openvino=(CONSTANT,),
            flags_of=SMALL,
            probes=3,
        ),
    ),
)

QUICK = Plan(
    models=(
        ModelPlan(
            reference=SMALL,
            workloads=(CONSTANT, CONVERSATION, CODE, MOONCAKE),
            tokens=3000,
            requests=16,
            runs=1,
            online=(CONSTANT,),
            first_seconds=2.0,
            parts=frozenset(PARTS),
            openvino=(CONSTANT,),
            probes=3,
        ),
    ),
    search_requests=8,
    slots=(16, 32),
    probe_seconds=12.0,
    arrivals=12,
    concurrencies=(1, 8, 24),
)
