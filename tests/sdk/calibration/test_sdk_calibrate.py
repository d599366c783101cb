"""Calibrating from the SDK: what is asked of whom, what is kept, and what it does to later queries."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import stat
import threading
import time
from dataclasses import replace

import pytest
from calibration_fakes import Choosing, Knowing, Writing, question, samples
from custom_fakes import make_pool
from sdk_fakes import SURE, UNSURE, Fake, Hang, answer

from crayon import (
    AdapterError,
    AsyncCrayon,
    Budget,
    BudgetError,
    CancelledError,
    ConfigError,
    Crayon,
    EngineError,
    InvalidRequestError,
    PrivacyError,
    Reason,
    Scope,
    ServerRejectedError,
    ServerUnavailableError,
    Source,
)
from crayon.customising.store import CustomizationStore
from crayon.data.priors import load_priors
from crayon.engine import ContinuationScore
from crayon.router import CalibrationRecord, MaxDeviceError, MinQuality, ServerShare, calibrate
from crayon.sdk.calibration import loaded as calibrations

ELSEWHERE = "tell me a story"


@pytest.fixture
def folder(tmp_path):
    """Holds `mine`, made from 40 questions about colours."""
    folder = tmp_path / "customizations"
    with Crayon(Choosing("small"), customizations_dir=folder) as client:
        client.customize("mine", samples(), check=False)
    return folder


def record_of(folder, name="mine"):
    return folder / name / "calibration.json"


def make(sdk, folder, device=None, server=None, **options):
    return sdk.make(device or Choosing("small"), server, customizations_dir=folder, **options)


# -- making


def test_the_kept_samples_are_answered_here_and_nothing_is_sent(sdk, folder):
    server = Knowing("large")
    client = make(sdk, folder, server=server)
    found = sdk.call(client.calibrate("mine"))
    report = found.calibration.report
    assert (report.cases, report.server_labelled, report.server) == (40, 0, None)
    assert report.device == pytest.approx(20 / 40)
    assert found.signal == "margin"
    assert (server.scored, server.requests, server.asked_models) == ([], [], 0)
    assert any("the server answered no case" in note for note in report.notes)
    assert found.binding.server_model == ""
    path = record_of(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert CalibrationRecord.from_json(path.read_text()) == found
    assert "has thing" not in path.read_text(), "a record holds no text of a sample"


def test_the_server_is_asked_with_the_options_listed(sdk, folder):
    server, seen = Knowing("large"), []
    client = make(sdk, folder, server=server)
    found = sdk.call(client.calibrate("mine", ask_server=True, confirm=lambda n, to: seen.append((n, to)) or True))
    assert seen == [(40, "server.test:1")]
    assert len(server.scored) == 40
    assert "Options:\n- red\n- green" in server.scored[0].messages[-1].content
    report = found.calibration.report
    assert (report.server_labelled, report.server) == (40, 0.7)
    assert report.accuracy.value > report.random > report.device
    assert found.binding.server_model == "large"
    rule = found.calibration.rules[0]
    assert (rule.profile, rule.server_n) == ("colour", 40 - sum(o.server_n for o in [found.calibration.outside]))


def test_free_text_is_answered_greedily_and_compared_after_normalisation(sdk, folder):
    texts = [
        {**sample, "answer": sample["answer"] if i % 2 else f"{sample['answer']} {i}"}
        for i, sample in enumerate(samples())
    ]
    device, server = Writing("small"), Knowing("large")
    client = make(sdk, folder, device, server, temperature=1.5)
    # Answers that are no labels: each is another text.
    texts = [{"question": s["question"], "answer": s["answer"]} for s in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
        found = sdk.call(client.calibrate("mine", samples=samples(), ask_server=True, hold_tokens=4))
    assert (found.signal, found.hold_tokens) == ("mean_logprob", 4)
    assert found.calibration.report.device == pytest.approx(20 / 40)
    assert found.calibration.report.server == 0.7, "' Red. ' is 'red'"
    assert {request.sampling.temperature for request in (*device.requests, *server.requests)} == {0.0}
    assert server.scored == []


def test_traffic_has_the_server_s_answers_for_labels(sdk, folder):
    server = Knowing("large", knows=False)
    client = make(sdk, folder, server=server)
    traffic = [{"question": s["question"]} for s in samples()]
    with pytest.raises(InvalidRequestError, match="ask_server is needed"):
        sdk.call(client.calibrate("mine", traffic=traffic))
    found = sdk.call(client.calibrate("mine", traffic=traffic, ask_server=True))
    report = found.calibration.report
    assert report.server == 1.0
    assert report.device == pytest.approx(20 / 40), "right means agreement, and the server is always wrong"
    assert any("agreement" in note for note in report.notes)


def test_without_a_customisation_the_record_belongs_to_the_device_s_model(sdk, folder):
    client = make(sdk, folder)
    found = sdk.call(client.calibrate(samples=samples()))
    (path,) = folder.glob(".plain/*/calibration.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [rule.profile for rule in found.calibration.rules] == [None]
    assert found.calibration.outside is None
    other = make(sdk, folder, Choosing("small", sha="b" * 64), Knowing("large"))
    assert sdk.call(other.ask(ELSEWHERE)).route.reason is Reason.CONFIDENT, "another model has none"
    with pytest.raises(InvalidRequestError, match="samples: are needed"):
        sdk.call(client.calibrate())


def test_a_sample_is_judged_by_the_others_of_its_profile(sdk, tmp_path, monkeypatch):
    """One that is like no other is outside, answered by the plain base, and says nothing of the signal."""
    odd = {"question": "which flavour has thing 98 sure good", "answer": "green"}
    device = Choosing("small")
    client = make(sdk, tmp_path, device)
    sdk.call(client.customize("mine", [*samples(), odd], check=False))
    device.scored.clear()
    cases = []

    def watched(given, *rest, **more):
        cases.extend(given)
        return calibrate(given, *rest, **more)

    monkeypatch.setattr("crayon.sdk.calibration.calibrate.calibrate", watched)
    found = sdk.call(client.calibrate("mine"))
    assert {case.inside_score >= 0 for case in cases} == {True, False}
    assert all((case.sure is not None) == (case.inside_score >= 0) for case in cases)
    outside = [case for case in cases if case.inside_score < 0]
    plain = {request.messages[-1].content for request in device.scored if len(request.messages) == 1}
    assert odd["question"] in plain
    assert found.calibration.outside.device.n == len(outside)
    assert sum(rule.device.n for rule in found.calibration.rules) == 41 - len(outside)


def test_targets_and_their_impossibility(sdk, folder):
    client = make(sdk, folder, server=Knowing("large"))
    shared = sdk.call(client.calibrate("mine", target=ServerShare(0.2), ask_server=True))
    assert shared.calibration.report.share == pytest.approx(0.2)
    assert sdk.call(client.calibrate("mine", target=MinQuality(0.9), ask_server=True)).calibration.report.share < 1
    before = record_of(folder).read_bytes()
    with pytest.raises(InvalidRequestError, match="needs 44 labelled queries or more"):
        sdk.call(client.calibrate("mine", target=MaxDeviceError(0.1)))
    with pytest.raises(InvalidRequestError, match="the server answered 0 of 40"):
        sdk.call(client.calibrate("mine", target=MinQuality(0.9)))
    assert record_of(folder).read_bytes() == before, "what cannot be made leaves what was there"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([("a colour", "red"), ("the colour", "green"), ("my colour", "red")], "at least 4 different ones, not 3"),
        (["a colour", "the colour"], "none has an answer"),
        ([("a colour", "red"), ("A  colour", "green")], "asks what"),
    ],
)
def test_too_little_to_calibrate_on(sdk, folder, given, says):
    class Any(Choosing):
        def score(self, request, *, ended=False):
            from custom_fakes import Device

            return Device.score(self, request, ended=ended)

    client = make(sdk, folder, Any("small"))
    with pytest.raises(InvalidRequestError, match=says):
        sdk.call(client.calibrate("mine", samples=given))
    assert not record_of(folder).exists()


def test_one_class_only_says_that_the_signal_tells_nothing(sdk, folder):
    good = [{**s, "question": s["question"].replace("bad", "good")} for s in samples()]
    client = make(sdk, folder, server=Knowing("large"))
    found = sdk.call(client.calibrate("mine", samples=good, ask_server=True))
    assert all(rule.hardness is None for rule in found.calibration.rules)
    assert any("right on all cases or on none" in note for note in found.calibration.report.notes)


def test_repeated_samples_count_once(sdk, folder):
    client = make(sdk, folder)
    found = sdk.call(client.calibrate("mine", samples=[*samples(), *samples()]))
    assert found.calibration.report.cases == 40


def test_scores_that_are_no_numbers_end_it(sdk, folder):
    class Broken(Choosing):
        def score(self, request, *, ended=False):
            future = super().score(request, ended=ended)
            found = future.result()
            bad = tuple(ContinuationScore((math.nan, -1.0)) for _ in found.scores)
            future = type(future)()
            future.set_result(replace(found, scores=bad))
            return future

    client = make(sdk, folder, Broken("small"))
    with pytest.raises(EngineError, match="choices are unusable"):
        sdk.call(client.calibrate("mine"))
    assert not record_of(folder).exists()


@pytest.mark.parametrize(
    "scores",
    [
        [ContinuationScore((-1.0,))],
        [ContinuationScore((-1.0,))] * 3,
        [ContinuationScore((math.nan,))] * 2,
        [ContinuationScore((-math.inf,))] * 2,
        [ContinuationScore(())] * 2,
    ],
)
def test_a_server_that_answers_garbage(sdk, folder, scores):
    client = make(sdk, folder, server=Knowing("large", scores=scores))
    with pytest.raises(ServerRejectedError, match="the server"):
        sdk.call(client.calibrate("mine", ask_server=True))
    assert not record_of(folder).exists()


# -- privacy


def test_nothing_is_sent_of_what_is_private_or_called_off(sdk, folder):
    server = Knowing("large")
    for client, options, error in (
        (make(sdk, folder, server=server, private=True), {}, PrivacyError),
        (make(sdk, folder, server=server), {"private": True}, PrivacyError),
        (make(sdk, folder, server=server), {"confirm": lambda *_: False}, CancelledError),
    ):
        with pytest.raises(error, match="nothing was sent"):
            sdk.call(client.calibrate("mine", ask_server=True, **options))
    with pytest.raises(InvalidRequestError, match="nothing was sent"):
        sdk.call(make(sdk, folder, server=server).calibrate("mine", ask_server="no"))
    assert (server.scored, server.requests, server.asked_models) == ([], [], 0)
    assert not record_of(folder).exists()


def test_arguments_that_do_not_go_together(sdk, folder):
    client = make(sdk, folder)
    for options, says in (
        ({"ask_server": True}, "needs a server"),
        ({"samples": samples(), "traffic": samples()}, "pass one of them"),
        ({"hold_tokens": 65}, "1 to 64"),
        ({"hold_tokens": True}, "a whole number"),
    ):
        with pytest.raises(InvalidRequestError, match=says):
            sdk.call(client.calibrate("mine", **options))
    with pytest.raises(InvalidRequestError, match="needs a device"):
        sdk.call(make(sdk, folder, server=Knowing("large")).__class__(None, Knowing("l")).calibrate(samples=samples()))
    with pytest.raises(InvalidRequestError, match="calibration: must be"):
        make(sdk, folder, calibration=True)


# -- using


def calibrated(sdk, folder, *, knows=True, target=None, device=None, **options):
    """Return a client that was calibrated with `device`'s kind of answers, its device and its server."""
    device, server = device or Writing("small"), Knowing("large", knows=knows)
    client = make(sdk, folder, device, server, customization="mine", **options)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(device, Writing):
            patch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
        sdk.call(client.calibrate(samples=samples(), ask_server=True, target=target))
    for side in (device, server):
        side.requests.clear()
        side.scored.clear()
    return client, device, server


def test_the_profile_s_own_threshold_decides_inside(sdk, folder):
    client, device, server = calibrated(sdk, folder)
    rule = CalibrationRecord.from_json(record_of(folder).read_text()).calibration.rules[0]
    assert -3.0 < rule.hardness < -0.05
    kept = sdk.call(client.ask(question("colour", 90, sure=True, right=True))).route
    assert (kept.source, kept.reason, kept.profile) == (Source.DEVICE, Reason.IN_SCOPE, "colour")
    sent = sdk.call(client.ask(question("colour", 91, sure=False, right=False))).route
    assert (sent.source, sent.reason) == (Source.SERVER, Reason.UNSURE)
    assert (sent.score, sent.threshold) == (pytest.approx(-3.0), pytest.approx(rule.hardness))
    assert len(server.requests) == 1
    # The default threshold of -1.0 would have kept this one, or sent it: the calibration's is in force.
    device.scripts = [answer("a b", rule.hardness + 0.01)]
    assert sdk.call(client.ask("a colour please")).route.source is Source.DEVICE
    device.scripts = [answer("a b", rule.hardness - 0.01)]
    assert sdk.call(client.ask("a colour please")).route.source is Source.SERVER


def test_a_query_outside_stays_where_nothing_is_gained(sdk, folder):
    client, device, server = calibrated(sdk, folder)
    found = CalibrationRecord.from_json(record_of(folder).read_text())
    gains = found.calibration.outside.benefit > found.calibration.lam
    route = sdk.call(client.ask(ELSEWHERE)).route
    assert route.source is (Source.SERVER if gains else Source.DEVICE)
    assert route.reason is (Reason.OUT_OF_SCOPE if gains else Reason.NO_GAIN)
    for server_right, source, reason in (
        (0.9, Source.SERVER, Reason.OUT_OF_SCOPE),
        (0.01, Source.DEVICE, Reason.NO_GAIN),
    ):
        outside = replace(found.calibration.outside, server=server_right)
        changed = replace(found, calibration=replace(found.calibration, outside=outside))
        record_of(folder).write_text(changed.to_json())
        server.requests.clear()
        route = sdk.call(client.ask(ELSEWHERE)).route
        assert (route.source, route.reason) == (source, reason)
        assert len(server.requests) == (source is Source.SERVER)
        if reason is Reason.NO_GAIN:
            assert (route.profile, route.blend, device.requests[-1].blend) == ("base", None, None)
            assert route.score == pytest.approx(outside.device.mean - 0.01)
            assert route.threshold == pytest.approx(-found.calibration.lam)
            assert route.score >= route.threshold


@pytest.mark.parametrize(
    ("knows", "source", "reason"),
    [(True, Source.SERVER, Reason.SERVER_BETTER), (False, Source.DEVICE, Reason.NO_GAIN)],
)
def test_where_the_signal_decides_nothing_the_better_side_answers(sdk, folder, knows, source, reason):
    """A calibration of choices knows margins; a text has none, so the accuracies decide, before a token."""
    client, device, server = calibrated(sdk, folder, knows=knows, device=Choosing("small", [answer("a", UNSURE)]))
    route = sdk.call(client.ask("what colour is the sky")).route
    assert (route.source, route.reason, route.scope) == (source, reason, "colour")
    assert route.score is not None
    assert (route.score >= route.threshold) == (source is Source.DEVICE)
    assert (len(device.requests), len(server.requests)) == ((0, 1) if source is Source.SERVER else (1, 0))


def test_false_uses_none_and_a_path_uses_that_file(sdk, folder, tmp_path):
    calibrated(sdk, folder, device=Choosing("small"))
    off = make(
        sdk, folder, Choosing("small", [answer("a", SURE)]), Knowing("large"), customization="mine", calibration=False
    )
    assert sdk.call(off.ask("what colour is the sky")).route.reason is Reason.IN_SCOPE
    elsewhere = tmp_path / "kept.json"
    record_of(folder).rename(elsewhere)
    for setting, reason in (
        ("auto", Reason.IN_SCOPE),
        (elsewhere, Reason.SERVER_BETTER),
        (str(elsewhere), Reason.SERVER_BETTER),
    ):
        client = make(sdk, folder, Choosing("small"), Knowing("large"), customization="mine", calibration=setting)
        assert sdk.call(client.ask("what colour is the sky")).route.reason is reason
    gone = make(sdk, folder, server=Knowing("large"), customization="mine", calibration=tmp_path / "gone.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        sdk.call(gone.ask("what colour is the sky"))


@pytest.mark.parametrize("options", [{"private": True}, {"mode": "only_on_device"}])
def test_a_calibration_never_sends_what_must_stay(sdk, folder, options):
    client, _, server = calibrated(sdk, folder, device=Choosing("small"))
    for text in ("what colour is the sky", ELSEWHERE):
        assert sdk.call(client.ask(text, **options)).route.source is Source.DEVICE
    assert (server.requests, server.scored) == ([], [])


def test_a_named_blend_and_a_gate_that_is_off_are_not_calibrated(sdk, folder):
    client, device, _ = calibrated(sdk, folder)
    device.scripts = [answer("a b", SURE)]
    assert sdk.call(client.ask("what colour is the sky", blend="mine")).route.reason is Reason.CONFIDENT
    off = make(
        sdk, folder, Writing("small", [answer("a", UNSURE)]), Knowing("large"), customization="mine", hardness=False
    )
    assert sdk.call(off.ask("what colour is the sky")).route.reason is Reason.IN_SCOPE


def test_plain_calibration_decides_without_scopes(sdk, folder):
    device, server = Writing("small"), Knowing("large")
    client = make(sdk, folder, device, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
        sdk.call(client.calibrate(samples=samples(), ask_server=True))
    kept = sdk.call(client.ask(question("colour", 90, sure=True, right=True))).route
    assert (kept.source, kept.reason) == (Source.DEVICE, Reason.CONFIDENT)
    assert sdk.call(client.ask(question("colour", 91, sure=False, right=False))).route.reason is Reason.UNSURE


# -- what a record is bound to


def test_a_record_made_for_something_else_is_refused_and_says_what_to_run(sdk, folder):
    calibrated(sdk, folder, device=Choosing("small"))
    server = Knowing("large")

    def refused(device, server, says):
        client = make(sdk, folder, device, server, customization="mine")
        with pytest.raises(ConfigError, match=says) as caught:
            sdk.call(client.ask("what colour is the sky"))
        assert "run `crayon calibrate mine` again" in str(caught.value)
        assert (device.requests, server.requests) == ([], [])

    store = CustomizationStore(folder)
    made = store.load("mine")
    store.save(replace(made, base_sha256=""), replace=True)  # else it is refused itself
    refused(Choosing("small", sha="b" * 64), server, "calibration.base_model: was made for 0000")
    store.save(made, replace=True)
    other = Choosing("small")
    other.template_sha256 = "new"
    refused(other, server, "calibration.prompt_template")
    refused(
        Choosing("small"),
        Knowing("large", model="another"),
        "calibration.server_model: was made for large, but another",
    )


def test_customising_again_drops_the_calibration(sdk, folder):
    client, _, _ = calibrated(sdk, folder, device=Choosing("small", [answer("a", SURE)]))
    sdk.call(client.customize("mine", samples(count=24), check=False, replace=True))
    assert not record_of(folder).exists()
    assert sdk.call(client.ask("what colour is the sky")).route.reason is Reason.IN_SCOPE


def test_other_weights_in_the_same_folder_are_refused(sdk, folder):
    client, _, _ = calibrated(sdk, folder, device=Choosing("small"))
    path = folder / "mine" / "customization.json"
    data = json.loads(path.read_text())
    data["profiles"][0]["weights"][1] = 0.25
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"calibration\.profiles\.colour"):
        sdk.call(client.ask("what colour is the sky"))


@pytest.mark.parametrize("damage", ["edit", "cut", "bytes", "large"])
def test_a_record_that_was_edited_or_damaged_is_refused_and_nothing_runs(sdk, folder, damage):
    client, device, server = calibrated(sdk, folder, device=Choosing("small"))
    path = record_of(folder)
    text = path.read_text()
    if damage == "edit":
        path.write_text(text.replace('"lam": ', '"lam": 0.0'))
        path.write_text(json.dumps({**json.loads(text), "hold_tokens": 9}))
    elif damage == "cut":
        path.write_text(text[:100])
    elif damage == "bytes":
        path.write_bytes(b"\xff\xfe" + text.encode())
    else:
        path.write_text(" " * (5 * 2**20))
    with pytest.raises(ConfigError, match=str(path)):
        sdk.call(client.ask("what colour is the sky"))
    assert (device.requests, server.requests) == ([], [])


def test_the_server_is_asked_once_what_it_serves_and_one_that_is_away_is_no_error(sdk, folder):
    client, _, server = calibrated(sdk, folder)
    server.asked_models = 0
    for _ in range(3):
        sdk.call(client.ask(question("colour", 90, sure=True, right=True)))
    assert server.asked_models == 1

    class Away(Knowing):
        def models(self):
            raise ServerUnavailableError("away")

        def generate(self, request):
            raise ServerUnavailableError("away")

    client = make(sdk, folder, Writing("small"), Away("large"), customization="mine")
    route = sdk.call(client.ask(question("colour", 91, sure=False, right=False))).route
    assert (route.source, route.reason) == (Source.DEVICE, Reason.SERVER_FAILED)


def test_a_customisation_from_elsewhere_takes_no_record_of_its_name(sdk, folder, tmp_path):
    client, _, _ = calibrated(sdk, folder, device=Choosing("small", [answer("a", SURE)]))
    export = tmp_path / "mine.json"
    found = sdk.call(client.customization("mine"))
    export.write_bytes(replace(found, samples=39).dump())
    other = make(sdk, folder, Choosing("small", [answer("a", SURE)]), Knowing("large"), customization=export)
    assert sdk.call(other.ask("what colour is the sky")).route.reason is Reason.IN_SCOPE
    same = make(sdk, folder, Choosing("small"), Knowing("large"), customization=found)
    assert sdk.call(same.ask("what colour is the sky")).route.reason is Reason.SERVER_BETTER


# -- the share


def ask_many(sdk, client, count, *, sure):
    return [
        sdk.call(client.ask(question("colour", 100 + i, sure=sure(i), right=sure(i)))).route.source
        for i in range(count)
    ]


def test_a_share_is_kept_under_drift_and_remembered(sdk, folder, monkeypatch):
    monkeypatch.setattr(calibrations, "KEEP_EVERY", 16)
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3))
    share = folder / "mine" / "server-share.json"
    assert not share.exists()
    sources = ask_many(sdk, client, 15, sure=lambda _: False)
    assert Source.SERVER in sources
    assert not share.exists()
    ask_many(sdk, client, 90, sure=lambda i: i < 60)
    keeper = json.loads(share.read_text())["keeper"]
    assert 16 <= keeper["n"] < 105
    assert stat.S_IMODE(share.stat().st_mode) == 0o600
    sdk.call_or_value(client.close())
    keeper = json.loads(share.read_text())["keeper"]
    assert keeper["n"] == 105
    assert 10 < keeper["sent"] < 45, "the unsure ones of one kind are not all sent"
    assert keeper["changes"][0]["new"] < keeper["changes"][0]["old"], "while all were sure it sank"
    again = make(sdk, folder, Writing("small"), Knowing("large"), customization="mine")
    ask_many(sdk, again, 1, sure=lambda _: True)
    sdk.call_or_value(again.close())
    assert json.loads(share.read_text())["keeper"]["n"] == 106
    assert "colour has thing" not in share.read_text()


def test_queries_that_no_gate_decided_are_not_counted(sdk, folder):
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3))
    sdk.call(client.ask("what colour is the sky", private=True))
    sdk.call(client.ask("what colour is the sky", mode="only_on_server"))
    sdk.call(client.ask("what colour is the sky", blend="mine"))
    sdk.call_or_value(client.close())
    assert not (folder / "mine" / "server-share.json").exists()


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"record": "x", "keeper": {}}', '{"record": 3}'])
def test_a_damaged_share_starts_anew(sdk, folder, damage, caplog):
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3))
    share = folder / "mine" / "server-share.json"
    share.write_text(damage)
    with caplog.at_level(logging.WARNING):
        ask_many(sdk, client, 2, sure=lambda _: True)
    sdk.call_or_value(client.close())
    assert json.loads(share.read_text())["keeper"]["n"] == 2
    assert ("starts anew" in caplog.text) == ('"x"' not in damage), "one of an older calibration is no damage"


def test_a_new_calibration_starts_its_share_anew(sdk, folder):
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3))
    ask_many(sdk, client, 2, sure=lambda _: True)
    sdk.call_or_value(client.close())
    calibrated(sdk, folder, target=ServerShare(0.2))
    assert not (folder / "mine" / "server-share.json").exists()


def test_many_threads_count_every_decision(folder):
    from sdk_fakes import Sync

    sdk = Sync()
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3), device=Choosing("small", [answer("a", SURE)]))
    threads = [
        threading.Thread(target=lambda: [client.ask("what colour is the sky") for _ in range(10)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert json.loads((folder / "mine" / "server-share.json").read_text())["keeper"]["n"] == 80


# -- choices, and what else a client does


def test_a_choice_is_judged_by_its_margin_and_the_profile_s_own_threshold(sdk, folder):
    client, device, server = calibrated(sdk, folder, device=Choosing("small"))
    rule = CalibrationRecord.from_json(record_of(folder).read_text()).calibration.rules[0]
    assert 0.1 < rule.hardness < 0.91
    kept = sdk.call(client.choose(question("colour", 90, sure=True, right=True), ["red", "green"]))
    assert (kept.route.source, kept.route.reason) == (Source.DEVICE, Reason.IN_SCOPE)
    assert kept.margin > rule.hardness
    sent = sdk.call(client.choose(question("colour", 91, sure=False, right=False), ["red", "green"]))
    assert (sent.route.source, sent.route.reason) == (Source.SERVER, Reason.UNSURE)
    assert (sent.route.score, sent.route.threshold) == (pytest.approx(0.0997, abs=1e-3), pytest.approx(rule.hardness))
    assert "Options:" in server.scored[0].messages[-1].content
    assert (device.requests, server.requests) == ([], [])


def test_a_choice_under_a_calibration_of_texts_goes_where_the_accuracies_say(sdk, folder):
    client, device, server = calibrated(sdk, folder)
    got = sdk.call(client.choose(question("colour", 91, sure=False, right=False), ["red", "green"]))
    assert got.route.reason is Reason.SERVER_BETTER
    assert (len(device.scored), len(server.scored)) == (0, 1)


def test_what_the_server_is_asked_is_charged_and_a_used_up_budget_ends_it(sdk, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    server = Knowing("large")
    client = make(sdk, folder, server=server, budget=Budget(tokens_per_day=2000))
    sdk.call(client.calibrate("mine", ask_server=True))
    used = 2000 - sdk.call_or_value(client.status()).budget.tokens
    assert used == 40 * 8  # 5 read, 3 written, says the fake
    few = make(sdk, folder, Writing("small"), server, budget=Budget(tokens_per_day=400))
    record = record_of(folder).read_bytes()
    monkeypatch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
    with pytest.raises(BudgetError):
        sdk.call(few.calibrate("mine", ask_server=True, timeout=60))
    assert len(server.requests) < 40
    assert record_of(folder).read_bytes() == record


def test_a_server_that_fails_half_way_is_left_alone(sdk, folder, monkeypatch):
    class Failing(Knowing):
        def generate(self, request):
            self.scripts = [[Hang]] if self.requests else [[ServerUnavailableError("gone")]]
            return Fake.generate(self, request)

    server = Failing("large")
    client = make(sdk, folder, Writing("small"), server)
    monkeypatch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())
    with pytest.raises(ServerUnavailableError):
        sdk.call(client.calibrate("mine", ask_server=True))
    assert len(server.streams) == 4
    assert all(stream.cancelled or stream.closed for stream in server.streams)
    assert not record_of(folder).exists()


def test_a_record_is_shown_and_forgotten(sdk, folder):
    client = make(sdk, folder)
    assert sdk.call(client.calibration("mine")) is None
    found = sdk.call(client.calibrate("mine"))
    assert sdk.call(client.calibration("mine")) == found
    sdk.call(client.forget_calibration("mine"))
    assert sdk.call(client.calibration("mine")) is None
    with pytest.raises(ConfigError, match="there is none to delete"):
        sdk.call(client.forget_calibration("mine"))
    with pytest.raises(InvalidRequestError, match="unknown"):
        sdk.call(client.calibration("other"))


def test_the_priors_of_the_usual_pair_stand_where_nothing_was_measured(sdk, folder):
    client = make(sdk, folder, Choosing("smollm2-135m-instruct"), Knowing("large"))
    found = sdk.call(client.calibrate("mine")).calibration
    (rule,) = found.rules
    believed = load_priors("smollm2-135m-instruct")
    assert (rule.server, rule.server_n) == (pytest.approx(believed.server.mean()), 0)
    assert found.outside.server == pytest.approx(believed.outside_server.mean())
    assert found.outside.benefit > 0
    assert not any("believed beforehand" in note for note in found.report.notes)
    other = sdk.call(client.calibrate("mine", ask_server=True)).calibration
    assert any("believed beforehand" in note for note in other.report.notes), "large is no server of that pair"


def test_the_folder_is_private_even_if_the_record_is_the_first_thing_in_it(sdk, tmp_path):
    folder = tmp_path / "new" / "customizations"
    client = make(sdk, folder)
    sdk.call(client.calibrate(samples=samples()))
    (path,) = folder.glob(".plain/*/calibration.json")
    for place in (folder, path.parent.parent, path.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert sdk.call(client.customizations()) == ()


def test_another_pool_is_refused(sdk, folder):
    calibrated(sdk, folder, device=Choosing("small"))
    other = Choosing("small", pools=(make_pool(seed=1),))
    server = Knowing("large")
    client = make(sdk, folder, other, server, customization="mine")
    with pytest.raises(AdapterError, match="is not loaded"):
        sdk.call(client.ask("what colour is the sky"))
    assert (other.requests, server.requests) == ([], [])


def test_deleting_a_customisation_deletes_its_calibration(sdk, folder):
    client, _, _ = calibrated(sdk, folder, target=ServerShare(0.3))
    ask_many(sdk, client, 2, sure=lambda _: True)
    sdk.call_or_value(client.close())
    CustomizationStore(folder).delete("mine")
    assert list(folder.iterdir()) == []


def test_tokens_that_are_no_numbers_count_as_unsure(sdk, folder, monkeypatch):
    device = Writing("small")
    monkeypatch.setattr("crayon.sdk.calibration.calibrate.closed_answers", lambda _: ())

    def broken(text, logprob=SURE):
        return answer(text, math.nan if logprob < -1 else logprob)

    monkeypatch.setattr("calibration_fakes.answer", broken)
    client = make(sdk, folder, device, Knowing("large"), customization="mine")
    found = sdk.call(client.calibrate(ask_server=True))
    assert found.calibration.rules[0].hardness is None or math.isfinite(found.calibration.rules[0].hardness)
    route = sdk.call(client.ask(question("colour", 91, sure=False, right=False))).route
    assert route.source is Source.SERVER


def test_a_calibration_that_was_cancelled_leaves_nothing(tmp_path, folder):
    async def main():
        device = Choosing("small")
        client = AsyncCrayon(device, customizations_dir=folder)
        begun = threading.Event()
        task = asyncio.create_task(client.calibrate("mine", progress=lambda *_: (begun.set(), time.sleep(0.01))))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return device

    device = asyncio.run(main())
    assert len(device.scored) < 40
    assert not record_of(folder).exists()


@pytest.mark.parametrize("traffic", [False, True])
def test_what_must_stay_is_not_sent_and_the_device_answers_it_alone(folder, traffic):
    server = Knowing("large")
    client = Crayon(Choosing("small"), server, customizations_dir=folder, system="Be brief.")
    told = samples()
    told[4]["question"] += " ada@example.com"
    given = {"traffic": [s["question"] for s in told]} if traffic else {"samples": told}
    found = client.calibrate("mine", ask_server=True, **given)
    assert len(server.scored) == 39
    assert not any("ada@example.com" in request.messages[-1].content for request in server.scored)
    report = found.calibration.report
    assert (report.cases, report.server_labelled) == ((39, 39) if traffic else (40, 39))
    assert "1 were not sent to the server: they must stay on the device" in report.notes


def test_a_scope_of_the_caller_s_keeps_its_own_gates_beside_a_calibrated_profile(sdk, folder):
    calibrated(sdk, folder)
    stories = Scope("stories", [f"tell me a story about {thing}" for thing in "abcdefgh"], threshold=-1.0)
    device = Writing("small", [answer("a b", -0.9)])
    server = Knowing("large")
    client = make(sdk, folder, device, server, customization="mine", scopes=[stories])
    route = sdk.call(client.ask("tell me a story about b")).route
    assert (route.source, route.reason, route.scope) == (Source.DEVICE, Reason.IN_SCOPE, "stories")
    device.scripts = [answer("a b", -1.1)]
    route = sdk.call(client.ask("tell me a story about b")).route
    assert (route.reason, route.threshold) == (Reason.UNSURE, -1.0)


def test_a_scope_that_the_calibration_moved_holds_where_the_gates_decide(sdk, folder):
    client, _, _server = calibrated(sdk, folder, device=Choosing("small"))
    found = CalibrationRecord.from_json(record_of(folder).read_text())
    (rule,) = found.calibration.rules
    text = "what colour is the sky"
    before = sdk.call(client.ask(text)).route
    assert before.reason is Reason.SERVER_BETTER
    moved = replace(found.calibration, rules=(replace(rule, scope=1.0),))
    record_of(folder).write_text(replace(found, calibration=moved).to_json())
    explained = sdk.call_or_value(client.explain(text))
    assert not explained.scope.inside
    assert explained.scope.threshold == pytest.approx(sdk.call(client.customization("mine")).profiles[0].threshold + 1)
    assert sdk.call(client.ask(text)).route.reason in {Reason.OUT_OF_SCOPE, Reason.NO_GAIN}
    assert sdk.call(client.ask(text, private=True)).route.profile == "colour", "what no gate decides is as it was"


def test_another_preparation_of_the_same_model_is_refused_and_the_command_is_named(sdk, folder):
    def device(sha):
        made = Choosing("small")
        made.file_sha256 = sha
        return made

    found = sdk.call(make(sdk, folder, device("c" * 64)).calibrate("mine"))
    assert found.binding.quantization == f"Q8_0 {'c' * 16}"
    other, server = device("d" * 64), Knowing("large")
    client = make(sdk, folder, other, server, customization="mine")
    with pytest.raises(ConfigError, match=r"quantization: was made for Q8_0 c+, but Q8_0 d+ .*`crayon calibrate mine`"):
        sdk.call(client.choose("which colour has thing 3 sure good", ["red", "green"]))
    assert (other.scored, server.scored, server.asked_models) == ([], [], 0)
    same = make(sdk, folder, device("c" * 64), server, customization="mine")
    assert sdk.call(same.choose("which colour has thing 3 sure good", ["red", "green"])).text in {"red", "green"}
