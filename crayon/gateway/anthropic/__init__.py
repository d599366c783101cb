"""Anthropic's routes: messages, with tools, and the counting of their tokens."""
