"""Prompts as tokens, for vLLM: by the very rules of `crayon.llama.model.Model.tokenize_chat`.

vLLM is given tokens, not text. So a message that spells a control token is text here as it is with llama.cpp, and the
template runs in the same sandbox.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError
from crayon.families import Dialogue
from crayon.llama.template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.messages import Message

# Tokens that end an answer wherever they stand in a vocabulary, as llama.cpp has it.
ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
)

_START = "\x01"
"""A text that no other one joins, to have a space put before it."""


def _byte_letters() -> dict[str, bytes]:
    """Return which byte each letter of a byte-level vocabulary stands for: itself where it prints, else from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    own = {chr(byte): bytes([byte]) for byte in prints}
    return own | {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}


_BYTES = _byte_letters()


class Tokens:
    """The tokenizer and the chat template of a model's folder. From any thread.

    Raises:
        ConfigError: the folder has no `tokenizer.json` or no chat template, or they cannot be read.
        ModelFileError: the template is not valid Jinja.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        try:
            self._control = Tokenizer.from_file(str(path))
            self._plain = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more precise
            raise ConfigError("model", f"{path} cannot be read ({type(error).__name__})") from None
        self._plain.encode_special_tokens = True  # in a text, control tokens are text
        config = _json(folder / "tokenizer_config.json")
        self._template = ChatTemplate(
            _template(folder, config), bos=_text(config.get("bos_token")), eos=_text(config.get("eos_token"))
        )
        added = self._control.get_added_tokens_decoder().values()
        self._marks = tuple(token.content for token in added if token.special and token.content)
        self._special = frozenset(self._control.get_added_tokens_decoder())
        self._adds_space = self.text("a") != _within(self._plain, "a")
        self.ends = self._ends(config, _json(folder / "generation_config.json"))
        """Ids of the tokens that end an answer."""

    @functools.cached_property
    def dialogue(self) -> Dialogue:
        """How the model is told of tools, and read."""
        return Dialogue(self._template, self._marks)

    def chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the tokens of a conversation up to where the assistant's answer starts.

        Raises:
            InvalidRequestError: the template refuses the messages, or loses some of what they say.
        """
        tokens: list[int] = []
        for i, part in enumerate(self._template.parts(messages, self._marks, tools)):
            using = self._plain if part.is_content else self._control
            within = self._adds_space and i > 0 and tokens[-1] not in self._special
            tokens += _within(using, part.text) if within else using.encode(part.text, add_special_tokens=False).ids
        return tokens

    def text(self, text: str) -> list[int]:
        """Return the tokens of a text, in which control tokens are text."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return int(self._control.get_vocab_size())

    @functools.cached_property
    def _of_bytes(self) -> bool:
        """Whether tokens are written as letters that each stand for a byte."""
        return '"ByteLevel"' in json.dumps(json.loads(self._control.to_str()).get("decoder"))

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text, maybe a part of a character; those of a mark are its name."""
        text = self._control.id_to_token(token) or ""
        if token in self._special:
            return text.encode()
        if self._of_bytes:
            return b"".join(_BYTES[letter] if letter in _BYTES else letter.encode() for letter in text)
        if len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        return text.replace("\u2581", " ").encode()

    def _ends(self, config: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
        named = generation.get("eos_token_id")
        own = named if isinstance(named, list) else [named]
        names = (_text(config.get("eos_token")), *ENDS)
        found = [*own, *(self._control.token_to_id(name) for name in names if name)]
        known = dict.fromkeys(token for token in found if isinstance(token, int))
        # As `Model.turn_end`: where none of these stands behind an answer, what does ends it too.
        after = self._control.encode(self._template.after_answer, add_special_tokens=False).ids
        bos = self._control.token_to_id(_text(config.get("bos_token")))
        mark = next((token for token in after if token in self._special and token != bos), None)
        if mark is not None and not known.keys() & set(after):
            known[mark] = None
        return tuple(known)


def _within(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that goes on another one: without a space that the tokenizer puts before it."""
    found = tokenizer.encode(_START + text, add_special_tokens=False)
    return [token for token, (_, end) in zip(found.ids, found.offsets, strict=True) if end > len(_START)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError("model", f"{path} cannot be read ({type(error).__name__})") from None
    return found if isinstance(found, dict) else {}


def _template(folder: Path, config: dict[str, Any]) -> str:
    try:
        return (folder / "chat_template.jinja").read_text("utf-8-sig")
    except FileNotFoundError:
        source = config.get("chat_template")
    except (OSError, ValueError) as error:
        raise ConfigError("model", f"the chat template cannot be read ({type(error).__name__})") from None
    if not isinstance(source, str):
        raise ConfigError("model", f"{folder} has no chat template; serve a model that was trained to chat")
    return source


def _text(token: object) -> str:
    """Return the text of a token, which may stand alone or in a record."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""
