"""A model's tokens as bytes, for whoever says which of them may be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crayon.llama.model import Model


class ModelVocabulary:
    """The vocabulary of a model, read whole at each call: keep what is made of it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return self._model.n_vocab

    def pieces(self) -> list[bytes]:
        """Return the bytes that each token adds to a text."""
        return [self._model.piece(token) for token in range(self.n_vocab)]

    def ends(self) -> list[int]:
        """Return the tokens that end an answer, that of the chat template first."""
        first = self._model.turn_end
        rest = [token for token in range(self.n_vocab) if token != first and self._model.is_end(token)]
        return [first, *rest] if first >= 0 else rest

    def controls(self) -> dict[int, bytes]:
        """Return the names of the tokens that are no text."""
        model = self._model
        # A user-defined token is text where it adds some: a grammar may ask for it letter by letter.
        found = (token for token in range(self.n_vocab) if model.is_control(token) and not model.piece(token))
        return {token: model.token_text(token).encode() for token in found}

    def tokenize_more(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on another one."""
        return self._model.tokenize_more(text)
