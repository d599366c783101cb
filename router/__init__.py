"""Decides where a query is answered: pure functions over features. Loads no model and opens no socket."""

from __future__ import annotations

from crayon.router.decision import Decision
from crayon.router.features import Features, RunningSignals, TokenFeatures
from crayon.router.hardness import ChoiceGate, Hardness, HardnessGate, Verdict, choice_gate
from crayon.router.policy import Allowed, allowed_sources, is_private, parse_mode
from crayon.router.scope import FittedScope, Scope, ScopeGate, ScopeVerdict, fit_few, fit_scope

__all__ = [
    "Allowed",
    "ChoiceGate",
    "Decision",
    "Features",
    "FittedScope",
    "Hardness",
    "HardnessGate",
    "RunningSignals",
    "Scope",
    "ScopeGate",
    "ScopeVerdict",
    "TokenFeatures",
    "Verdict",
    "allowed_sources",
    "choice_gate",
    "fit_few",
    "fit_scope",
    "is_private",
    "parse_mode",
]
