"""Calibrating free text for real: a small model with a small pool on the device, the echo engine over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from keyed_pool import BACKGROUND, keyed_pool, questions
from serving_tools import Serving
from tiny_chat import write_model

from crayon import Crayon, Hardness, Reason, Source
from crayon.device import DeviceEngine
from crayon.router import ServerShare
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Lets everything pass, and reads 4 tokens.
ALL = Hardness(threshold=-50.0, hold_tokens=4)
ASKED = questions("vowels", 24, seed=2)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crayon]:
    """Customised with texts of vowels; each side is right on what it says itself."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    model = write_model(folder / "model.gguf")
    pool = keyed_pool(model)
    with (
        DeviceEngine(model, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND, pools=[pool]) as device,
        Serving(EchoEngine) as serving,
        Crayon(device, serving.address, customizations_dir=folder / "mine", max_tokens=8, hardness=ALL) as client,
    ):
        client.customize("vow", questions("vowels", 8), check=False)
        yield client


def labelled(client: Crayon) -> list[tuple[str, str]]:
    """The device is right where it is surer than usual, the server elsewhere, each with two exceptions."""
    own = [client.ask(text, blend="vow", mode="only_on_device").text for text in ASKED]
    holds = [client.explain(text, blend="vow").hold for text in ASKED]
    sure = [hold.score or 0.0 for hold in holds if hold is not None]
    middle = sorted(sure)[len(sure) // 2]
    good = [(value >= middle) != (i % 12 == 5) for i, value in enumerate(sure)]
    return [(text, own[i] if good[i] else " ".join(text.split()[:8])) for i, text in enumerate(ASKED)]


def test_both_sides_write_and_are_right_where_they_are(client: Crayon) -> None:
    samples = labelled(client)
    found = client.calibrate("vow", samples=samples, ask_server=True)
    report = found.calibration.report
    inside = next(rule for rule in found.calibration.rules if rule.profile == "vowels")
    assert (found.signal, found.hold_tokens) == ("mean_logprob", 4)
    assert report.cases == len({answer and text for text, answer in samples})
    assert report.device == pytest.approx(0.5, abs=0.15), "those outside are answered by the plain base"
    assert report.server == pytest.approx(0.5, abs=0.15)
    assert inside.device.n + found.calibration.outside.device.n == report.cases
    assert found == client.calibration("vow")
    again = client.calibrate("vow", samples=samples, ask_server=True)
    assert again.calibration.report == report, "the same answers give the same report"
    assert again.calibration.rules[0].hardness == pytest.approx(inside.hardness, abs=0.05), "a prefix cache rounds"


def test_the_record_decides_by_the_tokens_that_it_was_made_with(client: Crayon) -> None:
    record = client.calibrate("vow", samples=labelled(client), ask_server=True, target=ServerShare(0.4))
    with Crayon(
        client._core.engines.open(Source.DEVICE),
        client._core.engines.open(Source.SERVER),
        customization="vow",
        customizations_dir=client._core.customizations.store.folder,
        max_tokens=8,
    ) as user:
        seen = set()
        for text in ASKED:
            told = user.explain(text)
            route = user.ask(text).route
            assert (told.source, told.reason) == (route.source, route.reason)
            seen.add(route.reason)
            if route.reason is Reason.UNSURE:
                assert told.hold is not None
                assert (told.hold.tokens, told.hold.signal) == (4, "mean_logprob")
                assert route.score == pytest.approx(told.hold.score, abs=0.05)
                assert route.discarded_tokens >= 4
        assert {Reason.UNSURE, Reason.IN_SCOPE} <= seen, seen
    assert record.calibration.report.share <= 0.4 + 1e-9
