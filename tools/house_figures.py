"""Print what the house is made of: files and lines a room, arrows between rooms, loops, and the way of one `ask`.

A room here is a folder of the package; the modules directly in `crayon` are the contracts. `--root` looks at another
checkout; the way of an `ask` is traced in the package that Python imports, over gRPC on this machine, with the echo
engine and so without a model.

    python tools/house_figures.py
    python tools/house_figures.py --root ../before --no-ask
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

# Folder to package, as in pyproject.toml's package-dir.
FOLDERS = {
    "crayon": "crayon",
    "proto/crayon/v1": "crayon.v1",
    "router": "crayon.router",
    "device": "crayon.device",
    "server": "crayon.server",
}
PATIENCE_S = 30.0
ASKS = 5


@dataclass(slots=True)
class House:
    """What the modules of a checkout are; rooms by package, `arrows` from a room to those that it imports."""

    files: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    imports: int = 0
    """Lines that imports take."""
    arrows: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def longest(self) -> tuple[str, int]:
        """The room with most files, and how many."""
        return max(self.files.items(), key=lambda item: item[1])


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every module with its import name; a package by the name of its folder. Generated ones are left out."""
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            if "_pb2" in path.name:
                continue
            parts = [*package.split("."), *path.relative_to(root / folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def look(root: Path) -> House:
    """Read every module of a checkout; nothing is imported."""
    house = House()
    known = dict(modules(root))
    packages = {name for name, path in known.items() if path.name == "__init__.py"} | {"crayon"}

    def room_of(name: str) -> str:
        room = name
        while room not in packages:
            room = room.rpartition(".")[0]
        if name == "crayon.__main__":
            return name
        return "contracts" if room == "crayon" != name else room

    for name, path in known.items():
        room, text = room_of(name), path.read_text("utf-8")
        house.files[room] = house.files.get(room, 0) + 1
        house.lines[room] = house.lines.get(room, 0) + text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            house.imports += (node.end_lineno or node.lineno) - node.lineno + 1
            house.arrows[room] |= {room_of(target) for target in _targets(node, known)} - {room}
    return house


def _targets(node: ast.Import | ast.ImportFrom, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif node.module is not None and (node.module in known or node.module == "crayon"):
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in known else node.module


def loops(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of rooms that reach each other."""
    reach = {room: _reached(room, arrows) for room in arrows}
    groups = {
        tuple(sorted(other for other in reach[room] if room in reach.get(other, set())))
        for room in arrows
        if room in reach[room]
    }
    return [list(group) for group in sorted(groups)]


def _reached(room: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(arrows.get(room, ()))
    while ahead:
        here = ahead.pop()
        if here not in found:
            found.add(here)
            ahead += arrows.get(here, ())
    return found


class Way:
    """Counts the files of ours that calls enter, and how often a thread goes from one to another."""

    def __init__(self, place: Path) -> None:
        self._ours = tuple(f"{place / folder}{os.sep}" for folder in FOLDERS)
        self._last: dict[int, str] = {}
        self._lock = threading.Lock()
        self.files: set[str] = set()
        self.changes = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Take in one event; for `sys.setprofile`."""
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(self._ours):
            return
        with self._lock:
            thread = threading.get_ident()
            self.changes += self._last.get(thread, name) != name
            self._last[thread] = name
            self.files.add(name)


def ask_traced() -> list[Way]:
    """Return the ways of some calls of `ask` over gRPC, after a first one that opens the connection.

    They differ by what the threads of client and server do meanwhile.
    """
    import crayon
    from crayon.server.engines.echo import EchoEngine

    ways: list[Way] = []
    place = Path(crayon.__file__).parent.parent
    watching = threading.Event()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if watching.is_set():
            ways[-1](frame, event, argument)

    threading.setprofile(profile)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.update(HOME=folder, XDG_DATA_HOME=folder, XDG_CONFIG_HOME=folder)
            with _serving(EchoEngine) as address, crayon.Crayon(device=None, server=address) as client:
                client.ask("a first one")
                sys.setprofile(profile)
                for _ in range(ASKS):
                    ways.append(Way(place))
                    watching.set()
                    client.ask("how far is it from here")
                    watching.clear()
                sys.setprofile(None)
    finally:
        threading.setprofile(None)  # type: ignore[arg-type] # it takes None, as sys.setprofile does
    return ways


@contextmanager
def _serving(make: Callable[[], Any]) -> Iterator[str]:
    """Serve an engine in a thread with an event loop of its own, and give its address."""
    from crayon.server.config import ServeConfig
    from crayon.server.serve import Server

    bound: Future[str] = Future()
    ended: Future[Callable[[], None]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        server = Server(ServeConfig(port=0))
        address = await server.start()
        await server.load(make)
        bound.set_result(address)
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="house-server")
    thread.start()
    try:
        yield bound.result(PATIENCE_S)
    finally:
        ended.result(PATIENCE_S)()
        thread.join(PATIENCE_S)


def figures(root: Path, *, ask: bool) -> dict[str, Any]:
    """Return all figures of a checkout."""
    house = look(root)
    told: dict[str, Any] = {
        "rooms": {room: [house.files[room], house.lines[room]] for room in sorted(house.files)},
        "files": sum(house.files.values()),
        "lines": sum(house.lines.values()),
        "longest list": house.longest,
        "import lines": house.imports,
        "arrows": sum(len(targets) for targets in house.arrows.values()),
        "loops": loops(house.arrows),
    }
    if ask:
        ways = ask_traced()
        told["files of an ask"] = median_low(len(way.files) for way in ways)
        told["changes of file of an ask"] = median_low(way.changes for way in ways)
    return told


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the checkout")
    parser.add_argument("--no-ask", action="store_true", help="leave out the way of an `ask`")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told = figures(options.root, ask=not options.no_ask)
    if options.json:
        print(json.dumps(told, indent=2))
        return
    print(f"{'room':<32} {'files':>6} {'lines':>7}")
    for room, (files, lines) in told.pop("rooms").items():
        print(f"{room:<32} {files:>6} {lines:>7}")
    told["longest list"] = ": ".join(map(str, told["longest list"]))
    told["loops"] = "; ".join([str(len(told["loops"])), *(" ".join(loop) for loop in told["loops"])])
    for name, value in told.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
