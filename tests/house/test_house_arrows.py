"""Which room may import which: design section 1 as a table, held for every module."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
# Folder to package, as in pyproject.toml's package-dir.
FOLDERS = {
    "crayon": "crayon",
    "proto/crayon/v1": "crayon.v1",
    "router": "crayon.router",
    "device": "crayon.device",
    "server": "crayon.server",
}
CONTRACTS = {
    "errors", "messages", "sampling", "completion", "stream", "context_limit", "engine", "machine",
    "local_only", "tracing", "private_file", "text_form", "contention", "constraint", "reasons", "tool",
    "token_options",
}  # fmt: skip
BELOW_SDK = {
    "contracts", "data", "llama", "adapters", "blending", "customising", "models", "wire", "v1", "router", "device",
    "client", "privacy", "constraints", "families", "ledger",
}  # fmt: skip
LAB = BELOW_SDK | {"sdk", "sdk.call", "sdk.budget", "config", "crayon"}
COMMAND = {
    "contracts",
    "cli.shared",
    "config",
    "data",
    "models",
    "sdk",
    "sdk.call",
    "customising",
    "device",
    "adapters",
    "client",
}
# Room to the rooms it may import; its own is always allowed. A room inside another is named with a dot.
ARROWS: dict[str, set[str]] = {
    "contracts": set(),
    "data": {"contracts", "router"},
    "v1": set(),
    "llama": {"contracts"},
    "adapters": {"contracts", "data", "models"},
    "blending": {"contracts", "adapters", "llama", "models"},
    "customising": {"contracts", "adapters", "router"},
    "models": {"contracts", "data"},
    "constraints": {"contracts"},
    "families": {"contracts", "constraints"},
    "ledger": {"contracts"},
    "wire": {"contracts", "v1"},
    "router": {"contracts"},
    "privacy": {"contracts"},
    "device": {"contracts", "constraints", "families", "data", "adapters", "blending", "models", "llama"},
    "client": {"contracts", "ledger", "wire", "v1"},
    "server.steps": {"contracts"},
    "server.forecast": {"contracts", "server.steps"},
    "server.cost": {"contracts", "server.steps"},
    "server.scheduler": {"contracts", "server.steps", "server.cost", "server.forecast"},
    "server.planner": {"contracts"},
    "server.observability": {"contracts", "wire", "v1"},
    "server.engines": {"contracts", "constraints", "families", "server.observability"},
    "server.engines.llama": {
        "contracts", "constraints", "families", "adapters", "blending", "llama", "server.steps", "server.cost",
        "server.scheduler", "server.observability",
    },
    "server.engines.vllm": {
        "contracts", "constraints", "families", "adapters", "llama", "server.forecast", "server.scheduler",
        "server.observability",
    },
    "server.engines.openvino": {"contracts", "adapters", "models"},
    "server": {"contracts", "wire", "v1", "server.observability", "server.scheduler"},
    "server.tuning": {
        "contracts", "adapters", "blending", "llama", "server", "server.steps", "server.cost", "server.scheduler",
    },
    "training": {"contracts", "data", "llama", "adapters", "customising", "models", "device"},
    "sdk.call": BELOW_SDK,
    "sdk.budget": BELOW_SDK | {"sdk.call"},
    "sdk.calibration": BELOW_SDK | {"sdk.call", "sdk.budget"},
    "sdk": BELOW_SDK | {"sdk.call", "sdk.budget", "sdk.calibration"},
    "config": {"contracts", "privacy", "router", "server", "server.forecast", "wire"},
    "gateway.shared": {"contracts", "customising", "ledger", "models", "sdk", "sdk.call", "server"},
    "gateway.openai": {"contracts", "gateway.shared", "sdk"},
    "gateway.anthropic": {"contracts", "gateway.shared", "sdk"},
    "gateway.ollama": {"contracts", "gateway.shared", "gateway.openai", "sdk"},
    "gateway.page": set(),
    "gateway": {
        "contracts", "gateway.shared", "gateway.openai", "gateway.anthropic", "gateway.ollama", "gateway.page",
        "config", "data", "sdk", "server", "wire",
    },
    "lab": set(),
    "lab.bench": LAB | {"server", "server.engines", "server.engines.llama", "server.planner", "server.scheduler"},
    "lab.eval": LAB | {"lab.bench", "training"},
    "cli.shared": COMMAND - {"cli.shared"} | {"constraints", "router"},
    "cli.customize": COMMAND,
    "cli.models": COMMAND | {"training"},
    "cli.pool": COMMAND | {"training"},
    "cli.doctor": COMMAND | {"llama"},
    "cli.demo": COMMAND | {"cli.customize", "cli.models", "lab.eval"},
    "cli.chat": COMMAND | {"cli.customize", "cli.demo"},
    "cli.route": COMMAND | {"cli.customize", "ledger", "router", "sdk.budget", "sdk.calibration"},
    "cli.serve": COMMAND | {
        "llama", "wire", "training", "gateway", "server", "server.cost", "server.engines", "server.engines.llama",
        "server.engines.vllm", "server.observability", "server.tuning",
    },
    "cli.gateway": COMMAND | {"cli.serve", "gateway"},
    "cli.top": COMMAND | {"wire", "server.observability"},
    "cli.tune": COMMAND | {"cli.serve", "lab.bench", "server.planner", "server.tuning"},
    "cli.eval": COMMAND | {"lab.bench", "lab.eval", "server.engines.llama"},
    "cli": COMMAND | {"cli.eval", "lab.bench", "wire", "crayon"},
    "crayon": {"contracts", "customising", "data", "router", "sdk", "sdk.call", "sdk.budget"},
    "__main__": {"cli"},
}  # fmt: skip
# Library to the rooms that may import it.
LIBRARIES: dict[str, set[str]] = {
    "llama_cpp": {"llama"},
    "ctypes": {"llama"},
    "starlette": {"gateway"},
    "uvicorn": {"gateway"},
    "grpc": {"client", "wire", "v1", "server"},
    "google": {"client", "wire", "v1", "server"},
    "pydantic": {"config", "constraints", "families"},
    "pydantic_core": {"constraints", "families"},
    "llguidance": {"constraints"},
    "jsonschema": {"lab"},
    "pydantic_settings": {"config"},
    "typer": {"cli"},
    "prompt_toolkit": {"cli"},
    "rich": {"cli"},
    "huggingface_hub": {"models"},
    "regex": {"privacy"},
    "prometheus_client": {"server"},
    "opentelemetry": {"contracts", "cli"},
    "presidio_analyzer": {"privacy"},
    "scipy": {"server"},
    "torch": {"training", "lab", "server"},
    "vllm": {"server"},
    "openvino": {"lab", "server"},
    "tokenizers": {"server"},
    "transformers": {"training"},
    "peft": {"training", "lab"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of the package with its import name."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def room(module: str) -> str:
    """Return the room of a module of ours."""
    parts = module.split(".")
    if len(parts) == 1:
        return "crayon"
    if parts[1] in CONTRACTS:
        return "contracts"
    inside = [room for room in ARROWS if f"{module.removeprefix('crayon.')}.".startswith(f"{room}.")]
    return max(inside, key=len, default=parts[1])


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full module name of every import, those inside functions and for types only included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            if base == "crayon":
                yield from ((node.lineno, _of_crayon(alias.name)) for alias in node.names)
            else:
                yield node.lineno, base


def _of_crayon(name: str) -> str:
    """Tell `from crayon import errors`, a module, from `from crayon import Crayon`, a name."""
    return f"crayon.{name}" if name in INSIDE else "crayon"


MODULES = list(modules())
INSIDE = {module.split(".")[1] for module, _ in MODULES if "." in module}
MOST_FILES = 25


def test_the_walk_finds_the_house() -> None:
    rooms = {room(name) for name, _ in MODULES}
    assert set(ARROWS) - rooms == set(), "the table names rooms that there are not"


def test_every_room_is_in_the_table() -> None:
    new = sorted({room(name) for name, _ in MODULES} - set(ARROWS))
    assert new == [], "new rooms: say in ARROWS what they may import"


def test_arrows_point_down() -> None:
    assert [wrong for name, path in MODULES for wrong in wrong_imports(name, path)] == []


def wrong_imports(name: str, path: Path) -> Iterator[str]:
    """Yield what a module imports and must not."""
    here = room(name)
    for line, target in imports(name, path):
        if target == "crayon" or target.startswith("crayon."):
            there = room(target)
            if there != here and there not in ARROWS[here]:
                yield f"{path}:{line}: {here} must not import {there}"
        else:
            library = target.split(".")[0]
            if not {here, here.split(".")[0]} & LIBRARIES.get(library, {here}):
                yield f"{path}:{line}: {here} must not import {library}"


def test_the_table_has_no_cycle() -> None:
    done: set[str] = set()
    left = {name: set(below) for name, below in ARROWS.items()}
    while left:
        free = {name for name, below in left.items() if below <= done}
        assert free, f"a cycle among {sorted(left)}"
        done |= free
        left = {name: below for name, below in left.items() if name not in free}


def test_habits() -> None:
    assert [wrong for name, path in MODULES if "_pb2" not in path.name for wrong in broken_habits(name, path)] == []


def broken_habits(name: str, path: Path) -> Iterator[str]:
    """Yield where a module is too long, asserts, or prints though it is not of the command line."""
    text = path.read_text("utf-8")
    if text.count("\n") > 600:
        yield f"{path} has {text.count(chr(10))} lines: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert):
            yield f"{path}:{node.lineno}: raise an error of our own"
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "print" and room(name).split(".")[0] != "cli":
            yield f"{path}:{node.lineno}: only the command line prints"


def test_no_folder_is_crowded() -> None:
    found = Counter(path.parent.relative_to(ROOT).as_posix() for _, path in MODULES)
    assert {folder: count for folder, count in found.items() if count > MOST_FILES} == {}


def test_what_breaks_a_rule_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("import torch\nfrom crayon.sdk import client\n\nassert client\nprint(torch)\n" + "\n" * 600)
    told = [line.removeprefix(str(path)) for line in wrong_imports("crayon.router.wrong", path)]
    assert told == [":1: router must not import torch", ":2: router must not import sdk"]
    told = [line.removeprefix(str(path)) for line in broken_habits("crayon.router.wrong", path)]
    assert told == [
        " has 605 lines: split it",
        ":4: raise an error of our own",
        ":5: only the command line prints",
    ]


def test_the_router_needs_numpy_at_most() -> None:
    import sys

    found = {
        target.split(".")[0] for name, path in MODULES if room(name) == "router" for _, target in imports(name, path)
    }
    assert found - set(sys.stdlib_module_names) <= {"numpy", "crayon"}
