"""What the sequences of a runner hold, also where the model's memory gives a sequence whole or not at all.

A state that all tokens have gone into (recurrent and hybrid models) cannot be cut back, and a sliding window lets go of
what its last token no longer sees. Where such a sequence is wanted again as it was at some length, as the prompt of
several branches is, its state of then is kept until something else is put into the sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.errors import EngineError

if TYPE_CHECKING:
    from crayon.llama.context import Context
    from crayon.server.scheduler import KvOp


class _Kept(NamedTuple):
    """The state of a sequence as it was at a length, which it has since gone on from."""

    tokens: int
    state: bytes


class Sequences:
    """Cache operations of one context, on its thread.

    Args:
        context: whose sequences they are.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._whole = context.model.cut_limit is not None
        self._kept: dict[int, _Kept] = {}

    def apply(self, op: KvOp) -> None:
        """Do one cache operation; where it cannot be done the sequence is left empty.

        Raises:
            EngineError: the source does not hold these tokens in a way that can be gone on from.
        """
        try:
            if op.keep == 0:
                self.empty(op.seq)
            elif op.seq == op.source:
                self._cut(op.seq, op.keep)
            else:
                self._copy(op)
        except Exception:
            self.empty(op.seq)
            raise

    def empty(self, seq: int) -> None:
        """Forget all that a sequence holds.

        Raises:
            EngineError: llama.cpp refuses it.
        """
        self._kept.pop(seq, None)
        self._context.cut(seq, 0)

    def wipe(self) -> dict[int, EngineError]:
        """Let nothing be left in cells that are free: nan in one of them spoils all that is computed beside it.

        Returns:
            The sequences that were lost by it, and why.
        """
        context = self._context
        states = {seq: context.save(seq) for seq in range(context.n_seq_max) if context.length(seq)}
        context.clear(wipe=True)
        lost: dict[int, EngineError] = {}
        for seq, state in states.items():
            try:
                context.restore(seq, state)
            except EngineError as error:
                self.empty(seq)
                lost[seq] = error
        return lost

    def save(self, seq: int) -> bytes:
        """Return all that a sequence holds.

        Raises:
            EngineError: llama.cpp cannot save it.
        """
        return self._context.save(seq)

    def load(self, seq: int, state: bytes) -> None:
        """Put what was saved in place of what a sequence holds.

        Raises:
            EngineError: there is no room for it.
        """
        self._kept.pop(seq, None)
        self._context.restore(seq, state)

    def load_part(self, seq: int, state: bytes, tokens: int) -> None:
        """As `load`, of the state's first `tokens` tokens.

        Raises:
            EngineError: there is no room for it, or the state cannot be cut there.
        """
        self.load(seq, state)
        self._context.cut(seq, tokens)

    def _cut(self, seq: int, tokens: int) -> None:
        if not self._whole:
            self._context.cut(seq, tokens)
            return
        kept = self._kept.get(seq)
        if kept is not None and kept.tokens == tokens:
            self._context.restore(seq, kept.state)
        elif self._context.length(seq) == tokens:  # so it is wanted as it is now, and may be again
            self._kept[seq] = _Kept(tokens, self._context.save(seq))
        else:
            self._kept.pop(seq, None)
            self._context.cut(seq, tokens)

    def _copy(self, op: KvOp) -> None:
        self.empty(op.seq)
        kept = self._kept.get(op.source) if self._whole else None
        if kept is not None and kept.tokens == op.keep:
            self._context.restore(op.seq, kept.state)
        else:
            self._context.copy(op.source, op.seq, 0, op.keep)
