"""Answers of `/v1/responses` that a later request may go on from: in memory, and the oldest go."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.gateway.shared.problems import HttpError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.messages import MessageLike


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer, with the conversation that it ends; instructions are no part of it."""

    owner: str
    messages: tuple[MessageLike, ...]
    body: Mapping[str, Any]


class ResponseStore:
    """At most so many answers, each for whoever asked for it.

    Args:
        limit: how many; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def keep(self, name: str, stored: Stored) -> None:
        """Keep an answer, and forget the longest unused one where there are too many."""
        self._kept[name] = stored
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def find(self, name: str, owner: str, param: str | None = None) -> Stored:
        """Return an answer.

        Raises:
            HttpError: there is none of that name (any more), or it is somebody else's.
        """
        found = self._kept.get(name)
        if found is None or found.owner != owner:
            status, code = (404, "response_not_found") if param is None else (400, "previous_response_not_found")
            message = f"there is no response {name[:100]!r} here (any more); {self._limit} are kept, in memory"
            raise HttpError(Problem(status=status, message=message, code=code, param=param))
        self._kept.move_to_end(name)
        return found

    def forget(self, name: str, owner: str) -> None:
        """Forget an answer.

        Raises:
            HttpError: as `find`.
        """
        self.find(name, owner)
        del self._kept[name]
