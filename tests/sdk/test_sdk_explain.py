"""`explain`: what would be decided and why, and nothing sent."""

from __future__ import annotations

import json
import math
from concurrent.futures import Future

import pytest
from calibration_fakes import Choosing, Knowing, Writing, question, samples
from custom_fakes import Device
from sdk_fakes import COLOURS, SURE, UNSURE, Fake, FakeServer, Hang, answer

from crayon import (
    Conditions,
    ConfigError,
    Crayon,
    DeadlineExceededError,
    EngineError,
    Hardness,
    InvalidRequestError,
    PrivacyError,
    PromptTooLongError,
    Reason,
    Scope,
    Source,
)
from crayon.router import ServerShare

ELSEWHERE = "tell me a story"
COLOUR = "what colour is the sky"


class Untouched(FakeServer):
    """Anything asked of it fails the test."""

    def models(self):
        raise AssertionError("the server was contacted")

    generate = score = encode = lambda self, *_, **__: self.models()


def customised(folder):
    with Crayon(Choosing("small"), customizations_dir=folder) as client:
        client.customize("mine", samples(), check=False)


def explained(sdk, client, text, **options):
    return sdk.call_or_value(client.explain(text, **options))


def test_the_policy_alone(sdk):
    for options, source, reason in (
        ({"mode": "only_on_device"}, Source.DEVICE, Reason.MODE),
        ({"mode": "only_on_server"}, Source.SERVER, Reason.MODE),
        ({"mode": "prefer_on_server"}, Source.SERVER, Reason.MODE),
        ({"private": True}, Source.DEVICE, Reason.PRIVATE),
    ):
        device = Fake("small")
        got = explained(sdk, sdk.make(device, Untouched("large")), "hello", **options)
        assert (got.source, got.reason, got.hold, got.scope) == (source, reason, None, None)
        assert got.allowed[0] is source
        assert device.requests == [], "there is nothing to decode for"
    with pytest.raises(PrivacyError):
        explained(sdk, sdk.make(None, Untouched("large")), "hello", private=True)


@pytest.mark.parametrize(("logprob", "source", "reason"), [(SURE, "device", "confident"), (UNSURE, "server", "unsure")])
def test_the_hardness_gate_is_shown_and_only_held_tokens_are_decoded(sdk, logprob, source, reason):
    device = Fake("small", [answer(" ".join("abcdefghijklmnop"), logprob)])
    got = explained(sdk, sdk.make(device, Untouched("large")), "hello")
    assert (got.source, got.reason) == (source, reason)
    assert (got.hold.signal, got.hold.score, got.hold.threshold) == ("mean_logprob", pytest.approx(logprob), -1.0)
    assert got.hold.tokens <= 8
    assert device.requests[0].sampling.max_tokens == 8
    assert got.signals["mean_logprob"] == pytest.approx(logprob)
    assert "margin" not in got.signals, "what was not measured is not shown"
    assert device.streams[0].cancelled or device.streams[0].closed


def test_scopes_are_shown(sdk):
    client = sdk.make(Fake("small"), Untouched("large"), scopes=[Scope("colours", COLOURS)])
    got = explained(sdk, client, ELSEWHERE)
    assert (got.source, got.reason, got.scope.name) == (Source.SERVER, Reason.OUT_OF_SCOPE, "colours")
    assert (got.score, got.threshold) == (got.scope.score, got.scope.threshold)
    assert got.hold is None
    got = explained(sdk, client, COLOURS[0])
    assert (got.source, got.reason) == (Source.DEVICE, Reason.IN_SCOPE)
    assert got.hold.score > got.hold.threshold


def test_a_calibration_is_shown_and_its_share_is_not_moved(sdk, tmp_path):
    device = Writing("small")

    def make(server):
        return sdk.make(device, server, customization="mine", customizations_dir=tmp_path)

    customised(tmp_path)
    client = make(Knowing("large"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
        sdk.call(client.calibrate(ask_server=True, target=ServerShare(0.3)))
    asker = make(Untouched("large"))
    got = explained(sdk, asker, question("colour", 90, sure=False, right=False))
    assert (got.customization, got.profile, got.scope.name) == ("mine", "colour", "colour")
    assert (got.calibration.target, got.calibration.share) == (ServerShare(0.3), None)
    assert got.calibration.benefit > 0
    assert (got.source is Source.SERVER) == (got.calibration.benefit > got.calibration.lam)
    assert got.hold.score == pytest.approx(UNSURE)
    assert got.hold.threshold != -1.0
    out = explained(sdk, asker, ELSEWHERE)
    assert out.hold is None
    assert out.profile == "base"
    assert out.calibration.benefit is not None
    sdk.call_or_value(asker.close())
    assert not (tmp_path / "mine" / "server-share.json").exists()
    # And what is explained is what happens.
    for text in (
        question("colour", 90, sure=False, right=False),
        ELSEWHERE,
        question("colour", 91, sure=True, right=True),
    ):
        want = explained(sdk, client, text)
        route = sdk.call(client.ask(text)).route
        assert (want.source, want.reason) == (route.source, route.reason)
        assert (want.score, want.threshold) == (pytest.approx(route.score), pytest.approx(route.threshold))


def test_a_record_that_does_not_hold_is_said(sdk, tmp_path):
    customised(tmp_path)
    client = sdk.make(Choosing("small"), customization="mine", customizations_dir=tmp_path)
    sdk.call(client.calibrate())
    path = tmp_path / "mine" / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hold_tokens": 3}))
    with pytest.raises(ConfigError, match="edited"):
        explained(
            sdk, sdk.make(Choosing("small"), Untouched("l"), customization="mine", customizations_dir=tmp_path), COLOUR
        )


def test_a_device_that_fails_is_explained_or_raised(sdk):
    device = Device("small", [PromptTooLongError(9, 8)])
    got = explained(sdk, sdk.make(device, Untouched("large")), "hello")
    assert (got.source, got.reason) == (Source.SERVER, Reason.DEVICE_FAILED)
    broken = Device("small", [[EngineError("gone")]])
    assert explained(sdk, sdk.make(broken, Untouched("large")), "hello").reason is Reason.DEVICE_FAILED
    with pytest.raises(DeadlineExceededError):
        explained(sdk, sdk.make(Device("small", [[Hang]]), Untouched("large"), timeout=0.05), "hello")


def test_a_crayon_without_a_server_explains_that_too():
    got = Crayon(Fake("small")).explain("hello")
    assert (got.source, got.reason) == (Source.DEVICE, Reason.NO_SERVER)


def test_what_reorders_the_sides_is_explained(sdk):
    client = sdk.make(Device("small"), Untouched("large"), conditions=Conditions(max_prompt_tokens=3))
    got = explained(sdk, client, "one two three four five six seven")
    assert (got.source, got.reason, got.allowed[0], got.allowed_reason) == ("server", "long", "server", "long")


# -- choices

RED_OR_GREEN = ["red", "green"]
ASKED = question("colour", 90, sure=True, right=True)


@pytest.mark.parametrize(("margin", "source", "reason"), [(0.3, "device", "confident"), (0.95, "server", "unsure")])
def test_the_margin_of_a_choice_is_shown_against_its_limit(sdk, margin, source, reason):
    device = Choosing("small")
    client = sdk.make(device, Untouched("large"), hardness=Hardness(choice_margin=margin))
    got = explained(sdk, client, question("colour", 90, sure=True, right=True), choices=RED_OR_GREEN)
    assert (got.source, got.reason, got.choices) == (source, reason, 2)
    lead = math.tanh(1.5)  # of probabilities whose logarithms differ by 3
    assert (got.hold.signal, got.hold.threshold, got.hold.score) == ("margin", margin, pytest.approx(lead))
    assert got.signals["margin"] == pytest.approx(lead)
    assert got.signals["max_prob"] == pytest.approx((1 + lead) / 2)
    assert "mean_logprob" not in got.signals, "no text was written"
    assert (len(device.scored), device.requests) == (1, [])


def test_without_a_limit_every_choice_is_let_go_and_nothing_is_scored(sdk):
    device = Choosing("small")
    got = explained(sdk, sdk.make(device, Untouched("large")), ASKED, choices=RED_OR_GREEN)
    assert (got.source, got.hold, got.choices, device.scored, device.requests) == (Source.DEVICE, None, 2, [], [])


def test_what_is_explained_of_a_choice_is_what_choose_does(sdk, tmp_path):
    customised(tmp_path)
    options = {"customization": "mine", "customizations_dir": tmp_path}
    client = sdk.make(Choosing("small"), Knowing("large"), **options)
    record = sdk.call(client.calibrate(ask_server=True))  # without a share, which each choice would move
    asker = sdk.make(Choosing("small"), Untouched("large"), **options)
    seen = set()
    for text in (
        *(question("colour", i, sure=i % 2 == 0, right=i % 2 == 0) for i in (90, 91)),
        ELSEWHERE + " 1 2 good",
    ):
        got = explained(sdk, asker, text, choices=RED_OR_GREEN)
        assert got.calibration.benefit is not None
        if got.hold is not None:
            assert (got.hold.signal, got.hold.score) == ("margin", pytest.approx(got.signals["margin"]))
            assert got.hold.threshold == pytest.approx(record.calibration.rules[0].hardness)
        want = sdk.call(client.choose(text, RED_OR_GREEN)).route
        assert (got.source, got.reason) == (want.source, want.reason)
        seen.add(got.source)
    assert seen == {Source.DEVICE, Source.SERVER}


def test_choices_that_are_none_and_scores_that_are_none(sdk):
    client = sdk.make(Choosing("small"), Untouched("large"))
    with pytest.raises(InvalidRequestError, match="choices"):
        explained(sdk, client, ASKED, choices=["red"])
    with pytest.raises(InvalidRequestError, match=r"choices\[1\]"):
        explained(sdk, client, ASKED, choices=["red", "red"])

    class Broken(Choosing):
        def score(self, request, *, ended=False):
            future = Future()
            future.set_exception(EngineError("no memory"))
            return future

    client = sdk.make(Broken("small"), Untouched("large"), hardness=Hardness(choice_margin=0.5))
    got = explained(sdk, client, ASKED, choices=RED_OR_GREEN)
    assert (got.source, got.reason) == (Source.SERVER, Reason.DEVICE_FAILED)


def test_what_is_sensitive_in_a_choice_keeps_it(sdk):
    client = sdk.make(Choosing("small"), Untouched("large"), hardness=Hardness(choice_margin=0.99))
    got = explained(sdk, client, ASKED, choices=["ada@example.com", "nobody"])
    assert (got.source, got.reason, got.allowed) == (Source.DEVICE, Reason.SENSITIVE, (Source.DEVICE,))
