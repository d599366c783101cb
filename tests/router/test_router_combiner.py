from __future__ import annotations

import json
import math

import numpy as np
import pytest

from crayon.errors import ConfigError, InvalidRequestError
from crayon.router import Combiner, Features, TokenFeatures, auroc, fit_combiner
from crayon.router.logistic import fit_logistic

NAMES = ("mean_logprob", "scope_margin", "llr")


def draw(n, seed=0):
    """Queries on which sending pays the more often, the lower two of three signals are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 3))
    pays = rng.random(n) < 1 / (1 + np.exp(1.0 + 1.5 * x[:, 0] + 1.0 * x[:, 1]))
    rows = [
        Features(tokens=TokenFeatures(tokens=4, mean_logprob=float(a - 3)), scope_margin=float(b / 10), llr=float(c))
        for a, b, c in x
    ]
    return rows, 1 - pays.astype(float), np.ones(n)


ROWS, DEVICE, SERVER = draw(1500)
FITTED = fit_combiner(ROWS, DEVICE, SERVER, NAMES)


def test_the_fit_finds_the_weights_that_the_cases_were_drawn_with():
    assert FITTED.weights == pytest.approx((-1.5, -1.0, 0.0), abs=0.25)
    assert FITTED.bias == pytest.approx(-1.0, abs=0.25)


def test_newton_ends_where_the_gradient_is_zero():
    rng = np.random.default_rng(1)
    columns = np.column_stack([rng.normal(0, 1, (40, 2)), np.ones(40)])
    target = rng.random(40)
    penalty = np.array([1.0, 0.1, 0.0])
    found = fit_logistic(columns, target, penalty)
    gradient = columns.T @ (1 / (1 + np.exp(-columns @ found)) - target) + penalty * found
    assert np.abs(gradient).max() < 1e-5


def test_two_signals_beat_the_plain_one_on_queries_not_seen():
    rows, device, server = draw(1500, seed=1)
    pays = (1 - device) * server
    combined = auroc(pays, [FITTED.need(row) for row in rows])
    plain = auroc(pays, [-row.tokens.mean_logprob for row in rows])
    assert combined > plain + 0.03


def test_what_nobody_gets_right_is_not_worth_sending():
    """The device is as often wrong either way; only where scope_margin is high does the server know better."""
    rng = np.random.default_rng(2)
    margin = rng.normal(0, 1, 400)
    rows = [Features(scope_margin=float(m)) for m in margin]
    fitted = fit_combiner(rows, np.zeros(400), (margin > 0).astype(float), ["scope_margin"])
    assert fitted.need(Features(scope_margin=2.0)) > 0.8
    assert fitted.need(Features(scope_margin=-2.0)) < 0.2


def test_a_missing_signal_takes_the_standardised_mean_logprob():
    combiner = Combiner(("mean_logprob", "llr"), (-2.0, 0.5), (1.0, 2.0), (-1.0, -3.0), 0.25)
    tokens = TokenFeatures(tokens=3, mean_logprob=-1.0)  # one deviation above its mean
    assert combiner.sure(Features(tokens=tokens)) == pytest.approx(-(0.25 - 1 - 3))
    assert combiner.sure(Features(tokens=tokens, llr=0.5)) == pytest.approx(-(0.25 - 1))
    # Nothing measured: all at their means.
    assert combiner.sure(Features()) == pytest.approx(-0.25)
    assert combiner.need(Features()) == pytest.approx(1 / (1 + math.exp(-0.25)))
    # Without mean_logprob among the signals there is nothing to stand in.
    assert Combiner(("llr",), (0.5,), (2.0,), (-3.0,), 0.25).sure(Features(tokens=tokens)) == pytest.approx(-0.25)


def test_a_broken_signal_cannot_break_the_sum():
    broken = Features(tokens=TokenFeatures(tokens=1, mean_logprob=-math.inf))
    assert math.isfinite(FITTED.sure(broken))
    assert FITTED.need(broken) > FITTED.need(ROWS[0])


def test_json_brings_back_the_same():
    assert Combiner.from_json(FITTED.to_json()) == FITTED


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"bias": None}, "combiner.bias"),
        ({"bias": True}, "combiner.bias"),
        ({"mean": [0.0]}, "combiner.mean"),
        ({"scale": [1.0, 0.0, 1.0]}, "combiner.scale"),
        ({"signals": ["llr", "llr", "margin"]}, "combiner.signals"),
        ({"signals": ["llr", "luck", "margin"]}, "combiner.signals"),
        ({"weights": [1, "2", 3]}, "combiner.weights"),
        ({"weights": 3}, "combiner.weights"),
        ({"more": 1}, "combiner.more"),
    ],
)
def test_json_that_was_not_written_by_it_is_refused_by_name(change, key):
    data = json.loads(FITTED.to_json()) | change
    with pytest.raises(ConfigError) as caught:
        Combiner.from_json(json.dumps(data))
    assert caught.value.key == key


@pytest.mark.parametrize("text", ["", "[]", "{", '{"bias": NaN}', '{"bias": 1, "bias": 2}', "[" * 100_000])
def test_a_text_that_is_no_such_json_is_refused(text):
    with pytest.raises(ConfigError, match="combiner"):
        Combiner.from_json(text)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: fit_combiner(ROWS[:5], DEVICE[:5], SERVER[:5], NAMES), "features"),
        (lambda: fit_combiner(ROWS, DEVICE[:5], SERVER, NAMES), "features"),
        (lambda: fit_combiner(ROWS, DEVICE * math.nan, SERVER, NAMES), "device_right"),
        (lambda: fit_combiner(ROWS, DEVICE * 0 + 1, SERVER, NAMES), "device_right"),
        (lambda: fit_combiner(ROWS, DEVICE, SERVER, ["luck"]), "signal"),
        (lambda: fit_combiner(ROWS, DEVICE, SERVER, ["margin"]), "signals"),
        (lambda: fit_combiner([Features(llr=1.0)] * 1500, DEVICE, SERVER, ["llr"]), "signals"),
        (lambda: fit_combiner(ROWS, DEVICE, SERVER, []), "signals"),
        (lambda: fit_combiner(ROWS, DEVICE, SERVER, NAMES, strength=0), "strength"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(call, field):
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.field == field
