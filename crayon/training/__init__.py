"""Trains adapter pools; needs the extra `train` (torch, transformers, peft)."""
