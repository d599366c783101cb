"""Every rule that is switched off says why."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("crayon", "router", "device", "server", "tools", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SWITCH = re.compile(r"#\s*(noqa|type:\s*ignore|ruff:|mypy:|pragma)")
# The rules, then a dash or another comment, then words.
REASONED = re.compile(r"#\s*(noqa: [A-Z]+\d+(, [A-Z]+\d+)*|type: ignore\[[a-z, -]+\])(\s+-\s+|\s+#\s*)\S.{3,}")


def unexplained(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and SWITCH.match(token.string):
                # Two switches may share a line, and its one reason.
                parts = re.split(r"(?=#\s*(?:noqa|type:\s*ignore))", token.string)
                if not REASONED.match([part for part in parts if part][-1]):
                    yield f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"


def test_a_switched_off_rule_says_why() -> None:
    assert [switch for path in FILES for switch in unexplained(path)] == []


def test_rules_switched_off_for_whole_folders_say_why() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    lists = re.findall(r'(?:^ignore|^"[^"\n]+\*\*") = \[\n(.*?)^\]', text, re.DOTALL | re.MULTILINE)
    rules = [line for block in lists for line in block.splitlines()]
    assert len(rules) > 10, "the lists were found"
    assert [line for line in rules if not re.match(r'\s+"[A-Z]+\d*",\s+# \S.{5,}', line)] == []


def test_a_bare_switch_is_noticed(tmp_path: Path) -> None:
    switch = "no" + "qa"
    lines = [
        f"a = 1  # {switch}",
        f"b = 1  # {switch}: E501",
        f"c = 1  # {switch}: E501 - a table",
        f"d = '# {switch}'",
    ]
    (tmp_path / "bad.py").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_house_ignores.ROOT", tmp_path)
        assert [line.split(":")[1] for line in unexplained(tmp_path / "bad.py")] == ["1", "2"]
