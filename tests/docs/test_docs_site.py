"""What `make docs` builds: every page has its place, and the references leave nothing out. Needs no mkdocs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import crayon
from crayon import CrayonError
from crayon.v1 import inference_pb2

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NAVIGATION = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
TOOL = ROOT / "tools" / "proto_docs.py"
GRPC = (DOCS / "reference" / "grpc.md").read_text("utf-8")


@pytest.fixture(scope="module")
def hooks() -> SimpleNamespace:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools" / "docs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module  # type: ignore[return-value] # a module is as good


def test_the_navigation_holds_every_page_and_no_other() -> None:
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert len(NAVIGATION) == len(set(NAVIGATION))
    assert pages == set(NAVIGATION)


def test_links_out_of_the_folder_become_words(hooks: SimpleNamespace) -> None:
    def shown(text: str, uri: str) -> str:
        return str(hooks.on_page_markdown(text, page=SimpleNamespace(file=SimpleNamespace(src_uri=uri))))

    assert shown("see [it](../tests/a.py) and [b](b.md)", "a.md") == "see it and [b](b.md)"
    assert shown("see [it](../sdk.md) and [c](../../c.py)", "reference/a.md") == "see [it](../sdk.md) and c"


def test_the_reference_names_every_public_name() -> None:
    named = set(re.findall(r"^::: crayon\.(\S+)$", (DOCS / "reference" / "python.md").read_text("utf-8"), re.MULTILINE))
    errors = {
        name
        for name in crayon.__all__
        if isinstance(value := getattr(crayon, name), type) and issubclass(value, CrayonError)
    }
    engines = {"Engine", "ContinuationScore", "EncodeResult", "ScoreResult"}  # on the engines' page, with their module
    assert named == (set(crayon.__all__) - errors - engines) | {"errors"}
    assert "::: crayon.engine\n" in (DOCS / "reference" / "engine-protocol.md").read_text("utf-8")


def test_the_protocol_page_is_up_to_date_and_a_difference_is_noticed(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, str(TOOL), "--check"], timeout=60).returncode == 0
    (tmp_path / "grpc.md").write_text("old")
    check = [sys.executable, str(TOOL), "--check", "--output", str(tmp_path / "grpc.md")]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "out of date" in done.stderr


def test_the_protocol_page_names_every_method_message_field_and_value() -> None:
    file = inference_pb2.DESCRIPTOR
    for service in file.services_by_name.values():
        assert all(f"\n### {method.name}\n" in GRPC for method in service.methods)
    for message in file.message_types_by_name.values():
        section = GRPC.partition(f"\n### {message.name}\n")[2].partition("\n### ")[0]
        assert section, message.name
        assert all(f"| `{field.name}` | {field.number} |" in section for field in message.fields), message.name
    for enum in file.enum_types_by_name.values():
        assert all(f"| `{value.name}` | {value.number} |" in GRPC for value in enum.values)
