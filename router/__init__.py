"""Decides where a query is answered: pure functions over features. Loads no model and opens no socket."""

from __future__ import annotations

from crayon.router.budget import Budget, may_send, remaining
from crayon.router.circumstances import Circumstances, under
from crayon.router.conditions import Conditions, Measured, weigh
from crayon.router.decision import Decision
from crayon.router.features import Features, RunningSignals, TokenFeatures
from crayon.router.hardness import Hardness, HardnessGate, Verdict
from crayon.router.language import possible_languages
from crayon.router.policy import Allowed, allowed_sources, is_private, parse_mode
from crayon.router.scope import FittedScope, Scope, ScopeGate, ScopeVerdict, fit_few, fit_scope

__all__ = [
    "Allowed",
    "Budget",
    "Circumstances",
    "Conditions",
    "Decision",
    "Features",
    "FittedScope",
    "Hardness",
    "HardnessGate",
    "Measured",
    "RunningSignals",
    "Scope",
    "ScopeGate",
    "ScopeVerdict",
    "TokenFeatures",
    "Verdict",
    "allowed_sources",
    "fit_few",
    "fit_scope",
    "is_private",
    "may_send",
    "parse_mode",
    "possible_languages",
    "remaining",
    "under",
    "weigh",
]
