"""What `make docs` (mkdocs.yml) does to the pages on their way to the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Pages that the navigation has a place for, left away while they are not written.
AWAITED = frozenset({"results.md"})
# A link out of docs/ works where the repository is looked at; the site has no such file.
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./)+[^)\s]*\)")


def on_config(config: Any) -> Any:
    """Leave away what is not there yet."""
    folder = Path(config["docs_dir"])
    config["nav"] = [_present(entry, folder) for entry in config["nav"]]
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into their words."""
    depth = page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda found: found[1] if _leaves(found[0], depth) else found[0], markdown)


def _leaves(link: str, depth: int) -> bool:
    return link.count("../") > depth


def _present(entry: Any, folder: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _present(value, folder) for title, value in entry.items()}
    if isinstance(entry, list):
        return [_present(item, folder) for item in entry if not _missing(item, folder)]
    return entry


def _missing(item: Any, folder: Path) -> bool:
    page = next(iter(item.values())) if isinstance(item, dict) else item
    return page in AWAITED and not (folder / page).exists()
