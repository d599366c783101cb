"""`crayon top` against a real server, and against none."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving, ask

from crayon.cli.shared.app import app
from crayon.cli.top import command as top_module
from crayon.cli.top.view import Frame
from crayon.client import RemoteEngine
from crayon.server.engines.echo import EchoEngine
from crayon.server.observability.reading import Page, fetch, quantile, rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_module, "_GAP_S", 0.05)


@pytest.fixture
def serving() -> Iterator[Serving]:
    with Serving(EchoEngine, metrics_port=0) as running:
        remote = RemoteEngine(running.address)
        list(remote.generate(ask("one two three")))
        remote.close()
        yield running


def test_one_frame(runner: CliRunner, serving: Serving) -> None:
    done = runner.invoke(app, ["top", serving.server.metrics_address, "--once"])
    assert done.exit_code == 0, done.output
    assert f"{serving.server.metrics_address}  serving" in done.stdout
    assert "echo crayon" in done.stdout
    assert "0 running, 0 waiting" in done.stdout


def test_one_object(runner: CliRunner, serving: Serving) -> None:
    done = runner.invoke(app, ["top", serving.server.metrics_address, "--json"])
    told = json.loads(done.stdout)
    assert set(told) == set(Frame.__dataclass_fields__)
    assert (told["serving"], told["model"], told["running"]) == (True, "echo", 0)
    assert told["kv_cache_usage"] is None  # an echo has no cache


def test_without_a_server(runner: CliRunner) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        done = runner.invoke(app, ["top", address])
    assert done.exit_code == 4
    assert f"no metrics at http://{address}/metrics" in done.stderr
    assert "--metrics-port" in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "unix:/tmp/x", "localhost:0"])
def test_a_wrong_address(runner: CliRunner, address: str) -> None:
    done = runner.invoke(app, ["top", address, "--once"])
    assert done.exit_code == 2
    assert "ADDRESS" in done.stderr


def test_the_grpc_port_is_recognised(runner: CliRunner, serving: Serving) -> None:
    done = runner.invoke(app, ["top", serving.address, "--once"])
    assert done.exit_code == 4
    assert "Traceback" not in done.output


@pytest.mark.parametrize("body", [b"hello", b"up 1\n", b"\xff\xfe", b"x" * (4 * 2**20 + 1), b"crayon_serving{ 1"])
def test_a_foreign_page(runner: CliRunner, body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        done = runner.invoke(app, ["top", f"127.0.0.1:{server.server_port}", "--once"])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.exit_code == 4
    assert "page" in done.stderr
    assert "Traceback" not in done.output


def test_a_server_that_comes_back_is_shown_again(
    runner: CliRunner, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serving.server.metrics_address
    looks = 0

    def wait(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            serving.server._observing.stop()
        elif looks == 3:
            serving.server._observing._endpoint._port = int(address.rpartition(":")[2])  # type: ignore[union-attr] # it has one
            serving.server._observing.start()
        elif looks == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(top_module.time, "sleep", wait)
    done = runner.invoke(app, ["top", address])
    assert done.exit_code == 130
    assert f"{address}  serving" in done.stdout
    assert fetch(address).get("crayon_serving") == 1


def _page(at: float, *, count: float = 0.0, **buckets: float) -> Page:
    values = {("c_total", frozenset[tuple[str, str]]()): count}
    values |= {("h_bucket", frozenset({("le", le.strip("_").replace("_", "."))})): n for le, n in buckets.items()}
    return Page(at, values)


def test_rates_are_of_the_time_between_two_looks() -> None:
    assert rate(_page(1.0, count=10), _page(3.0, count=20), "c_total") == 5.0
    assert rate(None, _page(3.0, count=20), "c_total") is None
    assert rate(_page(1.0, count=10), _page(3.0, count=5), "c_total") is None  # it was restarted


def test_quantiles_are_prometheus_own() -> None:
    now = _page(1.0, _1_0=5.0, _2_0=10.0, inf=10.0)
    assert quantile(None, now, "h", 0.5) == pytest.approx(1.0)
    assert quantile(None, now, "h", 0.75) == pytest.approx(1.5)
    assert quantile(now, _page(2.0, _1_0=5.0, _2_0=10.0, inf=10.0), "h", 0.5) is None
    assert quantile(None, _page(1.0, _1_0=0.0, _2_0=0.0, inf=3.0), "h", 0.5) == 2.0


def test_what_a_page_says_cannot_move_the_cursor(runner: CliRunner) -> None:
    from rich.console import Console

    page = Page(1.0, {("crayon_model_info", frozenset({("model_name", "\x1b[2J[red]x")})): 1.0})
    console = Console(width=100)
    with console.capture() as said:
        console.print(Frame.of("a:1", None, page).table())
    assert "\x1b[2J" not in said.get()
    assert "[red]x" in said.get()
