"""How models of a family write what is no plain answer: thoughts, and calls of tools.

A model says by its chat template which family it is of (`family_of`). One table a family gives what opens a call, the
grammar that it is held to, and what reads it, so that what may be written is what is read. An engine makes a `Dialogue`
of its model's template; for each request this says what is rendered, what constrains the answer, and which stream its
text goes through.
"""

from __future__ import annotations

from crayon.families.dialogue import Dialogue, Speech
from crayon.families.grammar import tool_grammar
from crayon.families.table import family_of

__all__ = ["Dialogue", "Speech", "family_of", "tool_grammar"]
