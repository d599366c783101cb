"""Decides where a query is answered: pure functions over features. Loads no model and opens no socket."""

from __future__ import annotations

from crayon.router.bounds import (
    Passed,
    deferral_floor,
    fixed_sequence,
    min_kept,
    upper_bound,
)
from crayon.router.budget import Budget, may_send, remaining
from crayon.router.calibration import Calibration, Report, calibrate
from crayon.router.cases import Case, Prior, Priors
from crayon.router.conditions import Conditions, RecentSpeed, weigh
from crayon.router.decision import Decision
from crayon.router.device_map import DeviceMap, fit_device_map
from crayon.router.drift import Change, ShareKeeper
from crayon.router.features import (
    ChoiceFeatures,
    Features,
    RunningSignals,
    TokenFeatures,
    choice_features,
)
from crayon.router.hardness import ChoiceGate, Hardness, HardnessGate, Verdict, choice_gate
from crayon.router.language import possible_languages
from crayon.router.metrics import (
    Curve,
    Interval,
    apgr,
    auroc,
    bootstrap_accuracy,
    bootstrap_difference,
    cpt,
    curve,
    ibc_lift,
    oracle_curve,
    pgr,
    random_curve,
    selected_risk,
)
from crayon.router.overrides import Circumstances, under
from crayon.router.policy import Allowed, allowed_sources, is_private, parse_mode
from crayon.router.privacy import Action, decide_action, stay, turns_to_drop
from crayon.router.record import Binding, CalibrationRecord
from crayon.router.rules import ProfileRule
from crayon.router.scope import FittedScope, Scope, ScopeGate, ScopeVerdict, fit_few, fit_scope
from crayon.router.signals import SIGNALS, signal_value
from crayon.router.targets import Best, MaxDeviceError, MinQuality, ServerShare, Target

__all__ = [
    "SIGNALS",
    "Action",
    "Allowed",
    "Best",
    "Binding",
    "Budget",
    "Calibration",
    "CalibrationRecord",
    "Case",
    "Change",
    "ChoiceFeatures",
    "ChoiceGate",
    "Circumstances",
    "Conditions",
    "Curve",
    "Decision",
    "DeviceMap",
    "Features",
    "FittedScope",
    "Hardness",
    "HardnessGate",
    "Interval",
    "MaxDeviceError",
    "MinQuality",
    "Passed",
    "Prior",
    "Priors",
    "ProfileRule",
    "RecentSpeed",
    "Report",
    "RunningSignals",
    "Scope",
    "ScopeGate",
    "ScopeVerdict",
    "ServerShare",
    "ShareKeeper",
    "Target",
    "TokenFeatures",
    "Verdict",
    "allowed_sources",
    "apgr",
    "auroc",
    "bootstrap_accuracy",
    "bootstrap_difference",
    "calibrate",
    "choice_features",
    "choice_gate",
    "cpt",
    "curve",
    "decide_action",
    "deferral_floor",
    "fit_device_map",
    "fit_few",
    "fit_scope",
    "fixed_sequence",
    "ibc_lift",
    "is_private",
    "may_send",
    "min_kept",
    "oracle_curve",
    "parse_mode",
    "pgr",
    "possible_languages",
    "random_curve",
    "remaining",
    "selected_risk",
    "signal_value",
    "stay",
    "turns_to_drop",
    "under",
    "upper_bound",
    "weigh",
]
