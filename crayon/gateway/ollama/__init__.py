"""Ollama's routes: chat, generate and embed, and what it tells of its models."""
