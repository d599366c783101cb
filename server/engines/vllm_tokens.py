"""Prompts as tokens, for vLLM: by the very rules of `crayon.llama.model.Model.tokenize_chat`.

vLLM is given tokens, not text. So a message that spells a control token is text here as it is with llama.cpp, and the
template runs in the same sandbox.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError, InvalidRequestError
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
        self.ends = self._ends(config, _json(folder / "generation_config.json"))
        """Ids of the tokens that end an answer."""

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a conversation up to where the assistant's answer starts.

        Raises:
            InvalidRequestError: the template refuses the messages, or a message holds a control token and the
                template rewrites messages, so that the two cannot be told apart.
        """
        if not any(mark in message.content for message in messages for mark in self._marks):
            return list(self._control.encode(self._template.render(messages), add_special_tokens=False).ids)
        parts = self._template.render_parts(messages)
        if parts is None:
            raise InvalidRequestError("messages", "hold one of the model's control tokens; remove it")
        tokens: list[int] = []
        for part in parts:
            using = self._plain if part.is_content else self._control
            tokens += using.encode(part.text, add_special_tokens=False).ids
        return tokens

    def text(self, text: str) -> list[int]:
        """Return the tokens of a text, in which control tokens are text."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _ends(self, config: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
        named = generation.get("eos_token_id")
        own = named if isinstance(named, list) else [named]
        names = (_text(config.get("eos_token")), *ENDS)
        found = [*own, *(self._control.token_to_id(name) for name in names if name)]
        return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError("model", f"{path} cannot be read ({type(error).__name__})") from None
    return found if isinstance(found, dict) else {}


def _template(folder: Path, config: dict[str, Any]) -> str:
    try:
        return (folder / "chat_template.jinja").read_text("utf-8")
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
