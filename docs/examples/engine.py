"""An engine of your own: a phrase book. It shows the whole protocol with a thread, cancellation and deadlines."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from crayon import FinishReason, ScoreResult, Timings, Usage
from crayon.engine import GENERATE, Delta, Finished, ModelInfo, Started, Stream
from crayon.errors import (
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    PromptTooLongError,
    UnknownModelError,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from crayon import EncodeResult
    from crayon.engine import EncodeRequest, GenerateRequest, ScoreRequest

CONTEXT_WORDS = 64


class PhraseBook:
    """Looks the last message up; each answer is written by a thread of its own, a word every `delay` seconds."""

    def __init__(self, phrases: dict[str, str], *, delay: float = 0.0) -> None:
        self._phrases = phrases
        self._delay = delay
        self._closed = threading.Event()

    def models(self) -> tuple[ModelInfo, ...]:
        """Say what is served, and what of the protocol it can do."""
        return (ModelInfo("phrase-book", CONTEXT_WORDS, capabilities=frozenset({GENERATE})),)

    def generate(self, request: GenerateRequest) -> Stream:
        """Refuse what is wrong at once; write the answer in a thread and return before it is there."""
        if self._closed.is_set():
            raise EngineClosedError("the phrase book is closed")
        if request.model not in {"", "phrase-book"}:
            raise UnknownModelError(f"model {request.model!r} is not served here; there is: phrase-book")
        if request.blend is not None:
            raise InvalidRequestError("blend", "a phrase book has no adapters; leave it away")
        words = sum(len(message.content.split()) for message in request.messages)
        if words >= CONTEXT_WORDS:
            raise PromptTooLongError(words, CONTEXT_WORDS - 1)
        stopped = threading.Event()
        stream = Stream(on_cancel=stopped.set)
        thread = threading.Thread(target=self._write, args=(request, stream, stopped, words), daemon=True)
        thread.start()
        return stream

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Not among the capabilities, so nobody should ask; who does is told."""
        raise InvalidRequestError("score", "a phrase book cannot score")

    def encode(self, request: EncodeRequest) -> Future[EncodeResult]:
        """Likewise."""
        raise InvalidRequestError("encode", "a phrase book cannot encode")

    def close(self) -> None:
        """End what runs; safe to call twice."""
        self._closed.set()

    def _write(self, request: GenerateRequest, stream: Stream, stopped: threading.Event, prompt: int) -> None:
        said: list[str] = []
        began = first = time.monotonic()
        answer = self._phrases.get(request.messages[-1].content, "I do not know that phrase .")
        ends = [at for at in (answer.find(stop) for stop in request.sampling.stop) if at >= 0]
        words = answer[: min(ends, default=len(answer))].split()
        try:
            stream.push(Started(request.request_id, "phrase-book"))
            for i, word in enumerate(words[: request.sampling.max_tokens]):
                self._pause(request.deadline, stopped, " ".join(said))
                first = time.monotonic() if i == 0 else first
                stream.push(Delta(word if i == 0 else f" {word}", tokens=1))
                said.append(word)
        except CrayonError as error:
            stream.fail(error)  # the failure is the stream's last word
            return
        reason = FinishReason.STOP if len(said) == len(words) else FinishReason.LENGTH
        spent = Timings(prompt_ms=1000 * (first - began), decode_ms=1000 * (time.monotonic() - first))
        stream.push(Finished(reason, Usage(prompt, len(said)), spent))

    def _pause(self, deadline: float | None, stopped: threading.Event, partial: str) -> None:
        """Take the time that a model would, and look whether anybody still wants the answer."""
        stopped.wait(self._delay)
        if self._closed.is_set():
            raise EngineClosedError("the phrase book is closed")
        if stopped.is_set():
            raise CancelledError("the caller cancelled")
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceededError("the deadline passed while the answer was being written", partial)


if __name__ == "__main__":
    from crayon import Crayon

    with Crayon(device=PhraseBook({"good morning": "buenos días"})) as crayon:
        for phrase in ("good morning", "good night"):
            answer = crayon.ask(phrase)
            print(f"{phrase}: {answer} ({answer.model}, {answer.route.reason})")
