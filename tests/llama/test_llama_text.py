from __future__ import annotations

import itertools
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.llama.text import TextAssembler

TEXTS = st.text(st.sampled_from("ab<|>é漢🖍\u200d\n "), max_size=40) | st.text(max_size=40)
STOPS = st.lists(st.text(st.sampled_from("ab<|>é漢🖍"), min_size=1, max_size=4), max_size=4)


def feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    assembler = TextAssembler(stop)
    out = [assembler.push(piece) for piece in pieces]
    return [*out, assembler.finish()], assembler.stopped


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    marks = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def up_to_first_stop(text: str, stop: list[str]) -> tuple[str, bool]:
    """What a reader sees who gets one character at a time and looks back after each."""
    for end in range(1, len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(len(s) for s in complete)], True
    return text, False


@given(TEXTS, st.lists(st.integers(0, 400), max_size=30))
def test_any_split_gives_back_the_text_in_whole_characters(text: str, borders: list[int]) -> None:
    out, stopped = feed(cut(text.encode(), borders))
    assert "".join(out) == text
    assert not stopped
    assert all("\ufffd" not in part for part in out) or "\ufffd" in text


@given(TEXTS, STOPS, st.lists(st.integers(0, 400), max_size=30))
def test_any_split_ends_at_the_first_stop(text: str, stop: list[str], borders: list[int]) -> None:
    out, stopped = feed(cut(text.encode(), borders), tuple(stop))
    assert ("".join(out), stopped) == up_to_first_stop(text, stop)


@given(st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=20))
def test_invalid_bytes_become_one_replacement_however_they_are_cut(data: bytes, borders: list[int]) -> None:
    whole, _ = feed([data])
    pieces, _ = feed(cut(data, borders))
    assert "".join(pieces) == "".join(whole)
    assert data.decode("utf-8", "replace").startswith("".join(whole))  # all but an unfinished character at the end


def test_the_first_complete_stop_wins_over_one_that_began_earlier() -> None:
    for pieces in ([b"abcX"], [b"abc", b"X"], [b"a", b"b", b"c", b"X"]):
        out, stopped = feed(pieces, ("abcX", "c"))
        assert "".join(out) == "ab"
        assert stopped


@pytest.mark.parametrize("stop", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_stop_is_found_however_its_accents_are_written(
    stop: Literal["NFC", "NFD"], written: Literal["NFC", "NFD"]
) -> None:
    text = unicodedata.normalize(written, "un été à ")
    end = unicodedata.normalize(written, "la fin é")
    data = (text + end + "x").encode()
    for borders in ([], range(len(data))):
        out, stopped = feed(cut(data, list(borders)), (unicodedata.normalize(stop, "la fin é"),))
        assert ("".join(out), stopped) == (text, True)


def test_a_stop_across_pieces_is_held_back_and_never_shown() -> None:
    assembler = TextAssembler(("END",))
    assert assembler.push(b"the E") == "the "
    assert assembler.push(b"N") == ""
    assert assembler.push(b"D of it") == ""
    assert assembler.stopped
    assert assembler.push(b"more") == assembler.finish() == ""


def test_text_held_back_for_a_stop_is_given_once_it_cannot_be_one() -> None:
    assembler = TextAssembler(("END",))
    assert [assembler.push(piece) for piece in (b"E", b"N", b"T")] == ["", "", "ENT"]


@pytest.mark.parametrize("stop", [(), ("x",)])
def test_an_unfinished_character_at_the_end_is_dropped(stop: tuple[str, ...]) -> None:
    out, _ = feed([b"ok ", "🖍".encode()[:3]], stop)
    assert "".join(out) == "ok "


def test_a_character_cut_into_single_bytes_comes_out_whole() -> None:
    assembler = TextAssembler()
    assert [assembler.push(bytes([byte])) for byte in "🖍é".encode()] == ["", "", "", "🖍", "", "é"]
