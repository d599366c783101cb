from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.completion import Mode, Reason, Source
from crayon.errors import CrayonError, InvalidRequestError, PrivacyError, ServerUnavailableError
from crayon.router import allowed_sources, is_private

MODES = st.sampled_from([*Mode, *(str(mode) for mode in Mode)])
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([]), st.just(np.bool_(False))
)


@given(MODES, ANYTHING, st.booleans(), st.booleans(), st.booleans())
def test_only_on_device_or_private_never_allows_the_server(mode, private, device, server, away):
    if mode != Mode.ONLY_ON_DEVICE and private is False:
        private = True
    try:
        allowed = allowed_sources(mode, private=private, device=device, server=server, server_away=away)
    except CrayonError:
        return
    assert allowed.sources == (Source.DEVICE,)
    assert not allowed.gated


@given(MODES, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_only_configured_sides_are_allowed_each_once(mode, private, device, server, away):
    try:
        allowed = allowed_sources(mode, private=private, device=device, server=server, server_away=away)
    except CrayonError:
        return
    assert allowed.sources
    assert len(set(allowed.sources)) == len(allowed.sources)
    assert device or Source.DEVICE not in allowed.sources
    assert server or Source.SERVER not in allowed.sources
    assert not away or Source.SERVER not in allowed.sources


def test_privacy_is_the_default_of_the_policy():
    allowed = allowed_sources(Mode.PREFER_ON_SERVER, device=True, server=True)
    assert (allowed.sources, allowed.reason) == ((Source.DEVICE,), Reason.PRIVATE)


@pytest.mark.parametrize("flag", [True, None, 0, "", "no", 1, [], np.bool_(False)])
def test_only_the_value_false_is_public(flag):
    assert is_private(False, flag)
    assert not is_private(False)


D, S = Source.DEVICE, Source.SERVER


@pytest.mark.parametrize(
    ("mode", "device", "server", "away", "sources", "reason"),
    [
        ("prefer_on_device", True, True, False, (D, S), Reason.MODE),
        ("prefer_on_server", True, True, False, (S, D), Reason.MODE),
        ("only_on_device", True, True, False, (D,), Reason.MODE),
        ("only_on_server", True, True, False, (S,), Reason.MODE),
        ("prefer_on_device", True, False, False, (D,), Reason.NO_SERVER),
        ("prefer_on_server", True, False, False, (D,), Reason.NO_SERVER),
        ("prefer_on_device", False, True, False, (S,), Reason.NO_DEVICE),
        ("prefer_on_server", False, True, False, (S,), Reason.NO_DEVICE),
        ("prefer_on_device", True, True, True, (D,), Reason.SERVER_AWAY),
        ("prefer_on_server", True, True, True, (D,), Reason.SERVER_AWAY),
        ("only_on_device", True, True, True, (D,), Reason.MODE),
    ],
)
def test_table_of_public_requests(mode, device, server, away, sources, reason):
    allowed = allowed_sources(mode, private=False, device=device, server=server, server_away=away)
    assert (allowed.sources, allowed.reason) == (sources, reason)
    assert allowed.gated == (sources == (D, S))


@pytest.mark.parametrize(
    ("mode", "private", "device", "server", "away", "error", "words"),
    [
        ("fast", False, True, True, False, InvalidRequestError, "prefer_on_device"),
        (None, False, True, True, False, InvalidRequestError, "mode"),
        ("only_on_server", True, True, True, False, PrivacyError, "only_on_server"),
        ("prefer_on_device", True, False, True, False, PrivacyError, "no device"),
        ("only_on_device", False, False, True, False, InvalidRequestError, "device"),
        ("only_on_server", False, True, False, False, InvalidRequestError, "server"),
        ("prefer_on_device", False, False, False, False, InvalidRequestError, "neither"),
        ("only_on_server", False, True, True, True, ServerUnavailableError, "try again"),
        ("prefer_on_device", False, False, True, True, ServerUnavailableError, "try again"),
    ],
)
def test_what_cannot_be_answered_says_why(mode, private, device, server, away, error, words):
    with pytest.raises(error, match=words):
        allowed_sources(mode, private=private, device=device, server=server, server_away=away)
