"""The figures of a planned pipeline, beside those that NanoFlow's paper publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.server.planner import Class, Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "LLaMA-2-70B, 8xA100"
OPTIMUM = 1857.0
"""The paper's tokens/s of a GPU that only computes. Its formula, 280 TFLOPS and 70 B parameters would give 2000."""
PAPER_LAYERS = 80

_WORKLOADS = ("512/512", "1024/512", "512/1024")
_MEASURED = (1286.0, 1263.0, 1212.0)
_SEQUENTIAL = (1106.0, 1092.0, 1048.0)
# Nano-batches without overlap are 13.2 % slower; overlap gains 1.07 with the network alone, 1.17 with memory too.
_CUT_ONLY = 0.868
_GAINS = (1.07, 1.17)
_PLANNED = "planned"
_PAPER = "paper"


def plan_report(plan: Pipeline) -> BenchReport:
    """Return the predictions of a plan for LLaMA-2-70B and the paper's figures, told apart by `variant`."""
    workload = plan.workload
    layers = workload.layers
    uncut = workload.sequential()
    cut = sum(workload.alone(piece.operation, piece.tokens) for piece in plan.pieces)
    # Fewer layers are a smaller model, which could compute that much faster.
    optimum = OPTIMUM * PAPER_LAYERS / layers
    rate = workload.tokens_per_second(plan.makespan)
    dense = sum(o.measured for o in workload.operations if o.resource is Class.COMPUTE and o.name != "PfAttn")
    report = BenchReport("tune paper", {MODEL: "published times"})
    report.rows += [
        _row("sequential_ms", uncut * layers, "ms"),
        _row("makespan_ms", plan.makespan, "ms", note=f"{layers} layers"),
        _row("overlap_gain", uncut * layers / plan.makespan, "ratio", note="sequential over makespan"),
        _row(
            "perfect_overlap_gain", uncut * layers / dense, "ratio", note="sequential over the dense operations alone"
        ),
        _row("nano_batch_only_ratio", uncut / cut, "ratio", note="whole operations over pieces, none overlapping"),
        _row("sequential_tokens_per_s_per_gpu", workload.tokens_per_second(uncut * layers), "tok/s"),
        _row("tokens_per_s_per_gpu", rate, "tok/s"),
        _row("fraction_of_optimum", rate / optimum, "ratio", note=f"of {optimum:g} tokens/s"),
    ]
    if layers == PAPER_LAYERS:
        report.rows += _paper()
    return report


def _paper() -> Sequence[BenchRow]:
    sequential, measured, gains = "sequential_tokens_per_s_per_gpu", "tokens_per_s_per_gpu", "overlap_gain"
    return [
        _row("sequential_ms", 225.05, "ms", _PAPER, note="sum of table 2"),
        *(
            _row(gains, gain, "ratio", _PAPER, note=note)
            for gain, note in zip(_GAINS, ("network", "both"), strict=True)
        ),
        _row("nano_batch_only_ratio", _CUT_ONLY, "ratio", _PAPER),
        *(_row(sequential, *_of(pair)) for pair in zip(_SEQUENTIAL, _WORKLOADS, strict=True)),
        *(_row(measured, *_of(pair)) for pair in zip(_MEASURED, _WORKLOADS, strict=True)),
        *(
            _row("fraction_of_optimum", value / OPTIMUM, "ratio", _PAPER, workload)
            for value, workload in zip(_MEASURED, _WORKLOADS, strict=True)
        ),
    ]


def _of(pair: tuple[float, str]) -> tuple[float, str, str, str]:
    return pair[0], "tok/s", _PAPER, pair[1]


def _row(
    metric: str,
    value: float,
    unit: str,
    variant: str = _PLANNED,
    workload: str | None = None,
    note: str | None = None,
) -> BenchRow:
    return BenchRow(metric, value, unit, (value,), model=MODEL, workload=workload, note=note, variant=variant)
