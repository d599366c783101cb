"""Our scheduler in vLLM's: that it runs, what it spares, and that vLLM's own runs where it does not fit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from vllm_tools import QUICK, engine_on

from crayon.engine import Delta, GenerateRequest
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.vllm.arguments import SCHEDULER, Shape, engine_config

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.server.engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm

PAGES = 12  # of 32 tokens: three answers of 120 tokens fit, not more


def config(folder: Path, nano: str | None = "mean", **more: Any) -> Any:
    return engine_config(Shape(folder=folder, nano=nano, slots=8, more={**QUICK, **more}), 512)


def run(engine: VllmEngine) -> list[str]:
    def one(i: int) -> str:
        request = GenerateRequest(
            messages=(Message("user", f"Tell me {i}"),), sampling=Sampling(max_tokens=90, ignore_eos=True)
        )
        return "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))

    with ThreadPoolExecutor(12) as threads:
        return list(threads.map(one, range(12)))


def small(folder: Path, **settings: Any) -> VllmEngine:
    return engine_on(
        folder, context_tokens=256, slots=12, more={"num_gpu_blocks_override": PAGES, "block_size": 32}, **settings
    )


def test_nobody_is_thrown_out_of_the_cache_with_ours_and_the_answers_are_vllms(folder: Path) -> None:
    with small(folder, predict="worst") as engine:
        ours = run(engine)
        assert engine.stats().preemptions == 0
    with small(folder, scheduler="stock") as engine:
        assert run(engine) == ours
        # The same cache is too small for what vLLM lets in, or the test above shows nothing.
        assert (engine.stats().preemptions or 0) > 0


def test_it_is_ours_that_runs_and_of_the_right_kind(folder: Path) -> None:
    found = config(folder)
    kind = "NanoAsyncScheduler" if found.scheduler_config.async_scheduling else "NanoScheduler"
    assert found.scheduler_config.scheduler_cls == f"{SCHEDULER}.{kind}"
    cls = found.scheduler_config.get_scheduler_cls()
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    assert issubclass(cls, AsyncScheduler) == bool(found.scheduler_config.async_scheduling)


def test_stock_has_no_class_of_ours(folder: Path) -> None:
    found = config(folder, nano=None)
    assert found.scheduler_config.scheduler_cls is None
    assert not found.model_config.logits_processors


def test_an_order_of_its_own_keeps_ours_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert config(folder, scheduling_policy="priority").scheduler_config.scheduler_cls is None
    assert "vLLM's own scheduler is used" in caplog.text


def test_another_vllm_keeps_ours_out_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    from crayon.server.engines.vllm import scheduler as vllm_scheduler

    assert vllm_scheduler.misfit() == ""
    monkeypatch.setattr(Scheduler, "schedule", lambda self, budget, throttle_prefills=False: None)
    assert "schedule takes (self, budget, throttle_prefills)" in vllm_scheduler.misfit()
    assert config(folder).scheduler_config.scheduler_cls is None
    assert "vLLM's own scheduler is used" in caplog.text
