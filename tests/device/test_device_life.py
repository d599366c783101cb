"""A device engine in other people's programs: dropped without close, and forked."""

import gc
import os
import threading
import time
import traceback

import pytest

from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest, GenerateRequest, ScoreRequest
from crayon.errors import EngineClosedError
from crayon.messages import Message
from crayon.sampling import Sampling

HI = (Message("user", "hi"),)


def ask(engine, tokens=4):
    return engine.generate(GenerateRequest(messages=HI, sampling=Sampling(max_tokens=tokens, temperature=0)))


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "crayon-device"]


def gone(threads):
    until = time.monotonic() + 30
    while set(workers()) & set(threads) and time.monotonic() < until:
        time.sleep(0.01)
    return not set(workers()) & set(threads)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_an_engine_that_is_dropped_frees_its_model_without_the_collector(tiny_chat_path, no_collector):
    before = workers()
    engine = DeviceEngine(tiny_chat_path, n_ctx=128, n_batch=64, threads=1)
    model = engine._model
    kept = [ask(engine), engine.score(ScoreRequest(messages=HI, continuations=("a",)))]
    list(kept[0])
    kept[1].result(30)
    engine.encode(EncodeRequest(texts=("a",))).result(30)
    mine = set(workers()) - set(before)
    del engine
    assert gone(mine)
    assert model.closed


def test_an_answer_that_runs_keeps_its_engine_until_its_end(tiny_chat_path, no_collector):
    before = workers()
    stream = ask(DeviceEngine(tiny_chat_path, n_ctx=128, n_batch=64, threads=1), tokens=24)
    events = list(stream)
    assert events[-1].usage.completion_tokens == 24
    assert gone(set(workers()) - set(before))


def test_a_client_that_is_dropped_leaves_no_thread(tiny_chat_path, no_collector):
    from crayon import Crayon

    before = workers()
    client = Crayon(device=DeviceEngine(tiny_chat_path, n_ctx=128, n_batch=64, threads=1))
    client.ask("hi", max_tokens=2)
    mine = set(workers()) - set(before)
    del client
    assert gone(mine)


def in_a_fork(act, seconds=30):
    """Return what `act` raises in a forked process as its name, "returned", or "hangs"."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
            said = "returned"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
            said = type(error).__name__
            if said == "AssertionError":
                traceback.print_exc()
        os.write(sender, said.encode())
        os._exit(0)
    os.close(sender)
    until = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.01)
    with os.fdopen(receiver) as file:
        return file.read()


def test_a_forked_process_is_told_at_once_and_the_parent_goes_on(tiny):
    engine = tiny()
    list(ask(engine))
    running = ask(engine, tokens=200)
    next(running)
    for act in (
        lambda: list(ask(engine)),
        lambda: list(running),
        lambda: running.get(60),
        lambda: engine.score(ScoreRequest(messages=HI, continuations=("a",))).result(60),
        lambda: engine.encode(EncodeRequest(texts=("a",))).result(60),
        lambda: engine.count_tokens(HI),
    ):
        assert in_a_fork(act) == EngineClosedError.__name__
    assert list(running)[-1].usage.completion_tokens == 200
    assert list(ask(engine))


def test_a_forked_process_closes_and_cancels_without_waiting(tiny):
    engine = tiny()
    running = ask(engine, tokens=200)

    def leave():
        with engine._gate, engine._worker._wake:  # as if another thread had held them when the process forked
            running.cancel()
            engine.close()
        engine.close()

    assert in_a_fork(leave) == "returned"
    assert list(running)[-1].usage.completion_tokens == 200


def test_a_forked_process_may_open_a_model_of_its_own(tiny, tiny_chat_path):
    engine = tiny()
    wanted = "".join(event.text for event in ask(engine) if hasattr(event, "text"))

    def anew():
        with DeviceEngine(tiny_chat_path, n_ctx=512, n_batch=64, threads=1) as own:
            assert "".join(event.text for event in ask(own) if hasattr(event, "text")) == wanted

    assert in_a_fork(anew) == "returned"
