"""The on-device runtime."""

from __future__ import annotations

from crayon.device.engine import DeviceEngine

__all__ = ["DeviceEngine"]
