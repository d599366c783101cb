"""The connection that the gateway is timed by, against an echo; and the rows that come of runs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from crayon.config import GatewaySettings
from crayon.errors import ServerError
from crayon.gateway.beside import HttpBeside
from crayon.lab.bench.gateway import ChatConnection, GatewayOptions, _rows, served_model
from crayon.lab.bench.serving.client import Run, TimedRequest, Timing
from crayon.lab.bench.serving.prompts import Prompt
from crayon.messages import Message
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import Server

ASKED = (Message("user", "one two three"),)


async def test_a_connection_counts_the_tokens_of_an_answer() -> None:
    beside = HttpBeside(GatewaySettings(port=0), default_deadline=30, max_deadline=60)
    server = Server(ServeConfig(port=0), beside)
    await server.start()
    await server.load(EchoEngine)
    try:
        port = int(beside.address.rpartition(":")[2])
        with ThreadPoolExecutor(1) as thread:
            model = await asyncio.get_running_loop().run_in_executor(thread, served_model, port)
        connection = ChatConnection(port, model)
        counts = [count async for count in connection.stream(Prompt(ASKED, (1, 2, 3)), 7)]
        with pytest.raises(ServerError, match="3 prompt tokens"):
            _ = [count async for count in connection.stream(Prompt(ASKED, (1, 2)), 7)]
    finally:
        await server.stop()
    assert (model, sum(counts)) == ("echo", 7)


def test_rows_compare_http_with_each_of_the_others() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    def run(first: float, gap: float) -> Run:
        arrivals = [(first + gap * i, 1) for i in range(11)]
        timing = Timing(TimedRequest(Prompt(ASKED, (1, 2, 3)), 11), 0.0, arrivals, finished=True)
        return Run((timing,), arrivals[-1][0], 0.0)

    systems = [Named("crayon"), Named("http"), Named("llama-server")]
    runs = [[run(0.1, 0.01)], [run(0.2, 0.02)], [run(0.4, 0.04)]]
    rows = _rows("m", systems, runs, GatewayOptions(model="m"), 1)
    values = {(row.metric, row.against): row.value for row in rows}
    assert values["first_token_http", None] == pytest.approx(200.0)
    assert values["decode_http", None] == pytest.approx(50.0)
    assert values["first_token_ratio", "grpc"] == pytest.approx(0.5)
    assert values["decode_ratio", "llama-server"] == pytest.approx(2.0)
