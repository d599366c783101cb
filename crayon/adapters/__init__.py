"""Adapter pools and blends: numpy and files, no engines. Empty until the first pool lands."""

from __future__ import annotations
