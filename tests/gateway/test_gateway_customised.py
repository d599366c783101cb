"""A customisation is a model of its own to clients of the gateway, and answers with one of its closed answers."""

from __future__ import annotations

import pytest
from custom_fakes import Closed, about
from gateway_tools import asking, chunks

from crayon import Crayon

CHAT = "/v1/chat/completions"
GREEN = {"model": "crayon/mine", "messages": [{"role": "user", "content": "which colour has thing 21"}]}


@pytest.fixture
def gateway(tmp_path, make):
    device = Closed()
    with Crayon(device, customizations_dir=tmp_path / "customizations") as client:
        client.customize("mine", about("colour", 16))
    return make(device)


async def test_a_model_that_is_a_customisation_says_one_of_its_answers_with_its_probability(gateway) -> None:
    async with asking(gateway) as http:
        listed = (await http.get("/v1/models")).json()["data"]
        whole = (await http.post(CHAT, json=GREEN)).json()
        streamed = chunks((await http.post(CHAT, json={**GREEN, "stream": True})).text)
    assert "crayon/mine" in [model["id"] for model in listed]
    assert whole["choices"][0]["message"]["content"] == "green"
    assert 0.5 < whole["crayon"]["probability"] <= 1.0
    said = [part["choices"][0]["delta"].get("content") for part in streamed[:-1] if part.get("choices")]
    assert [text for text in said if text] == ["green"]


@pytest.mark.parametrize(("body", "headers"), [({"crayon": {"free": True}}, {}), ({}, {"x-crayon-free": "true"})])
async def test_free_asks_a_customisation_for_a_text(gateway, body, headers) -> None:
    async with asking(gateway) as http:
        reply = await http.post(CHAT, json={**GREEN, **body}, headers=headers)
    assert reply.json()["choices"][0]["message"]["content"] == "a b"
    assert reply.json()["crayon"]["probability"] is None
