"""The scopes of a client: fitted once, by the device, when they are first needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.data.texts import background_texts
from crayon.engine import EncodeRequest, wait_for
from crayon.router.scope import Scope, ScopeGate, fit_scope
from crayon.sdk.call.options import check_scopes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.sdk.call.engines import Engines


class ClientScopes:
    """What a client's device was made for, for any thread; false where there are none.

    Args:
        scopes: scopes, or names for `load_scope`.
        engines: whose device embeds the examples.

    Raises:
        InvalidRequestError: one is wrong or unknown, or two have one name.
    """

    def __init__(self, scopes: Sequence[Scope | str], engines: Engines) -> None:
        self._scopes = check_scopes(scopes)
        self._engines = engines
        self._gate: ScopeGate | None = None
        self._fitting = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._scopes)

    @property
    def fitted(self) -> bool:
        """Whether `gate` returns without delay."""
        return not self._scopes or self._gate is not None

    def gate(self, until: float | None) -> ScopeGate | None:
        """Return the scope gate, fitting it on first use: one pass over all examples and the background texts.

        None where there are no scopes.

        Raises:
            InvalidRequestError: the device sees too little difference between a scope's examples.
            DeadlineExceededError: `until` passed.
        """
        if not self._scopes or self._gate is not None:
            return self._gate
        device = self._engines.open(Source.DEVICE)
        with self._fitting:
            if self._gate is None:
                background = background_texts()
                texts = [text for scope in self._scopes for text in scope.examples]
                request = EncodeRequest(texts=(*texts, *background), deadline=until)
                vectors = wait_for(device.encode(request), until).vectors
                fitted, start = [], 0
                for scope in self._scopes:
                    own = vectors[start : start + len(scope.examples)]
                    fitted.append(fit_scope(scope.name, own, vectors[len(texts) :], threshold=scope.threshold))
                    start += len(scope.examples)
                self._gate = ScopeGate(fitted)
            return self._gate
