"""Shared prefixes: copied, restored or computed, they change nothing but what a question costs."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from device_tools import Answer, ask
from prefix_tools import EXAMPLES, LABELS, OTHERS, alone, ask_after, conversation, near, score_request, scored
from tiny_chat import CLOSE
from tiny_kinds import KINDS, write_kind
from tiny_pool import shared_pool

from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.device import compute as compute_module
from crayon.engine import Prefix, ScoreRequest
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUESTIONS = ("Is there a bus to the coast?", "How long do potatoes boil?", "Ünïcode?", "\n what?")


@pytest.fixture(scope="module", params=["llama", *KINDS])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_chat_path: Path) -> Path:
    """A small model of each kind of memory."""
    if request.param == "llama":
        return tiny_chat_path
    return write_kind(tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf", request.param)


def engine_of(path: Path, **values: Any) -> DeviceEngine:
    return DeviceEngine(path, **{"n_ctx": 512, "n_batch": 64, "threads": 1, **values})


def shared_tokens(engine: DeviceEngine, count: int = len(EXAMPLES)) -> int:
    """Tokens of the examples: two questions after them have nothing else in common."""
    one, other = (engine._model.tokenize_chat(conversation(text, EXAMPLES[:count])) for text in ("a", "7"))
    return next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])


def test_a_prefix_computed_copied_and_restored_gives_the_same_scores(path: Path, tmp_path: Path) -> None:
    expected = {question: alone(path, conversation(question)) for question in QUESTIONS}
    gaps = [np.abs(np.subtract(a, b)).max() for a in expected.values() for b in expected.values() if a is not b]
    assert min(gaps) > 3 * CLOSE
    for run in ("computes", "restores"):
        with engine_of(path) as engine:
            n = shared_tokens(engine)
            for i, question in enumerate(QUESTIONS):
                found, usage = scored(engine, score_request(question, tmp_path))
                assert near(found, expected[question]), (run, question)
                assert usage.cached_tokens >= (n if i or run == "restores" else 0)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("prefix-")
    assert file.name.endswith(".kv")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_any_mixture_of_requests_scores_as_a_fresh_context_does(path: Path, tmp_path: Path) -> None:
    """Little room, so that prefixes come and go, and sliding windows use cells again."""
    rng = random.Random(5)
    with engine_of(path, n_ctx=320) as engine:
        for step in range(36):
            examples = rng.choice([EXAMPLES, OTHERS, EXAMPLES[:2], ()])
            more = [*examples]
            if examples and rng.random() < 0.3:
                more += [Message("user", rng.choice(QUESTIONS)), Message("assistant", "so " * rng.randrange(1, 20))]
            messages = (*more, Message("user", rng.choice(QUESTIONS) + " why" * rng.randrange(20)))
            prefix = Prefix(len(examples), tmp_path) if examples and rng.random() < 0.8 else None
            labels = tuple(rng.sample(LABELS, 3))
            request = ScoreRequest(messages=messages, continuations=labels, prefix=prefix)
            if rng.random() < 0.3:
                list(engine.generate(ask_after(rng.choice(QUESTIONS), max_tokens=rng.randrange(1, 60))))
            futures = [engine.score(request) for _ in range(rng.choice([1, 1, 2]))]
            expected = alone(path, messages, labels)
            for future in futures:
                found = [value for score in future.result(120).scores for value in score.token_logprobs]
                assert near(found, expected), step


def test_a_new_process_takes_up_what_another_kept(tiny_chat_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from prefix_tools import score_request, scored\n"
        "from crayon.device import DeviceEngine\n"
        "with DeviceEngine(sys.argv[3], n_ctx=512, n_batch=64, threads=1) as engine:\n"
        "    print(scored(engine, score_request('What now?', Path(sys.argv[4])))[0])\n"
    )
    from pathlib import Path as Folder

    here = Folder(__file__).parent
    command = [sys.executable, "-c", code, str(here), str(here.parent), str(tiny_chat_path), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    with engine_of(tiny_chat_path) as engine:
        found, usage = scored(engine, score_request("What now?", tmp_path))
        assert usage.cached_tokens == shared_tokens(engine)
    assert near(found, alone(tiny_chat_path, conversation("What now?")))


def test_a_prefix_under_a_blend_is_its_own(tiny_chat_path: Path, tmp_path: Path) -> None:
    pools = [shared_pool(tiny_chat_path, 2, seed=1)]
    blends = (None, Blend(pools[0].id, (1.0, 0.0)), Blend(pools[0].id, (0.25, 0.5)))
    plain = {}
    for blend in blends:
        with engine_of(tiny_chat_path, pools=pools) as engine:
            plain[blend] = scored(engine, score_request("What now?", blend=blend, shared=False))[0]
    assert np.abs(np.subtract(plain[blends[0]], plain[blends[1]])).max() > 10 * CLOSE
    for cached in (False, True):
        with engine_of(tiny_chat_path, pools=pools) as engine:
            n = shared_tokens(engine)
            for _ in range(2):
                for blend in blends:
                    found, usage = scored(engine, score_request("What now?", tmp_path, blend=blend))
                    assert near(found, plain[blend])
                    assert usage.cached_tokens >= (n if cached else 0)
                cached = True
    assert len(list(tmp_path.iterdir())) == len(blends)


def test_adapters_without_a_name_keep_no_file(tiny_chat_path: Path, tmp_path: Path) -> None:
    with engine_of(tiny_chat_path, adapters=lambda _: []) as engine:
        scored(engine, score_request("What now?", tmp_path, blend=Blend("mine", (1.0,))))
        assert scored(engine, score_request("And now?", tmp_path, blend=Blend("mine", (1.0,))))[1].cached_tokens > 20
    assert not list(tmp_path.iterdir())


def test_an_answer_after_a_prefix_is_the_one_without(tiny: Callable[..., DeviceEngine], tmp_path: Path) -> None:
    plain = Answer(tiny(), ask_after("What now?"))
    engine = tiny()
    first = Answer(engine, ask_after("Where?", tmp_path))
    again = Answer(engine, ask_after("What now?", tmp_path))
    restored = Answer(tiny(), ask_after("What now?", tmp_path))
    n = shared_tokens(engine)
    assert first.finished.usage.cached_tokens == 0
    assert again.finished.usage.cached_tokens >= n
    assert restored.finished.usage.cached_tokens == n
    for answer in (again, restored):
        assert answer.logprobs[0] == pytest.approx(plain.logprobs[0], abs=CLOSE)


def test_other_conversations_do_not_push_a_prefix_out(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    scored(engine, score_request("What now?"))
    n = shared_tokens(engine)
    for i in range(2 * compute_module.SLOTS):
        Answer(engine, ask(f"{i} and something else", max_tokens=2))
    assert scored(engine, score_request("And then?"))[1].cached_tokens == n


def test_a_conversation_that_needs_all_cells_gets_them(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny(n_ctx=256)
    scored(engine, score_request("What now?"))
    long = Message("user", "word " * 45)
    size = len(engine._model.tokenize_chat([long]))
    assert 256 - shared_tokens(engine) < size < 256
    scored(engine, ScoreRequest(messages=(long,), continuations=("x",)))
    found, usage = scored(engine, score_request("What now?"))
    assert usage.cached_tokens < shared_tokens(engine)
    assert near(found, alone(engine._model.path, conversation("What now?")))


def test_what_follows_a_prefix_may_join_its_last_token(tiny: Callable[..., DeviceEngine]) -> None:
    """Nothing is cut inside of what differs: a question that merges with the text before it is computed as it is."""
    engine = tiny()
    for question in ("a", " a", "\n", "\n\na", "<|im_end|>", "<|im_end|>\n", "<|im_start|>user\nx", "\x00", "é", "漢"):
        found, _ = scored(engine, score_request(question))
        expected = alone(engine._model.path, conversation(question))
        assert near(found, expected), question


@pytest.mark.models
def test_the_real_models_scores_keep_apart_by_rounding_only(device_model_path: Path, tmp_path: Path) -> None:
    labels = LABELS[:2]
    expected = {question: alone(device_model_path, conversation(question), labels) for question in QUESTIONS[:2]}
    gap = np.abs(np.subtract(*expected.values())).mean()
    for _ in range(2):
        with engine_of(device_model_path) as engine:
            for question, plain in expected.items():
                found, _ = scored(engine, replace(score_request(question, tmp_path), continuations=labels))
                assert np.abs(np.subtract(found, plain)).mean() < 0.2 * gap
