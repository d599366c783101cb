"""A model's own chat template, rendered in Jinja's sandbox: it comes from a file of the outside world."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crayon.errors import InvalidRequestError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.messages import Message

# Unicode's private use area: cannot be mistaken for a model's own text, and no template trims it.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a rendered prompt: the template's own text, or a message's content."""

    text: str
    is_content: bool


class ChatTemplate:
    """Renders messages as the model was trained to read them.

    Raises:
        ModelFileError: `source` is not valid Jinja.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        # The settings are those of transformers' apply_chat_template, which the templates are written for.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, autoescape=False
        )  # the output is a prompt, not HTML
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: dt.datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelFileError(f"the model's chat template is not valid Jinja: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt, ending where the assistant's answer starts.

        Raises:
            InvalidRequestError: the template refuses these messages (for example two user turns in a row).
        """
        try:
            return self._template.render(
                messages=[{"role": m.role, "content": m.content} for m in messages],
                add_generation_prompt=True,
                **self._tokens,
            )
        except InvalidRequestError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise InvalidRequestError("messages", f"the model's chat template cannot render them: {error}") from error

    def render_parts(self, messages: Sequence[Message]) -> list[Part] | None:
        """Return the prompt in parts, each message's content apart; None where the template alters contents."""
        marked = [type(m)(m.role, f"{_OPEN}{i}{_CLOSE}") for i, m in enumerate(messages)]
        if any(mark in m.content for m in messages for mark in (_OPEN, _CLOSE)):
            return None
        parts: list[Part] = []
        rest = self.render(marked)
        for i, message in enumerate(messages):
            before, mark, rest = rest.partition(f"{_OPEN}{i}{_CLOSE}")
            if not mark:
                return None
            parts += [Part(before, is_content=False), Part(message.content, is_content=True)]
        parts.append(Part(rest, is_content=False))
        if "".join(part.text for part in parts) != self.render(messages):
            return None
        return [part for part in parts if part.text]


def _refuse(message: str) -> NoReturn:
    raise InvalidRequestError("messages", f"refused by the model's chat template: {message}")
