"""Between a call and the server: looks at every text that would be sent, and says what may go."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from crayon.completion import Mode, PrivacyReport, Reason, Source
from crayon.errors import CrayonError, InvalidRequestError, PrivacyError, fault_report
from crayon.privacy.finding import KINDS
from crayon.privacy.redaction import redact
from crayon.privacy.scanner import Scanner, detectors_of
from crayon.router.policy import Allowed
from crayon.router.privacy import Action, decide_action, stay, turns_to_drop
from crayon.sdk.call.options import Past, Screened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crayon.messages import Message
    from crayon.privacy.finding import Detector
    from crayon.privacy.scanner import Scan
    from crayon.sdk.call.options import Call

logger = logging.getLogger("crayon.sdk")

_SERVER_FIRST = Allowed((Source.SERVER, Source.DEVICE), Reason.MODE)
_SETTINGS = (Action.KEEP, Action.REDACT, Action.ASK, Action.OFF)
KEEP_HISTORY, DROP_HISTORY = _HISTORY = ("keep", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What is looked for in a query before a server is asked, and what is done where something is found.

    Args:
        action: "keep" on the device; "redact" what a server is sent, with the originals put back into its answer;
            "ask" says which, each time; "off" looks for nothing.
        detect: kinds of `crayon.privacy.KINDS`, "presidio" (extra `presidio`), or detectors of your own.
        patterns: regular expressions of your own by name, in the syntax of the package `regex`. One that takes longer
            than 50 ms on a text counts as found.
        ask: for the action "ask"; is given how many of each kind were found and returns "keep", "redact" or "send".
            Anything else, an exception too, is "keep". `AsyncCrayon` calls it in a thread.
        history: where a conversation goes on after a turn that must stay on the device: "keep" all of it there, or
            "drop" such turns from what a server is sent.
        ledger: whether each request that is sent and each answer is noted in this user's ledger (`crayon.ledger`):
            when, how many bytes, to whom and why, never any text.

    Raises:
        InvalidRequestError: an argument is wrong; the field names it.
        MissingExtraError: Presidio is wanted and not installed.
    """

    action: Action | str = Action.KEEP
    detect: Sequence[str | Detector] = KINDS
    patterns: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[Mapping[str, int]], str] | None = None
    history: str = KEEP_HISTORY
    ledger: bool = True
    scanner: Scanner = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.action not in _SETTINGS:
            choices = ", ".join(_SETTINGS)
            raise InvalidRequestError("privacy.action", f"must be one of {choices}, not {self.action!r}")
        if self.history not in _HISTORY:
            raise InvalidRequestError("privacy.history", f"must be keep or drop, not {self.history!r}")
        if not isinstance(self.ledger, bool):
            raise InvalidRequestError("privacy.ledger", f"must be True or False, not {self.ledger!r}")
        if self.ask is not None and not callable(self.ask):
            raise InvalidRequestError("privacy.ask", "must be a function that takes what was found, or None")
        if isinstance(self.detect, str) or not isinstance(self.detect, tuple | list):
            raise InvalidRequestError("privacy.detect", "must be a list of kinds and detectors")
        if not isinstance(self.patterns, Mapping):
            raise InvalidRequestError("privacy.patterns", "must map names to regular expressions")
        object.__setattr__(self, "action", Action(self.action))
        object.__setattr__(self, "scanner", Scanner(detectors_of(self.detect, self.patterns)))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What may be sent: `kept` indexes of messages, their texts and the others as they may go."""

    allowed: Allowed
    kept: tuple[int, ...]
    texts: tuple[str, ...]
    others: tuple[str, ...]
    report: PrivacyReport | None = None
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)


class Screen:
    """Looks at what would be sent; whatever goes wrong in here keeps it on the device.

    Args:
        privacy: the settings; None for the defaults.
    """

    def __init__(self, privacy: Privacy | None = None) -> None:
        given: object = privacy
        if given is not None and not isinstance(given, Privacy):
            raise InvalidRequestError("privacy", f"must be a Privacy or None, not {type(given).__name__}")
        self._privacy = Privacy() if privacy is None else privacy

    @property
    def ledger(self) -> bool:
        """Whether what is sent and answered is noted."""
        return self._privacy.ledger

    @property
    def drops(self) -> bool:
        """Whether turns that must stay are left out, instead of keeping their whole conversation here."""
        return self._privacy.history == DROP_HISTORY

    def look(self, call: Call, others: Sequence[str] = ()) -> Call:
        """Return the call with what a server may be sent of it, and which sides may answer now.

        Args:
            call: what is asked for.
            others: further texts that would be sent with it.

        Raises:
            PrivacyError: it must stay on the device, which may not answer it.
        """
        if Source.SERVER not in call.allowed.sources or call.screened is not None:
            return call
        stops = call.sampling.stop
        form = (*(call.constraint.texts if call.constraint else ()), *(call.tools.texts if call.tools else ()))
        verdict = self._judge(call.mode, call.allowed, call.messages, (*stops, *others, *form), call.past)
        if verdict.others[len(verdict.others) - len(form) :] != form:
            # With placeholders in it, it would be another one.
            kinds = verdict.report.found if verdict.report else ()
            verdict = self._stay(call.mode, call.allowed, call.messages, (*stops, *others, *form), kinds)
        messages = _with_texts(call.messages, verdict)
        sent = verdict.others[: len(verdict.others) - len(form)]
        sampling = replace(call.sampling, stop=sent[: len(stops)]) if stops else call.sampling
        screened = Screened(messages, sampling, sent[len(stops) :], verdict.originals, verdict.report)
        return replace(call, screened=screened, allowed=verdict.allowed)

    def look_scored(self, call: Call, continuations: Sequence[str]) -> tuple[Call, tuple[str, ...]]:
        """Return a `score` call and its continuations as the first allowed side gets them; errors as `look`."""
        texts = tuple(continuations)
        if call.allowed.sources[0] is not Source.SERVER:
            return call, texts
        verdict = self._judge(call.mode, call.allowed, call.messages, texts, call.past)
        if verdict.allowed.sources[0] is not Source.SERVER:
            return replace(call, allowed=verdict.allowed), texts
        return replace(call, messages=_with_texts(call.messages, verdict), allowed=verdict.allowed), verdict.others

    def lets_pass(self, texts: Sequence[str]) -> bool:
        """Return whether texts of nobody's call may be sent just as they are."""
        try:
            verdict = self._judge(Mode.PREFER_ON_SERVER, _SERVER_FIRST, (), tuple(texts), Past())
        except PrivacyError:
            return False
        return verdict.allowed.sources[0] is Source.SERVER and verdict.others == tuple(texts)

    def look_texts(self, mode: Mode, allowed: Allowed, texts: Sequence[str]) -> tuple[str, ...]:
        """Return the texts of an `encode` call as the first allowed side gets them; errors as `look`."""
        if allowed.sources[0] is not Source.SERVER:
            return tuple(texts)
        verdict = self._judge(mode, allowed, (), tuple(texts), Past())
        return verdict.others

    def _judge(
        self, mode: Mode, allowed: Allowed, messages: Sequence[Message], others: Sequence[str], past: Past
    ) -> _Verdict:
        try:
            return self._decide(mode, allowed, messages, others, past)
        except CrayonError:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it fails closed
            logger.warning("privacy: a fault in looking keeps the query on the device: %s", fault_report(fault))
            return self._stay(mode, allowed, messages, others, ("fault",))

    def _decide(
        self, mode: Mode, allowed: Allowed, messages: Sequence[Message], others: Sequence[str], past: Past
    ) -> _Verdict:
        action = Action(self._privacy.action)
        owners = [i for i, message in enumerate(messages) for _ in message.texts]
        texts = [*(text for message in messages for text in message.texts), *others]
        scan = self._scan([] if action is Action.OFF else texts)
        found = {owner for owner, own in zip(owners, scan.texts, strict=False) if own}
        dropped: frozenset[int] = frozenset()
        if self.drops:
            marked = found if action in {Action.KEEP, Action.ASK} else set()
            dropped = turns_to_drop(messages, marked, past.private, past.clean)
        elif past.private:
            return self._stay(mode, allowed, messages, others, scan.kinds)
        kept = tuple(i for i in range(len(messages)) if i not in dropped)
        left = [j for j in range(len(texts)) if j >= len(owners) or owners[j] not in dropped]
        rest = [texts[i] for i in left]
        findings = [scan.texts[i] for i in left] if scan.texts else []
        turns = sum(messages[i].role == "user" for i in dropped)
        report = PrivacyReport(scan.kinds, Action.KEEP.value, turns) if scan or turns else None
        if not scan.undecided and not any(findings):
            return _verdict(allowed, kept, rest, others, report)
        counts = Counter(item.kind for own in findings for item in own)
        answer = self._answer(counts) if action is Action.ASK and not scan.undecided else None
        action = decide_action(action, undecided=bool(scan.undecided), answer=answer)
        logger.info("privacy: found %s: %s", ", ".join(_counted(counts, scan)), action.value)
        if action is Action.KEEP:
            return self._stay(mode, allowed, messages, others, scan.kinds)
        report = PrivacyReport(scan.kinds, action.value, turns)
        if action is Action.SEND:
            return _verdict(allowed, kept, rest, others, report)
        redaction = redact(rest, findings)
        if redaction is None or self._scan(redaction.texts):
            logger.warning("privacy: not all that was found can be replaced, so the query stays on the device")
            return self._stay(mode, allowed, messages, others, scan.kinds)
        return _verdict(allowed, kept, redaction.texts, others, report, redaction.originals)

    def _scan(self, texts: Sequence[str]) -> Scan:
        # What is no text is refused by who takes it; here it shows nothing.
        return self._privacy.scanner.scan([text if isinstance(text, str) else "" for text in texts])

    def _answer(self, counts: Mapping[str, int]) -> Any:
        if self._privacy.ask is None:
            return None
        try:
            return self._privacy.ask(dict(counts))
        except Exception as fault:  # noqa: BLE001 - it is the caller's own, and no answer is no permission
            logger.warning("privacy: the question failed, so the query stays on the device: %s", fault_report(fault))
            return None

    def _stay(
        self, mode: Mode, allowed: Allowed, messages: Sequence[Message], others: Sequence[str], kinds: Iterable[str]
    ) -> _Verdict:
        kinds = tuple(kinds)
        texts = tuple(text for message in messages for text in message.texts)
        kept = tuple(range(len(messages)))
        return _Verdict(stay(allowed, mode, kinds), kept, texts, tuple(others), PrivacyReport(kinds))


def _verdict(
    allowed: Allowed,
    kept: tuple[int, ...],
    texts: Sequence[str],
    others: Sequence[str],
    report: PrivacyReport | None,
    originals: Mapping[str, str] | None = None,
) -> _Verdict:
    """Return what may be sent; the last of the texts are the others."""
    said = len(texts) - len(others)
    return _Verdict(allowed, kept, tuple(texts[:said]), tuple(texts[said:]), report, originals or {})


def _with_texts(messages: Sequence[Message], verdict: _Verdict) -> tuple[Message, ...]:
    left = iter(verdict.texts)
    return tuple(messages[i].with_texts([next(left) for _ in messages[i].texts]) for i in verdict.kept)


def _counted(counts: Mapping[str, int], scan: Scan) -> list[str]:
    return [f"{kind} {count}" for kind, count in sorted(counts.items())] + [
        f"{name} undecided" for name in scan.undecided
    ]
