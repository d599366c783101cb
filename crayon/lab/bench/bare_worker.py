"""The bare llama.cpp loop as a process: reads how many tokens to write, line by line, and prints the seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from crayon.llama.bare import BareLoop

PROMPT, CONTEXT = 32, 1024


def main(path: str) -> None:
    """Serve lines until there are no more."""
    with BareLoop(Path(path), n_ctx=CONTEXT, n_batch=PROMPT) as loop:
        for line in sys.stdin:
            _, seconds = loop.run(PROMPT, int(line))
            sys.stdout.write(f"{json.dumps(seconds)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
