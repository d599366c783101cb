"""A stand-in for the part of OpenVINO that the worker uses."""

from __future__ import annotations

from typing import Any


class Tensor:
    def __init__(self, data: Any) -> None:
        self.data = data
