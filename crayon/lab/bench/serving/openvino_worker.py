"""A server around OpenVINO GenAI's continuous batching, run by the Python of its own environment.

It imports nothing of Crayon: that environment does not have it. Arguments: the model file, most sequences, cache in
GiB, most tokens of a step (0: its own choice), compute threads. It writes `{"port": N}` to standard output when the
model is loaded, serves one client at a time on that loopback port in JSON lines, and ends with its standard input.

To it: `{"id": 1, "ids": [...], "answer": 64}`. From it: `{"id": 1, "tokens": 1}` as tokens come, `{"id": 1, "done":
true}` at the end of an answer, or `{"id": 1, "error": "..."}`.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from typing import Any


def main() -> None:
    """Load, then serve until standard input ends."""
    path, slots, cache, tokens, cores = sys.argv[1], *map(int, sys.argv[2:6])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    pipeline = _pipeline(path, slots, cache, tokens, cores)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(json.dumps({"port": server.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        while True:
            client, _ = server.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _serve(pipeline, client)


def _end_with_stdin() -> None:
    while sys.stdin.read(4096):
        pass
    os._exit(0)  # the library's threads would keep the process


def _pipeline(path: str, slots: int, cache: int, tokens: int, cores: int) -> Any:
    import openvino_genai

    config = openvino_genai.SchedulerConfig()
    config.max_num_seqs = slots
    config.cache_size = cache
    config.dynamic_split_fuse = True
    config.enable_prefix_caching = False
    if tokens:
        config.max_num_batched_tokens = tokens
    return openvino_genai.ContinuousBatchingPipeline(path, config, "CPU", {"INFERENCE_NUM_THREADS": cores})


def _serve(pipeline: Any, client: socket.socket) -> None:
    """Take requests and step until the client goes."""
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, waiting), daemon=True).start()
    handles: dict[int, Any] = {}
    number = 0
    while True:
        # Idle it waits, busy it only looks.
        while not handles or not waiting.empty():
            request = waiting.get()
            if request is None:
                for handle in handles.values():
                    handle.stop()
                while pipeline.has_non_finished_requests():
                    pipeline.step()
                return
            number += 1
            try:
                handles[request["id"]] = _add(pipeline, number, request)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, its client has to be told
                _say(client, {"id": request["id"], "error": str(error)})
        pipeline.step()
        _tell(client, handles)


def _add(pipeline: Any, number: int, request: dict[str, Any]) -> Any:
    import numpy as np
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request["answer"]
    config.ignore_eos = True
    config.do_sample = False
    ids = openvino.Tensor(np.asarray([request["ids"]], np.int64))
    return pipeline.add_request(number, ids, config)


def _tell(client: socket.socket, handles: dict[int, Any]) -> None:
    """Send what the last step brought."""
    import openvino_genai

    for name, handle in list(handles.items()):
        while handle.can_read():
            tokens = sum(len(output.generated_ids) for output in handle.read().values())
            if tokens:
                _say(client, {"id": name, "tokens": tokens})
        if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
            del handles[name]
            _say(client, {"id": name, "done": True})


def _say(client: socket.socket, message: dict[str, Any]) -> None:
    try:
        client.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # it has gone; the reader sees that, too


def _listen(client: socket.socket, waiting: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    try:
        with client.makefile("rb") as lines:
            for line in lines:
                waiting.put(json.loads(line))
    except OSError:
        pass
    finally:
        waiting.put(None)


if __name__ == "__main__":
    main()
