from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from crayon.errors import EngineError, LibraryError
from crayon.llama import smoke
from crayon.llama.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def unasked() -> Iterator[None]:
    """The check asks once a process: forget its answer before and after."""
    smoke.check.cache_clear()
    yield
    smoke.check.cache_clear()


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let `change` rewrite the adapters on their way to llama.cpp."""
    real = Context.set_adapters
    monkeypatch.setattr(Context, "set_adapters", lambda self, adapters=(): real(self, change(adapters)))


def test_this_library_passes() -> None:
    smoke.check()


def test_adapters_that_change_nothing_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda adapters: ())
    with pytest.raises(LibraryError, match="loaded and changed nothing"):
        smoke.check()


def test_a_lost_second_adapter_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda adapters: adapters[:1])
    with pytest.raises(LibraryError, match="do not add up"):
        smoke.check()


def test_ignored_scales_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda adapters: [(adapter, 1.0 if scale else 0.0) for adapter, scale in adapters])
    with pytest.raises(LibraryError, match="do not add up"):
        smoke.check()


def test_a_scale_of_zero_that_is_not_zero_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda adapters: [(adapter, scale or 0.5) for adapter, scale in adapters])
    with pytest.raises(LibraryError, match="scale 0 changes the logits"):
        smoke.check()


def test_a_failure_on_the_way_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("code 7")

    monkeypatch.setattr(Context, "set_adapters", fail)
    with pytest.raises(LibraryError, match="smoke test failed: code 7; reinstall"):
        smoke.check()
