"""A conversation: the history of turns that succeeded, kept for the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from crayon.completion import Reason, Source
from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages
from crayon.sdk.call.options import Past, check_profile, lasting, merged, resolve_private
from crayon.sdk.sliding import oldest_to_drop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from crayon.completion import Completion
    from crayon.errors import PromptTooLongError
    from crayon.messages import MessagesLike
    from crayon.sdk.async_client import AsyncCrayon
    from crayon.sdk.async_stream import AsyncAnswerStream
    from crayon.sdk.call.options import Call, CallOptions
    from crayon.sdk.client import Crayon
    from crayon.sdk.stream import AnswerStream

WhenFull: TypeAlias = Literal["slide", "fail"]

logger = logging.getLogger("crayon.sdk")


class _History:
    """Turns so far. A turn enters it when its answer is complete, and only if it is still the latest one."""

    def __init__(
        self,
        messages: MessagesLike,
        options: CallOptions,
        *,
        system: str | None,
        drops: bool,
        when_full: WhenFull,
    ) -> None:
        if when_full not in ("slide", "fail"):
            raise InvalidRequestError("when_full", f"must be 'slide' or 'fail', not {when_full!r}")
        self._slides = when_full == "slide"
        self._left_out = 0  # messages at the beginning, after the system message
        self._turns = _checked(messages)
        if system is not None:
            if self._turns and self._turns[0].role == "system":
                raise InvalidRequestError("system", "the messages already start with a system message; drop one")
            self._turns = (*_checked([Message("system", system)]), *self._turns)
        self._options = lasting(options)
        self._private = self._born_private = resolve_private(options.get("private", False))
        self._drops = drops
        self._held: set[int] = set()  # indexes of messages that must stay on the device
        self._clean: set[int] = set()  # and of answers that a server wrote
        self._latest = 0
        self._profile = check_profile(options.get("last_profile"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history: system message if any, then user and assistant in turn."""
        return self._turns

    @property
    def left_out(self) -> int:
        """How many of the oldest messages are not sent any more, as the context was full."""
        return self._left_out

    @property
    def profile(self) -> str | None:
        """The profile that the conversation is in, where it has a customisation: it stays until another is nearer."""
        return self._profile

    @property
    def private(self) -> bool:
        """Whether any turn so far was private; then the whole conversation stays on the device.

        With `Privacy(history="drop")` only those turns stay, which are then not sent along.
        """
        return self._private

    def clear(self) -> None:
        """Forget all turns but the system message; a conversation not begun as private is public again."""
        self._latest += 1
        self._turns = tuple(message for message in self._turns[:1] if message.role == "system")
        self._private = self._born_private
        self._held, self._clean = set(), set()
        self._profile = None
        self._left_out = 0

    def _begin(self, text: str, *, private: bool | None) -> tuple[tuple[Message, ...], int, bool]:
        if not isinstance(text, str):
            raise InvalidRequestError("text", f"must be the user's text, not {type(text).__name__}")
        question = normalise_messages(text)
        # Before anything runs: a private turn marks the conversation even if it fails.
        own = resolve_private(self._born_private, private)
        self._private = self._private or own
        self._latest += 1
        return (*self._turns, *question), self._latest, own if self._drops else self._private

    def _told(self, options: CallOptions, *, private: bool) -> CallOptions:
        """Return all that a turn's call is told: by the turn, else by the conversation."""
        told = merged({**self._options, "last_profile": self._profile}, options)
        return {**told, "private": private}

    def _sent(self, messages: tuple[Message, ...]) -> dict[str, Any]:
        """Return as keywords what is sent of a history, without what was left out, and what is known of it."""
        lead, gone = self._lead, self._left_out
        known = [
            frozenset(i if i < lead else i - gone for i in places if i < lead or i >= lead + gone)
            for places in (self._held, self._clean)
        ]
        return {"messages": (*messages[:lead], *messages[lead + gone :]), "past": Past(*known)}

    @property
    def _lead(self) -> int:
        return int(bool(self._turns) and self._turns[0].role == "system")

    def _shortener(
        self, messages: tuple[Message, ...], turn: int
    ) -> Callable[[Call, PromptTooLongError], Call | None] | None:
        """Return what leaves the oldest turns out of a call that does not fit; None where that is to fail."""

        def shorten(call: Call, error: PromptTooLongError) -> Call | None:
            history = messages[self._lead + self._left_out : -1]
            count = oldest_to_drop(history, error.prompt_tokens, error.limit + 1)
            if not count or turn != self._latest:
                return None
            self._left_out += count
            logger.info("the context is full: the oldest %d messages of a conversation are left out", self._left_out)
            return replace(call, **self._sent(messages), screened=None)

        return shorten if self._slides else None

    def _recorder(self, messages: tuple[Message, ...], turn: int, *, private: bool) -> Callable[[Completion], None]:
        def record(completion: Completion) -> None:
            if turn == self._latest:
                self._turns = (*messages, completion.message)
                if private or completion.route.reason is Reason.SENSITIVE:
                    self._held |= {len(messages) - 1, len(messages)}
                if completion.route.source is Source.SERVER:
                    self._clean.add(len(messages))
                # An answer from elsewhere leaves the device where it was.
                self._profile = completion.route.profile or self._profile

        return record


class Conversation(_History):
    """A conversation with `Crayon`; `Crayon.chat` makes one. Use it from one thread at a time.

    A turn that fails or is cancelled leaves the history as it was, and so does one overtaken by a later turn.
    Privacy sticks: after one private turn, or one that stayed on the device for what was found in it, the whole
    conversation stays there, until `clear` (`Privacy` has a gentler choice). When the context is full, the oldest turns
    are left out of what is sent (`messages` keeps them), or with `when_full="fail"` a turn raises PromptTooLongError.
    """

    def __init__(
        self,
        client: Crayon,
        messages: MessagesLike = (),
        *,
        system: str | None = None,
        when_full: WhenFull = "slide",
        **options: Unpack[CallOptions],
    ) -> None:
        super().__init__(messages, options, system=system, drops=client._core.screen.drops, when_full=when_full)
        self._client = client

    def ask(self, text: str, **options: Unpack[CallOptions]) -> Completion:
        """Say `text` and return the whole answer; options and errors as for `Crayon.ask`."""
        with self.stream(text, **options) as stream:
            for _ in stream:
                pass
            return stream.completion

    def stream(self, text: str, **options: Unpack[CallOptions]) -> AnswerStream:
        """Say `text` and return the answer as it is written; options and errors as for `Crayon.stream`."""
        messages, turn, stays = self._begin(text, private=options.get("private"))
        return self._client._answer(
            **self._sent(messages),
            options=self._told(options, private=stays),
            on_done=self._recorder(messages, turn, private=stays),
            shorten=self._shortener(messages, turn),
        )


class AsyncConversation(_History):
    """A conversation with `AsyncCrayon`; `AsyncCrayon.chat` makes one. Use it from one task at a time.

    A turn that fails or is cancelled leaves the history as it was, and so does one overtaken by a later turn.
    Privacy sticks: after one private turn, or one that stayed on the device for what was found in it, the whole
    conversation stays there, until `clear` (`Privacy` has a gentler choice). When the context is full, the oldest turns
    are left out of what is sent (`messages` keeps them), or with `when_full="fail"` a turn raises PromptTooLongError.
    """

    def __init__(
        self,
        client: AsyncCrayon,
        messages: MessagesLike = (),
        *,
        system: str | None = None,
        when_full: WhenFull = "slide",
        **options: Unpack[CallOptions],
    ) -> None:
        super().__init__(messages, options, system=system, drops=client._core.screen.drops, when_full=when_full)
        self._client = client

    async def ask(self, text: str, **options: Unpack[CallOptions]) -> Completion:
        """Say `text` and return the whole answer; options and errors as for `AsyncCrayon.ask`."""
        async with self.stream(text, **options) as stream:
            async for _ in stream:
                pass
            return stream.completion

    def stream(self, text: str, **options: Unpack[CallOptions]) -> AsyncAnswerStream:
        """Say `text` and return the answer as it is written; options and errors as for `AsyncCrayon.stream`."""
        messages, turn, stays = self._begin(text, private=options.get("private"))
        return self._client._answer(
            **self._sent(messages),
            options=self._told(options, private=stays),
            on_done=self._recorder(messages, turn, private=stays),
            shorten=self._shortener(messages, turn),
        )


def _checked(messages: MessagesLike) -> tuple[Message, ...]:
    """Check a history, which unlike a request may be empty and usually ends with the assistant."""
    given: object = messages  # whatever its type says
    if not isinstance(given, Iterable | Message):
        raise InvalidRequestError("messages", "must be a string or a list of {'role', 'content'}")
    items = [messages] if isinstance(messages, str | Message | Mapping) else list(messages)
    turns = [Message("user", item) if isinstance(item, str) else item for item in items]
    return normalise_messages([*turns, Message("user", "?")])[:-1]
