"""Schemas of others: what is counted, and that it is the same schemas each time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Delta, Finished, Started, Stream
from crayon.errors import InvalidRequestError
from crayon.lab.eval.schema import evaluate_schemas, listed, read_cases
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from crayon.engine import GenerateRequest

SCHEMAS: dict[str, Any] = {
    "yes": {"type": "boolean"},
    "word": {"schema": {"enum": ["one", "two"]}, "tests": []},
    "never": {"properties": {"x": {"not": {}}}},
    "format": {"type": "string", "format": "iban"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, schema in SCHEMAS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(schema))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    return tmp_path


class Wrong(EchoEngine):
    """Overlooks the constraint, and refuses one schema in words of its own."""

    def generate(self, request: GenerateRequest) -> Stream:
        if request.constraint is not None and "not" in request.constraint.text:
            raise InvalidRequestError("response_format", "no")
        stream = Stream()
        stream.push(Started(request.request_id, "wrong", constrained=True))
        stream.push(Delta("7"))
        stream.push(Finished(FinishReason.STOP, Usage(), Timings()))
        return stream


def test_the_same_schemas_are_drawn_each_time(folder: Path) -> None:
    whole = [case.name for case in read_cases(folder, 99)]
    assert sorted(whole) == sorted(f"{name}.json" for name in SCHEMAS)
    assert [case.name for case in read_cases(folder, 2)] == whole[:2]
    assert {"enum": ["one", "two"]} in [case.schema for case in read_cases(folder, 99)]
    with pytest.raises(InvalidRequestError, match="holds no"):
        read_cases(folder / "nothing", 9)


def test_what_fits_and_what_does_not_is_told_apart(folder: Path) -> None:
    found = evaluate_schemas(read_cases(folder, 9), {"echo": EchoEngine(), "wrong": Wrong()}, max_tokens=99)
    record = found.as_json()
    assert (record["schemas"], record["refused"], record["accepted"]) == (4, 2, 0.5)
    assert record["why"] == {"'not'": 1, "'format'": 1}
    assert record["sides"]["echo"] == {"valid": 2, "invalid": [], "cut": 0, "refused": 2, "failed": {}}
    assert sorted(record["sides"]["wrong"]["invalid"]) == ["format.json", "word.json", "yes.json"]
    assert record["disagreements"] == ["format.json", "never.json"]


def test_a_cut_document_is_neither(folder: Path) -> None:
    found = evaluate_schemas(read_cases(folder, 9), {"echo": EchoEngine(context_tokens=8)}, max_tokens=1)
    assert found.sides["echo"].invalid == []


def test_the_command_says_how_many_can_be_kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    result = CliRunner().invoke(app, ["eval", "schema", str(folder), "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accepted"] == 0.5
    assert json.loads((out / "schema.json").read_text())["schemas"] == 4
    plain = CliRunner().invoke(app, ["eval", "schema", str(folder)])
    assert "2 of 4 schemas can be kept (50.0%)" in plain.stdout


def test_the_sample_of_jsonschemabench_is_listed_by_name_and_hash(tmp_path: Path) -> None:
    lines = (Path(__file__).parent / "jsonschemabench_500.txt").read_text("utf-8").splitlines()
    names = [line.split("  ", 1)[1] for line in lines]
    assert len(set(names)) == 500
    assert names == sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    (tmp_path / "a.json").write_text('{"type": "object"}')
    (case,) = read_cases(tmp_path, 1)
    digest = hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()
    assert listed([case]) == f"{digest}  a.json\n"
