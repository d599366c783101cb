"""Quantizations of one model side by side: how good, how fast, how large, how fair each is (after MobileAIBench)."""

from __future__ import annotations
