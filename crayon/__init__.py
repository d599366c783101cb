"""Crayon: a small customised LLM on the device, a larger one over gRPC when it is needed."""

from __future__ import annotations
