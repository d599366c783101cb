"""Pieces that come fast go out together, and none waits for the next one."""

from __future__ import annotations

import asyncio

from crayon import AsyncCrayon
from crayon.completion import Source
from crayon.gateway.openai.chat import ChatWriter
from crayon.gateway.shared.gateway import Gateway
from crayon.gateway.shared.watched import JOIN_S, GatewayAnswer
from crayon.sdk import Piece


class Slow:
    """An answer whose pieces come when the test says so."""

    route = None

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str] = asyncio.Queue()

    def __aiter__(self):
        return self

    async def __anext__(self):
        return Piece(await self.pieces.get(), Source.DEVICE)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


async def test_fast_pieces_go_together_and_the_last_does_not_wait(device) -> None:
    gateway, answer = Gateway(AsyncCrayon(device, calibration=False)), Slow()
    response = GatewayAnswer(gateway, answer, ChatWriter("crayon", usage=False), stream=True)
    sent: list[bytes] = []
    gone = asyncio.Event()

    async def send(message) -> None:
        sent.append(message.get("body", b""))

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    running = asyncio.ensure_future(response({"type": "http", "headers": []}, receive, send))
    words = [f"word{i} " for i in range(40)]
    for word in words:
        answer.pieces.put_nowait(word)
    for _ in range(600):
        if b"word39" in b"".join(sent):
            break
        await asyncio.sleep(JOIN_S / 5)
    text = b"".join(sent)
    assert [text.count(word.encode()) for word in words] == [1] * 40
    assert len(sent) < 20, "40 pieces at once are a few messages"
    gone.set()
    await running
    await gateway.close()
