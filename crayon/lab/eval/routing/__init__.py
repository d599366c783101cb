"""How well the router chooses between device and server, on data that nothing was trained on."""

from __future__ import annotations
