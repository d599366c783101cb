"""Tools with real models, on the device and behind a server: one of the Qwen family, and one that was taught none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving

from crayon import Crayon
from crayon.completion import FinishReason, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.models


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module", params=["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"])
def path(request: pytest.FixtureRequest) -> Path:
    from crayon.models import resolve

    return resolve(request.param).path


@pytest.fixture(scope="module", params=["device", "server"])
def client(request: pytest.FixtureRequest, path: Path) -> Iterator[Crayon]:
    if request.param == "device":
        with Crayon(path, max_tokens=60) as made:
            yield made
        return
    from crayon.server.engines.llama.engine import LlamaCppEngine

    with (
        Serving(lambda: LlamaCppEngine(path, n_ctx=2048, n_seq_max=2)) as serving,
        Crayon(None, serving.address, max_tokens=60) as made,
    ):
        yield made


def test_a_call_is_made_with_arguments_that_fit(client: Crayon) -> None:
    answer = client.ask("What is 12 plus 30?", tools=[add], tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.tool_calls
    assert (call.name, call.parsed) == ("add", {"a": 12, "b": 30})
    assert (answer.text, answer.finish_reason) == ("", FinishReason.TOOL_CALLS)
    assert answer.usage.forced_tokens > 0


def test_the_result_is_read_and_answered_in_words(client: Crayon) -> None:
    run = client.run_tools("What is 12 plus 30?", [add], tool_choice="add", max_rounds=2)
    assert next(message.content for message in run.messages if message.role == "tool") == "42"
    assert "42" in run.text
    assert run.completion.route.source in {Source.DEVICE, Source.SERVER}


def test_an_answer_goes_on_where_it_was_begun(client: Crayon) -> None:
    begun = [{"role": "user", "content": "Count from 1 to 5."}, {"role": "assistant", "content": "1, 2, 3,"}]
    assert client.ask(begun, max_tokens=8).text.lstrip().startswith("4")
