"""Every question answered by the device, the server and both together, and the figures of it."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from crayon import Crayon, Mode, Privacy
from crayon.bench.report import Row
from crayon.completion import FinishReason, Source
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.eval.chat.checks import Checks, check, expected
from crayon.eval.customize import EvalReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from crayon.completion import Completion
    from crayon.engine import Engine
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.chat.checks import Expected
    from crayon.eval.chat.questions import ChatQuestion
    from crayon.eval.customize import Tell

BENCH = "eval chat"
# The product's own way is the third one: gates, privacy and all.
SIDES: dict[str, Mode] = {
    "device": Mode.ONLY_ON_DEVICE,
    "server": Mode.ONLY_ON_SERVER,
    "hybrid": Mode.PREFER_ON_DEVICE,
}
PATIENCE_S = 900.0
MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn's answer. `text` is "" and `failed` says why where there is none."""

    text: str
    source: str = ""
    reason: str = ""
    cut: bool = False
    prompt_tokens: int = 0
    answer_tokens: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    failed: str = ""


@dataclass(slots=True)
class ChatReport(EvalReport):
    """A report with every answer and what the checks say of it."""

    chats: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        return {**EvalReport.as_json(self), "chats": self.chats}


def evaluate_chat(
    device: Engine,
    server: Engine,
    keys: Mapping[str, str],
    questions: Sequence[ChatQuestion],
    cache: AnswerCache,
    *,
    max_tokens: int = MAX_TOKENS,
    workers: int = 1,
    tell: Tell = lambda _: None,
) -> ChatReport:
    """Have every question answered by each side.

    Args:
        device: the engine on the device.
        server: the connection.
        keys: what stands for the device's and the server's model, by name: their hashes.
        questions: what is asked.
        cache: keeps conversations, so that a run that was killed goes on from there.
        max_tokens: of an answer.
        workers: chats at a time; the seconds of an answer are those beside the others.
        tell: takes lines about the progress.

    Raises:
        ServerError: the server cannot be reached.
        InvalidRequestError: `max_tokens` or `workers` is below 1.
    """
    if max_tokens < 1:
        raise InvalidRequestError("--max-tokens", "must be at least 1")
    if workers < 1:
        raise InvalidRequestError("--workers", "must be at least 1")
    wanted = expected()
    chats: list[dict[str, Any]] = []
    found: dict[str, list[tuple[Reply, Checks]]] = {side: [] for side in SIDES}

    def talk(side: str, question: ChatQuestion) -> list[Reply]:
        return _talk(side, device, server, question, max_tokens)

    replies = _all(questions, keys, cache, max_tokens, workers, talk, tell)
    for question in questions:
        entry: dict[str, Any] = {**asdict(question), "replies": {}}
        for side in SIDES:
            checked = [
                (reply, check(reply.text, _wanted(wanted, question, turn), cut=reply.cut))
                for turn, reply in enumerate(replies[question.id, side], 1)
            ]
            entry["replies"][side] = [{**asdict(reply), "checks": asdict(own)} for reply, own in checked]
            found[side] += checked
        chats.append(entry)
    settings = {"questions": len(questions), "max_tokens": max_tokens, "temperature": 0.0, "workers": workers}
    rows = list(_rows(found, " with ".join(keys)))
    return ChatReport(BENCH, dict(keys), rows, settings=settings, chats=chats)


def _wanted(known: Mapping[tuple[int, int], Expected], question: ChatQuestion, turn: int) -> Expected | None:
    return known.get((question.id, turn))


def _all(
    questions: Sequence[ChatQuestion],
    keys: Mapping[str, str],
    cache: AnswerCache,
    max_tokens: int,
    workers: int,
    talk: Callable[[str, ChatQuestion], list[Reply]],
    tell: Tell,
) -> dict[tuple[int, str], list[Reply]]:
    """Return the replies by question and side: those that are kept, and the others from so many chats at a time."""
    found: dict[tuple[int, str], list[Reply]] = {}
    step = _progress(len(questions) * len(SIDES), tell)
    running = {}
    pool = ThreadPoolExecutor(workers, "crayon-chats")
    try:
        # Side by side: where both models are on one machine, chats of both at a time would take each other's cores.
        for side, question in itertools.product(SIDES, questions):
            # With the workers, since an answer's seconds are those beside the others.
            key = cache.key("chat-2", side, sorted(keys.items()), question.turns, max_tokens, workers)
            kept = cache.get(key)
            if kept is None:
                running[pool.submit(talk, side, question)] = (question, side, key)
            else:
                found[question.id, side] = [Reply(**raw) for raw in json.loads(kept)]
                step(f"question {question.id}, {side}")
        for done in as_completed(running):
            question, side, key = running[done]
            found[question.id, side] = replies = done.result()
            cache.put(key, json.dumps([asdict(reply) for reply in replies]).encode())
            step(f"question {question.id}, {side}")
    finally:
        # After a failure nothing else is begun; what runs ends with its engine, which the caller closes.
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _talk(side: str, device: Engine, server: Engine, question: ChatQuestion, max_tokens: int) -> list[Reply]:
    # The questions are public: where the server alone is asked, nothing has to stay on the device.
    privacy = Privacy(action="off") if side == "server" else None
    with Crayon(device, server, mode=SIDES[side], privacy=privacy, timeout=PATIENCE_S) as client:
        chat = client.chat(when_full="fail")  # what was asked for is measured, not what is left of it
        replies: list[Reply] = []
        for turn in question.turns:
            started = time.perf_counter()
            try:
                done = chat.ask(turn, temperature=0.0, max_tokens=max_tokens)
            except PromptTooLongError as error:
                replies.append(Reply("", failed=str(error)))
            else:
                replies.append(_reply(done, time.perf_counter() - started))
        return replies


def _reply(done: Completion, seconds: float) -> Reply:
    return Reply(
        done.text,
        str(done.route.source),
        str(done.route.reason),
        done.finish_reason is FinishReason.LENGTH,
        done.usage.prompt_tokens,
        done.usage.completion_tokens,
        done.route.bytes_sent,
        round(seconds, 3),
    )


def _rows(found: Mapping[str, Sequence[tuple[Reply, Checks]]], model: str) -> Iterator[Row]:
    for side, checked in found.items():
        answered = [(reply, own) for reply, own in checked if not reply.failed]
        n = len(checked)
        if not answered:
            continue
        yield _row("words", statistics.median(own.words for _, own in answered), "words", model, len(answered), side)
        for metric, flag in (("cut_off", "cut"), ("refused", "refused"), ("not_english", "foreign")):
            share = 100 * sum(bool(getattr(own, flag)) for _, own in answered) / len(answered)
            yield _row(metric, share, "%", model, len(answered), side)
        yield _row("failed", 100 * (n - len(answered)) / n, "%", model, n, side)
        exact = [own.exact for _, own in answered if own.exact is not None]
        if exact:
            yield _row("exact_right", 100 * sum(exact) / len(exact), "%", model, len(exact), side)
        yield _row("seconds", statistics.median(r.seconds for r, _ in answered), "s", model, len(answered), side)
        sent = [reply for reply, _ in answered if reply.source == Source.SERVER]
        yield _row("server_share", 100 * len(sent) / len(answered), "%", model, len(answered), side)
        tokens = sum(reply.prompt_tokens + reply.answer_tokens for reply in sent) / len(answered)
        yield _row("server_tokens", tokens, "tokens", model, len(answered), side)
        yield _row("bytes_sent", sum(r.bytes_sent for r, _ in answered) / len(answered), "bytes", model, n, side)


def _row(metric: str, value: float, unit: str, model: str, n: int, side: str) -> Row:
    return Row(metric, float(value), unit, (), model, "a turn of a chat", n=n, variant=side)


def _progress(total: int, tell: Tell) -> Callable[[str], None]:
    started, done = time.monotonic(), 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - started) * (total - done) / done
        minutes = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
        tell(f"{what}; {done:,} of {total:,} chats, about {minutes} left")

    return step
