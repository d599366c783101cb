"""A stand-in for llama-server: loads nothing, answers `/health`, and streams tokens with planted delays.

Delays in seconds come from the environment: FAKE_FIRST before the first token, FAKE_GAP before each other.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST, GAP = (float(os.environ.get(name, "0")) for name in ("FAKE_FIRST", "FAKE_GAP"))
FAULT = os.environ.get("FAKE_FAULT", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"status":"ok"}'
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if FAULT == "refuse" or not all(isinstance(token, int) for token in body["prompt"]):
            data = b'{"error":{"message":"no"}}'
            self.send_response(500)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        assert body["ignore_eos"]
        assert body["stream"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = body["n_predict"] - (FAULT == "short")
        for n in range(1, count + 1):
            time.sleep(FIRST if n == 1 else GAP)
            if n == 2:
                continue  # part of a character: nothing is sent until the next token completes it
            self.event({"content": "x", "tokens": [7], "stop": False, "tokens_predicted": n})
        read = len(body["prompt"]) + (FAULT == "reads more")
        self.event({"content": "", "stop": True, "tokens_predicted": count, "tokens_evaluated": read})
        self.wfile.write(b"0\r\n\r\n")

    def event(self, message: dict[str, object]) -> None:
        data = b"data: " + json.dumps(message).encode() + b"\n\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:  # clients that give up are no news
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("-m", "-c", "-np", "-b", "-ub", "-t", "-tb", "--threads-http", "--cache-ram", "--host", "--port"):
        parser.add_argument(flag)
    given = parser.parse_known_args()[0]  # ours has flags of its own
    Server((given.host, int(given.port)), Handler).serve_forever()


main()
