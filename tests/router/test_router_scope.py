from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router import FittedScope, Scope, ScopeGate, fit_few, fit_scope
from crayon.router.scope import STAY_MARGIN, distinct_rows

DIMENSIONS = 32
TEXTS = tuple(f"example number {i}" for i in range(8))


def cloud(seed: int, n: int, towards: int | None = 0, noise: float = 0.15) -> np.ndarray:
    """Vectors around one axis, or around none."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(scale=noise, size=(n, DIMENSIONS))
    if towards is not None:
        rows[:, towards] += 1.0
    return rows.astype(np.float32)


def test_own_queries_are_inside_and_others_outside():
    fitted = fit_scope("mine", cloud(0, 12), cloud(1, 24, None))
    own = [fitted.score(row) for row in cloud(2, 50)]
    other = [fitted.score(row) for row in cloud(3, 50, None)]
    assert np.mean(np.array(own) >= fitted.threshold) > 0.95
    assert np.mean(np.array(other) >= fitted.threshold) < 0.05
    assert len(fitted.own) == 12


def test_threshold_lies_between_the_groups_nearer_to_the_tighter_one():
    fitted = fit_scope("mine", cloud(0, 12, noise=0.02), cloud(1, 24, None))
    middle = (np.mean(fitted.own) + np.mean([fitted.score(r) for r in cloud(1, 24, None)])) / 2
    assert middle < fitted.threshold < np.mean(fitted.own)


def test_without_background_the_threshold_is_below_the_examples_own_scores():
    fitted = fit_scope("mine", cloud(0, 12))
    assert fitted.threshold == pytest.approx(np.mean(fitted.own) - 1.5 * np.std(fitted.own))


def test_a_given_threshold_is_kept():
    assert fit_scope("mine", cloud(0, 12), cloud(1, 24, None), threshold=0.25).threshold == 0.25


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_length_of_vectors_does_not_matter(seed, scale):
    examples, background, query = cloud(seed, 9), cloud(seed + 1, 9, None), cloud(seed + 2, 1)[0]
    one, other = fit_scope("a", examples, background), fit_scope("a", examples * scale, background * scale)
    assert one.threshold == pytest.approx(other.threshold, abs=1e-4)
    assert one.score(query) == pytest.approx(other.score(query * scale), abs=1e-4)
    assert -1.0 <= one.score(query) <= 1.0


def test_the_gate_takes_the_scope_with_the_largest_margin():
    a = fit_scope("a", cloud(0, 12, 0), cloud(1, 12, None))
    b = fit_scope("b", cloud(2, 12, 1), cloud(3, 12, None))
    gate = ScopeGate([a, b])
    verdict = gate.judge(cloud(4, 1, 1)[0])
    assert (verdict.name, verdict.inside) == ("b", True)
    assert verdict.score == verdict.similarity["b"] >= verdict.threshold == b.threshold
    assert set(verdict.similarity) == {"a", "b"}
    assert not gate.judge(cloud(5, 1, 2)[0]).inside


def zeros_at(rows: np.ndarray, i: int) -> np.ndarray:
    rows[i] = 0
    return rows


def nan_at(rows: np.ndarray, i: int) -> np.ndarray:
    rows[i, 3] = np.nan
    return rows


@pytest.mark.parametrize(
    ("examples", "background", "words"),
    [
        (cloud(0, 7), None, "at least 8 different queries, not 7"),
        (np.repeat(cloud(0, 2), 10, axis=0), None, "at least 8 different queries, not 2"),
        (nan_at(cloud(0, 9), 4), None, "not finite"),
        (zeros_at(cloud(0, 9), 4), None, "row 4 is all zeros"),
        ([[1.0, 2.0]] * 8 + [[1.0]], None, "all rows of one size"),
        ([["a", "b"]] * 8, None, "must be numbers"),
        (cloud(0, 9)[0], None, "shape"),
        (np.zeros((0, 4)), None, "shape"),
        (np.concatenate([cloud(0, 8), -cloud(0, 8)]), None, "nothing in common"),
        (cloud(0, 9), cloud(1, 9)[:, :16], "16 dimensions, the examples 32"),
        (cloud(0, 9), cloud(1, 1), "at least 2 texts"),
        (cloud(0, 9), nan_at(cloud(1, 9), 0), "background: holds"),
    ],
)
def test_bad_embeddings_are_refused_by_name(examples, background, words):
    with pytest.raises(InvalidRequestError, match=words):
        fit_scope("mine", examples, background)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (np.zeros(DIMENSIONS), "zeros"),
        (np.full(DIMENSIONS, np.inf), "not finite"),
        (np.ones(DIMENSIONS - 1), "31 dimensions, the scope 32"),
        (np.ones((2, DIMENSIONS)), "shape"),
    ],
)
def test_bad_query_vectors_are_refused(query, words):
    gate = ScopeGate([fit_scope("mine", cloud(0, 9))])
    with pytest.raises(InvalidRequestError, match=words):
        gate.judge(query)


def test_gates_that_make_no_sense_are_refused():
    fitted = fit_scope("mine", cloud(0, 9))
    with pytest.raises(InvalidRequestError, match="at least one"):
        ScopeGate([])
    with pytest.raises(InvalidRequestError, match="one name"):
        ScopeGate([fitted, fitted])
    other = FittedScope("other", np.ones(4, np.float32) / 2, 0.5, ())
    with pytest.raises(InvalidRequestError, match="different sizes"):
        ScopeGate([fitted, other])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "", "examples": TEXTS}, "scope.name"),
        ({"name": None, "examples": TEXTS}, "scope.name"),
        ({"name": "a", "examples": TEXTS[:7]}, "not 7"),
        ({"name": "a", "examples": TEXTS[:1] * 20}, "not 1"),
        ({"name": "a", "examples": (*TEXTS[:7], "EXAMPLE  number 0")}, "not 7"),
        ({"name": "a", "examples": (*TEXTS[:6], "\u00e9te\u0301", "e\u0301t\u00e9")}, "not 7"),
        ({"name": "a", "examples": "one text only"}, "list of texts"),
        ({"name": "a", "examples": (*TEXTS, " ")}, r"examples\[8\]"),
        ({"name": "a", "examples": (*TEXTS, 7)}, r"examples\[8\]"),
        ({"name": "a", "examples": tuple(f"query {i}" for i in range(2000))}, "at most 1024"),
        ({"name": "a", "examples": TEXTS, "threshold": 1.5}, "cosine"),
        ({"name": "a", "examples": TEXTS, "threshold": math.nan}, "cosine"),
        ({"name": "a", "examples": TEXTS, "threshold": True}, "cosine"),
    ],
)
def test_bad_scopes_are_refused(options, words):
    with pytest.raises(InvalidRequestError, match=words):
        Scope(**options)


def test_a_scope_keeps_its_examples_as_a_tuple():
    assert Scope("a", list(TEXTS)).examples == TEXTS


def test_a_scope_keeps_its_examples_in_one_unicode_form():
    assert Scope("a", (*TEXTS, "e\u0301te\u0301")).examples == (*TEXTS, "\u00e9t\u00e9")


@pytest.mark.parametrize("n", [1, 3, 7])
def test_few_examples_are_inside_and_most_of_the_background_is_not(n):
    examples, background = cloud(0, n), cloud(1, 40, None)
    fitted = fit_few("mine", examples, background)
    assert all(fitted.score(row) >= fitted.threshold - 1e-6 for row in examples)
    assert np.mean([fitted.score(row) >= fitted.threshold for row in background]) < 0.3
    assert np.mean([fitted.score(row) >= fitted.threshold for row in cloud(2, 40)]) > 0.9
    assert len(fitted.own) == n


def test_few_examples_all_alike_do_not_hide_each_other():
    fitted = fit_few("mine", np.repeat(cloud(0, 1), 4, axis=0), cloud(1, 40, None))
    assert fitted.own == pytest.approx((1.0,) * 4)


def test_few_examples_need_a_background_of_their_own_size():
    with pytest.raises(InvalidRequestError, match="at least 2 texts"):
        fit_few("mine", cloud(0, 2), cloud(1, 1))
    with pytest.raises(InvalidRequestError, match="dimensions"):
        fit_few("mine", cloud(0, 2), cloud(1, 4)[:, :5])
    with pytest.raises(InvalidRequestError, match="cancel each other out"):
        fit_few("mine", np.stack([cloud(0, 1)[0], -cloud(0, 1)[0]]), cloud(1, 4))


def between(first: float, second: float) -> np.ndarray:
    row = np.zeros(DIMENSIONS, np.float32)
    row[:2] = first, second
    return row


def test_the_last_scope_stays_until_another_is_clearly_nearer():
    axes = np.eye(2, DIMENSIONS, dtype=np.float32)
    gate = ScopeGate([FittedScope("a", axes[0], 0.5, ()), FittedScope("b", axes[1], 0.5, ())])
    near_b = between(0.68, 0.73)
    assert gate.judge(near_b).name == "b"
    stayed = gate.judge(near_b, last="a")
    assert (stayed.name, stayed.inside) == ("a", True)
    assert stayed.threshold == pytest.approx(0.5 - STAY_MARGIN)
    assert gate.judge(between(0.6, 0.8), last="a").name == "b"
    assert gate.judge(near_b, last="of another customisation") == gate.judge(near_b)


def test_a_follow_up_a_little_outside_does_not_leave_the_last_scope():
    gate = ScopeGate([FittedScope("a", between(1, 0), 0.5, ())])
    query = between(0.45, math.sqrt(1 - 0.45**2))
    assert not gate.judge(query).inside
    assert gate.judge(query, last="a").inside
    assert not gate.judge(between(0.35, math.sqrt(1 - 0.35**2)), last="a").inside


def test_rows_that_differ_by_rounding_alone_are_one() -> None:
    rows = np.array([[0.6, 0.8], [0.600001, 0.799999], [0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], np.float32)
    assert distinct_rows(rows) == 3
