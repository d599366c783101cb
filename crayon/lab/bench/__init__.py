"""Benchmarks a stranger can run again: `crayon bench ...`."""

from __future__ import annotations
