"""Questions as the tokens that the device would see and the tokens it should answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import InvalidRequestError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crayon.data.qa import Item
    from crayon.llama.model import Model


@dataclass(frozen=True, slots=True)
class Example:
    """One question in tokens.

    `prompt` is what stands behind the common start; `answer` ends with the token that ends a turn. `options` are the
    tokens of each choice, without that end, `gold` the index of the right one; both empty for short answers.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    options: tuple[tuple[int, ...], ...] = ()
    gold: int | None = None

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return len(self.prompt) + len(self.answer)

    @property
    def text(self) -> tuple[int, ...]:
        """All tokens behind the common start."""
        return self.prompt + self.answer

    @property
    def said(self) -> range:
        """The places in `text` of what is to be learned."""
        return range(len(self.prompt), self.tokens)


class Prompts:
    """Writes prompts with the tokenizer and template of the device's own engine: training sees what `ask` sends.

    `start` is what every chat begins with: template, default system message, the user's name. `joint` stands between
    the end of an answer and the next question.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        first, second = (model.tokenize_chat([Message("user", text)]) for text in ("alpha beta", "What now?"))
        n = 0
        while first[n] == second[n]:
            n += 1
        self.start = tuple(first[:n])
        answered = model.tokenize_chat([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])
        open_turn = model.tokenize_chat([Message("user", "a")])
        after = answered[len(open_turn) :]
        self.end = model.turn_end
        if self.end not in after:
            raise InvalidRequestError("model", "its chat template does not end the assistant's turn with an end token")
        self.joint = tuple(after[after.index(self.end) + 1 : -(len(open_turn) - len(self.start))])

    def example(self, item: Item) -> Example:
        """Return an item's tokens: the question is the only message."""
        return self.of(item.prompt, item.answer_text, item.choices, item.answer)

    def of(self, question: str, answer: str, choices: Sequence[str] = (), gold: int | None = None) -> Example:
        """Return the tokens of a question, its answer and its choices."""
        tokens = self._model.tokenize_chat([Message("user", question)])
        n = len(self.start)
        if tuple(tokens[:n]) != self.start:
            # The question's first letters merged with the template's last; its own tokens then start earlier.
            raise InvalidRequestError("question", "does not start as chats of this model do")
        options = tuple(tuple(self._model.tokenize_answer(choice, tokens)) for choice in choices)
        if not all(options):
            raise InvalidRequestError("choices", "hold an empty one")
        known = options if gold is not None else ()
        return Example(
            tuple(tokens[n:]), (*self._model.tokenize_answer(answer, tokens), self.end), known, gold if known else None
        )

    def examples(self, items: Iterable[Item]) -> list[Example]:
        """Return the tokens of many items."""
        return [self.example(item) for item in items]
