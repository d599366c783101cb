"""The default engine: llama.cpp, whose calls our scheduler fills step by step."""
