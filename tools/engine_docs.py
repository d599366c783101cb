"""Write the tables of docs/reference/engines.md from the engines' code, or with --check fail where they differ."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from write_or_check import run

from crayon.engine import BLEND, CONSTRAIN, ENCODE, GENERATE, SCORE
from crayon.server.engines.vllm.sampling import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "engines.md"
SCHEDULED = "server/engines/llama/scheduled.py"
# Engine to the modules that make it: these declare its capabilities and its methods.
ENGINES = {
    "device": ("device/engine.py",),
    "llama_cpp": (SCHEDULED, "server/engines/llama/engine.py"),
    "vllm": ("server/engines/vllm/engine.py",),
    "echo": ("server/engines/echo.py",),
}
NAMES = {"GENERATE": GENERATE, "SCORE": SCORE, "ENCODE": ENCODE, "BLEND": BLEND, "CONSTRAIN": CONSTRAIN}
# What a method of an engine's class means for who operates it.
METHODS = {"on_failure": "tells of its own death (health says NOT_SERVING)", "stats": "metrics"}


def declared(path: Path) -> set[str]:
    """Return the capabilities whose names a module puts into sets: that is how an engine declares them."""
    sets = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Set))
    return {NAMES[part.id] for each in sets for part in each.elts if isinstance(part, ast.Name) and part.id in NAMES}


def methods(path: Path) -> set[str]:
    """Return the names of all methods in a module's classes."""
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return {node.name for each in classes for node in each.body if isinstance(node, ast.FunctionDef)}


def capability_rows() -> Iterator[str]:
    """Yield the table of capabilities, a row each."""
    can = {name: set[str]().union(*(declared(ROOT / path) for path in paths)) for name, paths in ENGINES.items()}
    has = {name: set[str]().union(*(methods(ROOT / path) for path in paths)) for name, paths in ENGINES.items()}
    yield "| | " + " | ".join(f"`{name}`" for name in ENGINES) + " |"
    yield "| --- |" + " --- |" * len(ENGINES)
    for capability in NAMES.values():
        yield f"| {capability} | " + " | ".join("yes" if capability in can[name] else "-" for name in ENGINES) + " |"
    for method, meaning in METHODS.items():
        yield f"| {meaning} | " + " | ".join("yes" if method in has[name] else "-" for name in ENGINES) + " |"


def sampling_rows() -> Iterator[str]:
    """Yield the table of sampling parameters, a row each."""
    yield "| parameter | vLLM's own | computed by |"
    yield "| --- | --- | --- |"
    for row in TABLE:
        by = "vLLM" if row.by == "vllm" else "our chain, as llama.cpp does"
        yield f"| `{row.name}` | `{row.vllm}` | {by} |"


SECTIONS = {"capabilities": capability_rows, "sampling": sampling_rows}


def written(text: str) -> str:
    """Return the page with its tables as the code has them."""
    for name, rows in SECTIONS.items():
        start, end = f"<!-- {name}: written by tools/engine_docs.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{TARGET} has no section {start}")
        made = "\n".join((start, "", *rows(), "", end))
        text = pattern.sub(lambda _, made=made: made, text)  # type: ignore[misc] # a default of a lambda
    return text


if __name__ == "__main__":
    sys.exit(run(__doc__, TARGET, lambda path: written(path.read_text(encoding="utf-8"))))
