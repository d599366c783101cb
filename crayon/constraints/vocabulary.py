"""A model's vocabulary as llguidance wants it: made at the first constraint, and kept as long as the model."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Protocol

from crayon.constraints.check import check_constraint, refused
from crayon.constraints.grammar import grammar_of, limits
from crayon.constraints.matcher import Matcher
from crayon.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLExecutor, LLTokenizer

    from crayon.constraint import Constraint


class Vocabulary(Protocol):
    """What has to be known of a model's tokens."""

    @property
    def n_vocab(self) -> int:
        """How many there are."""
        ...

    def pieces(self) -> list[bytes]:
        """Return the bytes that each adds to a text; none of those that add nothing."""
        ...

    def ends(self) -> list[int]:
        """Return those that end an answer."""
        ...

    def controls(self) -> dict[int, bytes]:
        """Return the names of those that are no text."""
        ...

    def tokenize_more(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on another one."""
        ...


class Constraining:
    """Makes matchers for one model's vocabulary. Usable from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def matcher(self, constraint: Constraint, *, checked: bool = False) -> Matcher:
        """Return the matcher of a new answer. The first call reads the vocabulary, which takes up to some seconds.

        What is `checked` is not tried on plain bytes: it may ask for tokens that only this model has.

        Raises:
            InvalidRequestError: the constraint cannot be kept; see `check_constraint`.
            EngineError: the model has no token that ends an answer.
        """
        from llguidance import LLMatcher

        if not checked:
            check_constraint(constraint)
        made = LLMatcher(self._ready(), grammar_of(constraint), log_level=0, limits=limits())
        if made.is_error():  # it fits bytes, but not these tokens
            raise refused(constraint, made.get_error())
        return Matcher(made, self._vocabulary.n_vocab, self._threads)

    @functools.cached_property
    def _executor(self) -> LLExecutor:
        from llguidance import LLExecutor

        return LLExecutor()

    def _threads(self) -> LLExecutor:
        return self._executor

    def _ready(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        with self._lock:
            if self._tokenizer is None:
                ends = self._vocabulary.ends()
                if not ends:
                    raise EngineError("the model has no token that ends an answer, so none can be constrained")
                tokens = TokenizerWrapper(_Tokens(self._vocabulary, ends[0]))
                self._tokenizer = LLTokenizer(tokens, n_vocab=self._vocabulary.n_vocab, eos_token=ends)
            return self._tokenizer


class _Tokens:
    """The attributes that llguidance's `TokenizerWrapper` reads."""

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        controls = vocabulary.controls()
        self.eos_token_id = end
        self.bos_token_id = None
        self.tokens: Sequence[bytes] = [controls.get(i, piece) for i, piece in enumerate(vocabulary.pieces())]
        self.special_token_ids = sorted(controls)
        self._vocabulary = vocabulary

    def __call__(self, text: str | bytes) -> list[int]:
        return self._vocabulary.tokenize_more(text if isinstance(text, str) else text.decode())
