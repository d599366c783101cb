"""Engines a server can run, behind the `Engine` protocol: llama.cpp, vLLM, echo."""
