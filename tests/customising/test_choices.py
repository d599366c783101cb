from __future__ import annotations

import pytest

from crayon.customising.choices import RULES, choice_values, rule_for
from crayon.engine import ContinuationScore

SCORES = (ContinuationScore((-1.0, -3.0)), ContinuationScore((-0.5, -1.5, -0.25)))


@pytest.mark.parametrize(
    ("texts", "ended", "rule"),
    [
        (("red", "green"), True, "ended"),
        (("red", "green"), False, "whole"),
        (("one two three four", "one two three four"), True, "ended"),
        (("one two three four", "one two three four five"), True, "token"),
        (("one two three four", "one two three four five"), False, "token"),
        (("no", "one two three four five six"), True, "ended"),
    ],
)
def test_long_texts_are_compared_per_token_and_short_ones_with_their_end_where_it_counts(texts, ended, rule):
    assert rule_for(texts, ended=ended) == rule


def test_each_rule_counts_what_it_says():
    found = {rule: choice_values(SCORES, rule).tolist() for rule in RULES}
    assert found == {"ended": [-4.0, -2.25], "whole": [-1.0, -2.0], "token": [-1.0, -1.0]}


def test_scores_without_the_end_count_whole():
    assert choice_values(SCORES, "whole", ended=False).tolist() == [-4.0, -2.25]
    assert choice_values(SCORES, "token", ended=False).tolist() == [-2.0, -0.75]
