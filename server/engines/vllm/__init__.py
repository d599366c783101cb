"""The engine for GPUs and many machines: vLLM behind the same protocol, with its own scheduler and adapters."""
