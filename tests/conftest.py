"""Fixtures that several rooms share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def device_model_path() -> Path:
    """The real small model, downloaded once and verified. Tests that ask for it are marked `models`."""
    from crayon.models import resolve

    return resolve("smollm2-135m-instruct").path
