"""Lines of compressed files that come from outside."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from crayon.data import lines
from crayon.data.lines import read_lines
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from pathlib import Path


def made(folder: Path, text: str) -> Path:
    path = folder / "some.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_each_line_says_where_it_stands(tmp_path: Path) -> None:
    found = list(read_lines(made(tmp_path, "a\n\nb"), "items"))
    assert found == [("a\n", "some.jsonl.gz:1"), ("\n", "some.jsonl.gz:2"), ("b", "some.jsonl.gz:3")]


def test_a_line_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 4)
    assert [line for line, _ in read_lines(made(tmp_path, "abc\nabc"), "items")] == ["abc\n", "abc"]
    with pytest.raises(InvalidRequestError, match=r"items: some\.jsonl\.gz:2 is longer than 4"):
        list(read_lines(made(tmp_path, "abc\nabcde\n"), "items"))


def test_there_may_be_as_many_lines_as_the_limit_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES", 2)
    assert len(list(read_lines(made(tmp_path, "a\nb\n"), "items"))) == 2
    with pytest.raises(InvalidRequestError, match="has more than 2 lines"):
        list(read_lines(made(tmp_path, "a\nb\nc\n"), "items"))


@pytest.mark.parametrize(
    "data",
    [b"plain text", gzip.compress(b"a\n" * 1000)[:-12], gzip.compress(b"\xff\xfe\n")],
    ids=["plain", "cut", "no text"],  # gzip writes down the time: tests of a name must be the same in every process
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "some.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        list(read_lines(path, "items"))
