from __future__ import annotations

import base64

import numpy as np
import pytest
from gateway_tools import asking
from sdk_fakes import embed

from crayon.errors import PromptTooLongError

EMBED = "/v1/embeddings"


async def test_vectors_come_as_numbers_and_as_base64(make, device, server) -> None:
    asked = {"model": "crayon", "input": ["a colour", "b"]}
    async with asking(make(device, server)) as http:
        plain = await http.post(EMBED, json=asked)
        packed = await http.post(EMBED, json={**asked, "encoding_format": "base64"})
        one = await http.post(EMBED, json={**asked, "input": "a colour"})
    rows = [each["embedding"] for each in plain.json()["data"]]
    assert np.allclose(rows, [embed("a colour"), embed("b")], atol=1e-6)
    unpacked = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed.json()["data"]]
    assert np.allclose(unpacked, rows)
    assert len(one.json()["data"]) == 1
    assert (plain.json()["crayon"]["source"], plain.headers["x-crayon-source"]) == ("device", "device")
    assert not server.encoded


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("dimensions", 8, "dimensions"),
        ("encoding_format", "hex", "encoding_format"),
        ("input", [1, 2], "input"),
        ("input", [], "input"),
        ("input", ["a", " "], "input[1]"),
        ("model", "crayon/server", "model"),
        ("crayon", {"free": True}, "crayon.free"),
        ("crayon", {"blend": "base"}, "model"),
        ("temperature", 1, "temperature"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(make, device, server, field, value, param) -> None:
    async with asking(make(device, server)) as http:
        reply = await http.post(EMBED, json={"model": "crayon", "input": "a", field: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_a_text_that_is_too_long_names_the_input(make, device) -> None:
    device.encode_error = PromptTooLongError(900, 511, "texts[0]")
    async with asking(make(device)) as http:
        reply = await http.post(EMBED, json={"model": "crayon", "input": "a"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[0]")


async def test_ollamas_embed_is_the_same(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post("/api/embed", json={"model": "crayon:latest", "input": "a colour"})
        odd = await http.post("/api/embed", json={"model": "crayon", "input": "a", "dimensions": 4})
    assert np.allclose(reply.json()["embeddings"], [embed("a colour")], atol=1e-6)
    assert (odd.status_code, "dimensions" in odd.json()["error"]) == (400, True)
