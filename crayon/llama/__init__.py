"""The only door to llama.cpp: every ctypes call of the project stands in this room.

Device and server use it alike. The high-level `Llama` class of llama-cpp-python is not used: it has one sequence, one
adapter fixed at load, and its prompt cache does not know adapters, so it would mix two users' blends.
"""

from __future__ import annotations
