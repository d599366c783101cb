"""The figures of the house: rooms, arrows and loops of a made-up tree, and the way of a real `ask`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "house_figures.py"


def told(*arguments: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, TOOL, "--json", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_rooms_arrows_and_loops_are_counted(tmp_path: Path) -> None:
    for name, text in {
        "crayon/__init__.py": "",
        "crayon/errors.py": "import os\n",
        "crayon/sdk/__init__.py": "from crayon.errors import (\n    Wrong,\n)\n",
        "crayon/sdk/turn.py": "from crayon.sdk import answer\nfrom crayon import errors\n",
        "server/__init__.py": "",
        "server/service.py": "from crayon.server.engines.echo import Echo\nimport crayon.errors\n",
        "server/engines/__init__.py": "from crayon.server import service\n",
        "server/engines/echo.py": "x = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = told("--root", str(tmp_path), "--no-ask")
    assert found["rooms"] == {
        "contracts": [1, 1],
        "crayon": [1, 0],
        "crayon.sdk": [2, 5],
        "crayon.server": [2, 2],
        "crayon.server.engines": [2, 2],
    }
    assert (found["files"], found["lines"], found["import lines"]) == (8, 10, 9)
    # sdk and server to the contracts, server to its engines and back
    assert found["arrows"] == 4
    assert found["loops"] == [["crayon.server", "crayon.server.engines"]]
    assert "files of an ask" not in found


def test_an_ask_is_followed_through_client_and_server() -> None:
    found = told()
    files, changes = found["files of an ask"], found["changes of file of an ask"]
    assert isinstance(files, int)
    assert isinstance(changes, int)
    # the SDK, the client, the wire and the server have a file each at the least
    assert 4 < files < changes
