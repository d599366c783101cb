"""From K weights to an adapter that llama.cpp applies: used by the device and by the server."""

from __future__ import annotations

from crayon.blending.base import check_bases
from crayon.blending.blends import CAPACITY, PoolBlends
from crayon.blending.lease import BlendResolver, Lease

__all__ = ["CAPACITY", "BlendResolver", "Lease", "PoolBlends", "check_bases"]
