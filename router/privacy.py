"""What may be sent of a request in which something sensitive was found, and which earlier turns stay behind."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from crayon.completion import Mode, Reason, Source
from crayon.errors import PrivacyError
from crayon.router.policy import Allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from crayon.messages import Message


class Action(StrEnum):
    """What is done where something sensitive was found."""

    KEEP = "keep"
    """The query stays on the device."""
    REDACT = "redact"
    """A server gets placeholders in place of what was found."""
    ASK = "ask"
    """The caller is asked for one of the others, or for `send`."""
    OFF = "off"
    """Nothing is looked for."""
    SEND = "send"
    """The text is sent as it is; only an answer to a question, never a setting."""


def decide_action(action: Action, *, undecided: bool, answer: object = None) -> Action:
    """Return keep, redact or send for a request in which something was found.

    Anything unclear is keep: a detector that could not decide, and any answer but "redact" and "send".

    Args:
        action: the setting.
        undecided: whether a detector failed, so that nobody knows what else is in the text.
        answer: what the caller said, where the setting is to ask.
    """
    if undecided:
        return Action.KEEP
    if action is Action.ASK:
        return Action(answer) if isinstance(answer, str) and answer in {"redact", "send"} else Action.KEEP
    return action if action in {Action.REDACT, Action.OFF} else Action.KEEP


def stay(allowed: Allowed, mode: Mode, what: Iterable[str]) -> Allowed:
    """Return `allowed` without the server.

    Args:
        allowed: what the policy said before anything was found.
        mode: what the caller allows.
        what: the kinds found, for the message.

    Raises:
        PrivacyError: no device may answer; nothing was sent.
    """
    if Source.DEVICE in allowed.sources:
        return Allowed((Source.DEVICE,), Reason.SENSITIVE)
    found = ", ".join(what)
    found = f"something sensitive was found ({found})" if found else "an earlier turn must stay on the device"
    fix = "the mode is only_on_server" if mode is Mode.ONLY_ON_SERVER else "no device model is configured"
    raise PrivacyError(f"{found} and {fix}: let the device answer, or choose another privacy.action; nothing was sent")


def turns_to_drop(
    messages: Sequence[Message],
    found: AbstractSet[int],
    private: AbstractSet[int] = frozenset(),
    clean: AbstractSet[int] = frozenset(),
) -> frozenset[int]:
    """Return the indexes of the messages of earlier turns that are left out of what a server is sent.

    A turn goes if it is private, or something was found in its question or answer. After such a turn, one that the
    device answered goes too: the device had seen what must stay, and may have repeated it in other words.

    Args:
        messages: a conversation that ends with the new question, and what belongs to its answer.
        found: indexes of the messages in which something was found.
        private: indexes of messages that must stay, whatever is found.
        clean: indexes of answers known to be written without a sight of what must stay: those of the server.
    """
    dropped: set[int] = set()
    for turn in _turns(messages):
        marked = any(i in found or i in private for i in turn)
        if marked or (dropped and not clean & set(turn)):
            dropped.update(turn)
    return frozenset(dropped)


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """Return the indexes of earlier turns: a user's message and all up to the next one, without system messages."""
    turns: list[list[int]] = []
    now = max((i for i, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    for i, message in enumerate(messages[:now]):
        if message.role == "user" or not turns:
            turns.append([])
        if message.role != "system":
            turns[-1].append(i)
    return [turn for turn in turns if turn]
