"""Chats whose answers have no options: written side by side for reading, never graded by a model."""

from __future__ import annotations
