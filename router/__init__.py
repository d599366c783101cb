"""Decides where a query is answered: pure functions over features. Loads no model and opens no socket."""

from __future__ import annotations

from crayon.router.decision import Decision
from crayon.router.features import Features, RunningSignals, TokenFeatures
from crayon.router.hardness import Hardness, HardnessGate, Verdict
from crayon.router.policy import Allowed, allowed_sources, is_private, parse_mode
from crayon.router.privacy import Action, decide, stay, turns_to_drop
from crayon.router.scope import FittedScope, Scope, ScopeGate, ScopeVerdict, fit_few, fit_scope

__all__ = [
    "Action",
    "Allowed",
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
    "decide",
    "fit_few",
    "fit_scope",
    "is_private",
    "parse_mode",
    "stay",
    "turns_to_drop",
]
