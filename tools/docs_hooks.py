"""What `make docs` (mkdocs.yml) does to the pages on their way to the site."""

from __future__ import annotations

import re
from typing import Any

# A link out of docs/ works where the repository is looked at; the site has no such file.
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./)+[^)\s]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into their words."""
    depth = page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda found: found[1] if _leaves(found[0], depth) else found[0], markdown)


def _leaves(link: str, depth: int) -> bool:
    return link.count("../") > depth
