"""Lengths, arrivals and prompts are what they are said to be, and the same every time."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import ConfigError, ModelError
from crayon.lab.bench.serving.prompts import PromptMaker
from crayon.lab.bench.serving.workloads import (
    CODE,
    CONVERSATION,
    TextPair,
    Workload,
    constant,
    even_thirds,
    from_trace,
    load_trace,
    poisson_arrivals,
    scaled,
)
from crayon.llama.model import Model

if TYPE_CHECKING:
    from pathlib import Path


def test_lengths_are_an_eighth_rounded_and_at_least_one() -> None:
    rows = [TextPair(1155, 211), TextPair(3, 1), TextPair(4808, 10), TextPair(12, 12)]
    assert scaled(rows) == [TextPair(144, 26), TextPair(1, 1), TextPair(601, 1), TextPair(2, 2)]


def test_rows_over_the_context_are_skipped_and_counted() -> None:
    rows = [TextPair(800, 80), TextPair(8000, 80), TextPair(720, 160), TextPair(728, 160)]
    work = from_trace("t", rows, context=110, tokens=10**6, most=100)
    assert sorted((pair.prompt, pair.answer) for pair in work.pairs) == [(90, 20), (100, 10)]
    assert (work.skipped, work.rows, work.raised) == (2, 4, 0)
    assert "2 of 4 rows over the context skipped" in work.describe()
    with pytest.raises(ConfigError, match="no row of t fits"):
        from_trace("t", rows, context=5, tokens=1, most=1)


def test_a_draw_is_the_same_for_the_same_seed_and_ends_at_either_limit() -> None:
    rows = [TextPair(8 * n, 8) for n in range(10, 60)]
    first, again, other = (from_trace("t", rows, context=99, tokens=300, most=99, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.tokens >= 300 > first.tokens - first.pairs[-1].total
    assert len(from_trace("t", rows, context=99, tokens=10**6, most=7).pairs) == 7
    assert len(set(from_trace("t", rows, context=99, tokens=10**6, most=99).pairs)) == 50  # no row twice


def test_prompts_shorter_than_the_template_are_lengthened_and_counted() -> None:
    work = from_trace("t", [TextPair(8, 80), TextPair(800, 80)], context=200, tokens=10**6, most=9, shortest=17)
    assert sorted(pair.prompt for pair in work.pairs) == [17, 100]
    assert work.raised == 1
    assert "1 prompts lengthened" in work.describe()


def test_a_context_holds_the_longest_request_in_whole_steps() -> None:
    assert constant(3).context == 256
    assert Workload("w", (TextPair(200, 56),)).context == 512  # one more cell than tokens
    assert constant(4, 100, 20).tokens == 480


def test_a_trace_is_read_from_the_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="set CRAYON_DATA"):
        load_trace(CODE)
    (tmp_path / "traces").mkdir()
    path = tmp_path / "traces" / "azure_2023_code.csv.gz"
    path.write_bytes(gzip.compress(b"t_s,input_tokens,output_tokens\n0.0,4808,10\n0.1,3180,8\n"))
    assert load_trace(CODE) == [TextPair(4808, 10), TextPair(3180, 8)]
    path.write_bytes(gzip.compress(b"t_s,input_tokens,output_tokens\n0.0,4808,ten\n"))
    with pytest.raises(ConfigError, match=r"csv\.gz:2: has no lengths"):
        load_trace(CODE)
    with pytest.raises(ConfigError, match=r"azure_2023_conv\.csv\.gz is not there"):
        load_trace(CONVERSATION)


@given(st.lists(st.builds(TextPair, st.integers(1, 2000), st.integers(1, 500)), min_size=2, max_size=60))
def test_each_third_of_a_window_has_as_much_to_write(pairs: list[TextPair]) -> None:
    found = even_thirds(pairs)
    assert Counter(found) == Counter(pairs)
    assert found == even_thirds(pairs)
    sizes = [len(pairs) // 3 + (third < len(pairs) % 3) for third in range(3)]
    ends = list(itertools.accumulate(sizes))
    # The arrivals of the thirds, which these are for.
    arrivals = poisson_arrivals(1.0, len(pairs))
    assert [sum(at < (third + 1) * len(pairs) / 3 for at in arrivals) for third in range(3)] == ends
    written = [sum(pair.answer for pair in found[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    assert max(written) - min(written) <= 2 * max(pair.answer for pair in pairs)


def test_arrivals_have_the_rate_and_one_pattern_for_all_rates() -> None:
    slow, fast = poisson_arrivals(2.0, 4000), poisson_arrivals(8.0, 4000)
    assert slow == sorted(slow)
    assert 0.0 <= slow[0] < 1990.0 < slow[-1] <= 2000.0
    assert np.allclose(np.asarray(slow), 4 * np.asarray(fast))
    assert np.std(np.diff(slow)) == pytest.approx(np.mean(np.diff(slow)), rel=0.1)  # as exponential gaps are


@pytest.fixture(scope="module")
def vocabulary(tiny_path: Path) -> Model:
    return Model(tiny_path, vocab_only=True)


def test_prompts_have_exactly_the_tokens_that_our_server_reads(vocabulary: Model) -> None:
    maker = PromptMaker(vocabulary)
    for tokens in (maker.shortest, maker.shortest + 1, 64, 65, 128, 700):
        prompt = maker.make(tokens)
        assert len(prompt.ids) == tokens
        assert vocabulary.tokenize_chat(prompt.messages) == list(prompt.ids)


def test_prompts_are_distinct_and_the_same_for_the_same_seed(vocabulary: Model) -> None:
    first, second, other = (PromptMaker(vocabulary, seed) for seed in (3, 3, 4))
    made = [first.make(80) for _ in range(20)]
    assert made == [second.make(80) for _ in range(20)]
    assert made != [other.make(80) for _ in range(20)]
    assert len({prompt.ids for prompt in made}) == 20


def test_a_shared_start_is_shared_and_the_rest_is_not(vocabulary: Model) -> None:
    maker = PromptMaker(vocabulary)
    text = maker.text(40)
    one, two = (maker.make(maker.length(text) + 30, text) for _ in range(2))
    shared = next(n for n, (a, b) in enumerate(zip(one.ids, two.ids, strict=True)) if a != b)
    assert 40 < shared < len(one.ids) - 1


def test_fewer_tokens_than_the_template_needs_are_refused(vocabulary: Model) -> None:
    maker = PromptMaker(vocabulary)
    with pytest.raises(ModelError, match="too few for a prompt"):
        maker.make(maker.shortest - 1)
