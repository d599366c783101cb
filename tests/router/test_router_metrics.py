from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError
from crayon.router import metrics

# Ids and flags of 200 of RouteLLM's evaluation rows (Apache-2.0): Mixtral-8x7B and GPT-4 on public questions.
ROWS = list(csv.DictReader((Path(__file__).parent / "routellm_200.csv").read_text("utf-8").splitlines()))
DEVICE = np.array([int(row["small_correct"]) for row in ROWS])
SERVER = np.array([int(row["large_correct"]) for row in ROWS])

QUERIES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.integers(-3, 3)),
    min_size=1,
    max_size=30,
)


def columns(queries):
    return tuple(np.array(column, dtype=float) for column in zip(*queries, strict=True))


def naive_accuracy(device, server, need, share):
    """Count one query at a time; in a tie every member is sent for an equal part."""
    left, total = share * len(device), 0.0
    for level in sorted(set(need), reverse=True):
        members = [i for i, value in enumerate(need) if value == level]
        sent = min(left, len(members))
        left -= sent
        part = sent / len(members)
        total += sum(part * server[i] + (1 - part) * device[i] for i in members)
    return total / len(device)


def naive_auroc(right, sure):
    pairs = [(a > b) + 0.5 * (a == b) for a, r in zip(sure, right, strict=True) if r
             for b, w in zip(sure, right, strict=True) if not w]  # fmt: skip
    return sum(pairs) / len(pairs)


@given(QUERIES, st.floats(0, 1))
def test_the_curve_is_what_counting_one_by_one_gives(queries, share):
    device, server, need = columns(queries)
    assert metrics.curve(device, server, need).at(share) == pytest.approx(naive_accuracy(device, server, need, share))


@given(QUERIES)
def test_every_curve_starts_at_the_device_and_ends_at_the_server(queries):
    device, server, need = columns(queries)
    for routed in (
        metrics.curve(device, server, need),
        metrics.oracle_curve(device, server),
        metrics.random_curve(device, server),
    ):
        assert routed.share[0] == 0
        assert routed.share[-1] == 1
        assert routed.device == pytest.approx(device.mean())
        assert routed.server == pytest.approx(server.mean())


@given(QUERIES, st.floats(0, 1))
def test_no_router_beats_the_oracle_and_random_is_the_mean_of_a_router_and_its_reverse(queries, share):
    device, server, need = columns(queries)
    routed = metrics.curve(device, server, need).at(share)
    assert routed <= metrics.oracle_curve(device, server).at(share) + 1e-9
    straight = metrics.random_curve(device, server)
    assert straight.at(share) == pytest.approx(device.mean() + share * (server.mean() - device.mean()))
    backwards = metrics.curve(device, server, -need).at(1 - share)
    assert routed + backwards == pytest.approx(device.mean() + server.mean())


@given(QUERIES, st.randoms(use_true_random=False))
def test_order_of_the_rows_does_not_matter(queries, random):
    shuffled = list(queries)
    random.shuffle(shuffled)
    assert metrics.curve(*columns(queries)).area == pytest.approx(metrics.curve(*columns(shuffled)).area)


@given(QUERIES, st.floats(0, 0.99))
def test_selected_risk_is_counted_among_the_kept(queries, share):
    device, server, need = columns(queries)
    nobody_errs = naive_accuracy(1 - device, np.zeros_like(server), need, share)
    assert metrics.selected_risk(device, need, share) == pytest.approx(nobody_errs / (1 - share), abs=1e-9)


def test_figures_of_200_real_pairs_of_answers():
    n = len(ROWS)
    pairs = list(zip(DEVICE, SERVER, strict=True))
    only_device, only_server = pairs.count((1, 0)) / n, pairs.count((0, 1)) / n
    oracle = metrics.oracle_curve(DEVICE, SERVER)
    gap = SERVER.mean() - DEVICE.mean()
    # Each of the first queries sent gains one answer, so half of the gap costs half as many queries as the gap has.
    assert metrics.cpt(oracle, 0.5) == pytest.approx(0.5 * gap)
    assert metrics.cpt(oracle, 0.8) == pytest.approx(0.8 * gap)
    assert oracle.peak == pytest.approx((only_server, DEVICE.mean() + only_server))
    sent_first, flat = only_server, 1 - only_server - only_device
    area = (
        sent_first**2 / 2 + sent_first * flat + only_device * (sent_first - only_device / 2)
    )  # triangle, plateau, descent
    assert metrics.apgr(oracle) == pytest.approx(area / gap)
    assert metrics.apgr(oracle) > 1


def test_a_noisy_router_on_200_real_pairs_measures_as_counted_one_by_one():
    rng = np.random.default_rng(2)
    need = np.round(SERVER - DEVICE + rng.normal(0, 1.0, len(DEVICE)), 1)  # with ties
    assert len(set(need)) < len(need)
    routed = metrics.curve(DEVICE, SERVER, need)
    shares = np.linspace(0, 1, 1001)
    counted = np.array([naive_accuracy(DEVICE, SERVER, need, share) for share in shares])
    assert [routed.at(float(share)) for share in shares] == pytest.approx(counted)
    assert routed.area == pytest.approx(np.mean((counted[1:] + counted[:-1]) / 2), abs=1e-4)
    half = DEVICE.mean() + 0.5 * (SERVER.mean() - DEVICE.mean())
    assert metrics.cpt(routed, 0.5) == pytest.approx(shares[np.argmax(counted >= half)], abs=1e-3)
    assert metrics.auroc(DEVICE, -need) == pytest.approx(naive_auroc(DEVICE, -need))


def test_random_orders_recover_half_of_the_gap_on_average():
    rng = np.random.default_rng(1)
    found = [metrics.apgr(metrics.curve(DEVICE, SERVER, rng.random(len(DEVICE)))) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)
    assert metrics.apgr(metrics.random_curve(DEVICE, SERVER)) == pytest.approx(0.5)
    assert metrics.cpt(metrics.random_curve(DEVICE, SERVER), 0.8) == pytest.approx(0.8)


def test_cpt_is_the_first_crossing_of_a_curve_that_falls_again():
    device, server = [0, 1, 0, 0], [1, 0, 1, 0]
    routed = metrics.curve(device, server, [4, 3, 2, 1])  # 1/4, 2/4, 1/4, 2/4, 2/4
    assert list(routed.accuracy) == [0.25, 0.5, 0.25, 0.5, 0.5]
    assert metrics.cpt(routed, 1.0) == pytest.approx(0.25)
    assert metrics.cpt(routed, 0.5) == pytest.approx(0.125)
    assert metrics.cpt(routed, 1.01) is None


def test_where_the_server_is_not_better_there_is_no_gap():
    routed = metrics.curve([1, 1, 0], [1, 0, 1], [3, 2, 1])
    assert metrics.apgr(routed) is None
    assert metrics.cpt(routed, 0.5) is None
    assert metrics.pgr(0.7, 0.8, 0.6) is None
    assert metrics.ibc_lift(routed, 0.5, device_cost=1, server_cost=50) is None


def test_ibc_counts_the_device_on_every_query_and_the_server_on_those_sent():
    device, server = [0, 0, 1, 1], [1, 1, 1, 1]
    routed = metrics.curve(device, server, [4, 3, 2, 1])
    # 0.5 gained for 0.5 servers, against 0.5 gained for a server less a device.
    assert metrics.ibc_lift(routed, 0.5, device_cost=1, server_cost=50) == pytest.approx((0.5 / 25) / (0.5 / 49) - 1)
    # With a check of 1 on each, as AutoMix has it.
    lift = metrics.ibc_lift(routed, 0.5, device_cost=1, server_cost=50, check_cost=1)
    assert lift == pytest.approx((0.5 / 26) / (0.5 / 49) - 1)
    # Sending everything after the device has answered is worse than asking the server at once.
    assert metrics.ibc_lift(routed, 1.0, device_cost=1, server_cost=50) == pytest.approx((0.5 / 50) / (0.5 / 49) - 1)
    assert metrics.ibc_lift(routed, 0.0, device_cost=1, server_cost=50) is None
    with pytest.raises(InvalidRequestError, match="server_cost"):
        metrics.ibc_lift(routed, 0.5, device_cost=50, server_cost=1)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_auroc_counts_pairs_with_ties_half(cases):
    right, sure = zip(*cases, strict=True)
    if len(set(right)) == 1:
        assert metrics.auroc(right, sure) is None
    else:
        assert metrics.auroc(right, sure) == pytest.approx(naive_auroc(right, sure))


def test_auroc_of_a_share_counts_it_on_both_sides():
    assert metrics.auroc([1, 0.5], [2, 1]) == pytest.approx((0.5 * 1 + 0.25 * 0.5) / (1.5 * 0.5))


def test_selected_risk_of_nothing_kept():
    assert metrics.selected_risk([1, 0], [1, 2], 1) is None
    assert metrics.selected_risk([1, 0], [1, 2], 0.5) == 0


def test_a_better_router_shows_in_the_paired_difference():
    rng = np.random.default_rng(3)
    need = SERVER - DEVICE + rng.normal(0, 1.0, len(DEVICE))
    better = metrics.bootstrap_difference(DEVICE, SERVER, need, None, 0.2)
    assert better.low > 0
    assert better.low <= better.value <= better.high
    assert better.value == pytest.approx(
        metrics.curve(DEVICE, SERVER, need).at(0.2) - metrics.random_curve(DEVICE, SERVER).at(0.2)
    )
    same = metrics.bootstrap_difference(DEVICE, SERVER, need, need * 2, 0.2)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_interval_of_an_accuracy_is_as_wide_as_a_binomial_one():
    found = metrics.bootstrap_accuracy(DEVICE, SERVER, np.zeros(len(DEVICE)), 0.0)
    spread = 1.96 * math.sqrt(DEVICE.mean() * (1 - DEVICE.mean()) / len(DEVICE))
    assert found.high - found.low == pytest.approx(2 * spread, rel=0.15)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: metrics.curve([], [], []), "device_right"),
        (lambda: metrics.curve([1], [1, 0], [1]), "server_right"),
        (lambda: metrics.curve([1, 0], [1, 0], [1]), "need"),
        (lambda: metrics.curve([1, 0], [1, 0], [1, math.nan]), "need"),
        (lambda: metrics.curve([1, math.nan], [1, 0], [1, 0]), "device_right"),
        (lambda: metrics.curve([1, 2], [1, 0], [1, 0]), "device_right"),
        (lambda: metrics.curve([1, 0], [1, -1], [1, 0]), "server_right"),
        (lambda: metrics.curve(["x"], [1], [1]), "device_right"),
        (lambda: metrics.curve([[1]], [1], [1]), "device_right"),
        (lambda: metrics.curve([1], [1], [1]).at(1.1), "share"),
        (lambda: metrics.curve([1], [1], [1]).at(math.nan), "share"),
        (lambda: metrics.cpt(metrics.curve([0], [1], [1]), 0), "recovered"),
        (lambda: metrics.cpt(metrics.curve([0], [1], [1]), math.nan), "recovered"),
        (lambda: metrics.auroc([1, 0], [1]), "sure"),
        (lambda: metrics.selected_risk([1, 0], [1, 0], -1), "share"),
        (lambda: metrics.bootstrap_accuracy([1, 0], [1, 0], [1, 0], 0.5, rounds=0), "rounds"),
        (
            lambda: metrics.ibc_lift(metrics.curve([0], [1], [1]), 1, device_cost=math.nan, server_cost=1),
            "device_cost",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(call, field):
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.field == field
