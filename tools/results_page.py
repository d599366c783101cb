"""Write docs/explanation/results.md from result files of `crayon eval run`, `eval device` and others.

Plots that lie beside the files are copied into docs/images, beside the page's folder. tools/results_notes.md is added
at the end: what did not work and stands in no file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crayon.errors import CrayonError
from crayon.lab.eval.document import results_page

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTES = Path(__file__).with_name("results_notes.md")


def main() -> None:
    """Read the files named and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="run.json, device.json, server.json, ...")
    parser.add_argument(
        "--out",
        type=Path,
        default=DOCS / "explanation" / "results.md",
        help="the page (default: docs/explanation/results.md)",
    )
    parser.add_argument("--notes", type=Path, default=NOTES, help="Markdown to add at the end")
    given = parser.parse_args()
    # Links in there are written as from docs/explanation.
    notes = given.notes.read_text(encoding="utf-8")
    try:
        text = results_page(given.files, given.out.resolve().parents[1] / "images", "../images", notes)
    except CrayonError as error:
        sys.exit(str(error))
    given.out.write_text(text, encoding="utf-8")
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
