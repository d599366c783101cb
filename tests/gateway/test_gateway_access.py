from __future__ import annotations

import logging

import pytest
from gateway_tools import HELLO, asking

from crayon.config import GatewaySettings
from crayon.errors import ConfigError
from crayon.gateway.serving import check_listening
from crayon.server.tokens import TokenStore
from crayon.wire.tokens import Secret

CHAT = "/v1/chat/completions"
TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize("host", ["127.0.0.1:11435", "localhost:11435", "[::1]:11435", "app.localhost", "10.0.0.7"])
async def test_addresses_and_localhost_lead_here(make, device, host) -> None:
    async with asking(make(device)) as http:
        assert (await http.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""])
async def test_a_page_whose_name_leads_here_is_refused(make, device, host) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json=HELLO, headers={"host": host})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "unknown_host")
    assert not device.requests


async def test_a_name_that_is_set_leads_here(make, device) -> None:
    settings = GatewaySettings(allowed_hosts=("box.home",))
    async with asking(make(device), settings) as http:
        assert (await http.get("/v1/models", headers={"host": "box.home:8443"})).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
async def test_a_page_from_elsewhere_may_not_ask(make, device, headers) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json=HELLO, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "unknown_origin")
    assert "access-control-allow-origin" not in reply.headers
    assert not device.requests


async def test_a_page_of_this_address_and_one_that_is_set_may_ask(make, device) -> None:
    settings = GatewaySettings(cors_origins=("https://app.example",))
    async with asking(make(device), settings) as http:
        own = await http.post(CHAT, json=HELLO, headers={"origin": "http://127.0.0.1:1"})
        other = await http.post(CHAT, json=HELLO, headers={"origin": "https://app.example"})
        preflight = await http.options(
            CHAT, headers={"origin": "https://app.example", "access-control-request-method": "POST"}
        )
    assert (own.status_code, other.status_code, preflight.status_code) == (200, 200, 200)
    assert other.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("header", [{"authorization": f"Bearer {TOKEN}"}, {"x-api-key": TOKEN}])
async def test_a_token_lets_in_and_another_one_does_not(make, device, header) -> None:
    tokens = TokenStore(None, [Secret(f"me:{TOKEN}")])
    async with asking(make(device), tokens=tokens) as http:
        none = await http.post(CHAT, json=HELLO)
        wrong = await http.post(CHAT, json=HELLO, headers={"authorization": "Bearer another-token-of-length"})
        right = await http.post(CHAT, json=HELLO, headers=header)
        health = await http.get("/health")
    assert [reply.status_code for reply in (none, wrong, right, health)] == [401, 401, 200, 200]
    assert none.json()["error"]["code"] == "invalid_api_key"
    assert len(device.requests) == 1


async def test_other_machines_need_a_token_whoever_runs_the_application(make, device) -> None:
    async with asking(make(device), client=("192.168.1.9", 5)) as http:
        refused = await http.post(CHAT, json=HELLO)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_tokens")


async def test_off_loopback_it_wants_tls_and_tokens() -> None:
    with pytest.raises(ConfigError, match="plain"):
        check_listening(GatewaySettings(host="0.0.0.0"))
    with pytest.raises(ConfigError, match="whoever reaches it"):
        check_listening(GatewaySettings(host="0.0.0.0", insecure_plain_text=True))
    with pytest.raises(ConfigError, match="both"):
        check_listening(GatewaySettings(tls_cert="a.pem"))
    said = check_listening(GatewaySettings(host="0.0.0.0", insecure_plain_text=True, insecure_no_tokens=True))
    assert all("INSECURE" in text for text in said)
    assert len(said) == 2


async def test_while_the_models_load_it_says_so(make, device) -> None:
    async with asking(make(device), load=False) as http:
        replies = [await http.post(CHAT, json=HELLO), await http.get("/v1/models"), await http.get("/health")]
    assert [reply.status_code for reply in replies] == [503, 503, 503]
    assert replies[0].json()["error"]["code"] == "loading"
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"messages": ' + b'"' + b"a" * 5000 + b'"}', 413, "too_large"),
        (b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "invalid_value"),
        (b'{"messages": ' + b"[" * 1900 + b"]" * 1900 + b"}", 400, "invalid_value"),
        (b"not json", 400, "invalid_value"),
        (b'{"temperature": NaN}', 400, "invalid_value"),
        (b"\xff\xfe", 400, "invalid_value"),
        (b"[]", 400, "invalid_value"),
        (b"", 400, "invalid_value"),
    ],
)
async def test_bodies_are_bounded(make, device, content, status, code) -> None:
    async with asking(make(device), GatewaySettings(max_body_bytes=4096)) as http:
        reply = await http.post(CHAT, content=content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_body_without_a_length_is_bounded_too(make, device) -> None:
    async def parts():
        for _ in range(10):
            yield b" " * 1000

    async with asking(make(device), GatewaySettings(max_body_bytes=4096)) as http:
        assert (await http.post(CHAT, content=parts())).status_code == 413


async def test_routes_that_there_are_not_are_told_so(make, device) -> None:
    async with asking(make(device)) as http:
        missing, method = await http.get("/v1/files"), await http.get(CHAT)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_such_route")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")


async def test_the_log_has_a_line_of_each_request_and_no_prompt(make, device, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    async with asking(make(device)) as http:
        await http.post(
            CHAT + "?q=hidden", json={"model": "crayon", "messages": [{"role": "user", "content": "my secret"}]}
        )
        await http.post(CHAT, content=b'{"my secret')
    lines = [record.getMessage() for record in caplog.records if record.name == "crayon.gateway"]
    assert any("/v1/chat/completions" in line and "200 device" in line for line in lines)
    assert "my secret" not in caplog.text
    assert "hidden" not in "".join(lines)
