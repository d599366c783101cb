"""A model that calls functions: how it goes on, where it ends, and what stays on the device."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from crayon import AsyncCrayon, Crayon
from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Delta, Finished, GenerateRequest, Started, needs
from crayon.errors import DeadlineExceededError, InvalidRequestError, PrivacyError
from crayon.messages import ToolCall
from crayon.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence


class Caller:
    """An engine that answers with these calls (name and arguments), one after the other, and then in words."""

    def __init__(self, *answers: Sequence[tuple[str, dict[str, Any]]] | str) -> None:
        self.answers = list(answers)
        self.asked: list[GenerateRequest] = []

    def models(self):
        from crayon.engine import ModelInfo

        return (ModelInfo("caller", 4096),)

    def generate(self, request: GenerateRequest) -> Stream:
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers and request.tools else "Done."
        stream = Stream()
        stream.push(Started("r", "caller", constrained=request.constraint is not None, kept=needs(request)))
        if isinstance(answer, str):
            stream.push(Delta(answer))
            reason = FinishReason.STOP
        else:
            made = [
                ToolCall(f"c{len(self.asked)}_{i}", name, json.dumps(given)) for i, (name, given) in enumerate(answer)
            ]
            stream.push(Delta("", calls=tuple(made)))
            reason = FinishReason.TOOL_CALLS
        stream.push(Finished(reason, Usage(1, 1), Timings()))
        return stream

    def score(self, request):
        raise NotImplementedError

    encode = score

    def close(self) -> None:
        pass


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def diary() -> str:
    """Read the diary."""
    return "a secret"


def test_results_go_back_until_the_model_answers() -> None:
    engine = Caller([("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})], [("add", {"a": 3, "b": 7})], "Ten.")
    with Crayon(engine) as crayon:
        run = crayon.run_tools("1 + 2 + 3 + 4?", [add])
    assert (run.text, run.rounds, run.stopped) == ("Ten.", 3, "answered")
    said = [(message.role, message.content, message.tool_call_id) for message in run.messages]
    assert said == [
        ("user", "1 + 2 + 3 + 4?", ""), ("assistant", "", ""), ("tool", "3", "c1_0"), ("tool", "7", "c1_1"),
        ("assistant", "", ""), ("tool", "10", "c2_0"), ("assistant", "Ten.", ""),
    ]  # fmt: skip
    assert len(run.calls) == 3


def test_asyncio_does_the_same_and_awaits_functions() -> None:
    async def slow(a: int) -> int:
        """Wait."""
        await asyncio.sleep(0)
        return a + 1

    async def main() -> Any:
        async with AsyncCrayon(Caller([("slow", {"a": 1}), ("add", {"a": 1, "b": 1})])) as crayon:
            return await crayon.run_tools("?", [slow, add])

    run = asyncio.run(main())
    assert [message.content for message in run.messages if message.role == "tool"] == ["2", "2"]


def test_the_last_round_can_only_answer() -> None:
    engine = Caller(*([("add", {"a": i, "b": i})] for i in range(9)))
    with Crayon(engine) as crayon:
        run = crayon.run_tools("?", [add], max_rounds=3)
    assert (run.text, run.rounds, run.stopped) == ("Done.", 3, "rounds")
    assert engine.asked[-1].tools is None
    assert engine.asked[-1].constraint is not None


def test_the_same_call_is_not_made_again() -> None:
    made: list[int] = []

    def count(n: int) -> int:
        """Count."""
        made.append(n)
        return n

    with Crayon(Caller(*[[("count", {"n": 1})]] * 9)) as crayon:
        run = crayon.run_tools("?", [count])
    assert (run.stopped, made, run.text) == ("repeated", [1], "Done.")
    assert len(run.calls) == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("add", {"a": "x", "b": 1}), "valid integer"),
        (("sub", {}), "there is no function 'sub'; there are add, broken"),
        (("broken", {}), "error: OSError"),
    ],
)
def test_the_model_is_told_what_went_wrong_and_no_more(call: tuple[str, dict[str, Any]], told: str) -> None:
    def broken() -> None:
        """Break."""
        raise OSError("secret of the caller's")

    with Crayon(Caller([call])) as crayon:
        run = crayon.run_tools("?", [add, broken])
    (result,) = [message.content for message in run.messages if message.role == "tool"]
    assert told in result
    assert "secret" not in result


def test_a_call_of_no_function_is_no_answer() -> None:
    engine = Caller('{"name": "say_hello", "arguments": {}}')
    with Crayon(engine) as crayon:
        run = crayon.run_tools("?", [add])
    assert (run.text, run.stopped, run.calls) == ("Done.", "unknown", ())


def test_all_rounds_share_the_time() -> None:
    from crayon.sdk.tool_loop import ToolLoop

    now = [0.0]
    loop = ToolLoop("?", [add], {"timeout": 5.0}, patience=None, clock=lambda: now[0])
    assert loop.ask()[1]["timeout"] == 5.0
    now[0] = 4.0
    assert loop.ask()[1]["timeout"] == 1.0
    now[0] = 6.0
    with pytest.raises(DeadlineExceededError, match="after 2 rounds"):
        loop.ask()


def test_a_private_result_stays_on_the_device() -> None:
    server, device = Caller([("diary", {})]), Caller("On the device.")
    with Crayon(device, server, mode="prefer_on_server") as crayon:
        run = crayon.run_tools("?", [diary], private_results=["diary"])
    assert run.text == "On the device."
    assert len(server.asked) == 1
    assert all("secret" not in message.content for request in server.asked for message in request.messages)


def test_where_it_would_have_to_leave_the_run_ends() -> None:
    server = Caller([("diary", {})])
    with Crayon(None, server) as crayon, pytest.raises(PrivacyError):
        crayon.run_tools("?", [diary], private_results=["diary"])
    assert len(server.asked) == 1


def test_what_was_found_in_the_question_keeps_the_results_too() -> None:
    server, device = Caller(), Caller([("add", {"a": 1, "b": 2})])
    with Crayon(device, server, mode="prefer_on_server") as crayon:
        run = crayon.run_tools("Write to jane.roe@example.com: what is 1 + 2?", [add])
    assert run.text == "Done."
    assert (len(device.asked), server.asked) == (2, [])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"functions": []}, "functions"),
        ({"functions": [{"type": "function"}]}, "functions[0]"),
        ({"functions": [add], "max_rounds": 0}, "max_rounds"),
        ({"functions": [add], "private_results": ["diary"]}, "private_results"),
        ({"functions": [add], "tools": [add]}, "tools"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given: dict[str, Any], field: str) -> None:
    with Crayon(Caller()) as crayon, pytest.raises(InvalidRequestError) as caught:
        crayon.run_tools("?", **given)
    assert caught.value.field == field
