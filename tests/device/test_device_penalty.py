"""What keeps a small model's plain answers from going round in circles, and what it leaves alone."""

from __future__ import annotations

import pytest
from tiny_chat import write_model

from crayon import Sampling
from crayon.constraint import Constraint, ConstraintKind
from crayon.device import DeviceEngine
from crayon.engine import GenerateRequest
from crayon.messages import Message
from crayon.models import load_catalogue

HELLO = (Message("user", "hello"),)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("penalty") / "tiny.gguf")


def said(path, penalty, *, constraint=None, **sampling):
    wanted = Sampling(max_tokens=40, **sampling)
    with DeviceEngine(path, n_ctx=256, threads=1, repeat_penalty=penalty) as engine:
        events = list(engine.generate(GenerateRequest(messages=HELLO, sampling=wanted, constraint=constraint)))
    return "".join(event.text for event in events if hasattr(event, "text"))


def test_a_plain_answer_has_the_models_penalty_unless_the_caller_says_one(path):
    own, plain = said(path, 1.5), said(path, None)
    assert own != plain
    assert own != said(path, None, repeat_penalty=1.5), "which looks at the end of the prompt, too"
    assert plain == said(path, 1.5, repeat_penalty=1.0)


def test_an_answer_that_must_have_a_form_has_none(path):
    form = Constraint(ConstraintKind.REGEX, text="[a-z]{40}")
    assert said(path, 1.5, constraint=form) == said(path, None, constraint=form)
    assert said(path, None, constraint=form) != said(path, 1.0, constraint=form, repeat_penalty=1.5)


def test_an_opened_model_has_the_penalty_of_its_entry(tmp_path, monkeypatch, path):
    from crayon.device import opening

    entry = load_catalogue().find("smollm2-135m-instruct")
    found = opening.Opening(path, entry.name, "ab" * 32, "ab" * 32, tmp_path, entry.repeat_penalty)
    monkeypatch.setattr(opening, "find", lambda *_, **__: found)
    with DeviceEngine.open(entry.name, pools=None, n_ctx=256, threads=1) as engine:
        events = list(engine.generate(GenerateRequest(messages=HELLO, sampling=Sampling(max_tokens=40))))
    assert entry.repeat_penalty is not None
    assert "".join(event.text for event in events if hasattr(event, "text")) == said(path, entry.repeat_penalty)
