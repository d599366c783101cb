from __future__ import annotations

import numpy as np

from crayon.router.logistic import fit_logistic


def test_newton_ends_where_the_gradient_is_zero():
    rng = np.random.default_rng(1)
    columns = np.column_stack([rng.normal(0, 1, (40, 2)), np.ones(40)])
    target = rng.random(40)
    penalty = np.array([1.0, 0.1, 0.0])
    found = fit_logistic(columns, target, penalty)
    gradient = columns.T @ (1 / (1 + np.exp(-columns @ found)) - target) + penalty * found
    assert np.abs(gradient).max() < 1e-5
