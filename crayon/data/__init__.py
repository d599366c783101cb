"""Data files of ours: scopes, and texts to measure with."""

from __future__ import annotations

from crayon.data.scope_files import load_scope, scope_names

__all__ = ["load_scope", "scope_names"]
