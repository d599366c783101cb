"""From a user's few samples to blending weights: no training, and nothing of them leaves the device."""

from __future__ import annotations
