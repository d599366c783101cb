"""The ledger: what left this device, when, how many bytes, to whom, and what was kept back and why; never any text.

One private file a user, shared by every client of theirs. The remote engine notes each request that it sends, the SDK
each answer; `crayon route ledger` prints it.
"""

from __future__ import annotations

from crayon.ledger.entry import Answered, Entry, Sent, answered, record
from crayon.ledger.file import Found, Ledger
from crayon.ledger.sums import Sums, sums

__all__ = ["Answered", "Entry", "Found", "Ledger", "Sent", "Sums", "answered", "record", "sums"]
