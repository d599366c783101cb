"""The page's files, and what it asks beside answers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from gateway_tools import HELLO, asking, serving

sys.path.insert(0, str(Path(__file__).parents[2] / "sdk"))  # as in conftest

from custom_fakes import Device, about
from sdk_fakes import Fake, FakeServer

from crayon.config import GatewaySettings
from crayon.gateway.page.files import POLICY, page_files
from crayon.gateway.shared.panel import Panel
from crayon.local_only import local_only
from crayon.server.tokens import TokenStore
from crayon.wire.tokens import Secret

TOKEN = "a-token-of-some-length"
SAMPLES = [{"question": question, "answer": reply} for question, reply in about("colour")]


@pytest.fixture(autouse=True)
def unlocked(monkeypatch):
    """The lock is a variable of this process: undo it."""
    monkeypatch.delenv("CRAYON_LOCAL_ONLY", raising=False)
    yield
    os.environ.pop("CRAYON_LOCAL_ONLY", None)


@pytest.fixture
def gateway(make, tmp_path):
    def made(device=None, server=None, **options):
        found = make(device or Fake("small"), server, **options)
        found.panel = Panel(tmp_path / "models", "large.example:50051" if server else None)
        return found

    return made


async def test_the_page_and_its_files_are_served_under_a_strict_policy(gateway) -> None:
    async with asking(gateway()) as http:
        page = await http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        names = re.findall(r'(?:src|href)="page/([^"]+)"', page.text)
        replies = {name: await http.get(f"/page/{name}") for name in names}
        missing = await http.get("/page/..%2fpanel.py")
    assert len(names) >= 4
    for reply in (page, *replies.values()):
        assert reply.status_code == 200
        assert reply.headers["content-security-policy"] == POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert missing.status_code == 404


def test_the_page_has_all_it_imports_and_loads_nothing_from_elsewhere() -> None:
    files = page_files()
    for name, data in files.items():
        if not name.endswith((".js", ".css", ".html")) or name == "markdown-it.min.js":
            continue
        text = data.decode()
        assert not re.search(r"https?://", text), f"{name} names an address of somebody else's"
        assert "innerHTML" not in text or name == "dom.js", f"{name} makes HTML of a text"
        for wanted in re.findall(r'from "\./([^"]+)"', text):
            assert wanted in files
    assert b"MIT" in files["markdown-it.min.js"][:200]
    assert b"Permission is hereby granted" in files["markdown-it.LICENSE.txt"]


async def test_without_a_panel_there_is_no_page(make, device) -> None:
    async with asking(make(device)) as http:
        assert (await http.get("/")).status_code == 404
        assert (await http.get("/crayon/ledger")).status_code == 404


async def test_the_page_needs_no_token_and_what_it_asks_does(gateway) -> None:
    async with asking(gateway(), tokens=TokenStore(None, (Secret(TOKEN),))) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/page/main.js")).status_code == 200
        assert (await http.get("/crayon/state")).status_code == 401
        reply = await http.get("/crayon/state", headers={"authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == 200


async def test_a_link_from_elsewhere_leads_to_the_page_and_to_nothing_else(gateway) -> None:
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with asking(gateway()) as http:
        assert (await http.get("/", headers=elsewhere)).status_code == 200
        assert (await http.get("/", headers={**elsewhere, "host": "evil.example"})).status_code == 403
        assert (await http.get("/crayon/ledger", headers=elsewhere)).status_code == 403


async def test_the_state_tells_models_lock_and_reasons(gateway) -> None:
    async with asking(gateway(server=FakeServer("large"))) as http:
        state = (await http.get("/crayon/state")).json()
    assert [model["id"] for model in state["models"]] == ["crayon", "crayon/device", "crayon/server"]
    assert (state["server"], state["locked"], state["held"]) == ("large.example:50051", False, False)
    assert state["reasons"]["unsure"] == "the device was unsure"


async def test_the_lock_keeps_everything_here_until_it_is_lifted(gateway) -> None:
    server = FakeServer("large")
    async with asking(gateway(server=server, mode="prefer_on_server")) as http:
        assert (await http.post("/crayon/lock", json={"on": True})).json() == {"locked": True, "held": False}
        kept = await http.post("/v1/chat/completions", json=HELLO)
        refused = await http.post("/v1/chat/completions", json={**HELLO, "model": "crayon/server"})
        assert (await http.post("/crayon/lock", json={"on": False})).json() == {"locked": False, "held": False}
        sent = await http.post("/v1/chat/completions", json=HELLO)
    assert (kept.json()["crayon"]["source"], kept.json()["crayon"]["reason"]) == ("device", "local_only")
    assert refused.status_code == 403
    assert sent.json()["crayon"]["source"] == "server"
    assert len(server.requests) == 1


async def test_a_lock_from_outside_is_not_lifted_by_the_page(gateway, monkeypatch) -> None:
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    async with asking(gateway()) as http:
        reply = await http.post("/crayon/lock", json={"on": False})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "held")
    assert local_only()


@pytest.mark.parametrize("body", [{}, {"on": "yes"}, {"on": True, "more": 1}])
async def test_a_lock_that_says_nothing_is_refused(gateway, body) -> None:
    async with asking(gateway()) as http:
        assert (await http.post("/crayon/lock", json=body)).status_code == 400
    assert not local_only()


async def test_the_ledger_tells_what_was_answered_and_exports_it(gateway) -> None:
    async with asking(gateway()) as http:
        await http.post("/v1/chat/completions", json=HELLO)
        found = (await http.get("/crayon/ledger")).json()
        later = (await http.get("/crayon/ledger?since=99999999999")).json()
        export = await http.get("/crayon/ledger?export")
        wrong = await http.get("/crayon/ledger?since=now")
    assert [entry["kind"] for entry in found["entries"]] == ["answer"]
    assert (found["sums"]["answers"], found["sums"]["on_device"], found["sums"]["bytes"]) == (1, 1, 0)
    assert later["entries"] == []
    assert "attachment" in export.headers["content-disposition"]
    assert json.loads(export.text) == found["entries"][0]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "since")


async def test_customising_tells_how_far_it_is_and_what_it_is_worth(gateway) -> None:
    async with asking(gateway(Device("small"))) as http:
        reply = await http.post("/crayon/customizations", json={"name": "mine", "samples": SAMPLES})
        models = (await http.get("/v1/models")).json()["data"]
    lines = [json.loads(line) for line in reply.text.splitlines()]
    made = lines[-1]["customization"]
    assert all(line["step"] for line in lines[:-1])
    assert (made["name"], made["samples"]) == ("mine", len(SAMPLES))
    assert made["profiles"][0]["samples"] == len(SAMPLES)
    assert "crayon/mine" in [model["id"] for model in models]


@pytest.mark.parametrize(
    ("body", "param"),
    [({"samples": SAMPLES}, "name"), ({"name": "a b", "samples": SAMPLES}, "name"), ({"name": "mine"}, "samples"),
     ({"name": "mine", "samples": [{"nonsense": 1}]}, "sample"),
     ({"name": "mine", "samples": SAMPLES, "x": 1}, "x")],
)  # fmt: skip
async def test_what_cannot_be_customised_is_refused_by_its_field(gateway, body, param) -> None:
    async with asking(gateway(Device("small"))) as http:
        reply = await http.post("/crayon/customizations", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


async def test_the_catalogue_tells_what_is_here_and_fetches_nothing_else(gateway) -> None:
    async with asking(gateway()) as http:
        models = (await http.get("/crayon/models")).json()["models"]
        unknown = await http.post("/crayon/pull", json={"model": "hf:some/thing"})
        nameless = await http.post("/crayon/pull", json={})
    assert "smollm2-135m-instruct" in [model["name"] for model in models]
    assert not any(model["present"] for model in models)
    assert (unknown.status_code, nameless.status_code) == (404, 400)


async def test_a_pull_tells_how_far_it_is(gateway, monkeypatch) -> None:
    from crayon.models import LocalModel, Progress

    def resolve(name, *, progress, models_dir):
        progress(Progress(1, 2, "fetching"))
        return LocalModel(models_dir / "x.gguf", name, "0" * 64, 2)

    monkeypatch.setattr("crayon.gateway.shared.panel.resolve", resolve)
    async with asking(gateway()) as http:
        reply = await http.post("/crayon/pull", json={"model": "smollm2-135m-instruct"})
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert lines == [
        {"step": "fetching", "done": 1, "of": 2}, {"model": "smollm2-135m-instruct", "bytes": 2},
    ]  # fmt: skip


async def test_a_pull_whose_client_hangs_up_ends(gateway, monkeypatch) -> None:
    from crayon.models import Progress

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def resolve(name, *, progress, models_dir):
        del name, models_dir
        try:
            for done in range(100_000):
                progress(Progress(done, 100_000, "fetching"))
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr("crayon.gateway.shared.panel.resolve", resolve)
    async with serving(gateway(), GatewaySettings(port=0)) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"model": "smollm2-135m-instruct"}).encode()
        writer.write(
            b"POST /crayon/pull HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await reader.readline()
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 60)
