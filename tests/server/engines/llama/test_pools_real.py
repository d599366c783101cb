"""Real quantized models: K weights sent over gRPC give what the same blend gives here.

Tolerance: activations are rounded to 8 bits, and another batch rounds others, so that single log-probabilities of the
same blend differ by up to some tenths of a nat between two engines. They must differ by less than a tenth of what the
blend changes, on average.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from serving_tools import PATIENCE, Serving

from crayon.adapters import Pool
from crayon.adapters.find import find_pool
from crayon.client import RemoteEngine
from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.engine import ScoreRequest
from crayon.messages import Message
from crayon.models import resolve
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from crayon.engine import Engine

PROMPTS = ("What is the capital of France?", "My card was declined at the petrol station, what now?")
OPTIONS = ("The capital is Paris.", "Please call your bank.", "print('hello')")


def pool_for(model: str) -> Pool:
    """The pool trained for a model: the shipped one, or the small one that was trained for this test."""
    if model.startswith("smollm2"):
        return Pool.open(find_pool("smollm2-135m"))
    return Pool.open(Path(__file__).parents[3] / "pools" / "qwen2.5-coder-0.5b")


def scores(engine: Engine, blend: Blend | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = []
    for prompt in PROMPTS:
        request = ScoreRequest(messages=(Message("user", prompt),), continuations=OPTIONS, blend=blend)
        found += [value for one in engine.score(request).result(4 * PATIENCE).scores for value in one.token_logprobs]
    return np.asarray(found)


@pytest.mark.models
@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
def test_weights_over_grpc_give_the_local_blend(model: str) -> None:
    local = resolve(model)
    pool = pool_for(model)
    k = len(pool)
    blends = [Blend(pool.id, tuple(weights)) for weights in (*np.eye(k)[[0, -1]].tolist(), [1.0 / k] * k)]
    with DeviceEngine(local.path, n_ctx=512, threads=1, source_sha256=local.sha256, pools=(pool,)) as device:
        base, expected = scores(device, None), [scores(device, blend) for blend in blends]

    def serve() -> LlamaCppEngine:
        return LlamaCppEngine(
            local.path, n_ctx=512, n_seq_max=4, threads=1, source_sha256=local.sha256, pools=(pool,), step_seconds=None
        )

    with Serving(serve) as serving:
        remote = RemoteEngine(serving.address, timeout=4 * PATIENCE)
        for blend, here in zip(blends, expected, strict=True):
            off, change = np.abs(scores(remote, blend) - here).mean(), np.abs(here - base).mean()
            assert off < 0.1 * change, (off, change)
        remote.close()
