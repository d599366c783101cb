"""The ledger's file: nothing lost, nothing of anybody else's, bounded, and never in the way of an answer."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import ConfigError
from crayon.ledger import Answered, Ledger, Sent, sums
from crayon.ledger.entry import entry_of, line_of
from crayon.ledger.file import MAX_BYTES, OLDER

if TYPE_CHECKING:
    from pathlib import Path

WORDS = st.text(max_size=20)
COUNTS = st.integers(0, 10**9)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SENT = st.builds(Sent, at=FINITE, request_id=WORDS, to=WORDS, method=WORDS, bytes=COUNTS, status=WORDS)
ANSWERED = st.builds(
    Answered,
    at=FINITE,
    request_id=WORDS,
    source=st.sampled_from(["device", "server"]),
    reason=WORDS,
    score=st.none() | FINITE,
    threshold=st.none() | FINITE,
    profile=st.none() | st.text(min_size=1, max_size=20),
    bytes_sent=COUNTS,
    found=st.lists(WORDS, max_size=3).map(tuple),
    action=WORDS,
    dropped_turns=COUNTS,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    ttft_ms=FINITE,
    total_ms=FINITE,
)


def sent(at: float = 1.0, *, to: str = "here:1", size: int = 10, status: str = "OK", name: str = "r") -> Sent:
    return Sent(at=at, request_id=name, to=to, method="Generate", bytes=size, status=status)


@given(st.one_of(SENT, ANSWERED))
def test_an_entry_is_read_as_it_was_written(entry: Sent | Answered) -> None:
    line = line_of(entry)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert entry_of(line) == entry


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[1]", b"nonsense", b'{"kind":"sent"}', b'{"kind":"else","at":1}', b"\xff\xfe", b'{"kind":["sent"]}',
     b'{"kind":"answer","at":"now","request_id":"r","source":"device","reason":"mode"}',
     b'{"kind":"answer","at":1e999,"request_id":"r","source":"device","reason":"mode"}'],
)  # fmt: skip
def test_what_is_no_entry_is_none(line: bytes) -> None:
    with pytest.raises(ValueError):
        entry_of(line)


def test_what_was_noted_is_read_oldest_first_and_since(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.read().entries == ()
    for at in (1.0, 2.0, 3.0):
        ledger.note(sent(at))
    assert [entry.at for entry in Ledger(tmp_path).read().entries] == [1.0, 2.0, 3.0]
    assert [entry.at for entry in ledger.read(since=2.0).entries] == [2.0, 3.0]
    ledger.clear()
    assert ledger.read().entries == ()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new")
    ledger.note(sent())
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.path.parent.stat().st_mode & 0o777 == 0o700


def test_many_threads_and_processes_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom crayon.ledger import Ledger, Sent\nledger = Ledger(sys.argv[1])\n"
        "for i in range(200):\n"
        "    ledger.note(Sent(at=float(i), request_id=sys.argv[2], to='x', method='Score', bytes=1, status='OK'))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"p{i}"]) for i in range(3)]
    ledger = Ledger(tmp_path)
    threads = [
        threading.Thread(target=lambda i=i: [ledger.note(sent(name=f"t{i}")) for _ in range(200)]) for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0, 0]
    names = ("p0", "p1", "p2", "t0", "t1", "t2")
    found = ledger.read()
    assert found.damaged == 0
    assert Counter(entry.request_id for entry in found.entries) == dict.fromkeys(names, 200)


def test_it_stays_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    long = "x" * 50_000
    count = (OLDER + 3) * MAX_BYTES // len(long)
    for i in range(count):
        ledger.note(sent(float(i), name=long))
    files = [path for path in ledger.files() if path.exists()]
    assert len(files) == OLDER + 1 == len(list(tmp_path.iterdir()))
    assert all(path.stat().st_size <= MAX_BYTES for path in files)
    times = [entry.at for entry in ledger.read().entries]
    assert times == [float(i) for i in range(count - len(times), count)]
    assert len(times) > OLDER * MAX_BYTES // len(long) - OLDER


def test_a_line_that_was_cut_costs_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note(sent(1.0))
    with ledger.path.open("ab") as file:
        file.write(b'{"kind":"sent","at":2.')  # a crash, or a full disk
    ledger.note(sent(3.0))
    found = ledger.read()
    assert [entry.at for entry in found.entries] == [1.0, 3.0]
    assert found.damaged == 1


def test_a_ledger_that_cannot_be_kept_is_said_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    ledger = Ledger(tmp_path / "file" / "state")
    with caplog.at_level(logging.WARNING, "crayon.ledger"):
        ledger.note(sent())
        ledger.note(sent())
    assert len(caplog.records) == 1
    assert "the ledger is not complete" in caplog.text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    ledger = Ledger(tmp_path / "state")
    ledger.path.parent.mkdir()
    ledger.path.symlink_to(tmp_path / "other")
    ledger.note(sent())
    assert (tmp_path / "other").read_text() == "mine"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.mkdir()
    with pytest.raises(ConfigError, match=r"ledger: .*ledger\.jsonl cannot be read"):
        ledger.read()


def test_sums_tell_sides_bytes_and_what_was_kept_back() -> None:
    def answer(source: str, bytes_sent: int = 0, found: tuple[str, ...] = ()) -> Answered:
        return Answered(
            at=1.0, request_id="r", source=source, reason="mode", bytes_sent=bytes_sent, found=found,
            prompt_tokens=7, completion_tokens=3,
        )  # fmt: skip

    total = sums(
        [answer("device"), answer("device", 40), answer("device", found=("email",)), answer("server", 50),
         sent(size=40, status="UNAVAILABLE"), sent(size=50, to="there:1")]
    )  # fmt: skip
    assert (total.answers, total.on_device, total.nothing_left) == (4, 3, 2)
    assert (total.requests, total.bytes, total.unreached) == (2, 90, 40)
    assert total.to == {"here:1": 40, "there:1": 50}
    assert total.reasons == {"device/mode": 3, "server/mode": 1}
    assert total.kept_back == {"email": 1}
    assert (total.device_tokens, total.server_tokens) == (30, 10)
