"""Events and results over the wire, and answers that break the protocol."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Blend, FinishReason, Timings, Usage
from crayon.engine import (
    ContinuationScore,
    Delta,
    EncodeResult,
    Event,
    Finished,
    ModelInfo,
    ScoreResult,
    Started,
    TokenSignal,
)
from crayon.errors import ServerError
from crayon.v1 import inference_pb2 as pb
from crayon.wire.responses import (
    encode_result_from_proto,
    encode_result_to_proto,
    event_from_proto,
    event_to_proto,
    models_from_proto,
    models_to_proto,
    score_result_from_proto,
    score_result_to_proto,
)

numbers = st.floats(-50, 50, width=32)
counts = st.integers(0, 2**40)
signals = st.lists(st.builds(TokenSignal, numbers, numbers, numbers, numbers), max_size=4).map(tuple)
events = st.one_of(
    st.builds(
        Started, st.text(max_size=9), st.text(max_size=9), st.none() | st.just(Blend("p", (0.5, -1.0))), st.booleans()
    ),
    st.builds(Delta, st.text(st.characters(codec="utf-8")), signals),
    st.builds(
        Finished,
        st.sampled_from(FinishReason),
        st.builds(Usage, counts, counts, counts, counts, counts),
        st.builds(Timings, numbers, numbers, numbers),
    ),
)


@given(events)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    sent = event_to_proto(event).SerializeToString()
    assert event_from_proto(pb.GenerateResponse.FromString(sent)) == event


def test_scores_come_out_as_they_went_in() -> None:
    result = ScoreResult((ContinuationScore((-0.5, -1.0)), ContinuationScore((-2.0,))), Usage(3, 0, 1), "m")
    assert score_result_from_proto(score_result_to_proto(result), 2) == result


def test_vectors_come_out_as_they_went_in() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    got = encode_result_from_proto(encode_result_to_proto(EncodeResult(vectors, Usage(3), "m")), 3)
    assert got.vectors.dtype == np.float32
    assert np.array_equal(got.vectors, vectors)
    assert (got.usage, got.model) == (Usage(3), "m")


def test_models_come_out_as_they_went_in() -> None:
    models = (ModelInfo("a", 10, "00" * 32, "Q4_K_M", frozenset({"generate", "score"})), ModelInfo("b", 20))
    assert models_from_proto(models_to_proto(models)) == models


def test_an_event_of_a_newer_server_is_passed_over() -> None:
    # Field 15 of GenerateResponse, which this version does not have.
    assert event_from_proto(pb.GenerateResponse.FromString(b"\x7a\x02\x08\x01")) is None


@pytest.mark.parametrize(
    "message",
    [
        pb.GenerateResponse(finished=pb.Finished()),
        pb.GenerateResponse(finished=pb.Finished(finish_reason=99)),
        pb.GenerateResponse(started=pb.Started(blend=pb.Blend(pool_id="p"))),
    ],
)
def test_a_broken_event_is_the_servers_fault(message: pb.GenerateResponse) -> None:
    with pytest.raises(ServerError, match="breaks the protocol"):
        event_from_proto(message)


def test_broken_results_are_the_servers_fault() -> None:
    with pytest.raises(ServerError, match="scores: 0 of 1"):
        score_result_from_proto(pb.ScoreResponse(), 1)
    with pytest.raises(ServerError, match="at least one token"):
        score_result_from_proto(pb.ScoreResponse(scores=[pb.ContinuationScore()]), 1)
    with pytest.raises(ServerError, match="values: 3 are not 2 texts x 2"):
        encode_result_from_proto(pb.EncodeResponse(dimensions=2, values=[1, 2, 3]), 2)
    with pytest.raises(ServerError, match="values"):
        encode_result_from_proto(pb.EncodeResponse(), 0)
    for value in (float("nan"), float("-inf")):
        with pytest.raises(ServerError, match="not a finite number"):
            score_result_from_proto(pb.ScoreResponse(scores=[pb.ContinuationScore(token_logprobs=[-1.0, value])]), 1)
        with pytest.raises(ServerError, match="not a finite number"):
            encode_result_from_proto(pb.EncodeResponse(dimensions=2, values=[1, value]), 1)
    with pytest.raises(ServerError, match="models"):
        models_from_proto(pb.ListModelsResponse())
