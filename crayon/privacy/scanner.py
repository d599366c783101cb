"""All detectors over all texts of a request; what a detector cannot say counts as found."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError, fault_report
from crayon.privacy.builtin import BuiltInDetector
from crayon.privacy.finding import KINDS, Detector, Finding, join
from crayon.privacy.patterns import PatternDetector, pattern_detectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

logger = logging.getLogger("crayon.privacy")

PRESIDIO = "presidio"


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found.

    Args:
        texts: for each text its findings in order, none overlapping another.
        undecided: names of the detectors that failed or took too long, which counts as found.
    """

    texts: tuple[tuple[Finding, ...], ...]
    undecided: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many values of each kind were found, by kind."""
        return dict(sorted(Counter(found.kind for text in self.texts for found in text).items()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds found, and names of undecided detectors, in order."""
        return tuple(sorted({*self.counts, *self.undecided}))

    def __bool__(self) -> bool:
        return bool(self.undecided) or any(self.texts)


class Scanner:
    """Looks for sensitive values with several detectors; safe to use from several threads if they are."""

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._detectors = tuple(detectors)

    def scan(self, texts: Sequence[str]) -> Scan:
        """Return what is found in each text. Raises nothing: a detector that does is undecided."""
        found: list[list[Finding]] = [[] for _ in texts]
        undecided: set[str] = set()
        for detector in self._detectors:
            for own, text in zip(found, texts, strict=True):
                try:
                    own += _checked(detector.find(text), text)
                except TimeoutError:
                    logger.warning("privacy: %s took too long on a text; that counts as found", detector.name)
                    undecided.add(detector.name)
                except Exception as fault:  # noqa: BLE001 - whatever it is, it fails closed
                    logger.warning("privacy: %s failed, which counts as found: %s", detector.name, fault_report(fault))
                    undecided.add(detector.name)
        return Scan(tuple(tuple(join(own)) for own in found), tuple(sorted(undecided)))


def detectors_of(detect: Iterable[str | Detector], patterns: Mapping[str, str]) -> tuple[Detector, ...]:
    """Return the detectors for kinds by name, "presidio", detectors of the caller's own and patterns.

    Raises:
        InvalidRequestError: a name is unknown, or a pattern cannot be used; the field names it.
        MissingExtraError: Presidio is wanted and not installed.
    """
    kinds: list[str] = []
    others: list[Detector] = []
    for item in detect:
        if isinstance(item, str) and item == PRESIDIO:
            from crayon.privacy.presidio import PresidioDetector

            others.append(PresidioDetector())
        elif isinstance(item, str) and item in KINDS:
            kinds.append(item)
        elif not isinstance(item, str) and isinstance(item, Detector):
            others.append(item)
        else:
            raise InvalidRequestError("privacy.detect", f"knows {', '.join(KINDS)} and {PRESIDIO}, not {item!r}")
    builtin: list[Detector] = [BuiltInDetector(dict.fromkeys(kinds))] if kinds else []
    own: list[PatternDetector] = pattern_detectors(patterns)
    return (*builtin, *own, *others)


def _checked(found: Iterable[Finding], text: str) -> list[Finding]:
    given = list(found)
    for item in given:
        if not (isinstance(item, Finding) and isinstance(item.kind, str) and 0 <= item.start < item.end <= len(text)):
            raise InvalidRequestError("privacy.detect", "a detector returned something that is no place in the text")
    return given
