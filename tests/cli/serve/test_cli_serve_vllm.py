"""`crayon serve --engine vllm`: what is refused before vLLM is started, and what a folder says of itself."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from crayon.cli.serve.vllm import further_arguments, named_folders
from crayon.cli.shared.app import app
from crayon.errors import ConfigError, ModelFileError
from crayon.models.exported import RECORD, Exported, read_exported

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.mark.skipif(find_spec("vllm.version") is not None, reason="vLLM is here")
def test_what_is_missing_is_named(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    result = runner.invoke(app, ["serve", "--engine", "vllm", "--model", str(tmp_path), "--port", "0"])
    assert result.exit_code != 0
    assert "pip install 'crayon-llm[vllm]'" in result.stderr


def test_adapters_are_for_vllm(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["serve", "--adapter", f"theirs={tmp_path}", "--port", "0"])
    assert result.exit_code != 0
    assert "--engine vllm" in result.stderr


def test_adapters_have_a_name_and_a_folder(tmp_path: Path) -> None:
    assert named_folders([f"theirs={tmp_path}"]) == {"theirs": tmp_path}
    for given, words in (
        (["theirs"], "NAME=FOLDER"),
        ([f"={tmp_path}"], "NAME=FOLDER"),
        ([f"a={tmp_path}", f"a={tmp_path}"], "twice"),
        ([f"a={tmp_path}/none"], "no folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            named_folders(given)


def test_further_arguments_are_json_or_text() -> None:
    given = ["a=1", "b=0.5", "c=true", "d=False", "--e-f=ray", 'g={"h": [1]}', "i=None"]
    wanted = {"a": 1, "b": 0.5, "c": True, "d": False, "e_f": "ray", "g": {"h": [1]}, "i": None}
    assert further_arguments(given) == wanted
    for bad, words in ((["a"], "NAME=VALUE"), (["=1"], "NAME=VALUE"), (["a-b=1", "a_b=2"], "twice")):
        with pytest.raises(ConfigError, match=words):
            further_arguments(bad)


def test_a_folder_says_which_model_it_is(tmp_path: Path) -> None:
    assert read_exported(tmp_path) is None
    exported = Exported("it", "ab" * 32, "Q4_1")
    (tmp_path / RECORD).write_text(json.dumps(exported.as_json()))
    assert read_exported(tmp_path) == exported
    for damaged in ("{", "[]", '{"name": "it"}', '{"name": 1, "source_sha256": "", "quantization": ""}'):
        (tmp_path / RECORD).write_text(damaged)
        with pytest.raises(ModelFileError, match="damaged"):
            read_exported(tmp_path)
