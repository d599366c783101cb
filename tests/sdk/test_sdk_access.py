"""Tokens through the SDK: they reach the server, and a refused one is an error or the device's turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving

from crayon import AsyncCrayon, Crayon, Mode, Source, UnauthenticatedError
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN, WRONG = "alice-0123456789abcdef", "wrong-0123456789abcdef"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"alice:{TOKEN}\n")
    with Serving(EchoEngine, tokens_file=tokens) as running:
        yield running.address


async def test_the_right_token_is_answered(address: str) -> None:
    with Crayon(device=None, server=address, server_options={"token": TOKEN}) as crayon:
        assert crayon.ask("hello there").text == "hello there"
    async with AsyncCrayon(device=None, server=address, server_options={"token": TOKEN}) as client:
        assert (await client.ask("hello there")).text == "hello there"


@pytest.mark.parametrize("options", [{}, {"token": WRONG}])
def test_a_wrong_one_is_an_error_or_the_devices_turn(address: str, options: dict[str, str]) -> None:
    with Crayon(device=None, server=address, server_options=options) as crayon:
        with pytest.raises(UnauthenticatedError) as caught:
            crayon.ask("hello there")
        assert WRONG not in f"{caught.value!r} {getattr(caught.value, '__notes__', '')}"
    with Crayon(device=EchoEngine(), server=address, mode=Mode.PREFER_ON_SERVER, server_options=options) as crayon:
        assert crayon.ask("hello there").route.source is Source.DEVICE
