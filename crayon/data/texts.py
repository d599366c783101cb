"""Texts of ours that the runtime measures with."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources


def quality_text() -> str:
    """Return the text on which prepared files are compared with their source (perplexity and divergence)."""
    return _read("quality.txt")


def background_texts() -> tuple[str, ...]:
    """Return everyday queries of all kinds: their mean embedding is the centre that `encode` subtracts."""
    return tuple(line for line in _read("background.txt").splitlines() if line.strip())


@cache
def everyday_groups() -> tuple[tuple[str, ...], ...]:
    """Return groups of everyday texts: each group is one thing that is wanted, said in at least five ways.

    The spread within groups shows how much the wordings of one intent vary, that between groups what tells intents
    apart. A few groups are not in English.
    """
    return tuple(tuple(group["texts"]) for group in tomllib.loads(_read("everyday.toml"))["group"])


def _read(name: str) -> str:
    return resources.files("crayon.data").joinpath(name).read_text(encoding="utf-8")
