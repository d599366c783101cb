"""Microsoft Presidio as a detector: names, places and more, by a language model of its own (extra `presidio`)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError, MissingExtraError
from crayon.privacy.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence


class PresidioDetector:
    """Finds what Presidio's analyzer does. The analyzer is made at the first text, which takes seconds.

    Kinds are Presidio's entity types in small letters, such as `person` or `location`.

    Args:
        language: what the texts are written in, as Presidio names it.
        entities: only these types; None for all that it knows.
        threshold: how sure it must be, from 0 to 1.
        analyzer: an AnalyzerEngine of your own.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
        InvalidRequestError: the threshold is out of range.
    """

    name = "presidio"

    def __init__(
        self,
        language: str = "en",
        entities: Sequence[str] | None = None,
        threshold: float = 0.5,
        analyzer: Any = None,
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise InvalidRequestError("threshold", f"must be a number from 0 to 1, not {threshold!r}")
        try:
            import presidio_analyzer
        except ImportError:
            raise MissingExtraError("presidio", "the Presidio detector") from None
        self._make = presidio_analyzer.AnalyzerEngine
        self._analyzer = analyzer
        self._making = threading.Lock()
        self._language = language
        self._entities = None if entities is None else list(entities)
        self._threshold = float(threshold)

    def find(self, text: str) -> list[Finding]:
        """Return what the analyzer is sure enough of."""
        with self._making:
            if self._analyzer is None:
                self._analyzer = self._make()
        results = self._analyzer.analyze(
            text=text, language=self._language, entities=self._entities, score_threshold=self._threshold
        )
        return [Finding(result.start, result.end, str(result.entity_type).lower()) for result in results]
