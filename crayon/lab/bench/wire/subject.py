"""The server process that is measured: `python -m crayon.lab.bench.wire.subject '{"engine": ..., "ready_file": ...}'`.

It is the server of `crayon serve`, on an engine that can also be driven without a wire. It ends with SIGTERM, or with
its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.lab.bench.wire.engines import LIMIT, Driven, PacedEngine
from crayon.server.config import ServeConfig
from crayon.server.serve import serve

if TYPE_CHECKING:
    from crayon.engine import Engine


def main() -> None:
    """Serve until told to stop."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    ready = Path(options["ready_file"])

    def on_ready(address: str) -> None:
        draft = ready.with_suffix(".draft")
        draft.write_text(address, encoding="utf-8")
        draft.replace(ready)

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    asyncio.run(serve(ServeConfig(port=0, drain_seconds=1.0), lambda: _engine(options), on_ready=on_ready))


def _engine(options: dict[str, Any]) -> Engine:
    streams = int(options["streams"])
    if options["engine"] == "paced":
        paced = PacedEngine(float(options["step_seconds"]))
        return Driven(paced, paced.waits)
    if options["engine"] == "echo":
        from crayon.server.engines.echo import EchoEngine

        return Driven(EchoEngine(context_tokens=LIMIT, slots=streams))
    from crayon.server.engines.llama.engine import LlamaCppEngine

    path, context = options["model"], int(options["context"])
    return Driven(LlamaCppEngine(path, n_seq_max=streams, n_ctx=streams * context, max_queue=4 * streams))


def _end_with_stdin() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
