"""The server's engine in other people's programs: dropped without close, and forked."""

import gc
import os
import threading
import time

import pytest
from tiny_chat import write_model

from crayon import Crayon
from crayon.engine import EncodeRequest, GenerateRequest, ScoreRequest
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine

HI = (Message("user", "hi"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("life") / "tiny.gguf")


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def workers():
    return {thread for thread in threading.enumerate() if thread.name == "crayon-llama"}


def gone(threads):
    until = time.monotonic() + 30
    while workers() & threads and time.monotonic() < until:
        time.sleep(0.01)
    return not workers() & threads


def open_engine(model):
    return LlamaCppEngine(model, n_ctx=256, n_seq_max=2, threads=1)


def ask(engine, tokens=4):
    return engine.generate(GenerateRequest(messages=HI, sampling=Sampling(max_tokens=tokens, temperature=0)))


def test_an_engine_that_is_dropped_frees_its_model_without_the_collector(model, no_collector):
    before = workers()
    engine = open_engine(model)
    loaded = engine._model
    kept = [ask(engine), engine.score(ScoreRequest(messages=HI, continuations=("a",)))]
    list(kept[0])
    kept[1].result(30)
    engine.encode(EncodeRequest(texts=("a",))).result(30)
    mine = workers() - before
    del engine
    assert gone(mine)
    assert loaded.closed


def test_an_answer_that_runs_keeps_its_engine_until_its_end(model, no_collector):
    before = workers()
    events = list(ask(open_engine(model), tokens=24))
    assert events[-1].usage.completion_tokens == 24
    assert gone(workers() - before)


def test_a_client_that_is_dropped_leaves_no_thread(model, no_collector):
    before = workers()
    client = Crayon(None, open_engine(model), mode="only_on_server")
    client.ask("hi", max_tokens=2)
    mine = workers() - before
    assert mine
    del client
    assert gone(mine)


def test_an_engine_whose_thread_has_ended_is_freed_too(model, no_collector):
    engine = open_engine(model)
    loaded, loop = engine._model, engine._loop
    loop.close()  # as after a failure: the thread is gone, the engine was not closed
    del engine
    assert loaded.closed


def test_a_fork_frees_nothing_of_its_parents(model):
    engine = open_engine(model)
    child = os.fork()
    if child == 0:
        loaded = engine._model
        del engine
        os._exit(3 if loaded.closed else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(ask(engine))
    engine.close()
