"""Runs a probe in a process of its own and hears what it says."""

from __future__ import annotations

import json
import os
import subprocess  # a process of its own on purpose: the peak of its memory is what is measured
import sys
import tempfile
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from crayon.errors import DeadlineExceededError, EngineError
from crayon.lab.eval.quantized.probe import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.lab.eval.quantized.probe import Order

SECONDS = 4 * 3600.0
_TAIL = 2000


def run_probe(order: Order, step: Callable[[], None], seconds: float = SECONDS) -> ProbeResult:
    """Return what a process of its own measured; `step` is called for each of its steps.

    Raises:
        EngineError: it failed, or ended without a result; the message holds what it said last.
        DeadlineExceededError: it took longer than `seconds`, and was ended.
    """
    command = [sys.executable, "-P", "-m", "crayon.lab.eval.quantized.probe"]
    late = threading.Event()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=dict(os.environ), text=True
        )

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            return _listen(process, order, step)
        except EngineError as error:
            if late.is_set():
                raise DeadlineExceededError from None
            log.seek(max(0, log.tell() - _TAIL))
            tail = log.read(_TAIL).decode("utf-8", "replace").strip()
            for line in tail.splitlines()[-8:]:
                error.add_note(f"  probe: {line}")
            raise
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _listen(process: subprocess.Popen[str], order: Order, step: Callable[[], None]) -> ProbeResult:
    if process.stdin is None or process.stdout is None:
        raise EngineError("the probe has no pipes")
    try:
        process.stdin.write(json.dumps(asdict(order)))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended already, and says why
    for line in process.stdout:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # a library's own words
        if "result" in said:
            return ProbeResult.parse(said["result"])
        if "error" in said:
            raise EngineError(f"the measurement of {order.name} failed: {said['error']}")
        step()
    raise EngineError(f"the measurement of {order.name} ended with code {process.wait()}, without a result")
