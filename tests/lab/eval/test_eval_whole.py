"""The whole evaluation on a small random model: everything is in the rows; page and plots come of the record."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from keyed_pool import BACKGROUND
from test_eval_route import Knowing

from crayon.cli.shared.app import app
from crayon.completion import Usage
from crayon.device import DeviceEngine
from crayon.errors import InvalidRequestError
from crayon.lab.bench import made
from crayon.lab.eval.answer_cache import AnswerCache
from crayon.lab.eval.customize import EvalReport, ModelUnderTest
from crayon.lab.eval.device_runner import DeviceRunner
from crayon.lab.eval.routing.settings import RouteSettings
from crayon.lab.eval.settings import EvalSettings
from crayon.lab.eval.whole import page, plots
from crayon.lab.eval.whole.costs import CostMeter, QueryCost, cost_rows
from crayon.lab.eval.whole.run import evaluate_all
from crayon.lab.eval.whole.settings import WholeSettings
from crayon.lab.eval.whole.shares import sent_at, share_rows, side_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.engine import ScoreRequest, ScoreResult

SETTINGS = WholeSettings(
    customize=EvalSettings(
        groups=("in_pool", "unseen", "mixed", "far"), controls=("base", "own"), items=4, extra=0, draws=2,
        control_draws=1, samples=(8, 4, 1), pairs=1, unseen=(("near", "vowels"),), far=("far",),
    ),
    route=RouteSettings(
        users=2, unseen=(("near", "vowels"),), items=10, known=4, draws=2, samples=8, strangers=("far",),
        known_strangers=("near",), intents="toy", promises=3, cases=20,
    ),
    costs=3,
    shares=(0, 50, 100),
)  # fmt: skip


class Counting(Knowing):
    """A knowing server that counts what it reads."""

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        found = Knowing.score(self, request)
        words = len(request.messages[-1].content.split())
        found._result = replace(found.result(), usage=Usage(words, len(request.continuations)))  # type: ignore[attr-defined] - nobody waits yet
        return found


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "out" / "answers.sqlite") as cache:
        yield cache


def run(path: Path, pool: Pool, cache: AnswerCache, server: Any, told: list[str] | None = None) -> EvalReport:
    def engine(pools: Any) -> DeviceEngine:
        return DeviceEngine(path, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND, pools=pools)

    model = ModelUnderTest.of(path, "tiny-chat", "F32")
    return evaluate_all(engine, model, pool, server, SETTINGS, cache, tell=(told if told is not None else []).append)


def test_one_run_has_customising_routing_and_costs_and_a_page_with_plots(
    model_path: Path, pool: Pool, cache: AnswerCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    told: list[str] = []
    report = run(model_path, pool, cache, Counting(0.5), told)
    metrics = {row.metric for row in report.rows}
    assert metrics >= {
        "in_pool_gain", "gain_of_user", "unseen_gain", "mixed_gap_to_perfect", "far_worst_change",
        "in_pool_gain_vs_better_side", "side_accuracy", "accuracy_at_share", "gain_vs_random_at_share",
        "server_tokens_per_query", "bytes_sent_per_query", "device_seconds_per_query", "device_answer_seconds",
    }  # fmt: skip
    assert any(line.startswith("[3 of 3, costs]") for line in told)
    report.made = made.Making.of(["eval", "run", "--quick"]).done()
    record = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert record["settings"]["customize"]["samples"] == [8, 4, 1]
    assert set(record["env"]["models"]) >= {"tiny-chat F32", "knowing"}
    drawn = plots.draw(record, report.rows, 8, tmp_path)
    assert drawn == ["run-tasks.png", "run-samples.png", "run-shares.png", "run-costs.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)
    told_page = page.markdown(record, drawn)
    for words in ("4 samples", "8 samples", "| 50 % |", "`crayon eval run --quick`", "## What did not work"):
        assert words in told_page
    assert all(f"({name})" in told_page for name in drawn)

    # A second run asks nobody again, and finds the same.
    monkeypatch.setattr(DeviceRunner, "_run", lambda *_: pytest.fail("computed again"))
    server = Counting(0.5)
    assert run(model_path, pool, cache, server).rows == report.rows
    assert server.asked == []


def test_a_share_sends_what_gains_most_and_parts_of_what_gains_the_same() -> None:
    benefit = np.array([0.3, 0.1, 0.1, -0.5])
    assert sent_at(benefit, 0.0).tolist() == [0, 0, 0, 0]
    assert sent_at(benefit, 0.25).tolist() == [1, 0, 0, 0]
    assert sent_at(benefit, 0.5).tolist() == [1, 0.5, 0.5, 0]
    assert sent_at(benefit, 1.0).tolist() == [1, 1, 1, 1]
    assert sent_at(np.zeros(3), 1 / 3).tolist() == pytest.approx([1 / 3] * 3)


def drawn() -> tuple[Any, Any]:
    """One user of four queries, of which two are the own ones."""
    item = SimpleNamespace(prompt="q", choices=("a", "b"))
    user = SimpleNamespace(
        group="in_pool", name="u", queries=tuple(SimpleNamespace(item=item, own=i < 2) for i in range(4))
    )
    draw = SimpleNamespace(
        device=np.array([1.0, 1, 0, 0]), server=np.array([0.0, 1, 1, 1]), blended=np.array([1.0, 1, 1, 0]),
        plain=np.zeros(4), benefit=np.array([-0.5, -0.1, 0.2, 0.4]), sent=np.array([False, False, True, True]),
        let_in=np.array([True, True, False, False]), blends=(None,) * 4,
    )  # fmt: skip
    return user, draw


def test_accuracies_at_each_share_by_hand() -> None:
    user, draw = drawn()
    rows = list(share_rows([(user, [draw])], "m", (0, 25, 50, 100)))
    right = {row.variant: row.value for row in rows if row.metric == "accuracy_at_share"}
    assert right == {"0%": 50.0, "25%": 75.0, "50%": 100.0, "100%": 75.0}
    gain = {row.variant: row.value for row in rows if row.metric == "gain_vs_random_at_share"}
    assert gain == {"25%": pytest.approx(18.75), "50%": pytest.approx(37.5)}


def test_each_side_is_told_on_all_of_the_traffic_and_on_the_own_queries() -> None:
    user, draw = drawn()
    rows = list(side_rows([(user, [draw])], "m"))
    found = {(row.workload, row.variant): row.value for row in rows}
    assert [found["half own queries, half strangers", side] for side in ("base", "device", "server", "router")] == [
        0.0, 50.0, 75.0, 100.0,
    ]  # fmt: skip
    assert [found["own queries", side] for side in ("base", "blend", "server")] == [0.0, 100.0, 50.0]


def test_costs_at_a_share_are_those_of_what_is_sent() -> None:
    user, draw = drawn()
    meter = SimpleNamespace(of=lambda *_: QueryCost(100, 1000, 1.0, 0.25, 0.5))
    rows = list(cost_rows([(user, [draw])], cast("CostMeter", meter), "m", 4, (0, 50, 100)))
    at = {(row.metric, row.variant): row.value for row in rows}
    assert [at["server_tokens_per_query", share] for share in ("0%", "50%", "100%")] == [0.0, 50.0, 100.0]
    assert at["bytes_sent_per_query", "50%"] == 500.0
    # At half, what is sent lies outside the scopes: there the device does not answer, and inside it always does.
    assert [at["device_seconds_per_query", share] for share in ("0%", "50%", "100%")] == [0.75, 0.5, 0.5]
    assert at["server_answer_seconds", None] == 1.0


def test_settings_change_in_both_parts() -> None:
    changed = WholeSettings.quick().changed(items=12, draws=1, tasks=3, controls=("base",), costs=2)
    assert (changed.customize.items, changed.route.items) == (12, 12)
    assert (changed.customize.draws, changed.customize.control_draws, changed.route.draws) == (1, 1, 1)
    assert (changed.customize.tasks, changed.route.users, changed.costs) == (3, 3, 2)
    with pytest.raises(InvalidRequestError, match="--costs"):
        WholeSettings.quick().changed(costs=0)


def test_the_command_writes_a_record_and_a_page(
    model_path: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(WholeSettings, "quick", classmethod(lambda _: SETTINGS))
    monkeypatch.setattr("crayon.client.remote.RemoteEngine", _Remote)
    pool.save(tmp_path / "pool")
    words = ["eval", "run", str(model_path), "--quick", "--pool", str(tmp_path / "pool"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(
        app, [*words, "--draws", "1", "--only", "in_pool", "--workers", "1", "--server", "localhost:1", "--json"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "o" / "run.json").read_text(encoding="utf-8"))
    assert record["bench"] == "eval run"
    assert record["made"]["seconds"] >= 0
    assert "## At every share of the server" in (tmp_path / "o" / "report.md").read_text(encoding="utf-8")


class _Remote(Counting):
    """In the place of a connection."""

    def __init__(self, address: str, **_: Any) -> None:
        super().__init__(0.5)
        self.address = address

    def close(self) -> None:
        pass
