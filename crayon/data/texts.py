"""Texts of ours that the runtime measures with."""

from __future__ import annotations

from importlib import resources


def quality_text() -> str:
    """Return the text on which prepared files are compared with their source (perplexity and divergence)."""
    return _read("quality.txt")


def background_texts() -> tuple[str, ...]:
    """Return everyday queries of all kinds: their mean embedding is the centre that `encode` subtracts."""
    return tuple(line for line in _read("background.txt").splitlines() if line.strip())


def _read(name: str) -> str:
    return resources.files("crayon.data").joinpath(name).read_text(encoding="utf-8")
