"""Requests over the wire: what goes in comes out, and what does not belong there is refused by its name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Blend
from crayon.constraint import Constraint, ConstraintKind
from crayon.engine import EncodeRequest, GenerateRequest, Prefix, ScoreRequest, Started, check_kept, needs
from crayon.errors import InvalidRequestError, ServerRejectedError
from crayon.messages import Message, ToolCall, normalise_messages
from crayon.sampling import Sampling
from crayon.v1 import inference_pb2 as pb
from crayon.wire.limits import MAX_TEXTS
from crayon.wire.requests import (
    encode_request_from_proto,
    encode_request_to_proto,
    generate_request_from_proto,
    generate_request_to_proto,
    score_request_from_proto,
    score_request_to_proto,
)

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
earlier = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts)
conversations = st.builds(
    lambda before, last: normalise_messages([*before, Message("user", last)]), st.lists(earlier, max_size=3), texts
)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 2**31 - 1),
    temperature=st.floats(0, 5),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 2**31 - 1),
    min_p=st.floats(0, 1),
    repeat_penalty=st.floats(0.1, 10),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    stop=st.lists(texts, max_size=16).map(tuple),
    seed=st.none() | st.integers(0, 2**32 - 2),
    ignore_eos=st.booleans(),
)
blends = st.none() | st.builds(
    Blend, st.just("pool"), st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8).map(tuple)
)


constraints = st.one_of(
    st.just(Constraint(ConstraintKind.JSON)),
    texts.map(lambda text: Constraint(ConstraintKind.REGEX, text)),
    texts.map(lambda text: Constraint(ConstraintKind.GRAMMAR, text, show=False)),
    st.lists(texts, min_size=1, max_size=4).map(lambda some: Constraint(ConstraintKind.CHOICES, choices=tuple(some))),
    texts.map(lambda text: Constraint(ConstraintKind.SCHEMA, json.dumps({"const": text}), show=False)),
)


@given(constraints)
def test_a_constraint_comes_out_as_it_went_in(constraint: Constraint) -> None:
    request = GenerateRequest(messages=(Message("user", "x"),), constraint=constraint)
    sent = generate_request_to_proto(request)
    assert generate_request_from_proto(sent, None).constraint == constraint


def test_a_constraint_of_an_unknown_kind_is_refused() -> None:
    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="x")], constraint=pb.Constraint())
    with pytest.raises(InvalidRequestError, match="constraint: is of no kind that this server knows"):
        generate_request_from_proto(message, None)


@given(conversations, samplings, blends, st.booleans())
def test_a_generate_request_comes_out_as_it_went_in(
    messages: tuple[Message, ...],
    sampling: Sampling,
    blend: Blend | None,
    signals: bool,
) -> None:
    request = GenerateRequest(
        messages=messages, sampling=sampling, blend=blend, deadline=7.0, model="m", signals=signals
    )
    sent = generate_request_to_proto(request).SerializeToString()
    assert generate_request_from_proto(pb.GenerateRequest.FromString(sent), 7.0) == request


@given(conversations, st.lists(texts, min_size=1, max_size=4).map(tuple), blends)
def test_a_score_request_comes_out_as_it_went_in(
    messages: tuple[Message, ...], continuations: tuple[str, ...], blend: Blend | None
) -> None:
    request = ScoreRequest(messages=messages, continuations=continuations, blend=blend)
    sent = score_request_to_proto(request).SerializeToString()
    assert score_request_from_proto(pb.ScoreRequest.FromString(sent), None) == request


@given(st.lists(texts, min_size=1, max_size=4).map(tuple))
def test_an_encode_request_comes_out_as_it_went_in(some: tuple[str, ...]) -> None:
    request = EncodeRequest(texts=some, model="m")
    sent = encode_request_to_proto(request).SerializeToString()
    assert encode_request_from_proto(pb.EncodeRequest.FromString(sent), None) == request


def test_wishes_about_tokens_come_out_as_they_went_in() -> None:
    request = GenerateRequest(messages=(Message("user", "x"),), top_logprobs=0, logit_bias=((7, -100.0), (9, 0.5)))
    sent = generate_request_to_proto(request).SerializeToString()
    found = generate_request_from_proto(pb.GenerateRequest.FromString(sent), None)
    assert (found.top_logprobs, found.logit_bias) == (0, ((7, -100.0), (9, 0.5)))
    with pytest.raises(ServerRejectedError, match="'old' does not know logit_bias and top_logprobs"):
        check_kept(request, Started("r", "old"))
    with pytest.raises(InvalidRequestError, match="top_logprobs: must be from 0 to 20, not 21"):
        generate_request_from_proto(hello(top_logprobs=21), None)
    with pytest.raises(InvalidRequestError, match="logit_bias: of token 3 must be from -100 to 100"):
        generate_request_from_proto(hello(logit_bias=[pb.LogitBias(token=3, bias=101)]), None)


def test_calls_and_their_results_come_out_as_they_went_in() -> None:
    call = ToolCall("c1", "now", '{"zone": "UTC"}')
    asked, told = Message("assistant", "", (call,), reasoning="Hm."), Message("tool", "12:00", (), "c1")
    request = GenerateRequest(messages=(Message("user", "x"), asked, told, Message("assistant", "It is")))
    sent = generate_request_to_proto(request).SerializeToString()
    assert generate_request_from_proto(pb.GenerateRequest.FromString(sent), None).messages == request.messages
    assert needs(request) == {"messages.tool_calls", "messages.reasoning"}


def test_an_answer_of_a_server_that_overlooks_calls_is_not_used() -> None:
    call = ToolCall("c1", "now")
    messages = (Message("user", "x"), Message("assistant", "", (call,)), Message("tool", "12:00", (), "c1"))
    request = GenerateRequest(messages=messages)
    check_kept(request, Started("r", "m", kept=needs(request)))
    with pytest.raises(ServerRejectedError, match=r"'m' does not know messages\.tool_calls"):
        check_kept(request, Started("r", "m"))


def test_a_prefix_stays_on_the_device() -> None:
    messages = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    plain = GenerateRequest(messages=messages)
    kept = replace(plain, prefix=Prefix(2, Path("/home/me/private")))
    assert generate_request_to_proto(kept) == generate_request_to_proto(plain)
    scored = ScoreRequest(messages=messages, continuations=("d",))
    kept_scored = replace(scored, prefix=Prefix(2, Path("/home/me/private")))
    assert score_request_to_proto(kept_scored) == score_request_to_proto(scored)


def hello(**more: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hello")], **more)


def test_signals_are_wanted_unless_the_caller_says_no() -> None:
    assert generate_request_from_proto(hello(), None).signals
    assert generate_request_from_proto(hello(signals=True), None).signals
    assert not generate_request_from_proto(hello(signals=False), None).signals
    wanted = GenerateRequest(messages=(Message("user", "hello"),))
    assert not generate_request_to_proto(wanted).HasField("signals")


def test_unset_and_zero_are_told_apart() -> None:
    unset = generate_request_from_proto(hello(sampling=pb.Sampling(temperature=0.5)), None)
    assert unset.sampling == Sampling(temperature=0.5)
    zero = generate_request_from_proto(hello(sampling=pb.Sampling(top_p=0.0)), None)
    assert zero.sampling == Sampling(top_p=0.0)
    assert generate_request_from_proto(hello(), None).sampling == Sampling()
    with pytest.raises(InvalidRequestError, match=r"^sampling\.max_tokens: must be from 1"):
        generate_request_from_proto(hello(sampling=pb.Sampling(max_tokens=0)), None)


def test_an_absent_request_id_is_made_up() -> None:
    first, second = (generate_request_from_proto(hello(), None).request_id for _ in range(2))
    assert first
    assert first != second


USER = pb.Message(role=pb.ROLE_USER, content="x")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(), "messages"),
        (pb.GenerateRequest(messages=[pb.Message(content="x")]), "messages[0].role"),
        (pb.GenerateRequest(messages=[pb.Message(role=17, content="x")]), "messages[0].role"),
        (pb.GenerateRequest(messages=[USER, pb.Message(role=pb.ROLE_USER)]), "messages[1].content"),
        (pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_ASSISTANT, content="x")]), "messages[0].role"),
        (pb.GenerateRequest(messages=[USER] * 5000), "messages"),
        (hello(sampling=pb.Sampling(temperature=9)), "sampling.temperature"),
        (hello(sampling=pb.Sampling(top_p=math.nan)), "sampling.top_p"),
        (hello(sampling=pb.Sampling(seed=2**32 - 1)), "sampling.seed"),
        (hello(sampling=pb.Sampling(top_k=-1)), "sampling.top_k"),
        (hello(sampling=pb.Sampling(stop=["a"] * 17)), "sampling.stop"),
        (hello(sampling=pb.Sampling(stop=[""])), "sampling.stop"),
        (hello(blend=pb.Blend(weights=[1.0])), "blend.pool_id"),
        (hello(blend=pb.Blend(pool_id="p")), "blend.weights"),
        (hello(blend=pb.Blend(pool_id="p", weights=[0.0, math.inf])), "blend.weights[1]"),
        (hello(blend=pb.Blend(pool_id="p", weights=[0.0] * 1025)), "blend.weights"),
        (hello(request_id="x" * 65), "request_id"),
        (hello(request_id="a\nb"), "request_id"),
        (hello(model="x" * 257), "model"),
        (hello(model="a\x1b[2J"), "model"),
    ],
)
def test_a_wrong_generate_request_is_refused_by_name(message: pb.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        generate_request_from_proto(message, None)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ScoreRequest(messages=[USER]), "continuations"),
        (pb.ScoreRequest(messages=[USER], continuations=["a", ""]), "continuations[1]"),
        (pb.ScoreRequest(messages=[USER], continuations=["a"] * (MAX_TEXTS + 1)), "continuations"),
        (pb.ScoreRequest(continuations=["a"]), "messages"),
    ],
)
def test_a_wrong_score_request_is_refused_by_name(message: pb.ScoreRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        score_request_from_proto(message, None)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.EncodeRequest(), "texts"),
        (pb.EncodeRequest(texts=["a", " "]), "texts[1]"),
        (pb.EncodeRequest(texts=["a"] * (MAX_TEXTS + 1)), "texts"),
    ],
)
def test_a_wrong_encode_request_is_refused_by_name(message: pb.EncodeRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encode_request_from_proto(message, None)
    assert caught.value.field == field


@given(st.binary(max_size=200))
def test_noise_is_a_request_or_an_invalid_request(noise: bytes) -> None:
    try:
        message = pb.GenerateRequest.FromString(noise)
    except Exception as error:  # noqa: BLE001 - protobuf's own refusal, before our code
        assert type(error).__name__ == "DecodeError"  # noqa: PT017 - hypothesis wants a plain function
        return
    try:
        request = generate_request_from_proto(message, None)
    except InvalidRequestError:
        return
    assert replace(request, deadline=1.0).messages
