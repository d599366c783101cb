"""An answer being written: from its tokens, and those that a constraint leaves no choice about, to text and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.completion import FinishReason
from crayon.llama.text import TextAssembler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crayon.llama.model import Model
    from crayon.llama.rule import Rule
    from crayon.sampling import Sampling


class AnswerWriter:
    """Takes the tokens of one answer, and knows when it ends.

    Args:
        model: whose tokens they are.
        sampling: its stop texts, and whether the model's end counts.
        limit: most tokens.
        rule: the constraint; None: anything goes.
        marks: tokens that are no text, and yet are to be seen in it: as which text.
        forces: whether tokens that the constraint leaves no choice about are taken without asking the model.
    """

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        limit: int,
        rule: Rule | None = None,
        marks: Mapping[int, bytes] | None = None,
        *,
        forces: bool = True,
    ) -> None:
        self._model = model
        self._marks = marks or {}
        self._assembler = TextAssembler(sampling.stop)
        self._ends = not sampling.ignore_eos
        self._limit = limit
        self._rule = rule
        self._forces = forces
        self._fresh: list[str] = []
        self._fresh_tokens = 0
        self.written = 0
        """Tokens so far."""
        self.forced = 0
        """Those of them that nobody had to draw."""
        self.reason: FinishReason | None = None
        """Why it ended; None while it goes on."""

    def begin(self) -> list[int]:
        """Return the tokens that every answer begins with, which are part of it; once, before any other."""
        return self._go_on([])

    def take(self, token: int) -> list[int]:
        """Make a token the next of the answer; return it and those that have to follow, all to be computed next.

        None of the model's end, which is no part of the answer.
        """
        if self._ends and self._model.is_end(token):
            self.reason = FinishReason.STOP
            return []
        if self._rule is not None:
            self._rule.take([token])
        self._add(token)
        return self._go_on([token])

    def fresh(self) -> tuple[str, int]:
        """Return the text, and the number of tokens, since this was last asked; text that may yet be held back is not.

        An answer's first tokens, where they are forced, so come together with the first one that is drawn.
        """
        text, count = "".join(self._fresh), self._fresh_tokens
        self._fresh, self._fresh_tokens = [], 0
        return text, count

    def finish(self) -> tuple[str, int]:
        """Return what is left, as `fresh`, now that nothing follows."""
        text, count = self.fresh()
        return text + self._assembler.finish(), count

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to the text."""
        return self._marks.get(token) or self._model.piece(token)

    def _go_on(self, tokens: list[int]) -> list[int]:
        """Add to `tokens` those that have to follow, and see whether the answer ends."""
        if self._rule is None or self.reason is FinishReason.STOP:
            return tokens
        forced = self._rule.forced() if self._forces and self.reason is None else []
        taken = self._some(forced)
        self.forced += len(taken)
        self._rule.take(taken)
        if self._rule.done and len(taken) == len(forced) and self.reason in {None, FinishReason.LENGTH}:
            self.reason = FinishReason.STOP  # complete, be it with the last token that there was room for
        return tokens + taken

    def _some(self, tokens: Sequence[int]) -> list[int]:
        """Add tokens up to the answer's end; return them."""
        for i, token in enumerate(tokens):
            self._add(token)
            if self.reason is not None:
                return list(tokens[: i + 1])
        return list(tokens)

    def _add(self, token: int) -> None:
        self.written += 1
        self._fresh_tokens += 1
        text = self._assembler.push(self.piece(token))
        if text:
            self._fresh.append(text)
        if self._assembler.stopped:
            self.reason = FinishReason.STOP
        elif self.written >= self._limit:
            self.reason = FinishReason.LENGTH
