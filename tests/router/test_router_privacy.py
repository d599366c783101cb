from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Mode, Reason, Source
from crayon.errors import PrivacyError
from crayon.messages import Message
from crayon.router import Action, Allowed, allowed_sources, decide_action, stay, turns_to_drop

D, S = Source.DEVICE, Source.SERVER


@given(
    st.sampled_from(list(Mode)),
    st.one_of(st.just(True), st.none(), st.integers(), st.text()),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_the_hard_switch_never_allows_the_server(mode, switch, private, device, server, away):
    options = {"private": private, "device": device, "server": server, "server_away": away, "local_only": switch}
    if mode is Mode.ONLY_ON_SERVER or not device:
        with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
            allowed_sources(mode, **options)
        return
    allowed = allowed_sources(mode, **options)
    assert (allowed.sources, allowed.reason) == ((D,), Reason.LOCAL_ONLY)


@given(st.sampled_from(list(Action)), st.one_of(st.none(), st.text(), st.booleans(), st.just("send"), st.just([])))
def test_an_undecided_detector_always_keeps(action, answer):
    assert decide_action(action, undecided=True, answer=answer) is Action.KEEP


@given(st.one_of(st.none(), st.text(), st.booleans(), st.integers(), st.lists(st.just("send"))))
def test_only_two_words_let_anything_go(answer):
    if answer not in ("redact", "send"):
        assert decide_action(Action.ASK, undecided=False, answer=answer) is Action.KEEP
    assert decide_action(Action.KEEP, undecided=False, answer=answer) is Action.KEEP


@pytest.mark.parametrize("sources", [(D, S), (S, D), (D,)])
def test_what_stays_is_answered_by_the_device_alone(sources):
    assert stay(Allowed(sources, Reason.MODE), Mode.PREFER_ON_SERVER, ["card"]) == Allowed((D,), Reason.SENSITIVE)


@pytest.mark.parametrize("mode", [Mode.ONLY_ON_SERVER, Mode.PREFER_ON_SERVER])
def test_what_cannot_stay_is_refused_by_kind(mode):
    with pytest.raises(PrivacyError, match="card"):
        stay(Allowed((S,), Reason.MODE), mode, ["card"])


def conversation(turns):
    return [Message(role, "x") for _ in range(turns) for role in ("user", "assistant")] + [Message("user", "x")]


@pytest.mark.parametrize(
    ("found", "private", "clean", "dropped"),
    [
        (set(), set(), set(), set()),
        ({2}, set(), {1, 5}, {2, 3}),
        ({3}, set(), {1, 5}, {2, 3}),
        (set(), {2, 3}, {1, 5}, {2, 3}),
        ({2}, set(), {1}, {2, 3, 4, 5}),  # the device answered after it
        ({0}, set(), {3}, {0, 1, 4, 5}),
        ({6}, set(), set(), set()),  # the question itself is no turn to leave out
    ],
)
def test_turns_that_must_stay_and_what_the_device_said_after_them_are_left_out(found, private, clean, dropped):
    assert turns_to_drop(conversation(3), found, private, clean) == dropped


def test_a_system_message_is_no_turn():
    messages = [Message("system", "x"), *conversation(1)]
    assert turns_to_drop(messages, {0}) == frozenset()
    assert turns_to_drop(messages, {1}) == {1, 2}
