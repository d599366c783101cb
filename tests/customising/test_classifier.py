"""The closed-form classifier: against a plain solution, and each row left out against fitting without it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.customising.classifier import RIDGE, Classifier
from crayon.errors import InvalidRequestError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def data(n, dimensions, classes, seed):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(n, dimensions))), rng.integers(classes, size=n).tolist()


def plain_ridge(rows, labels, classes, ridge, queries):
    """In the primal form: weights (D, classes) of centred columns, with an intercept that is not penalised.

    A class without rows has the mean of the others, which add up to 1.
    """
    targets = np.eye(classes)[labels]
    mean, middle = rows.mean(axis=0), targets.mean(axis=0)
    centred = rows - mean
    weights = np.linalg.solve(centred.T @ centred + ridge * np.eye(rows.shape[1]), centred.T @ (targets - middle))
    seen = middle > 0
    return np.where(seen, (queries - mean) @ weights + middle, 1.0 / seen.sum())


shapes = st.tuples(
    st.integers(2, 24), st.integers(2, 40), st.integers(2, 6), st.sampled_from([0.03, RIDGE, 1.0]), st.integers(0, 999)
)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_it_is_ridge_regression_with_a_free_intercept(shape):
    n, dimensions, classes, ridge, seed = shape
    rows, labels = data(n, dimensions, classes, seed)
    queries, _ = data(5, dimensions, classes, seed + 1)
    found = Classifier(rows, labels, classes, ridge=ridge).values(queries)
    assert found == pytest.approx(plain_ridge(rows, labels, classes, ridge, queries), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_a_row_left_out_has_the_value_that_the_others_give_it(shape):
    n, dimensions, classes, ridge, seed = shape
    rows, labels = data(n, dimensions, classes, seed)
    found = Classifier(rows, labels, classes, ridge=ridge).left_out()
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        other = Classifier(rows[rest], [labels[j] for j in rest], classes, ridge=ridge)
        assert found[i] == pytest.approx(other.values(rows[i : i + 1])[0], abs=1e-6)


def test_rows_of_a_class_are_told_from_another_and_values_add_up_to_one():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 16)
    labels = [i % 3 for i in range(18)]
    classifier = Classifier(unit(centres[labels] + 0.1 * rng.normal(size=(18, 16))), labels, 3)
    queries = unit(centres[labels] + 0.1 * rng.normal(size=(18, 16)))
    assert classifier.values(queries).argmax(axis=1).tolist() == labels
    assert classifier.left_out().argmax(axis=1).tolist() == labels
    assert classifier.values(queries).sum(axis=1) == pytest.approx(np.ones(18))


def test_an_answer_without_a_row_is_as_likely_as_the_others_are_on_average():
    rows, labels = data(6, 8, 3, 0)
    found = Classifier(rows, [label % 2 for label in labels], 4).values(rows)
    assert found[:, 2:] == pytest.approx(np.full((6, 2), 0.5)), "two answers have rows, and add up to one"
    assert found[:, :2].sum(axis=1) == pytest.approx(np.ones(6))


def test_one_row_and_equal_rows_are_no_trouble():
    one = Classifier(np.eye(1, 4), [1], 2)
    assert one.values(np.eye(4)).tolist() == [[1.0, 1.0]] * 4, "one answer tells nothing of another"
    assert one.left_out().tolist() == [[0.0, 0.0]]
    same = Classifier(np.repeat(np.eye(1, 4), 4, axis=0), [0, 0, 1, 1], 2)
    assert same.values(np.eye(1, 4))[0] == pytest.approx([0.5, 0.5])
    assert np.isfinite(same.left_out()).all()


@pytest.mark.parametrize(
    ("rows", "labels", "says"),
    [
        (np.eye(3), [0, 1], r"samples: have 2 answers for embeddings of shape \(3, 3\)"),
        (np.ones(3), [0, 1, 0], r"embeddings of shape \(3,\)"),
        (np.zeros((0, 3)), [], r"have 0 answers"),
        (np.eye(3), [0, 1, 2], "have an answer that is none of the 2"),
        (np.eye(3), [0, 1, -1], "have an answer that is none of the 2"),
    ],
)
def test_sizes_that_do_not_match_are_refused(rows, labels, says):
    with pytest.raises(InvalidRequestError, match=says):
        Classifier(rows, labels, 2)
