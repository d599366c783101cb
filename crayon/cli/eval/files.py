"""What every command of `crayon eval` leaves in its folder: the results as JSON, a page, and plots if they can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console
from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write(
    record: dict[str, Any],
    folder: Path,
    name: str,
    *,
    markdown: Callable[[list[str]], str],
    draw: Callable[[], list[str]] = list,
    page: str = "",
    as_json: bool = False,
) -> None:
    """Write the results, the plots and the page, and print one of them.

    Args:
        record: the results.
        folder: gets NAME.json, NAME.md and the plots.
        name: of the files.
        markdown: makes the page, from the names of the plots.
        draw: writes the plots into the folder and returns their names; without the extra 'plots' there are none.
        page: the page's name, where it is not NAME.md.
        as_json: print the results.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False)
    results, page = f"{name}.json", page or f"{name}.md"
    (folder / results).write_text(text + "\n", encoding="utf-8")
    try:
        drawn = draw()
    except MissingExtraError as error:
        console.warning(f"no plots are drawn: {error}")
        drawn = []
    told = markdown(drawn)
    (folder / page).write_text(told, encoding="utf-8")
    console.message(f"written to {folder}: {', '.join([results, page, *drawn])}")
    print(text if as_json else told)
