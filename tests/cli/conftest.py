from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest
from typer.testing import CliRunner

from crayon.completion import Completion, Document, FinishReason, Reason, Route, Source, Timings, Usage
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting, file or history of the developer reaches a test, and no test leaves any."""
    for name in list(os.environ):
        if name.upper().startswith("CRAYON_"):
            monkeypatch.delenv(name)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def completion(text: str, **route: Any) -> Completion:
    return Completion(
        text=text,
        route=Route(**{"source": Source.DEVICE, "reason": Reason.CONFIDENT, **route}),
        model="fake",
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=2),
        timings=Timings(queue_ms=1.0, prompt_ms=20.0, decode_ms=40.0),
        ttft_ms=21.0,
        total_ms=61.0,
    )


class Piece:
    def __init__(self, text: str) -> None:
        self.text = text


class FakeStream:
    """Hands out words, or raises what stands among them."""

    def __init__(
        self, script: list[str | BaseException], route: dict[str, Any], document: Document | None = None
    ) -> None:
        self._script = script
        self._route = route
        self._document = document
        self._shown: list[str] = []
        self.closed = False

    def __iter__(self) -> Iterator[Piece]:
        for item in self._script:
            if isinstance(item, BaseException):
                raise item
            self._shown.append(item)
            yield Piece(item)

    @property
    def completion(self) -> Completion:
        return replace(completion("".join(self._shown), **self._route), document=self._document)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class FakeClient:
    """A `crayon.Crayon` that answers from `scripts`, one a turn, then echoes; records what it was asked."""

    def __init__(self) -> None:
        self.scripts: list[list[str | BaseException]] = []
        self.route: dict[str, Any] = {}
        self.document: Document | None = None
        self.asked: list[list[tuple[str, str]]] = []
        self.options: list[dict[str, Any]] = []
        self.streams: list[FakeStream] = []
        self.settings: Any = None
        self.closed = False

    def customization(self, name: str) -> Any:
        raise InvalidRequestError("customization", f"{name!r} is unknown")

    def stream(self, messages: Any, **options: Any) -> FakeStream:
        self.asked.append([(message.role, message.content) for message in messages])
        self.options.append(options)
        script = self.scripts.pop(0) if self.scripts else ["echo ", messages[-1].content]
        self.streams.append(FakeStream(script, self.route, self.document))
        return self.streams[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.closed = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()

    def open_client(settings: Any) -> FakeClient:
        fake.settings = settings
        return fake

    monkeypatch.setattr("crayon.cli.shared.client.open_client", open_client)
    return fake
