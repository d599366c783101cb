"""Different users' adapters in one batch of vLLM give what each gives alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from vllm_tools import engine_on

from crayon.completion import Blend
from crayon.engine import Delta, Finished, GenerateRequest, ScoreRequest
from crayon.errors import AdapterError, CancelledError, InvalidRequestError, UnknownModelError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.server.engines.llama.engine import LlamaCppEngine
    from crayon.server.engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm

CLOSE = 0.05  # nats a token


def request(text: str = "Tell me", blend: Blend | None = None, model: str = "", tokens: int = 20) -> GenerateRequest:
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(messages=(Message("user", text),), sampling=sampling, blend=blend, model=model)


def said(engine: Any, wanted: GenerateRequest) -> str:
    return "".join(event.text for event in engine.generate(wanted) if isinstance(event, Delta))


def blends(pool: Pool, mixed: Pool) -> list[Blend | None]:
    return [
        None,
        Blend(pool.id, (1.0, 0.0, 0.0)),
        Blend(pool.id, (0.0, 1.0, 0.0)),
        Blend(pool.id, (0.4, 0.4, -0.3)),
        Blend(mixed.id, (1.0, 0.0)),
        Blend(mixed.id, (0.5, 0.5)),
    ]


def test_a_batch_of_blends_gives_what_each_gives_alone(engine: VllmEngine, pool: Pool, mixed: Pool) -> None:
    wanted = [request(f"Tell me {i}", blend) for i in range(3) for blend in blends(pool, mixed)]
    alone = [said(engine, one) for one in wanted]
    with ThreadPoolExecutor(len(wanted)) as threads:
        together = list(threads.map(lambda one: said(engine, one), wanted))
    assert together == alone
    # They are different adapters, so what is compared could differ.
    assert len({said(engine, request(blend=blend)) for blend in blends(pool, mixed)}) == len(blends(pool, mixed))


def test_a_blend_is_the_same_as_in_llama_cpp(
    engine: VllmEngine, llama: LlamaCppEngine, pool: Pool, mixed: Pool
) -> None:
    for blend in blends(pool, mixed):
        score = ScoreRequest(messages=(Message("user", "x"),), continuations=("yes, of course",), blend=blend)
        mine, theirs = (each.score(score).result(60).scores[0].token_logprobs for each in (engine, llama))
        assert mine == pytest.approx(theirs, abs=CLOSE), blend


def test_more_adapters_than_slots_wait_and_none_fails(engine: VllmEngine, pool: Pool) -> None:
    """There are two slots; twelve blends are asked for at once."""
    wanted = [request(blend=Blend(pool.id, (0.1 * i, 0.05 * i, -0.1))) for i in range(12)]
    with ThreadPoolExecutor(len(wanted)) as threads:
        together = list(threads.map(lambda one: said(engine, one), wanted))
    assert together == [said(engine, one) for one in wanted]


def test_blends_beyond_those_that_are_kept_come_back(folder: Path, pool: Pool) -> None:
    with engine_on(folder, pools=[pool], more={"max_loras": 1, "max_cpu_loras": 2}) as engine:
        wanted = [request(blend=Blend(pool.id, (0.2 * i, 0.0, 0.5)), tokens=8) for i in range(6)]
        first = [said(engine, one) for one in wanted]
        assert engine.stats().blends_loaded == 2
        with ThreadPoolExecutor(len(wanted)) as threads:
            assert list(threads.map(lambda one: said(engine, one), wanted)) == first


def test_a_cancelled_request_gives_its_blend_back(engine: VllmEngine, pool: Pool) -> None:
    for _ in range(5):
        stream = engine.generate(request(blend=Blend(pool.id, (0.3, 0.3, 0.3)), tokens=400))
        stream.cancel()
        with pytest.raises(CancelledError):
            list(stream)
    stream = engine.generate(request(blend=Blend(pool.id, (0.3, 0.3, 0.3)), tokens=400))
    next(stream)
    stream.cancel()
    end = time.monotonic() + 60
    while any(lora.leases for lora in engine._adapters._table.values()):  # a lease too many shows nowhere else
        assert time.monotonic() < end
        time.sleep(0.02)


def test_weights_of_zero_are_the_base(engine: VllmEngine, pool: Pool) -> None:
    assert said(engine, request(blend=Blend(pool.id, (0.0, 0.0, 0.0)))) == said(engine, request())


def test_blends_that_cannot_be_are_refused(engine: VllmEngine, pool: Pool) -> None:
    with pytest.raises(AdapterError, match="no pool"):
        engine.generate(request(blend=Blend("other@1", (1.0,))))
    with pytest.raises(AdapterError, match="members"):
        engine.generate(request(blend=Blend(pool.id, (1.0,))))


def test_somebodys_adapter_is_asked_for_by_name(engine: VllmEngine, mixed: Pool) -> None:
    assert [info.name for info in engine.models()] == ["it", "theirs"]
    theirs = said(engine, request(model="theirs"))
    assert theirs == said(engine, request(blend=Blend(mixed.id, (0.0, 1.0))))
    assert theirs != said(engine, request())
    events = list(engine.generate(request(model="theirs", tokens=2)))
    assert events[0].model == "theirs"
    assert isinstance(events[-1], Finished)
    with pytest.raises(InvalidRequestError, match="theirs"):
        engine.generate(request(model="theirs", blend=Blend(mixed.id, (0.0, 1.0))))
    with pytest.raises(UnknownModelError, match="theirs"):
        engine.generate(request(model="others"))


def test_an_adapter_that_vllm_cannot_read_is_named_at_the_start(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}'
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(AdapterError, match="broken"):
        engine_on(folder, adapters={"broken": tmp_path})
