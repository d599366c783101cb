"""What no client of ours sends: bytes that are no messages, fields out of range, floods of bytes."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fault_tools import FaultServer, aftermath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_tools import PATIENCE

from crayon.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fault_tools import Fault, Tally

# What a wrong request may end in; anything else would be the server's failure.
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
GOOD = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hello there")]).SerializeToString()
METHODS = ("Generate", "Score", "Encode", "ListModels")


@pytest.fixture
def wire(echo: FaultServer) -> Iterator[grpc.Channel]:
    """A channel without any of our own limits."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 2**26), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(echo.address, options=options) as channel:
        yield channel


def begin(channel: grpc.Channel, method: str, body: bytes, metadata: Any = None) -> Any:
    path = f"/crayon.v1.InferenceService/{method}"
    return channel.unary_stream(path)(body, timeout=PATIENCE, metadata=metadata)


def end(call: Any, tally: Tally) -> str:
    """Wait for a call's end, count it, and return its status."""
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        tally.status(call.code().name)
    else:
        tally.answer()
    return str(call.code().name)


def malformed(rng: random.Random) -> tuple[str, bytes]:
    """Return a method and bytes that are (nearly always) no message of it."""
    method, body = rng.choice(METHODS), bytearray(GOOD)
    kind = rng.randrange(4)
    if kind == 0:
        return method, rng.randbytes(rng.randrange(1, 200))
    if kind == 1:
        return method, bytes(body[: rng.randrange(1, len(body))])
    if kind == 2:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        return method, bytes(body)
    return method, bytes(body) + b"\x0a\xff\xff\xff\xff\x0f"  # a message of 4 GiB begins


def send_malformed(count: int, found: Fault, echo: FaultServer, wire: grpc.Channel) -> None:
    before, rng = echo.census(), random.Random(count)
    log = len(echo.said())
    bodies = iter([malformed(rng) for _ in range(count)])
    while batch := list(itertools.islice(bodies, 50)):
        for call in [begin(wire, method, body) for method, body in batch]:
            end(call, found.tally)
    assert set(found.tally.statuses) <= REFUSALS
    assert found.tally.statuses["INVALID_ARGUMENT"] > count / 4
    assert echo.said()[log:] == "", "somebody else's rubbish fills no log"
    wire.close()
    aftermath(found, echo, before)


def test_malformed_messages(fault: Callable[..., Fault], echo: FaultServer, wire: grpc.Channel) -> None:
    injected = "500 bodies: random, cut, with bits flipped, lying about their length"
    send_malformed(500, fault("malformed messages", injected, "INVALID_ARGUMENT"), echo, wire)


@pytest.mark.long
def test_many_malformed_messages(fault: Callable[..., Fault], echo: FaultServer, wire: grpc.Channel) -> None:
    injected = "10,000 bodies: random, cut, with bits flipped, lying about their length"
    send_malformed(10_000, fault("malformed messages, 10,000", injected, "INVALID_ARGUMENT"), echo, wire)


texts = st.text(max_size=20) | st.sampled_from(["", " ", "\0", "\u202e", "💥" * 50, "echo", "a" * 300, "../../etc"])
floats = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e38, float("nan"), float("inf")])
ints = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, -1, 1, 2**31 - 1])
messages = st.lists(st.builds(pb.Message, role=st.integers(-3, 9), content=texts), max_size=4)
blends = st.none() | st.builds(pb.Blend, pool_id=texts, weights=st.lists(floats, max_size=6))


def sampling(values: dict[str, Any]) -> pb.Sampling:
    """Put values into whatever fields there are, where their type fits."""
    made = pb.Sampling()
    for name, value in values.items():
        field = made.DESCRIPTOR.fields_by_name[name]
        try:
            if field.is_repeated:
                getattr(made, name).extend([value])
            else:
                setattr(made, name, value)
        except (TypeError, ValueError):
            continue
    return made


FIELDS = sorted(pb.Sampling.DESCRIPTOR.fields_by_name)
samplings = st.dictionaries(st.sampled_from(FIELDS), floats | ints | texts, max_size=5).map(sampling)
requests = st.one_of(
    st.tuples(
        st.just("Generate"),
        st.builds(
            pb.GenerateRequest, model=texts, messages=messages, sampling=samplings, blend=blends, request_id=texts
        ),
    ),
    st.tuples(
        st.just("Score"),
        st.builds(
            pb.ScoreRequest, model=texts, messages=messages, continuations=st.lists(texts, max_size=4), blend=blends
        ),
    ),
    st.tuples(st.just("Encode"), st.builds(pb.EncodeRequest, model=texts, texts=st.lists(texts, max_size=4))),
)


def fuzz(count: int, found: Fault, server: FaultServer) -> None:
    before = server.census()
    with grpc.insecure_channel(server.address) as channel:

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests)
        def every_request_ends_well(request: tuple[str, Any]) -> None:
            method, message = request
            assert end(begin(channel, method, message.SerializeToString()), found.tally) in REFUSALS | {"OK"}, message

        every_request_ends_well()
    aftermath(found, server, before)


@pytest.mark.parametrize("engine", ["echo", "tiny"])
def test_fuzzed_fields(fault: Callable[..., Fault], request: pytest.FixtureRequest, engine: str) -> None:
    seen = "an answer, or a refusal that names the field"
    fuzz(100, fault(f"fuzzed fields, {engine}", "hypothesis, 100 requests", seen), request.getfixturevalue(engine))


@pytest.mark.long
@pytest.mark.parametrize("engine", ["echo", "tiny"])
def test_many_fuzzed_fields(fault: Callable[..., Fault], request: pytest.FixtureRequest, engine: str) -> None:
    seen = "an answer, or a refusal that names the field"
    found = fault(f"fuzzed fields, {engine}, 3,000", "hypothesis, 3,000 requests", seen)
    fuzz(3000, found, request.getfixturevalue(engine))


def test_a_prompt_of_50_mb(fault: Callable[..., Fault], echo: FaultServer, wire: grpc.Channel) -> None:
    found = fault("50 MB prompt", "5 requests of 50 MB, past the client's own check", "RESOURCE_EXHAUSTED")
    before = echo.census()
    huge = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="x" * 50_000_000)]).SerializeToString()
    assert [end(begin(wire, "Generate", huge), found.tally) for _ in range(5)] == ["RESOURCE_EXHAUSTED"] * 5
    assert end(begin(wire, "Generate", GOOD), found.tally) == "OK"
    wire.close()
    aftermath(found, echo, before)


def test_metadata_bombs(fault: Callable[..., Fault], echo: FaultServer, wire: grpc.Channel) -> None:
    found = fault("metadata bomb", "a header of 1 MB; 10,000 headers; 5 times each", "RESOURCE_EXHAUSTED")
    before = echo.census()
    one = [("x-bomb", "a" * 1_000_000)]
    many = [(f"x-bomb-{n}", "a" * 50) for n in range(10_000)]
    for bomb in [one, many] * 5:
        assert end(begin(wire, "Generate", GOOD, bomb), found.tally) in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert end(begin(wire, "Generate", GOOD), found.tally) == "OK"
    wire.close()
    aftermath(found, echo, before)
