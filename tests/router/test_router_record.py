from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from crayon.errors import ConfigError
from crayon.router import (
    Best,
    Binding,
    CalibrationRecord,
    Case,
    MaxDeviceError,
    MinQuality,
    ServerShare,
    calibrate,
)

BINDING = Binding(
    base_model="a1",
    quantization="b2",
    pool_id="c3",
    profiles={"bank": "d4", "travel": "e5"},
    prompt_template="f6",
    server_model="big",
)


def cases():
    rng = np.random.default_rng(5)
    sure = rng.normal(0, 1, 300)
    return [
        Case(
            profile="bank" if i % 2 else "travel",
            inside_score=float(rng.normal(0.2, 0.2)),
            sure=float(s),
            device_right=float(rng.random() < 1 / (1 + np.exp(-3 * s))),
            server_right=float(rng.random() < 0.9),
        )
        for i, s in enumerate(sure)
    ]


def record(target=None):
    return CalibrationRecord(
        binding=BINDING,
        calibration=calibrate(cases(), target, rounds=20),
        signal="mean_logprob",
        date="2026-11-25T16:00:00Z",
        hold_tokens=12,
    )


RECORD = record(ServerShare(0.2))


def sealed(data):
    """Return the text of a record whose digest fits again: somebody knows how it is made."""
    content = {name: value for name, value in data.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "digest": hashlib.sha256(canonical.encode()).hexdigest()})


@pytest.mark.parametrize("target", [Best(), ServerShare(0.2), MinQuality(0.9), MaxDeviceError(0.3)])
def test_json_brings_back_the_same_record_and_the_same_decisions(target):
    made = record(target)
    back = CalibrationRecord.from_json(made.to_json())
    assert back == made
    assert [back.calibration.benefit(c.profile, c.inside_score, c.sure) for c in cases()] == [
        made.calibration.benefit(c.profile, c.inside_score, c.sure) for c in cases()
    ]


def test_a_record_of_before_holds_a_null_more_and_is_read():
    old = json.loads(RECORD.to_json()) | {"combiner": None}
    assert CalibrationRecord.from_json(sealed(old)) == RECORD
    with pytest.raises(ConfigError, match=r"calibration\.combiner"):
        CalibrationRecord.from_json(sealed(old | {"combiner": {}}))
    with pytest.raises(ConfigError, match="signal"):
        replace(RECORD, signal="luck")


def test_a_profile_that_is_called_otherwise_now_is_known_by_its_hash():
    now = replace(BINDING, profiles={"trips": "e5", "bank": "d4"})
    found = RECORD.called_as(now.profiles)
    found.check(now)
    old = RECORD.calibration
    assert [found.calibration.rule(name).hardness for name in ("trips", "bank")] == [
        old.rule(name).hardness for name in ("travel", "bank")
    ]
    assert RECORD.called_as(BINDING.profiles) is RECORD
    other = replace(now, profiles={"trips": "other", "bank": "d4"})
    with pytest.raises(ConfigError, match="profiles"):
        RECORD.called_as(other.profiles).check(other)


def test_the_record_holds_for_what_it_was_made_for():
    RECORD.check(BINDING)
    RECORD.check(replace(BINDING, profiles={"travel": "e5", "bank": "d4"}))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"base_model": "x"}, "base_model"),
        ({"quantization": "x"}, "quantization"),
        ({"pool_id": ""}, "pool_id"),
        ({"profiles": {"bank": "x", "travel": "e5"}}, "profiles.bank"),
        ({"profiles": {"bank": "d4"}}, "profiles.travel"),
        ({"profiles": {"bank": "d4", "travel": "e5", "law": "x"}}, "profiles.law"),
        ({"prompt_template": "x"}, "prompt_template"),
        ({"server_model": "x"}, "server_model"),
    ],
)
def test_what_differs_is_named_with_what_to_run(change, key):
    with pytest.raises(ConfigError, match="run `crayon calibrate` again") as caught:
        RECORD.check(replace(BINDING, **change))
    assert caught.value.key == f"calibration.{key}"


def test_every_edit_by_hand_is_seen():
    data = json.loads(RECORD.to_json())
    data["calibration"]["lam"] = 0.0
    with pytest.raises(ConfigError, match=r"edited or damaged; run `crayon calibrate` again") as caught:
        CalibrationRecord.from_json(json.dumps(data))
    assert caught.value.key == "calibration.digest"


def edit(path, value):
    data = json.loads(RECORD.to_json())
    at = data
    for name in path[:-1]:
        at = at[name]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return sealed(data)


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (["version"], 2, "calibration.version"),
        (["date"], "yesterday", "calibration.date"),
        (["date"], 5, "calibration.date"),
        (["signal"], "luck", "calibration.signal"),
        (["signal"], ..., "calibration.signal"),
        (["hold_tokens"], 0, "calibration.hold_tokens"),
        (["hold_tokens"], 65, "calibration.hold_tokens"),
        (["hold_tokens"], 8.0, "calibration.hold_tokens"),
        (["more"], 1, "calibration.more"),
        (["binding", "pool_id"], None, "calibration.binding.pool_id"),
        (["binding", "profiles", "bank"], 1, "calibration.binding.profiles.bank"),
        (["binding", "pool"], "x", "calibration.binding.pool"),
        (["calibration", "lam"], -0.1, "calibration.lam"),
        (["calibration", "lam"], True, "calibration.lam"),
        (["calibration", "lam"], 10**400, "calibration.lam"),
        (["calibration", "tie"], "0", "calibration.tie"),
        (["calibration", "rules"], {}, "calibration.rules"),
        (["calibration", "rules", 1, "profile"], "travel", "calibration.rules"),
        (["calibration", "rules", 0, "device", "slope"], -1, "calibration.rules.device.slope"),
        (["calibration", "rules", 0, "server"], 1.5, "calibration.rules.server"),
        (["calibration", "rules", 0, "server_n"], 1.5, "calibration.rules.server_n"),
        (["calibration", "target", "kind"], "magic", "calibration.target.kind"),
        (["calibration", "target", "share"], 2, "calibration.target.share"),
        (["calibration", "report", "cases"], -1, "calibration.report.cases"),
        (["calibration", "report", "curve"], [[0.1]], "calibration.report.curve"),
        (["calibration", "report", "gain", "low"], ..., "calibration.report.gain.low"),
        (["calibration", "report", "notes"], [1], "calibration.report.notes"),
        (["calibration", "outside", "scope"], 5, "calibration.rules.scope"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name_though_the_digest_fits(path, value, key):
    with pytest.raises(ConfigError) as caught:
        CalibrationRecord.from_json(edit(path, value))
    assert caught.value.key == key


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"version": NaN}'])
def test_a_text_that_is_no_record_is_refused(text):
    with pytest.raises(ConfigError, match="calibration"):
        CalibrationRecord.from_json(text)


def test_only_a_date_is_a_date():
    with pytest.raises(ConfigError, match="date"):
        replace(RECORD, date="2026")
