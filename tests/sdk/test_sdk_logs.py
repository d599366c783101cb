"""What is asked and answered is in no log, however much is logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving
from tiny_chat import write_model

from crayon import Crayon, Hardness, InvalidRequestError, PrivacyError, PromptTooLongError, Source
from crayon.device import DeviceEngine
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "Zanzibar4711"
QUESTION = f"My password is {SECRET}, is it a good one?"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crayon]:
    """Both sides for real, on a small random model: it is never sure, so the gate has the server answer."""
    path: Path = write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")
    with (
        DeviceEngine(path, n_ctx=512, n_batch=64, threads=1) as device,
        Serving(lambda: LlamaCppEngine(path, n_ctx=512, n_seq_max=2, threads=1)) as serving,
        Crayon(device, serving.address, hardness=Hardness(threshold=-0.1), max_tokens=24) as client,
    ):
        yield client


def test_no_log_holds_a_question_an_answer_or_a_system_message(
    client: Crayon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages = [{"role": "system", "content": f"Keep {SECRET}."}, {"role": "user", "content": QUESTION}]
    answers = [client.ask(messages), client.ask(QUESTION, private=True), client.ask(QUESTION, mode="only_on_server")]
    assert [answer.route.source for answer in answers] == [Source.SERVER, Source.DEVICE, Source.SERVER]
    client.score(QUESTION, [SECRET, "no"])
    client.score(QUESTION, [SECRET, "no"], mode="only_on_server")
    client.encode(QUESTION)
    assert "request " in caplog.text, "the decisions are logged"
    assert SECRET not in caplog.text
    assert all(answer.text and answer.text not in caplog.text for answer in answers)


def test_no_log_holds_what_was_refused(client: Crayon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for mode in ("only_on_device", "only_on_server"):
        with pytest.raises(PromptTooLongError) as caught:
            client.ask(f"{SECRET} " * 200, mode=mode)
        assert SECRET not in str(caught.value)
    with pytest.raises(InvalidRequestError) as wrong:
        client.ask([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}])
    assert SECRET not in str(wrong.value)
    assert SECRET not in caplog.text


def test_no_log_holds_what_was_found(client: Crayon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = f"Write to {SECRET}@example.com"
    assert client.ask(text).route.source is Source.DEVICE
    with pytest.raises(PrivacyError) as caught:
        client.ask(text, mode="only_on_server")
    assert "email 1" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in str(caught.value)
