"""A server that answers garbage over a real connection: typed errors, nothing decided by it, the device stands in."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from calibration_fakes import Choosing, question, samples

from crayon import Crayon, InvalidRequestError, Reason, ServerError, Source
from crayon.client import Breaker
from crayon.client.remote import RemoteEngine
from crayon.v1 import inference_pb2 as pb

JUNK = b"\xff\xfe\x00 no message \x9c" * 3
TEXT = question("colour", 91, sure=False, right=False)
OPTIONS = ["red", "green"]


def scores(*values: tuple[float, ...]) -> bytes:
    found = [pb.ContinuationScore(token_logprobs=value) for value in values]
    return pb.ScoreResponse(scores=found, model="large").SerializeToString()


GARBAGE = {
    "none": scores(),
    "one of two": scores((-1.0,)),
    "three of two": scores((-1.0,), (-2.0,), (-3.0,)),
    "without tokens": scores((), ()),
    "NaN": scores((math.nan,), (math.nan,)),
    "one NaN": scores((-1.0,), (math.nan,)),
    "impossible": scores((-math.inf,), (-math.inf,)),
    "infinite": scores((math.inf,), (-1.0,)),
    "bytes": JUNK,
}
WRITTEN = {
    "nothing": [],
    "bytes": [JUNK],
    "no end": [pb.GenerateResponse(started=pb.Started(model="large")).SerializeToString()],
    "an unknown end": [pb.GenerateResponse(finished=pb.Finished(finish_reason=99)).SerializeToString()],
}


class Garbage:
    """Answers every request with the bytes that it is given, and counts the requests."""

    def __init__(self) -> None:
        self.score = self.models = b""
        self.written: list[bytes] = []
        self.asked: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        self.asked.append(name)
        if name == "Generate":
            return grpc.unary_stream_rpc_method_handler(lambda *_: iter(self.written))
        answer = {"Score": self.score, "ListModels": self.models}.get(name)
        return None if answer is None else grpc.unary_unary_rpc_method_handler(lambda *_: answer)


@pytest.fixture
def garbage():
    """The server, and a connection to it whose breaker stays closed."""
    answers = Garbage()
    answers.models = pb.ListModelsResponse(models=[pb.Model(name="large", context_tokens=1024)]).SerializeToString()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[answers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    remote = RemoteEngine(f"127.0.0.1:{port}", breaker=Breaker(failures=10_000))
    yield answers, remote
    remote.close()
    server.stop(None).wait()


@pytest.fixture
def folder(tmp_path):
    with Crayon(Choosing("small"), customizations_dir=tmp_path) as client:
        client.customize("mine", samples(count=8), check=False)
    return tmp_path


@pytest.mark.parametrize("kind", GARBAGE)
def test_no_calibration_is_made_of_it(sdk, folder, garbage, kind):
    answers, remote = garbage
    answers.score = GARBAGE[kind]
    client = sdk.make(Choosing("small"), remote, customizations_dir=folder)
    with pytest.raises(ServerError, match="the server"):
        sdk.call(client.calibrate("mine", ask_server=True))
    assert "Score" in answers.asked
    assert not (folder / "mine" / "calibration.json").exists()


@pytest.mark.parametrize("kind", GARBAGE)
def test_the_device_chooses_where_it_may_and_else_it_is_the_server_s_error(sdk, garbage, kind):
    answers, remote = garbage
    answers.score = GARBAGE[kind]
    client = sdk.make(Choosing("small"), remote)
    chosen = sdk.call(client.choose(TEXT, OPTIONS, mode="prefer_on_server"))
    assert (chosen.route.source, chosen.route.reason) == (Source.DEVICE, Reason.SERVER_FAILED)
    assert chosen.route.fallback_error
    assert all(math.isfinite(value) for value in chosen.probabilities)
    with pytest.raises(ServerError, match="the server"):
        sdk.call(client.choose(TEXT, OPTIONS, mode="only_on_server"))


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_device_answers_where_it_may(sdk, garbage, kind):
    answers, remote = garbage
    answers.written = WRITTEN[kind]
    client = sdk.make(Choosing("small"), remote)
    route = sdk.call(client.ask("hello", mode="prefer_on_server")).route
    assert (route.source, route.reason, route.fallback_from) == (Source.DEVICE, Reason.SERVER_FAILED, Source.SERVER)
    with pytest.raises(ServerError, match="breaks the protocol"):
        sdk.call(client.ask("hello", mode="only_on_server"))


@pytest.mark.parametrize("models", [JUNK, b""])
def test_a_server_that_cannot_say_what_it_serves_is_not_calibrated_and_not_trusted(sdk, folder, garbage, models):
    answers, remote = garbage
    answers.score = scores((-0.1,), (-3.0,))
    client = sdk.make(Choosing("small"), remote, customizations_dir=folder, customization="mine")
    made = sdk.call(client.calibrate(ask_server=True))
    assert made.binding.server_model == "large"
    record = (folder / "mine" / "calibration.json").read_bytes()
    answers.models = models
    with pytest.raises(ServerError):
        sdk.call(client.calibrate(ask_server=True))
    assert (folder / "mine" / "calibration.json").read_bytes() == record, "what was there stays"
    answers.score = JUNK
    asker = sdk.make(Choosing("small"), remote, customizations_dir=folder, customization="mine")
    route = sdk.call(asker.choose(TEXT, OPTIONS)).route
    assert route.source is Source.DEVICE, "its model is not known, and it answers nothing usable"
    with pytest.raises(InvalidRequestError):
        sdk.call(asker.choose(TEXT, OPTIONS[:1]))


def test_times_that_are_no_numbers_are_not_measured(sdk, garbage):
    answers, remote = garbage
    odd = pb.Timings(queue_ms=-math.inf, prompt_ms=-math.inf, decode_ms=math.nan)
    end = pb.Finished(finish_reason=pb.FINISH_REASON_STOP, timings=odd, usage=pb.Usage(completion_tokens=2))
    signal = pb.TokenSignal(logprob=math.nan, entropy=math.inf, margin=math.nan)
    answers.written = [
        message.SerializeToString()
        for message in (
            pb.GenerateResponse(started=pb.Started(model="large")),
            pb.GenerateResponse(delta=pb.Delta(text="hi there", signals=[signal])),
            pb.GenerateResponse(finished=end),
        )
    ]
    client = sdk.make(Choosing("small"), remote)
    for _ in range(2):  # the round trip is measured from the second on
        assert sdk.call(client.ask("hello", mode="prefer_on_server")).text == "hi there"
    measured = dataclasses.asdict(sdk.call_or_value(client.status()).measured)
    assert all(math.isfinite(value) for value in measured.values() if isinstance(value, float))
