"""docs/how-to/troubleshooting.md quotes what is really said: each message is raised here, as users meet it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serving_tools import Serving, ask
from tiny_chat import write_model
from tiny_pool import shared_pool
from tls_tools import Authority, server_files
from typer.testing import CliRunner

from crayon import Budget, Crayon, CrayonError, Sampling, read_samples
from crayon.adapters.find import find_pool
from crayon.config import load
from crayon.customising.customization import Customization
from crayon.customising.profiles import Profile
from crayon.llama import library
from crayon.models import resolve
from crayon.models.partial import PartialFile, need_space
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import check_free
from crayon.wire.tokens import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text("utf-8")
MARKS = re.findall(r"^<!-- error: (\S+) -->$", PAGE, re.MULTILINE)
QUOTED = dict(re.findall(r"^<!-- error: (\S+) -->\n```text\n(.+)\n```$", PAGE, re.MULTILINE))
RAISERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {}


def raises(name: str) -> Callable[[Any], Any]:
    """Register what raises the message of this name."""

    def register(function: Any) -> Any:
        RAISERS[name] = function
        return function

    return register


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CRAYON_"):
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MARKS)
def test_the_message_is_what_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = QUOTED[name]
    with pytest.raises(CrayonError) as caught:
        RAISERS[name](tmp_path, monkeypatch)
    pattern = ".+".join(re.escape(part) for part in said.split("..."))
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


def test_every_message_is_quoted() -> None:
    assert sorted(MARKS) == sorted(RAISERS)
    assert len(MARKS) == len(set(MARKS)) == len(QUOTED)


# -- servers


def look(address: str, **options: Any) -> None:
    """Ask a server that is looked for, like `crayon ask --mode only_on_server`."""
    with Crayon(device=None, server=address, server_options=options, timeout=20) as client:
        client.ask("Why?")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@raises("refused")
def _(*_: Any) -> None:
    look(f"127.0.0.1:{free_port()}")


@raises("dns")
def _(*_: Any) -> None:
    look("nope.invalid:50051", tls=True)


@raises("left-alone")
def _(*_: Any) -> None:
    with Crayon(device=None, server=f"127.0.0.1:{free_port()}", timeout=20) as client:
        for _ in range(3):
            with pytest.raises(CrayonError, match="nothing listens"):
                client.ask("Why?")
        client.ask("Why?")


@raises("loading")
def _(*_: Any) -> None:
    release = threading.Event()

    def slow() -> EchoEngine:
        release.wait(60)
        return EchoEngine()

    with Serving(slow, wait=False) as serving:
        try:
            look(serving.address)
        finally:
            release.set()
            serving.wait_loaded()


@raises("plain-remote")
def _(*_: Any) -> None:
    look("llm.example.org:50051")


@raises("tls-to-plain")
def _(*_: Any) -> None:
    with Serving(EchoEngine) as serving:
        look(serving.address, tls=True)


@raises("plain-to-tls")
def _(folder: Path, _: Any) -> None:
    with Serving(EchoEngine, tls=server_files(Authority(folder))) as serving:
        look(serving.address)


@raises("untrusted")
def _(folder: Path, _: Any) -> None:
    with Serving(EchoEngine, tls=server_files(Authority(folder))) as serving:
        # The server's very address: of "localhost" gRPC tries several, and tells what the last of them said.
        look(f"127.0.0.1:{serving.port}", tls=True)


@raises("no-token")
def _(*_: Any) -> None:
    with Serving(EchoEngine, tokens=(Secret("a-token-of-some-length-0123456789"),)) as serving:
        look(serving.address)


@raises("overloaded")
def _(*_: Any) -> None:
    engine = EchoEngine(slots=1, delay=30)
    with Serving(lambda: engine) as serving, engine.generate(ask("hello")):
        look(serving.address)


@raises("unknown-model-served")
def _(*_: Any) -> None:
    from crayon.engine import GenerateRequest
    from crayon.messages import Message

    EchoEngine().generate(GenerateRequest(messages=(Message("user", "Why?"),), model="gpt-4"))


@raises("too-long")
def _(*_: Any) -> None:
    with Crayon(device=EchoEngine(context_tokens=50)) as client:
        client.ask("word " * 61)


@raises("deadline")
def _(*_: Any) -> None:
    with Crayon(device=EchoEngine(delay=60)) as client:
        client.ask("Why?", timeout=0.01)


# -- starting a server


@raises("port-taken")
def _(*_: Any) -> None:
    with Serving(EchoEngine) as serving:
        check_free(ServeConfig(port=serving.port))


@raises("open-to-all")
def _(*_: Any) -> None:
    ServeConfig(host="0.0.0.0")


@raises("extra")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crayon.cli.shared.app import app

    for name in [name for name in sys.modules if name.startswith("crayon.server.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    result = CliRunner().invoke(app, ["serve", "--engine", "echo", "--port", "0"])
    raise CrayonError(result.stderr.removeprefix("error: ").strip())


@raises("pool-of-another")
def _(folder: Path, _: Any) -> None:
    shared_pool(write_model(folder / "tiny.gguf")).check_base("0" * 64, "other")


# -- models


@raises("unknown-model")
def _(*_: Any) -> None:
    resolve("smolm2")


@raises("no-file")
def _(*_: Any) -> None:
    resolve("./nope.gguf")


@raises("not-gguf")
def _(folder: Path, _: Any) -> None:
    (folder / "bad.gguf").write_text("hello")
    resolve(str(folder / "bad.gguf"))


@raises("not-here")
def _(folder: Path, _: Any) -> None:
    resolve("smollm2-135m-instruct", download=False, models_dir=folder)


@raises("other-bytes")
def _(folder: Path, _: Any) -> None:
    with PartialFile(folder / "model.gguf") as partial:
        partial.write(b"hello")
        partial.commit(size=5, sha256="0" * 64)


@raises("disk")
def _(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_space(folder, shutil.disk_usage(folder).total * 2)


@raises("library")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.metadata, "version", lambda _: "0.0.1")
    library._load.__wrapped__()


# -- privacy and budget


@raises("private-server-only")
def _(*_: Any) -> None:
    with Crayon(device=EchoEngine(), server=EchoEngine()) as client:
        client.ask("My diary", private=True, mode="only_on_server")


@raises("private-no-device")
def _(*_: Any) -> None:
    with Crayon(device=None, server=EchoEngine()) as client:
        client.ask("My diary", private=True)


@raises("local-only")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    with Crayon(device=EchoEngine(), server=EchoEngine()) as client:
        client.ask("Why?", mode="only_on_server")


@raises("budget")
def _(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_STATE_DIR", str(folder))
    with Crayon(device=None, server=EchoEngine(), budget=Budget(tokens_per_day=1)) as client:
        client.ask("Why is the sky blue?")
        client.ask("And why is the sea?")


# -- customising


@raises("samples-missing")
def _(*_: Any) -> None:
    read_samples("nope.jsonl")


@raises("samples-json")
def _(folder: Path, _: Any) -> None:
    (folder / "s.jsonl").write_text('{"question": "a"}\nx\n')
    read_samples(folder / "s.jsonl")


@raises("samples-twice")
def _(folder: Path, _: Any) -> None:
    (folder / "s.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "a", "answer": "c"}\n')
    read_samples(folder / "s.jsonl")


@raises("unknown-customization")
def _(folder: Path, _: Any) -> None:
    with Crayon(device=EchoEngine(), customizations_dir=folder / "none") as client:
        client.customization("nope")


@raises("customization-of-another")
def _(*_: Any) -> None:
    profile = Profile(name="one", weights=(), similarity=(), samples=1, threshold=0.5)
    Customization(
        name="mine",
        pool_id="",
        base="tiny",
        base_sha256="0" * 64,
        members=(),
        layer=1,
        profiles=(profile,),
        samples=1,
        answered=1,
        created="2025-01-01T00:00:00+00:00",
    ).check_base("1" * 64, "other")


@raises("no-pool")
def _(*_: Any) -> None:
    find_pool("nope")


# -- settings


@raises("unknown-setting")
def _(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.toml").write_text("[device]\nthreds = 3\n")
    monkeypatch.setenv("CRAYON_CONFIG", str(folder / "config.toml"))
    load()


@raises("no-config")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_CONFIG", "none.toml")
    load()


@raises("wrong-value")
def _(*_: Any) -> None:
    Sampling(max_tokens=0)
