"""How an answer's origin and cost are told: in one line, in full, and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason, Reason, Source
from crayon.reasons import REASONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.completion import Chosen, Completion, Route
    from crayon.token_options import TokenLogprob

_KINDS = {
    "email": "e-mail address",
    "phone": "phone number",
    "card": "payment card",
    "iban": "IBAN",
    "national_id": "national id",
    "secret": "secret or key",
}


def kind_words(kind: str) -> str:
    """Return a kind of what was found as people say it."""
    return _KINDS.get(kind, kind)


def route_line(completion: Completion) -> str:
    """Return where the answer came from, why, time to first token, rate and length, in one line."""
    route = completion.route
    parts = [f"{route.source}: {_why(route)}"]
    if completion.probability is not None:
        parts += [f"probability {completion.probability:.2f}", f"{completion.total_ms:.0f} ms"]
    else:
        parts += [
            f"first token {completion.ttft_ms:.0f} ms",
            f"{completion.tokens_per_s:.1f} tokens/s",
            f"{completion.usage.completion_tokens} tokens",
        ]
    if route.profile is not None:
        parts.insert(1, _profile(route))
    if (sent := _sent(route)) is not None:
        parts.insert(1, sent)
    return " | ".join(parts)


def choice_line(chosen: Chosen) -> str:
    """Return where a choice came from, why, how clear it was and how long it took, in one line."""
    parts = [
        f"{chosen.route.source}: {_why(chosen.route)}",
        f"probability {max(chosen.probabilities):.2f} among {len(chosen.probabilities)}",
        f"margin {chosen.margin:.2f}",
        f"{chosen.total_ms:.0f} ms",
    ]
    if chosen.route.profile is not None:
        parts.insert(1, _profile(chosen.route))
    return " | ".join(parts)


def route_details(completion: Completion) -> list[tuple[str, str]]:
    """Return everything the answer says about itself but its text, as labels and values."""
    route, usage, timings = completion.route, completion.usage, completion.timings
    rows: list[tuple[str, str | None]] = [
        ("source", str(route.source)),
        ("reason", _why(route)),
        ("model", completion.model),
        ("server", route.server),
        ("fallback", f"from {route.fallback_from}: {route.fallback_error}" if route.fallback_from else None),
        ("custom", f"{route.customization}, {_profile(route)}" if route.profile is not None else None),
        ("evidence", ", ".join(route.evidence) or None),
        ("blend", _blend(route)),
        ("sent", f"{route.bytes_sent} bytes"),
        ("found", _found(route.privacy.found) if route.privacy and route.privacy.found else None),
        ("privacy", _sent(route)),
        (
            "tokens",
            f"{usage.prompt_tokens} read ({usage.cached_tokens} cached), {usage.completion_tokens} written",
        ),
        ("form", _form(completion)),
        ("discarded", f"{route.discarded_tokens} device tokens" if route.discarded_tokens else None),
        ("probability", f"{completion.probability:.2f}" if completion.probability is not None else None),
        ("finish", str(completion.finish_reason)),
        ("time", f"first token {completion.ttft_ms:.0f} ms, total {completion.total_ms:.0f} ms"),
        ("queue", f"{timings.queue_ms:.0f} ms"),
        ("engine", f"prompt {timings.prompt_ms:.0f} ms, decode {timings.decode_ms:.0f} ms"),
        ("scope gate", f"{route.encode_ms:.1f} ms" if route.encode_ms is not None else None),
        ("held back", f"{route.holdback_ms:.1f} ms" if route.holdback_ms is not None else None),
        ("rate", f"{completion.tokens_per_s:.1f} tokens/s"),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _form(completion: Completion) -> str | None:
    """Return what the constraint on an answer did, if there was one that did anything."""
    usage, withheld = completion.usage, completion.withheld
    told = f"told in {usage.shown_tokens} tokens" if usage.shown_tokens else None
    forced = f"{usage.forced_tokens} tokens forced" if usage.forced_tokens else None
    kept = None if withheld is None else f"{withheld:.0%} of the model's probability withheld"
    return ", ".join(part for part in (told, forced, kept) if part) or None


def completion_json(completion: Completion) -> dict[str, Any]:
    """Return the whole completion as plain JSON values."""
    record = dataclasses.asdict(completion)
    document = record.pop("document")
    return {
        **record,
        "logprobs": [logprob_json(each) for each in completion.logprobs],
        "parsed": document["value"] if document else None,
        "problem": document["problem"] or None if document else None,
        "tokens_per_s": round(completion.tokens_per_s, 3),
    }


def logprob_json(told: TokenLogprob) -> dict[str, Any]:
    """Return how likely a token was as plain JSON values."""
    own = {"token": told.token, "text": told.text, "bytes": list(told.piece), "logprob": round(told.logprob, 6)}
    return {**own, "top": [logprob_json(each) for each in told.top]} if told.top else own


def _found(kinds: Sequence[str]) -> str:
    return f"{', '.join(map(kind_words, kinds))} found"


def _sent(route: Route) -> str | None:
    """Return how what the server was sent differs from what was asked."""
    report = route.privacy
    if report is None or route.source is not Source.SERVER:
        return None
    parts = []
    if report.found and report.action != "keep":
        parts.append(f"{_found(report.found)}, {'replaced' if report.action == 'redact' else 'sent as it is'}")
    if report.dropped_turns:
        parts.append(f"{report.dropped_turns} earlier turns not sent")
    return "; ".join(parts) or None


def _why(route: Route) -> str:
    why = REASONS[route.reason]
    if route.reason is Reason.SENSITIVE and route.privacy is not None and route.privacy.found:
        why += f": {_found(route.privacy.found)}"
    if route.scope is not None and route.reason in {Reason.IN_SCOPE, Reason.OUT_OF_SCOPE}:
        why += f" ({route.scope})" if route.reason is Reason.IN_SCOPE else f" (closest: {route.scope})"
    if route.score is not None and route.threshold is not None:
        why += f", {route.score:.2f} {'>=' if route.score >= route.threshold else '<'} {route.threshold:.2f}"
    return why


def _profile(route: Route) -> str:
    text = "outside its profiles, plain base" if route.profile == "base" else f"profile {route.profile}"
    return text if route.switched_from is None else f"{text} (was {route.switched_from}; read anew)"


def _blend(route: Route) -> str | None:
    if route.blend is None:
        return None
    return f"{route.blend.pool_id}: {', '.join(f'{weight:.3g}' for weight in route.blend.weights)}"


def cut_line(completion: Completion) -> str | None:
    """Return that an answer was cut, and what lets the next one be longer; None where it was not."""
    if completion.finish_reason is not FinishReason.LENGTH or completion.probability is not None:
        return None
    written = completion.usage.completion_tokens
    return f"the answer was cut after {written} tokens: --max-tokens and the context (--context) are its bounds"
