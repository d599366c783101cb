"""Calibrating with queries of others: who answers them, what they teach, and what they must not change."""

from __future__ import annotations

import pytest
from calibration_fakes import Choosing, Knowing, samples

from crayon import Crayon, InvalidRequestError, PrivacyError, Source
from crayon.cli.route.calibration_lines import calibration_lines
from crayon.router import calibrate

NEAR = "colour-number"  # between the profile's topic and another


@pytest.fixture
def folder(tmp_path):
    """Holds `mine`, made from 40 questions about colours."""
    folder = tmp_path / "customizations"
    with Crayon(Choosing("small"), customizations_dir=folder) as client:
        client.customize("mine", samples(), check=False)
    return folder


@pytest.fixture
def cases(monkeypatch):
    found = []

    def watched(given, *rest, **more):
        found[:] = given
        return calibrate(given, *rest, **more)

    monkeypatch.setattr("crayon.sdk.calibration.calibrate.calibrate", watched)
    return found


def make(sdk, folder, device=None, server=None, **options):
    return sdk.make(device or Choosing("small"), server, customizations_dir=folder, **options)


def notes(found):
    return " / ".join(found.calibration.report.notes)


def others_of(cases):
    return [case for case in cases if case.own is False]


def test_others_are_answered_by_both_sides_and_judged_outside(sdk, folder, cases):
    device, server, seen = Choosing("small"), Knowing("large"), []
    client = make(sdk, folder, device, server)
    options = {"ask_server": True, "confirm": lambda n, to: seen.append((n, to)) or True}
    found = sdk.call(client.calibrate("mine", others=samples("number", 20), **options))
    assert seen == [(60, "server.test:1")], "what is sent of the others is said too"
    assert len(server.scored) == 60
    assert all("Options:\n- " in request.messages[-1].content for request in server.scored)
    assert [case.own for case in cases] == [True] * 40 + [False] * 20
    assert all(case.sure is None and case.server_right is not None for case in others_of(cases))
    plain = {request.messages[-1].content for request in device.scored if request.blend is None}
    assert {sample["question"] for sample in samples("number", 20)} <= plain
    outside = sum(case.inside_score < found.calibration.rules[0].scope for case in cases)
    assert found.calibration.outside.device.n == found.calibration.outside.server_n == outside >= 20
    assert found.calibration.report.cases == 60
    assert "20 of the queries were others, 0 of them inside" in notes(found)
    assert found.signal == "margin"


def test_the_threshold_moves_where_others_are_inside(sdk, folder, cases):
    client = make(sdk, folder)
    custom = sdk.call(client.customization("mine"))
    plain = sdk.call(client.calibrate("mine"))
    assert plain.calibration.rules[0].scope == 0
    found = sdk.call(client.calibrate("mine", others=samples(NEAR, 20)))
    inside = [case for case in others_of(cases) if case.inside_score >= 0]
    assert inside, "else there is nothing to move for"
    rule = found.calibration.rules[0]
    assert rule.scope > 0
    assert sum(case.inside_score >= rule.scope for case in inside) < len(inside)
    assert f"the scope's threshold of colour moved by {rule.scope:+.2f}" in notes(found)
    lines = "\n".join(calibration_lines(found, custom))
    assert f"{custom.profiles[0].threshold + rule.scope:.2f} or more (moved by {rule.scope:+.2f})" in lines
    assert "moved" not in "\n".join(calibration_lines(plain, custom))
    # And it holds from then on.
    client = make(sdk, folder, server=Knowing("large"), customization="mine")
    explained = sdk.call_or_value(client.explain("which colour-number has thing 90 sure good"))
    assert explained.scope.threshold == pytest.approx(custom.profiles[0].threshold + rule.scope)


def test_too_few_others_move_nothing_and_it_is_said(sdk, folder):
    client = make(sdk, folder)
    found = sdk.call(client.calibrate("mine", others=samples(NEAR, 7)))
    assert found.calibration.rules[0].scope == 0
    assert "stays: it moves with 8 kept samples and 8 others" in notes(found)
    assert "there are 40 and 7" in notes(found)


def test_samples_of_which_nobody_knows_whether_they_belong_move_nothing(sdk, folder, cases):
    client = make(sdk, folder)
    fresh = [{**s, "question": s["question"].replace("which", "what")} for s in samples()]
    found = sdk.call(client.calibrate("mine", samples=fresh, others=samples(NEAR, 20)))
    assert {case.own for case in cases} == {None, False}
    assert found.calibration.rules[0].scope == 0
    assert "there are 0 and 20" in notes(found)
    sdk.call(client.calibrate("mine", samples=[*fresh, *samples(count=4)], others=samples(NEAR, 20)))
    assert [case.own for case in cases].count(True) == 4, "kept ones among them are known"


def test_each_other_has_its_own_options_and_the_samples_keep_theirs(sdk, folder, cases):
    class Any(Choosing):
        def score(self, request, *, ended=False):
            text = request.messages[-1].content
            return super().score(request, ended=ended) if "good" in text or "bad" in text else self.shortest(request)

        def shortest(self, request):
            from custom_fakes import Device

            return Device.score(self, request)

    device = Any("small")
    client = make(sdk, folder, device)
    own = {"question": "name a tale", "answer": "ant", "choices": ["ant", "bee", "centipede"]}
    shared = [{"question": f"a tale of {thing}", "answer": ("yes", "no")[i % 2]} for i, thing in enumerate("abcd")]
    found = sdk.call(client.calibrate("mine", others=[own, *shared]))
    asked = {request.messages[-1].content: request.continuations for request in device.scored}
    assert asked["name a tale"] == ("ant", "bee", "centipede")
    assert asked["a tale of a"] == ("yes", "no")
    assert set(asked[samples()[0]["question"]]) == {"red", "green"}, "no foreign answer is among a sample's options"
    assert found.signal == "margin"
    assert [case.device_right for case in others_of(cases)] == [1, 0, 1, 0, 1]


def test_others_without_options_are_answered_with_a_text_and_change_nothing_of_the_samples_kind(sdk, folder, cases):
    device = Choosing("small")
    client = make(sdk, folder, device)
    # Like colours, so that the gate lets them in.
    free = [{"question": f"tell me of a colour {i}", "answer": f"hello from {i}"} for i in range(8)]
    free[0]["answer"] = "Hello from here."
    found = sdk.call(client.calibrate("mine", others=free))
    assert len(device.requests) == 8
    assert len(device.scored) == 40
    assert found.signal == "margin"
    assert [case.device_right for case in others_of(cases)] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert any(case.inside_score >= 0 for case in others_of(cases))
    assert all(case.sure is None for case in others_of(cases)), "a log-probability is no margin"
    assert any(case.sure is not None for case in cases)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"traffic": ["a colour"], "ask_server": True}, "others: are labelled, and traffic is not"),
        ({"others": samples(count=3)}, "others: 3 of them are samples too"),
        ({"samples": [("A  tale", "x")], "others": [("a tale", "y")]}, "others: 1 of them are samples too"),
        ({"others": []}, "others: there are none"),
        ({"others": [("a tale", "")]}, r"others\[0\].answer: is empty"),
    ],
)
def test_others_that_cannot_be(sdk, folder, options, says):
    server = Knowing("large")
    client = make(sdk, folder, server=server)
    with pytest.raises(InvalidRequestError, match=says):
        sdk.call(client.calibrate("mine", **{"others": samples("number", 4), **options}))
    assert (server.scored, server.requests) == ([], [])
    with pytest.raises(InvalidRequestError, match="others: teach what is outside of a customisation"):
        sdk.call(client.calibrate(samples=samples(), others=samples("number", 4)))


def test_what_must_stay_of_the_others_is_not_sent(sdk, folder, cases):
    server = Knowing("large")
    told = samples("number", 10)
    told[3]["question"] += " ada@example.com"
    client = make(sdk, folder, server=server)
    with pytest.raises(PrivacyError):
        sdk.call(client.calibrate("mine", others=told, ask_server=True, private=True))
    assert server.asked_models == 0
    found = sdk.call(client.calibrate("mine", others=told, ask_server=True))
    assert len(server.scored) == 49
    assert not any("ada@example.com" in request.messages[-1].content for request in server.scored)
    assert [case.server_right is None for case in others_of(cases)].count(True) == 1
    assert "1 were not sent to the server" in notes(found)


def test_others_without_an_answer_are_left_out_and_said(sdk, folder, cases):
    client = make(sdk, folder)
    found = sdk.call(client.calibrate("mine", others=["a tale", *samples("number", 4)]))
    assert len(others_of(cases)) == 4
    assert "1 without an answer were left out" in notes(found)


def test_where_sending_others_gains_nothing_they_stay(sdk, folder):
    server = Knowing("large", knows=False)
    client = make(sdk, folder, server=server, customization="mine")
    found = sdk.call(client.calibrate(others=samples("number", 20), ask_server=True))
    assert found.calibration.outside.benefit < 0
    assert (
        sdk.call(client.choose("which number has thing 91 sure good", ["red", "green"])).route.source is Source.DEVICE
    )
