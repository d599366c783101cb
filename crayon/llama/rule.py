"""What a constraint is to whoever writes an answer: it says which tokens may come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Rule(Protocol):
    """The state of one answer under a constraint (`crayon.constraints.Matcher` is one)."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        ...

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        ...

    def mask(self) -> NDArray[np.bool_]:
        """Return for each token whether it may come next, shape (n_vocab,)."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that have to follow."""
        ...

    def take(self, tokens: Sequence[int]) -> None:
        """Go on with these tokens."""
        ...
