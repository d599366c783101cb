"""What a detector finds: a kind of sensitive value, and where in the text it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

EMAIL, PHONE, CARD, IBAN, NATIONAL_ID, SECRET = KINDS = ("email", "phone", "card", "iban", "national_id", "secret")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """The characters `start` to `end` (excluded) of a text are a value of this kind."""

    start: int
    end: int
    kind: str


@runtime_checkable
class Detector(Protocol):
    """Looks for sensitive values. It may be called from any thread.

    Whatever it raises counts as found: then the text stays on the device.
    """

    @property
    def name(self) -> str:
        """What is said where the detector fails or takes too long."""
        ...

    def find(self, text: str) -> list[Finding]:
        """Return what is found in `text`, in any order; places may overlap."""
        ...


def join(findings: list[Finding]) -> list[Finding]:
    """Return findings in order, with overlapping ones made into one, of the kind of the longest."""
    joined: list[Finding] = []
    longest = 0
    for found in sorted(findings):
        size = found.end - found.start
        if joined and found.start < joined[-1].end:
            last = joined[-1]
            kind = found.kind if size > longest else last.kind
            joined[-1] = Finding(last.start, max(last.end, found.end), kind)
            longest = max(longest, size)
        else:
            joined.append(found)
            longest = size
    return joined
