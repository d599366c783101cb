from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from device_tools import BACKGROUND
from tiny_chat import write_model

from crayon.device import DeviceEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def engine(device_model_path: Path) -> Iterator[DeviceEngine]:
    """The real device model, shared: no test may count on an empty prefix cache."""
    # One thread: tests run beside others, and threads that spin for each other's cores take many times as long.
    with DeviceEngine(device_model_path, n_ctx=1024, n_batch=128, threads=1, background=BACKGROUND) as engine:
        yield engine


@pytest.fixture(scope="session")
def tiny_chat_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random chat model, exact enough to compare log-probabilities."""
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture
def tiny(tiny_chat_path: Path) -> Iterator[Callable[..., DeviceEngine]]:
    """Makes engines of the small random model."""
    with ExitStack() as stack:

        def make(**values: Any) -> DeviceEngine:
            values = {"n_ctx": 512, "n_batch": 64, "threads": 1, **values}
            return stack.enter_context(DeviceEngine(values.pop("path", tiny_chat_path), **values))

        yield make


@pytest.fixture
def fresh(device_model_path: Path) -> Iterator[Callable[..., DeviceEngine]]:
    """Makes engines of the real device model with empty caches."""
    with ExitStack() as stack:

        def make(**values: Any) -> DeviceEngine:
            values = {"n_ctx": 512, "n_batch": 128, "threads": 1, **values}
            return stack.enter_context(DeviceEngine(values.pop("path", device_model_path), **values))

        yield make
