from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_tools import BASE, members, shared_manifest, shared_pool

from crayon.adapters import BaseModel, EncoderRecord, Gate, Manifest, Member, Rejected, Score, Target
from crayon.errors import AdapterError

TABLE: dict[str, Any] = json.loads(shared_pool().manifest.dump())


def parse(table: object) -> Manifest:
    return Manifest.parse(json.dumps(table).encode())


def test_a_manifest_survives_its_text() -> None:
    manifest = replace(
        shared_pool().manifest,
        title="Überblick 漢",
        rejected=(Rejected(name="weak", reason="2 points", score=Score(30.0, 32.0, 50, "accuracy")),),
        gate=Gate(temperature=0.2, sharpen=0.8, floor=0.1),
        a_seed=7,
    )
    assert Manifest.parse(manifest.dump()) == manifest


def test_a_reader_takes_no_part_in_mixtures() -> None:
    reading = (*members(2), replace(members(1)[0], name="reader", role="reader"))
    for gate in (Gate(), Gate(mixes=(True, True, True))):
        with pytest.raises(AdapterError, match=r"gate\.mixes must be false for reader"):
            shared_manifest(members=reading, gate=gate)
    manifest = shared_manifest(members=reading, gate=Gate(mixes=(True, True, False)), tensors_sha256="ab" * 32)
    assert Manifest.parse(manifest.dump()).members[2].role == "reader"
    assert Manifest.parse(json.dumps(TABLE).encode()).members[0].role == "task"


def test_the_id_changes_with_all_that_decides_what_weights_do() -> None:
    manifest = shared_manifest(tensors_sha256="0123456789abcdef" * 4)
    assert re.fullmatch(r"tiny-pool@[0-9a-f]{12}", manifest.id)
    changed: list[dict[str, Any]] = [
        {"name": "other"},
        {"tensors_sha256": "ab" * 32},
        {"a_seed": 1},
        {"base": replace(BASE, source_sha256="cd" * 32)},
        {"targets": manifest.targets[::-1]},
        {"members": manifest.members[::-1]},
        {"alpha": 1.0, "members": tuple(replace(member, alpha=1.0) for member in manifest.members)},
    ]
    ids = {manifest.id, *(replace(manifest, **change).id for change in changed)}
    assert len(ids) == 1 + len(changed)
    assert replace(manifest, title="New", gate=Gate(floor=0.5), training={}).id == manifest.id


def test_a_score_knows_its_gain() -> None:
    assert Score(30.0, 85.5, 70, "accuracy").gain == 55.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": "a\x1b[2Jb"}, r"title: 'a\\x1b\[2Jb' must be one line"),
        ({"title": "x" * 2001}, "at most 2,000 characters"),
        ({"members": [TABLE["members"][0] | {"licences": ["MIT\n"]}]}, "members: m0: .* must be one line"),
        ({"members": [TABLE["members"][0] | {"score": TABLE["members"][0]["score"] | {"metric": "\r"}}]}, "metric"),
        ({"rejected": [{"name": "x", "reason": "\u202ex"}]}, "rejected: .* must be one line"),
        ({"base": TABLE["base"] | {"name": "\ud800"}}, "base.name"),
        ({"schema": 2}, "schema is 2, this Crayon reads 1: update"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"name": "../up"}, "name is '../up'"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": ""}, "name is ''"),
        ({"name": 3}, "name must be text"),
        ({"kind": "other"}, "kind must be one of shared, independent"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": True}, "rank must be a whole number"),
        ({"rank": 3.0}, "rank must be a whole number"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": "6"}, "alpha must be a finite number"),
        ({"alpha": 10**400}, "alpha must be a finite number"),
        ({"targets": []}, "targets: there are 0"),
        ({"targets": TABLE["targets"] * 2}, "targets: blk.2.ffn_down.weight is there twice"),
        ({"targets": "all"}, "targets must be a list"),
        ({"targets": [{"name": "blk.0.x.weight", "outputs": 0, "inputs": 3}]}, "has a side of 0"),
        ({"targets": [{"name": "blk.0.x.weight", "outputs": 1 << 40, "inputs": 3}]}, "has a side of"),
        ({"targets": [{"name": "../x", "outputs": 3, "inputs": 3}]}, "is no name of a weight"),
        ({"targets": [{"name": "x" * 57, "outputs": 3, "inputs": 3}]}, "is no name of a weight"),
        ({"targets": [{"name": "x", "outputs": 3}]}, r"targets\[0\]: lacks the field 'inputs'"),
        ({"members": []}, "members: there are 0"),
        ({"members": TABLE["members"] * 400}, "members: there are 1200"),
        ({"members": TABLE["members"] * 2}, "members: m0 is there twice"),
        ({"members": [TABLE["members"][0] | {"rank": 4}]}, "m0 has another rank or alpha"),
        ({"members": [TABLE["members"][0] | {"name": "../../m"}]}, "members: name is '../../m'"),
        ({"members": [7]}, r"members\[0\]: must be a JSON object"),
        ({"members": [TABLE["members"][0] | {"licences": [1]}]}, r"members\[0\]: licences\[0\] must be text"),
        ({"base": TABLE["base"] | {"source_sha256": "AB" * 32}}, "64 hexadecimal"),
        ({"base": TABLE["base"] | {"architecture": "../x"}}, "architecture"),
        ({"base": TABLE["base"] | {"n_layer": 0}}, "n_layer"),
        ({"base": None}, "base: must be a JSON object"),
        ({"encoder": {"layer": -1, "dimensions": 4}}, "encoder.layer"),
        ({"encoder": {"layer": 1, "dimensions": 4, "kind": "magic"}}, "kind must be one of unit_mean, layer_mean"),
        ({"gate": {"temperature": 0.0}}, "gate.temperature is 0"),
        ({"gate": {"floor": -3}}, "gate.floor"),
        ({"gate": {"sharpen": 5}}, "gate.sharpen"),
        ({"training": [1]}, "training must be a JSON object"),
        ({"precision": "Q8"}, "precision must be one of F16, F32"),
        ({"tensors_sha256": "12"}, "tensors_sha256"),
        ({"tensors_sha256": ""}, "lacks the field 'tensors_sha256'"),
        ({"kind": "independent", "a_seed": 3}, "a_seed stands for the A of a shared pool"),
        (
            {"a_seed": 3, "targets": [target | {"inputs": 1 << 20} for target in TABLE["targets"]]}
            | {"rank": 1024, "members": [member | {"rank": 1024} for member in TABLE["members"]]},
            "a_seed stands for .* numbers .*keep A in the file",
        ),
        ({"kind": "independent", "rank": 2}, "rank must be that of the widest member"),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        parse(TABLE | changes)


@pytest.mark.parametrize("field", ["name", "title", "kind", "base", "rank", "alpha", "targets", "members"])
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    with pytest.raises(AdapterError, match=f"lacks the field '{field}'"):
        parse({key: value for key, value in TABLE.items() if key != field})


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"alpha": NaN}', b"[" * 100_000, b"1" * 5_000, b'"' + b"x" * 100 + b'"'],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterError, match=r"pool\.json: (is not JSON|must be a JSON object)"):
        Manifest.parse(data)


@pytest.mark.parametrize("training", [{"loss": float("nan")}, {"when": object()}, {"text": "\ud800"}])
def test_what_json_cannot_hold_is_not_written(training: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match="cannot be written as JSON"):
        replace(shared_manifest(), training=training).dump()


@pytest.mark.parametrize("name", ["Travel", "a b", ".hidden", "-x", "x" * 81, "tra\nvel", "übung"])
def test_members_have_names_that_can_be_file_names(name: str) -> None:
    with pytest.raises(AdapterError, match="members: name"):
        Member(name=name, title="", rank=1, alpha=1.0)


def test_members_and_encoders_are_checked_when_made_too() -> None:
    with pytest.raises(AdapterError, match="alpha"):
        Member(name="a", title="", rank=1, alpha=float("nan"))
    with pytest.raises(AdapterError, match="rank"):
        Member(name="a", title="", rank=2000, alpha=1.0)
    with pytest.raises(AdapterError, match="dimensions"):
        EncoderRecord(1, 0)
    with pytest.raises(AdapterError, match="hexadecimal"):
        BaseModel("x", "", "llama", 1, 1)
    with pytest.raises(AdapterError, match="name of a weight"):
        Target("", 1, 1)
    with pytest.raises(AdapterError, match="temperature"):
        Gate(temperature=float("nan"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths(item, (*path, key))
    return found


@given(path=st.sampled_from(paths(TABLE)), value=json_values)
def test_a_manifest_with_any_value_anywhere_is_read_or_refused(path: tuple[Any, ...], value: object) -> None:
    table: Any = json.loads(json.dumps(TABLE))
    if path:
        place = table
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    else:
        table = value
    try:
        manifest = parse(table)
    except AdapterError:
        return
    assert Manifest.parse(manifest.dump()) == manifest


def test_members_may_differ_in_an_independent_pool() -> None:
    wide = replace(members(1)[0], rank=9, alpha=3.0)
    manifest = replace(shared_manifest(), kind="independent", rank=9, members=(wide, *members(3)[1:]))
    assert manifest.members[0].scale == pytest.approx(1 / 3)
    assert manifest.base == BASE
