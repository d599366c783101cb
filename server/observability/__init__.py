"""What a running server shows of itself: metrics, a log of requests, traces. Never a prompt, never an answer."""
