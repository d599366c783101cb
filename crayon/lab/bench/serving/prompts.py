"""Prompts of random words with an exact number of tokens: the same tokens for every server.

Our server takes messages and applies the model's chat template; a peer takes token ids. So the text is made first,
searched until the template and the model's own tokenizer give exactly the wanted number of tokens, and the peers get
those tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import ModelError
from crayon.messages import Message

if TYPE_CHECKING:
    from crayon.llama.model import Model

TRIES = 200
WORD = 2  # letters that a word has at least, where the vocabulary has such words


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation, and the tokens that the model reads of it."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...] = field(repr=False)


class PromptMaker:
    """Makes prompts that share nothing but the first tokens of the template.

    The system message, which comes first, is of random words too: without one, templates put in a text of their own,
    which all prompts would share.

    Args:
        model: vocabulary and template; the weights are not needed.
        seed: the same seed gives the same prompts.

    Raises:
        ModelError: the vocabulary has no words.
    """

    def __init__(self, model: Model, seed: int = 0) -> None:
        self._model = model
        self._rng = np.random.default_rng(seed)
        self._words = _words(model)
        self.shortest = max(len(self._ids(self._words[0], self._words[at])) for at in (0, -1))
        """Tokens of the shortest prompt: the template around two words."""

    def text(self, words: int) -> str:
        """Return so many random words."""
        return " ".join(self._pick(words))

    def length(self, system: str) -> int:
        """Return the tokens of the shortest prompt with that system message."""
        return len(self._ids(system, self._words[0]))

    def make(self, tokens: int, system: str | None = None) -> Prompt:
        """Return a new prompt of exactly `tokens` tokens.

        Args:
            tokens: its length, with the template.
            system: its system message (None: a new one of its own): prompts of the same one share their start.

        Raises:
            ModelError: this vocabulary makes no text of that length.
        """
        if tokens < self.shortest:
            raise ModelError(f"the template alone needs {self.shortest} tokens, so {tokens} are too few for a prompt")
        for _ in range(TRIES):
            first = self.text(2 if tokens > self.shortest else 1) if system is None else system
            words = self._pick(max(1, tokens - len(self._ids(first, self._words[0])) + 1))
            # Words at a seam may join into other tokens, so the count is off by a few at times: cut or add, look again.
            for _ in range(8):
                ids = self._ids(first, " ".join(words))
                off = tokens - len(ids)
                if off == 0:
                    messages = (Message("system", first), Message("user", " ".join(words)))
                    return Prompt(messages, tuple(ids))
                words = words[:off] if off < 0 and len(words) + off > 0 else [*words, *self._pick(max(1, off))]
        raise ModelError(f"no text of exactly {tokens} tokens was found for {self._model.path.name}")

    def _ids(self, system: str, user: str) -> list[int]:
        return self._model.tokenize_chat((Message("system", system), Message("user", user)))

    def _pick(self, count: int) -> list[str]:
        return [self._words[int(at)] for at in self._rng.integers(0, len(self._words), count)]


def _words(model: Model) -> list[str]:
    """Return the words that are one token after a space, which is where they will stand."""
    found: list[str] = []
    for token in range(model.n_vocab):
        piece = model.piece(token)
        if piece[:1] == b" " and piece[1:].isalpha() and piece.isascii():
            text = piece.decode("ascii")
            if model.tokenize(f"a{text}")[-1] == token:
                found.append(text[1:])
    if not found:
        raise ModelError(f"{model.path.name}: its vocabulary has no words to make prompts of")
    long = [word for word in found if len(word) >= WORD]
    return long or found
