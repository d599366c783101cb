"""Answers that fit: what a constraint allows a model to write next, and what a schema makes of the answer.

A `Constraint` (crayon/constraint.py) travels with a request. Whoever takes one checks it (`check_constraint`), with the
same words on the device and on the server; an engine makes a `Matcher` of it for its model's vocabulary, which says at
each token what may follow. llguidance does the work; it is imported at the first constraint.
"""

from __future__ import annotations

from crayon.constraints.check import check_constraint
from crayon.constraints.matcher import Matcher
from crayon.constraints.shown import read_prompt
from crayon.constraints.vocabulary import Constraining, Vocabulary

__all__ = ["Constraining", "Matcher", "Vocabulary", "check_constraint", "read_prompt"]
