from __future__ import annotations

import numpy as np
import pytest

from crayon.adapters.whitening import whitening

RNG = np.random.default_rng(0)


def by_definition(groups: list[np.ndarray], shrink: float) -> np.ndarray:
    within = np.concatenate([rows - rows.mean(axis=0) for rows in groups])
    covariance = within.T @ within / len(within)
    covariance += shrink * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance * len(covariance) / (np.trace(covariance) / (1 + shrink)))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


@pytest.mark.parametrize("width", [4, 12, 40])
def test_it_is_the_inverse_root_of_the_shrunk_covariance_whichever_is_more_texts_or_dimensions(width: int) -> None:
    groups = [RNG.normal(size=(n, width)) * np.arange(1, width + 1) for n in (5, 4, 5, 1)]
    assert whitening(groups, 0.3) == pytest.approx(by_definition(groups, 0.3), rel=1e-4, abs=1e-5)


def test_groups_without_spread_turn_nothing() -> None:
    head = whitening([np.ones((3, 4)), np.zeros((2, 4))], 0.25)
    assert head == pytest.approx(2.0 * np.eye(4))
