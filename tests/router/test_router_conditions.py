"""What measurements and circumstances say about who answers, and what they can never do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Mode, Reason, Source
from crayon.errors import BudgetError, CrayonError, InvalidRequestError
from crayon.router.conditions import Conditions, RecentSpeed, device_seconds, server_seconds, weigh
from crayon.router.overrides import Circumstances, is_foreign, least_tokens, under
from crayon.router.policy import Allowed, allowed_sources

ON = Conditions(speed=True)
D, S = Source.DEVICE, Source.SERVER
# The device needs 10 s for 100 tokens read and 90 written, the server 1 s.
SLOW = RecentSpeed(
    device_prompt_rate=100.0, device_decode_rate=10.0, server_first_token_s=0.1, server_decode_rate=100.0,
    answer_tokens=90.0,
)  # fmt: skip


def say(now, conditions=ON, before=None, prompt_tokens=100):
    return weigh(conditions, now, prompt_tokens=prompt_tokens, max_tokens=256, before=before)


@pytest.mark.parametrize(
    "field", ["slow_seconds", "slow_factor", "network_seconds", "max_loss", "low_battery", "max_prompt_tokens"]
)
@pytest.mark.parametrize("value", [-1, math.nan, True, "1"])
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidRequestError, match=f"conditions.{field}"):
        Conditions(**{field: value})


@pytest.mark.parametrize("value", ["en", ("xx",), (3,), 5])
def test_languages_that_cannot_be_told_are_refused(value):
    with pytest.raises(InvalidRequestError, match=r"conditions\.device_languages"):
        Conditions(device_languages=value)


def test_times_are_estimated_from_rates_wait_and_what_runs():
    assert device_seconds(SLOW, 100, 90) == pytest.approx(10.0)
    assert device_seconds(replace(SLOW, device_running=1, device_wait_s=2.0), 100, 90) == pytest.approx(22.0)
    assert device_seconds(replace(SLOW, device_slowdown=3.0, device_wait_s=2.0), 100, 90) == pytest.approx(32.0)
    assert server_seconds(SLOW, 90) == pytest.approx(1.0)
    assert device_seconds(replace(SLOW, device_prompt_rate=None), 100, 90) is None
    assert server_seconds(replace(SLOW, server_decode_rate=None), 90) is None


def test_a_slow_device_speaks_for_a_server_that_is_clearly_faster():
    assert say(SLOW) is Reason.DEVICE_SLOW
    assert say(replace(SLOW, device_decode_rate=20.0)) is None, "not slow"
    assert say(replace(SLOW, server_decode_rate=15.0)) is None, "not clearly faster"
    assert say(replace(SLOW, device_decode_rate=20.0, device_running=1)) is Reason.DEVICE_SLOW, "contended"


def test_off_by_default():
    assert say(SLOW, Conditions()) is None


@pytest.mark.parametrize("field", ["device_prompt_rate", "device_decode_rate", "server_first_token_s"])
def test_what_is_unknown_changes_nothing(field):
    assert say(replace(SLOW, **{field: None})) is None
    assert say(RecentSpeed()) is None
    assert say(RecentSpeed(battery_percent=1.0, plugged=False)) is None


@pytest.mark.parametrize("now", [{"round_trip_s": 1.1}, {"server_loss": 0.6}])
def test_a_slow_or_lossy_network_speaks_for_the_device_whatever_else(now):
    assert say(replace(SLOW, **now)) is Reason.NETWORK_SLOW


@pytest.mark.parametrize(
    ("percent", "plugged", "reason"),
    [(20.0, False, Reason.LOW_BATTERY), (21.0, False, None), (5.0, True, None), (5.0, None, None), (None, False, None)],
)
def test_a_low_battery_speaks_for_a_server_that_is_no_slower(percent, plugged, reason):
    now = replace(SLOW, device_decode_rate=100.0, battery_percent=percent, plugged=plugged)
    assert say(now) is reason
    assert say(replace(now, server_decode_rate=10.0)) is None


@pytest.mark.parametrize(
    ("reason", "field", "near", "past"),
    [
        (Reason.NETWORK_SLOW, "round_trip_s", 0.9, 0.7),
        (Reason.NETWORK_SLOW, "server_loss", 0.45, 0.35),
        (Reason.DEVICE_SLOW, "device_decode_rate", 11.0, 14.0),
        (Reason.LOW_BATTERY, "battery_percent", 24.0, 26.0),
    ],
)
def test_what_was_decided_holds_until_the_number_is_clearly_past(reason, field, near, past):
    now = SLOW if reason is Reason.DEVICE_SLOW else replace(SLOW, device_decode_rate=100.0, plugged=False)
    assert say(replace(now, **{field: near})) is None
    assert say(replace(now, **{field: near}), before=reason) is reason
    assert say(replace(now, **{field: past}), before=reason) is None


# -- circumstances


BOTH = Allowed((D, S), Reason.MODE)
WEIGHED = st.sampled_from([None, Reason.NETWORK_SLOW, Reason.DEVICE_SLOW, Reason.LOW_BATTERY])


@given(
    mode=st.sampled_from(list(Mode)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    limit=st.sampled_from([None, "budget.share"]),
    long=st.booleans(),
    foreign=st.booleans(),
    weighed=WEIGHED,
)
def test_circumstances_never_allow_what_the_policy_does_not(mode, flags, limit, long, foreign, weighed):
    private, device, server, away = flags
    try:
        allowed = allowed_sources(mode, private=private, device=device, server=server, server_away=away)
    except CrayonError:
        return
    try:
        now = under(allowed, Circumstances(limit=limit, long=long, foreign=foreign, weighed=weighed))
    except BudgetError:
        assert limit is not None
        assert allowed.sources == (S,)
        return
    assert set(now.sources) <= set(allowed.sources)
    assert limit is None or S not in now.sources
    if len(allowed.sources) == 1:
        assert now == allowed
    elif limit is None:
        assert set(now.sources) == set(allowed.sources), "each side can still stand in"


@pytest.mark.parametrize(
    ("facts", "sources", "reason"),
    [
        ({}, (D, S), Reason.MODE),
        ({"long": True}, (S, D), Reason.LONG),
        ({"foreign": True}, (S, D), Reason.LANGUAGE),
        ({"weighed": Reason.DEVICE_SLOW}, (S, D), Reason.DEVICE_SLOW),
        ({"weighed": Reason.LOW_BATTERY}, (S, D), Reason.LOW_BATTERY),
        ({"weighed": Reason.NETWORK_SLOW, "foreign": True}, (D, S), Reason.NETWORK_SLOW),
        ({"weighed": Reason.NETWORK_SLOW, "long": True}, (S, D), Reason.LONG),
        ({"limit": "budget.share", "long": True}, (D,), Reason.BUDGET),
    ],
)
def test_table_of_circumstances(facts, sources, reason):
    now = under(BOTH, Circumstances(**facts))
    assert (now.sources, now.reason) == (sources, reason)
    assert now.gated == (reason is Reason.MODE)


def test_where_the_mode_prefers_the_server_it_stays_the_reason():
    allowed = Allowed((S, D), Reason.MODE)
    assert under(allowed, Circumstances(foreign=True)) == allowed
    assert under(allowed, Circumstances(weighed=Reason.NETWORK_SLOW)).sources == (D, S)


def test_only_what_is_surely_in_another_language_is_foreign():
    assert is_foreign({"de"}, ("en",))
    assert not is_foreign({"ru", "uk"}, ("uk",))
    assert not is_foreign((), ("en",))
    assert not is_foreign({"de"}, ())


@given(st.text())
def test_a_text_has_no_more_sure_tokens_than_bytes(text):
    assert least_tokens(text) <= len(text.encode("utf-8", "surrogatepass"))
