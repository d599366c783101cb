"""Which settings decide how a question is answered, as one short text: two programs with the same one answer alike."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from crayon.completion import Mode

if TYPE_CHECKING:
    from crayon.config.sections import Settings

# What a request says itself, and what is of other commands.
_OF_A_CALL = {"mode", "private", "timeout", "sampling"}
_OF_OTHERS = {"gateway", "serve"}


def fingerprint(settings: Settings) -> str:
    """Return a hash of the settings but for what each request says itself: 16 hex digits."""
    told = settings.model_dump(mode="json", exclude=_OF_A_CALL | _OF_OTHERS)
    told["only_server"] = settings.mode is Mode.ONLY_ON_SERVER and not settings.private
    # Secrets are written as stars; whoever has another token asks another server or none.
    token = settings.server.token
    told["server"]["token"] = None if token is None else hashlib.sha256(token.get_secret_value().encode()).hexdigest()
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
