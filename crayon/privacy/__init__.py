"""Finds what is sensitive in a text, and replaces it. No model, no network; knows nothing of who asks."""

from __future__ import annotations

from crayon.privacy.builtin import BuiltInDetector
from crayon.privacy.finding import KINDS, Detector, Finding
from crayon.privacy.patterns import PatternDetector
from crayon.privacy.presidio import PresidioDetector
from crayon.privacy.redaction import Redaction, Restorer, redact
from crayon.privacy.scanner import Scan, Scanner, detectors_of

__all__ = [
    "KINDS",
    "BuiltInDetector",
    "Detector",
    "Finding",
    "PatternDetector",
    "PresidioDetector",
    "Redaction",
    "Restorer",
    "Scan",
    "Scanner",
    "detectors_of",
    "redact",
]
