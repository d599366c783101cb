"""Which tokens of a prompt are shared with other prompts, and what names the file that they are kept in."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.device.kept_prefix import FORMAT, KeptPrefix
from crayon.errors import InvalidRequestError
from crayon.llama.library import REQUIRED_VERSION
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.engine import Prefix
    from crayon.llama.model import Model
    from crayon.messages import Role

logger = logging.getLogger("crayon.device")

# What may follow a prefix. Tokens that all of these leave alone no question changes, whatever its first letter joins.
_PROBES = ("a", "Z", "7", " b", "(", "\n\nc", "\u00e9", "\u6f22")
_KNOWN = 16


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The first tokens of a prompt that other prompts begin with as well; `kept` is where they live between runs."""

    tokens: tuple[int, ...]
    kept: KeptPrefix | None = None


class Prefixes:
    """Finds the tokens of shared prefixes. One thread at a time.

    Args:
        model: reads the messages.
        state: how its context keeps keys and values.
        file_sha256: hash of the model's file; "": path, size and time stand for it.
        template_sha256: hash of its chat template.
    """

    def __init__(self, model: Model, *, state: str, file_sha256: str, template_sha256: str) -> None:
        self._model = model
        self._key = [FORMAT, REQUIRED_VERSION, state, _file(model, file_sha256), template_sha256]
        self._known: OrderedDict[tuple[tuple[Message, ...], Role], tuple[int, ...]] = OrderedDict()

    def find(
        self, prefix: Prefix | None, messages: Sequence[Message], tokens: Sequence[int], blend: str | None
    ) -> SharedPrefix | None:
        """Return the shared start of a prompt; None where there is none.

        Args:
            prefix: which messages are shared.
            messages: all of the prompt.
            tokens: of the prompt.
            blend: names what the model is blended with, "" nothing; None: it has no name that outlives the process.
        """
        if prefix is None:
            return None
        key = (tuple(messages[: prefix.messages]), messages[prefix.messages].role)
        shared = self._known.get(key)
        if shared is None:
            shared = self._known[key] = self._common(*key)
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        if not shared:
            return None
        if len(tokens) <= len(shared) or tuple(tokens[: len(shared)]) != shared:
            # A template may write the date, or something else of the messages that follow.
            del self._known[key]
            return None
        if prefix.folder is None:
            return SharedPrefix(shared)
        if blend is None:
            logger.debug("a prefix under adapters without a name is not kept between runs")
            return SharedPrefix(shared)
        return SharedPrefix(shared, KeptPrefix(prefix.folder, self._identity(blend, shared), shared))

    def _common(self, messages: tuple[Message, ...], role: Role) -> tuple[int, ...]:
        """Return the tokens that prompts begin with alike, whatever comes after these messages."""
        try:
            prompts = [self._model.tokenize_chat((*messages, Message(role, probe))) for probe in _PROBES]
        except InvalidRequestError:  # the template does not let such a message stand at the end
            return ()
        first = prompts[0]
        n = min(map(len, prompts))
        while any(prompt[:n] != first[:n] for prompt in prompts):
            n -= 1
        return tuple(first[:n])

    def _identity(self, blend: str, tokens: tuple[int, ...]) -> bytes:
        return hashlib.sha256(json.dumps([*self._key, blend, tokens]).encode()).digest()


def _file(model: Model, sha256: str) -> list[object]:
    """Name the file that a model was just loaded from."""
    if sha256:
        return [sha256]
    found = model.path.stat()
    return [str(model.path.resolve()), found.st_size, found.st_mtime_ns]
