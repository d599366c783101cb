"""What the ledger says left this device is what the server says it got, byte for byte."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from serving_tools import ScriptedEngine, Serving, ask

from crayon import AsyncCrayon, Crayon, Privacy
from crayon.client import RemoteEngine
from crayon.errors import CrayonError, OverloadedError
from crayon.ledger import Answered, Ledger, Sent
from crayon.server.engines.echo import EchoEngine
from crayon.server.observability.request_log import FIELDS, REQUEST_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def emit(self, line: logging.LogRecord) -> None:
        self.calls.append(getattr(line, FIELDS))


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger(REQUEST_LOG)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    return Ledger()


def of_kind(ledger: Ledger, kind: type) -> list[Any]:
    return [entry for entry in ledger.read().entries if isinstance(entry, kind)]


def as_logged(log: Log) -> list[tuple[str, str, int, str]]:
    content = [call for call in log.calls if call["method"] in {"Generate", "Score", "Encode"}]
    return sorted((call["request_id"], call["method"], call["request_bytes"], call["code"]) for call in content)


def as_noted(ledger: Ledger) -> list[tuple[str, str, int, str]]:
    return sorted((sent.request_id, sent.method, sent.bytes, sent.status) for sent in of_kind(ledger, Sent))


def test_ledger_and_server_agree_byte_for_byte(log: Log, ledger: Ledger) -> None:
    with Serving(EchoEngine, log_requests=True) as serving, Crayon(None, serving.address) as client:
        answer = client.ask("Grüße an 東京")
        client.ask("word " * 3000)  # sent compressed
        client.score("a question", ["yes", "no"])
        client.encode(["two", "texts"])
        client.choose("which?", ["this", "that"])
        address = serving.address
    assert as_noted(ledger) == as_logged(log)
    assert len(of_kind(ledger, Sent)) == 5
    assert {sent.to for sent in of_kind(ledger, Sent)} == {address}
    first, *_ = of_kind(ledger, Answered)
    assert (first.source, first.reason, first.bytes_sent) == ("server", "no_device", answer.route.bytes_sent)
    assert first.bytes_sent == next(sent.bytes for sent in of_kind(ledger, Sent) if sent.request_id == first.request_id)


def test_both_clients_note_the_same(ledger: Ledger) -> None:
    async def one(address: str) -> None:
        async with AsyncCrayon(None, address) as client:
            await client.ask("hello there")

    with Serving(EchoEngine) as serving:
        with Crayon(None, serving.address) as client:
            client.ask("hello there")
        asyncio.run(one(serving.address))
    one_, two = of_kind(ledger, Answered)
    assert (one_.source, one_.bytes_sent, one_.prompt_tokens) == (two.source, two.bytes_sent, two.prompt_tokens)
    assert len({sent.bytes for sent in of_kind(ledger, Sent)}) == 1


def test_an_answer_of_the_device_says_that_nothing_left(ledger: Ledger) -> None:
    with Crayon(EchoEngine(), None) as client:
        client.ask("my mail is ada@example.org")
    (answer,) = of_kind(ledger, Answered)
    assert (answer.source, answer.bytes_sent) == ("device", 0)
    assert of_kind(ledger, Sent) == []


def test_what_was_found_is_noted_by_kind_and_never_as_text(ledger: Ledger) -> None:
    with Serving(EchoEngine) as serving, Crayon(EchoEngine(), serving.address, mode="prefer_on_server") as client:
        client.ask("my mail is ada@example.org")
    (answer,) = of_kind(ledger, Answered)
    assert (answer.source, answer.found, answer.action, answer.bytes_sent) == ("device", ("email",), "keep", 0)
    assert b"ada" not in ledger.path.read_bytes()


def test_each_attempt_is_an_entry(log: Log, ledger: Ledger) -> None:
    def refuse(*_: object) -> None:
        raise OverloadedError("full", retry_after=0.01)

    with Serving(lambda: ScriptedEngine(generate=refuse), log_requests=True) as serving:
        engine = RemoteEngine(serving.address, ledger=ledger)
        with pytest.raises(CrayonError):
            list(engine.generate(ask("hello")))
        engine.close()
    assert [call["request_bytes"] for call in log.calls] == [sent.bytes for sent in of_kind(ledger, Sent)]
    assert [call["code"] for call in log.calls] == [sent.status for sent in of_kind(ledger, Sent)] != []


def test_a_server_that_is_not_there_is_told_apart(ledger: Ledger) -> None:
    with Crayon(EchoEngine(), "127.0.0.1:9", mode="prefer_on_server") as client:
        client.ask("hello")
    assert {sent.status for sent in of_kind(ledger, Sent)} == {"UNAVAILABLE"}
    (answer,) = of_kind(ledger, Answered)
    assert (answer.source, answer.reason) == ("device", "server_failed")


def test_nothing_is_noted_where_that_is_not_wanted(ledger: Ledger) -> None:
    with Serving(EchoEngine) as serving, Crayon(None, serving.address, privacy=Privacy(ledger=False)) as client:
        client.ask("hello")
    assert ledger.read().entries == ()
    assert not ledger.path.exists()


def test_a_request_given_up_is_noted_as_cancelled(ledger: Ledger) -> None:
    with Serving(lambda: EchoEngine(delay=0.05)) as serving, Crayon(None, serving.address) as client:
        stream = client.stream("many words " * 50)
        next(iter(stream))
        stream.close()
    (sent,) = of_kind(ledger, Sent)
    assert sent.status == "CANCELLED"
    assert of_kind(ledger, Answered) == []


def test_entries_are_json_lines(ledger: Ledger) -> None:
    with Crayon(EchoEngine(), None) as client:
        client.ask("hello")
    (line,) = ledger.path.read_text().splitlines()
    assert json.loads(line)["kind"] == "answer"
