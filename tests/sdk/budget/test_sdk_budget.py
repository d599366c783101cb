"""Budgets as callers meet them: charged by real usage, shared by processes, closed where the file cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sdk_fakes import UNSURE, Fake, FakeServer, Hang, answer, delta
from serving_tools import until

from crayon import (
    Budget,
    BudgetError,
    ConfigError,
    OverloadedError,
    Privacy,
    Reason,
    ServerInterruptedError,
    Source,
    Timings,
    Usage,
)
from crayon.completion import FinishReason
from crayon.engine import ContinuationScore, Finished, ScoreResult
from crayon.errors import ServerUnavailableError
from crayon.router.budget import Cost
from crayon.sdk.budget import store
from crayon.sdk.budget.guard import BudgetGuard
from crayon.sdk.budget.store import BudgetStore

TOKENS = Budget(tokens_per_day=1000, money_per_day=1.0, prompt_price=1000.0, answer_price=2000.0)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def both(**options):
    return Fake("small", [answer("as well as I can", UNSURE)]), FakeServer("large", **options)


def spent():
    return BudgetStore().read()


# -- charging


def test_an_answer_is_charged_with_what_it_used(sdk, folder):
    client = sdk.make(*both(), budget=TOKENS)
    assert sdk.call(client.ask("hi", mode="only_on_server")).route.source is Source.SERVER
    assert (spent().tokens, spent().queries) == (8, "s")  # 5 read, 3 written
    assert spent().money == pytest.approx(0.011)
    left = sdk.call_or_value(client.status()).budget
    assert (left.queries, left.tokens, left.limit) == (None, 992, None)
    assert stat.S_IMODE((folder / "budget.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "budget.lock").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_budget_there_is_no_file(sdk, folder):
    for budget in (None, Budget()):
        sdk.call(sdk.make(*both(), mode="only_on_server", budget=budget).ask("hi"))
    assert [path.name for path in folder.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("mode", ["prefer_on_server", "prefer_on_device"])
def test_a_used_up_budget_keeps_queries_on_the_device_after_a_restart_too(sdk, mode):
    budget = Budget(tokens_per_day=8)
    sdk.call(sdk.make(*both(), mode="only_on_server", budget=budget).ask("hi"))
    device, server = both()
    route = sdk.call(sdk.make(device, server, mode=mode, budget=budget).ask("hi")).route
    assert (route.source, route.reason, route.holdback_ms) == (Source.DEVICE, Reason.BUDGET, None)
    assert server.requests == []


@pytest.mark.parametrize("call", ["ask", "score", "encode"])
def test_on_the_server_only_a_used_up_budget_is_the_error(sdk, call):
    server = FakeServer("large")
    client = sdk.make(None, server, budget=Budget(tokens_per_day=0))
    arguments = ("hi", ["yes"]) if call == "score" else ("hi",)
    with pytest.raises(BudgetError, match=r"budget.tokens_per_day: .* nothing was sent"):
        sdk.call(getattr(client, call)(*arguments))
    assert server.requests == server.scored == server.encoded == []


def test_privacy_and_only_on_device_do_not_ask_the_budget(sdk):
    client = sdk.make(*both(), budget=Budget(tokens_per_day=0))
    assert sdk.call(client.ask("hi", private=True)).route.reason is Reason.PRIVATE
    assert sdk.call(client.ask("hi", mode="only_on_device")).route.reason is Reason.MODE


def test_a_share_counts_the_devices_answers_too(sdk):
    client = sdk.make(*both(), mode="prefer_on_server", budget=Budget(share=0.5, window=4))
    sources = [sdk.call(client.ask("hi")).route.source for _ in range(8)]
    assert sources == [Source.SERVER, Source.SERVER, Source.DEVICE, Source.DEVICE] * 2


def test_scores_and_embeddings_of_the_server_are_charged(sdk):
    client = sdk.make(None, FakeServer("large"), budget=TOKENS)
    sdk.call(client.score("hi", ["yes"]))
    assert (spent().tokens, spent().queries) == (8, "s")
    sdk.call(client.encode("hi"))
    assert spent().tokens == 16


@pytest.mark.parametrize("error", [ServerUnavailableError("gone"), OverloadedError("full")])
def test_what_the_server_never_took_is_free(sdk, error):
    device, server = both(scripts=[["silent", error]])
    route = sdk.call(sdk.make(device, server, mode="prefer_on_server", budget=TOKENS).ask("hi")).route
    assert route.reason is Reason.SERVER_FAILED
    assert (spent().tokens, spent().money, spent().queries) == (0, 0.0, "k")


def test_an_interrupted_answer_costs_its_prompt_and_what_came(sdk):
    _, server = both(scripts=[[delta("half an"), delta(" answer"), ServerUnavailableError("gone")]])
    with pytest.raises(ServerInterruptedError):
        sdk.call(sdk.make(None, server, budget=TOKENS).ask("12345678"))
    assert spent().tokens == 2 + 2


def test_a_cancelled_answer_costs_its_prompt_and_what_came(sdk):
    server = FakeServer("large", [[delta("one"), Hang]])
    stream = sdk.make(None, server, budget=TOKENS).stream("12345678")
    sdk.read(stream, limit=1)
    assert spent().tokens > 200, "while it runs, the most it can cost is set aside"
    sdk.shut_stream(stream)
    assert spent().tokens == 2 + 1


def test_a_server_that_was_too_slow_costs_the_prompt(sdk):
    device, server = both(scripts=[[Hang]])
    route = sdk.call(sdk.make(device, server, mode="prefer_on_server", budget=TOKENS).ask("hi", timeout=1.0)).route
    assert route.reason is Reason.SERVER_FAILED
    assert (spent().tokens, spent().queries) == (1, "s")


def test_a_budget_used_up_by_another_query_meanwhile_leads_back_to_the_device(sdk):
    device, server = both()
    device.scripts = [answer("no no no no", UNSURE), answer("best I can")]
    client = sdk.make(device, server, budget=Budget(tokens_per_day=10))
    stream = client.stream("hi")  # the budget looks untouched now
    BudgetGuard(Budget(tokens_per_day=10), BudgetStore()).reserve(Cost(10, 10))
    sdk.read(stream)
    route = stream.completion.route
    assert (stream.text, route.reason, route.bytes_sent) == ("best I can", Reason.BUDGET, 0)
    assert server.requests == []


def test_the_only_server_refuses_where_the_budget_was_used_up_meanwhile(sdk):
    server = FakeServer("large")
    stream = sdk.make(None, server, budget=Budget(tokens_per_day=10)).stream("hi")
    BudgetGuard(Budget(tokens_per_day=10), BudgetStore()).reserve(Cost(10, 10))
    with pytest.raises(BudgetError):
        sdk.read(stream)
    with pytest.raises(BudgetError):
        stream.completion  # noqa: B018 # the access is what is tested
    assert server.requests == []


def test_threads_at_once_overspend_by_one_request_at_most():
    budget_guard = BudgetGuard(Budget(tokens_per_day=100), BudgetStore())
    let_through, go = [], threading.Barrier(8)

    def reserve():
        go.wait(30)
        with contextlib.suppress(BudgetError):
            let_through.append(budget_guard.reserve(Cost(10, 30)))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(let_through) == 3
    assert spent().tokens == 120


def test_two_processes_lose_no_charge(folder):
    code = (
        "from crayon.router.budget import Budget, Cost\n"
        "from crayon.sdk.budget.store import BudgetStore\n"
        "from crayon.sdk.budget.guard import BudgetGuard\n"
        "guard = BudgetGuard(Budget(tokens_per_day=10**6), BudgetStore())\n"
        "for _ in range(20):\n"
        "    guard.settle(guard.reserve(Cost(5, 100)), Cost(5, 2))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert (spent().tokens, spent().queries) == (280, "s" * 40)
    assert sorted(path.name for path in folder.iterdir()) == ["budget.json", "budget.lock"]


async def test_a_task_cancelled_while_the_budget_is_asked_sends_nothing_and_costs_nothing(monkeypatch):
    from crayon import AsyncCrayon

    asked, go, server = threading.Event(), threading.Event(), FakeServer("large")
    reserve = BudgetGuard.reserve

    def slow(self, most):
        asked.set()
        go.wait(30)
        return reserve(self, most)

    monkeypatch.setattr(BudgetGuard, "reserve", slow)
    task = asyncio.create_task(AsyncCrayon(None, server, budget=TOKENS).ask("hi"))
    await asyncio.to_thread(asked.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await asyncio.to_thread(until, lambda: spent().queries == "k")
    assert spent().tokens == 0
    assert server.requests == []


# -- what is counted is what is sent

SECRET = "Z" * 4000  # [WORD_1] once it is redacted
REDACTING = Privacy(action="redact", patterns={"word": "Z{50,}"})
OFF = Privacy(action="off")


@dataclass
class Silent(FakeServer):
    """Reports no usage, and writes down what was set aside when a request came."""

    set_aside: list = field(default_factory=list)

    def generate(self, request):
        self.set_aside.append(spent().tokens)
        return super().generate(request)

    def score(self, request):
        self.set_aside.append(spent().tokens)
        self.scored.append(request)
        future = Future()
        scores = tuple(ContinuationScore((-1.0 - i,)) for i in range(len(request.continuations)))
        future.set_result(ScoreResult(scores, Usage(0, 0), self.name))
        return future


def characters(request):
    return sum(len(m.content) for m in request.messages) + sum(map(len, getattr(request, "continuations", ())))


@pytest.mark.parametrize("privacy", [OFF, REDACTING], ids=["as it is", "redacted"])
@pytest.mark.parametrize("place", ["question", "choices"])
def test_a_choice_is_counted_as_it_is_sent_with_its_options(sdk, privacy, place):
    device, server = Fake("small"), Silent("large")
    client = sdk.make(device, server, mode="prefer_on_server", budget=Budget(tokens_per_day=10**6), privacy=privacy)
    question, choices = ("who?", ["a" * 400, f"b {SECRET}"]) if place == "choices" else (SECRET, ["a" * 400, "b"])
    assert sdk.call(client.choose(question, choices)).route.source is Source.SERVER
    (request,) = server.scored
    assert (SECRET in repr(request)) == (privacy is OFF)
    # Each option stands in the list and is scored; the choice itself is an answer of one token.
    assert server.set_aside == [-(-characters(request) // 4) + 1]
    assert 200 < server.set_aside[0] < 300 if privacy is REDACTING else server.set_aside[0] > 1200
    assert spent().tokens == server.set_aside[0], "the server told of no tokens"


def test_a_choice_whose_server_counts_costs_what_it_says(sdk):
    client = sdk.make(None, FakeServer("large"), budget=TOKENS)
    sdk.call(client.choose("who?", ["a" * 400, "b" * 400]))
    assert spent().tokens == 8


@pytest.mark.parametrize("privacy", [OFF, REDACTING], ids=["as it is", "redacted"])
def test_an_answer_is_counted_by_the_text_that_is_sent(sdk, privacy):
    server = Silent("large", [[delta("you"), Finished(FinishReason.STOP, Usage(0, 0), Timings())]])
    client = sdk.make(None, server, budget=Budget(tokens_per_day=10**6), privacy=privacy)
    sdk.call(client.ask(f"who? {SECRET}", max_tokens=50))
    prompt = 4 if privacy is REDACTING else 1002  # "who? [WORD_1]" has 13 characters
    assert server.set_aside == [prompt + 50]
    assert spent().tokens == prompt + 1


# -- files that cannot be used


def good():
    return {
        "version": 1,
        "tokens": 3,
        "money": 0.5,
        "queries": "sk",
        "at": {"wall": 1e9, "steady": 5.0, "boot": "b"},
    }


DAMAGED = {
    "empty": "",
    "half": '{"version": 1, "tok',
    "a list": "[]",
    "deep": "[" * 20_000,
    "too large": " " * 70_000,
    "negative": json.dumps({**good(), "tokens": -5}),
    "nan": json.dumps({**good(), "money": float("nan")}),
    "a fraction": json.dumps({**good(), "tokens": 1.5}),
    "endless digits": json.dumps(good()).replace(": 3", ": " + "9" * 5000),
    "letters": json.dumps({**good(), "queries": "sxk"}),
    "a window of none": json.dumps({**good(), "queries": ["s"]}),
    "a clock at the end of time": json.dumps({**good(), "at": {"wall": 1e300, "steady": 5.0, "boot": "b"}}),
    "no clock": json.dumps({**good(), "at": None}),
    "another version": json.dumps({**good(), "version": 2}),
}


def test_a_good_file_is_read(folder):
    folder.mkdir()
    (folder / "budget.json").write_text(json.dumps(good()))
    assert (spent().queries, spent().tokens) == ("sk", 0)  # its day is long over


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_counts_as_used_up_and_names_itself_and_the_fix(sdk, folder, caplog, text):
    folder.mkdir()
    path = folder / "budget.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="delete it") as caught:
        BudgetStore().read()
    assert str(path) in str(caught.value)
    device, server = both()
    client = sdk.make(device, server, mode="prefer_on_server", budget=TOKENS)
    with caplog.at_level(logging.WARNING):
        assert [sdk.call(client.ask("hi")).route.reason for _ in range(2)] == [Reason.BUDGET] * 2
    assert [record.message for record in caplog.records] == [str(caught.value)], "said once"
    with pytest.raises(BudgetError, match="delete it"):
        sdk.call(client.ask("hi", mode="only_on_server"))
    state = sdk.call_or_value(client.status()).budget
    assert (state.tokens, state.money, state.limit) == (0, 0.0, "budget")
    assert str(path) in state.problem
    assert server.requests == []
    assert path.read_text() == text, "left for its owner to look at"


def test_a_folder_that_is_a_file_counts_as_used_up(sdk, folder):
    folder.write_text("in the way")
    route = sdk.call(sdk.make(*both(), mode="prefer_on_server", budget=TOKENS).ask("hi")).route
    assert route.reason is Reason.BUDGET


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_nothing_is_sent_and_what_was_known_stays(sdk, folder, monkeypatch, caplog):
    server = FakeServer("large")
    client = sdk.make(Fake("small"), server, mode="prefer_on_server", budget=TOKENS)
    sdk.call(client.ask("hi"))
    before = (folder / "budget.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert sdk.call(client.ask("hi")).route.reason is Reason.BUDGET
        with pytest.raises(BudgetError, match="No space left"):
            sdk.call(client.ask("hi", mode="only_on_server"))
    assert len(server.requests) == 1
    assert (folder / "budget.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["budget.json", "budget.lock", "ledger.jsonl"]
    assert "No space left" in caplog.text
    assert sdk.call(client.ask("hi")).route.source is Source.SERVER, "it goes on once there is room"


def test_a_file_that_may_not_grow_sends_nothing(folder):
    code = (
        "import resource\n"
        "from crayon.errors import BudgetError\n"
        "from crayon.router.budget import Budget, Cost\n"
        "from crayon.sdk.budget.store import BudgetStore\n"
        "from crayon.sdk.budget.guard import BudgetGuard\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n"
        "    BudgetGuard(Budget(tokens_per_day=100), BudgetStore()).reserve(Cost(1, 1))\n"
        "except BudgetError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["budget.lock"], "nothing half-written is left"


def test_a_disk_that_fills_up_during_an_answer_leaves_the_most_charged(sdk, monkeypatch):
    server = FakeServer("large", [[delta("one"), Hang]])
    stream = sdk.make(None, server, budget=TOKENS).stream("12345678", max_tokens=50)
    sdk.read(stream, limit=1)
    monkeypatch.setattr(Path, "replace", full)
    sdk.shut_stream(stream)
    assert spent().tokens == 2 + 50


def test_a_lock_that_another_process_holds_for_too_long_sends_nothing(sdk, folder, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    folder.mkdir()
    with FileLock(folder / "budget.lock"):
        route = sdk.call(sdk.make(*both(), mode="prefer_on_server", budget=TOKENS).ask("hi")).route
    assert route.reason is Reason.BUDGET


def test_arguments_of_another_kind_are_refused(sdk):
    from crayon import InvalidRequestError

    for name in ("budget", "conditions"):
        with pytest.raises(InvalidRequestError, match=name):
            sdk.make(*both(), **{name: {"share": 0.5}})
