"""What the page asks beside answers: state, lock, ledger, customising, models. Under `/crayon/`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from crayon.errors import InvalidRequestError
from crayon.gateway.shared.lines import Lines
from crayon.gateway.shared.problems import HttpError, Problem
from crayon.gateway.shared.watched import json_response
from crayon.ledger import Ledger, record, sums
from crayon.local_only import LOCAL_ONLY, local_only
from crayon.models import Store, default_models_dir, load_catalogue, resolve
from crayon.reasons import REASONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from crayon.customising.customization import Customization
    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.models import Progress

MOST_ENTRIES = 2000


class Panel:
    """What the page needs to know besides the gateway.

    Args:
        models_dir: where models are kept; None: the user's folder.
        server: the server's address, if one is set.
        settings: what stands for the settings that decide how a question is answered (`crayon.config.fingerprint`).
    """

    def __init__(self, models_dir: Path | None = None, server: str | None = None, settings: str = "") -> None:
        self.models_dir = models_dir
        self.server = server
        self.settings = settings
        self.address = ""
        self._began = time.monotonic()
        # What whoever started the process said, the page must not lift.
        self.held = local_only()
        self._pulling = asyncio.Lock()

    async def state(self, gateway: Gateway, request: Request) -> Response:
        """Tell sides, models, the lock, and what reasons are called."""
        del request
        status = await gateway.client.status()
        return json_response(
            {
                "models": [model.as_openai(gateway.created) for model in await gateway.models()],
                "server": self.server,
                "breaker": None if status.breaker is None else str(status.breaker.state),
                "locked": local_only(),
                "held": self.held,
                "reasons": {str(reason): words for reason, words in REASONS.items()},
            }
        )

    async def process(self, gateway: Gateway, request: Request) -> Response:
        """Tell the user's own commands which process this is, and whether it would answer as they would."""
        del request
        return json_response(
            {
                "pid": os.getpid(),
                "settings": self.settings,
                "address": self.address,
                "running": gateway.running,
                "models": gateway.loaded_models,
                "uptime_s": round(time.monotonic() - self._began, 1),
            }
        )

    async def lock(self, gateway: Gateway, request: Request, fields: Fields) -> Response:
        """Keep everything on this device from now on, or lift that again."""
        del gateway, request
        wanted = fields.flag("on")
        fields.end()
        if wanted is None:
            raise InvalidRequestError("on", "is missing; say true or false")
        if self.held and not wanted:
            message = f"{LOCAL_ONLY} was set where the gateway was started, so only that can lift it"
            raise HttpError(Problem(status=409, message=message, code="held", param="on"))
        if wanted:
            os.environ[LOCAL_ONLY] = "1"
        elif not self.held:
            os.environ.pop(LOCAL_ONLY, None)
        return json_response({"locked": local_only(), "held": self.held})

    async def ledger(self, gateway: Gateway, request: Request) -> Response:
        """Tell what left this device, and what that comes to."""
        del gateway
        since = _number(request, "since")
        found = await asyncio.to_thread(Ledger().read, since)
        if "export" in request.query_params:
            lines = "".join(json.dumps(record(entry), ensure_ascii=False) + "\n" for entry in found.entries)
            disposition = 'attachment; filename="crayon-ledger.jsonl"'
            return Response(lines, headers={"content-disposition": disposition}, media_type="application/jsonl")
        newest = found.entries[-MOST_ENTRIES:]
        return json_response(
            {
                "entries": [record(entry) for entry in reversed(newest)],
                "left_out": len(found.entries) - len(newest),
                "damaged": found.damaged,
                "sums": asdict(sums(found.entries)),
            }
        )

    async def customize(self, gateway: Gateway, request: Request, fields: Fields) -> Response:
        """Make a customisation, telling how far it is; where the client hangs up, nothing is kept."""
        del request
        name, samples = fields.text("name"), fields.items("samples")
        replace = fields.flag("replace") or False
        fields.end()
        if name is None:
            raise InvalidRequestError("name", "is missing")

        async def work(tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
            made = await gateway.client.customize(
                name,
                samples,
                replace=replace,
                progress=lambda step, done, of: tell({"step": step, "done": done, "of": of}),
            )
            return {"customization": customization_record(made)}

        return Lines(gateway, work)

    async def catalogue(self, gateway: Gateway, request: Request) -> Response:
        """Tell which models there are, and which of them lie on this machine."""
        del gateway, request
        return json_response({"models": await asyncio.to_thread(self._catalogue)})

    async def pull(self, gateway: Gateway, request: Request, fields: Fields) -> Response:
        """Fetch a model, telling how far it is; where the client hangs up, what is there is kept for the next time."""
        del request
        name = fields.text("model")
        fields.end()
        if name is None:
            raise InvalidRequestError("model", "is missing")
        load_catalogue().find(name)  # others could be any address

        async def work(tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
            gone = False

            def progress(so_far: Progress) -> None:
                if gone:
                    raise InterruptedError
                tell({"step": so_far.label, "done": so_far.done_bytes, "of": so_far.total_bytes})

            async with self._pulling:
                try:
                    found = await asyncio.to_thread(resolve, name, progress=progress, models_dir=self.models_dir)
                finally:
                    gone = True
            return {"model": found.name, "bytes": found.size}

        return Lines(gateway, work)

    def _catalogue(self) -> list[dict[str, Any]]:
        store = Store(self.models_dir or default_models_dir())
        return [
            {
                "name": entry.name,
                "about": entry.about,
                "roles": entry.roles,
                "quantization": entry.quantization,
                "licence": entry.licence,
                "bytes": entry.size,
                "present": store.path(entry.wanted) is not None,
            }
            for entry in load_catalogue()
        ]


def customization_record(made: Customization) -> dict[str, Any]:
    """Return what a customisation is and is worth, as JSON; no sample is in it but the answers' names."""
    expected = made.expectation
    return {
        "name": made.name,
        "base": made.base,
        "samples": made.samples,
        "answered": made.answered,
        "changes": made.fits,
        "note": made.note,
        "profiles": [
            {
                "name": profile.name,
                "samples": profile.samples,
                "answers": list(profile.evidence.answers),
                "classes": len(profile.evidence.labelled) if profile.evidence.classes else 0,
                "examples": len(profile.evidence.examples),
                "members": {
                    name: round(weight, 3)
                    for name, weight in zip(made.members, profile.weights, strict=True)
                    if abs(weight) >= 0.005
                },
            }
            for profile in made.profiles
        ],
        "expectation": None
        if expected is None
        else {
            "metric": expected.metric,
            "base": expected.base,
            "customised": expected.customised,
            "low": expected.low,
            "high": expected.high,
            "samples": expected.samples,
        },
    }


def _number(request: Request, name: str) -> float:
    given = request.query_params.get(name, "0")
    try:
        return float(given)
    except ValueError:
        raise InvalidRequestError(name, f"must be a number of seconds since 1970, not {given[:20]!r}") from None
