"""The command line of a page that is written from the code: write it, or with --check fail where it differs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def run(description: str | None, target: Path, make: Callable[[Path], str]) -> int:
    """Return the exit code of a tool that writes one page.

    Args:
        description: what --help says.
        target: the page, if --output names no other.
        make: returns the page's text; it gets the page's path, where it keeps what is written by hand.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page is out of date")
    parser.add_argument("--output", type=Path, default=target)
    arguments = parser.parse_args()
    path: Path = arguments.output
    text = make(path)
    if not arguments.check:
        path.write_text(text, encoding="utf-8")
        return 0
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"{path} is out of date: run tools/{Path(sys.argv[0]).name}", file=sys.stderr)
        return 1
    return 0
