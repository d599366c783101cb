"""The evaluation of the router on a small random model, against a server that is told what to know."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from keyed_pool import BACKGROUND

from crayon.data.priors import load_priors
from crayon.data.qa import load_items
from crayon.device import DeviceEngine
from crayon.engine import ContinuationScore, ModelInfo, ScoreResult
from crayon.errors import InvalidRequestError
from crayon.lab.eval.answer_cache import AnswerCache
from crayon.lab.eval.customize import ModelUnderTest
from crayon.lab.eval.device_runner import DeviceRunner
from crayon.lab.eval.routing import beliefs, page
from crayon.lab.eval.routing.decide import Routed
from crayon.lab.eval.routing.run import RouteMeasurement, evaluate_route
from crayon.lab.eval.routing.settings import RouteSettings
from crayon.lab.eval.routing.sides import ServerSide, said
from crayon.lab.eval.routing.summary import points
from crayon.lab.eval.routing.traffic import Query, User, make_users
from crayon.sdk.call.choosing import listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.engine import ScoreRequest

SETTINGS = RouteSettings(
    users=2, unseen=(("near", "vowels"),), items=10, known=4, draws=2, samples=8, strangers=("far",),
    known_strangers=("near",), intents="toy", promises=3, cases=20,
)  # fmt: skip


class Knowing:
    """A server that knows the answers to a share of all questions, by their text alone."""

    def __init__(self, share: float = 1.0) -> None:
        self.asked: list[str] = []
        self._share = share
        items = [i for name in ("toy", "near", "far") for split in ("train", "test") for i in load_items(name, split)]
        self._answers = {listed(item.prompt, item.choices): item.answer_text for item in items}

    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo("knowing", 1024, "ab" * 32),)

    def score(self, request: ScoreRequest) -> Future[ScoreResult]:
        text = request.messages[-1].content
        self.asked.append(text)
        right = self._answers[text] if hash_of(text) < self._share else None
        future: Future[ScoreResult] = Future()
        scores = tuple(
            ContinuationScore((-0.1 if each == right else -2.0 - i,)) for i, each in enumerate(request.continuations)
        )
        future.set_result(ScoreResult(scores))
        return future


def hash_of(text: str) -> float:
    return sum(map(ord, text)) % 100 / 100


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "out" / "answers.sqlite") as cache:
        yield cache


def run(
    path: Path, pool: Pool, cache: AnswerCache, server: Any, settings: RouteSettings = SETTINGS
) -> RouteMeasurement:
    def engine(pools: Any) -> DeviceEngine:
        return DeviceEngine(path, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND, pools=pools)

    return evaluate_route(engine, ModelUnderTest.of(path, "tiny-chat", "F32"), pool, server, settings, cache)


def test_everything_promised_is_measured_and_written(
    model_path: Path, pool: Pool, cache: AnswerCache, tmp_path: Path
) -> None:
    measured = run(model_path, pool, cache, Knowing(0.9))
    rows = {row.metric for row in measured.report.rows}
    assert rows >= {
        "worst_change_vs_better_side", "in_pool_gain_vs_better_side", "in_pool_gain_vs_random_50",
        "in_pool_server_share", "scope_auroc_domains", "in_pool_gain_vs_scope_only", "unseen_gain_vs_confidence_only",
    }  # fmt: skip
    assert json.loads(json.dumps(measured.report.as_json(), allow_nan=False))["bench"] == "eval route"
    told = page.markdown(measured.report, ["a.png"])
    assert "| vowels |" in told
    assert "![a.png](a.png)" in told


def test_a_second_run_asks_nobody_again(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model_path, pool, cache, Knowing())
    monkeypatch.setattr(DeviceRunner, "_run", lambda *_: pytest.fail("computed again"))
    server = Knowing()
    assert run(model_path, pool, cache, server).report.rows == first.report.rows
    assert server.asked == []


def test_where_the_server_knows_all_and_the_device_nothing_everything_is_sent(
    model_path: Path, pool: Pool, cache: AnswerCache
) -> None:
    measured = run(model_path, pool, cache, Knowing(1.0))
    for _, draws in measured.results:
        for one in draws:
            assert one.server.all()
            assert one.sent.mean() > 0.9
    (share,) = [row for row in measured.report.rows if row.metric == "in_pool_server_share"]
    assert share.value > 90


def test_where_the_server_knows_nothing_little_is_sent(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    measured = run(model_path, pool, cache, Knowing(0.0))
    sent = np.mean([one.sent.mean() for _, draws in measured.results for one in draws])
    # The device is a random model: where it got none of its few samples right, it looks no better than the server.
    assert sent < 0.5


def test_traffic_is_half_own_and_no_query_is_from_a_train_split(pool: Pool) -> None:
    for user in make_users(pool.manifest, SETTINGS):
        own = [query.own for query in user.queries]
        assert sum(own) == len(own) / 2
        assert all("/test/" in query.item.id for query in user.queries)
        assert all("/train/" in item.id for draw in user.draws for item in (*draw, *user.known))
        assert all(query.item.task == user.name.split("/")[-1] for query in user.queries if query.own)
        mine = {item.id for item in user.task.items("train")}
        assert not mine & {item.id for item in user.known}
    assert {user.group for user in make_users(pool.manifest, SETTINGS)} == {"in_pool", "unseen"}


def test_points_of_each_variant_by_hand(pool: Pool) -> None:
    item = load_items("toy", "test")[0]
    task = make_users(pool.manifest, SETTINGS)[0].task
    user = User("in_pool", "u", task, tuple(Query(item, "k", own=i < 2) for i in range(4)), ((),), ())
    one = Routed(
        inside=np.array([0.1, -0.1, -0.2, 0.2]), let_in=np.array([True, False, False, True]),
        day_one=np.array([1.0, 0, 1, 0]),
        sure=np.array([0.9, 0.2, 0.4, 0.1]), device=np.array([1.0, 0, 0, 0]),
        blended=np.array([1.0, 1, 0, 0]),
        plain=np.array([0.0, 0, 1, 0]), blends=(None,) * 4,
        server=np.array([0.0, 1, 1, 0]), benefit=np.array([-0.1, 0.2, 0.3, -0.5]),
        sent=np.array([False, True, True, False]), calibration=cast("Any", None), cases=(),
    )  # fmt: skip
    found = {name: values[0].tolist() for name, values in points(user, [one]).items()}
    assert found["router"] == [100, 100, 100, 0]
    assert found["scope_only"] == [100, 100, 100, 0]
    assert found["day_one"] == [100, 0, 100, 0]
    assert found["query_only"] == [100, 100, 100, 0]
    assert found["confidence_only"] == [100, 100, 0, 0]  # the least sure are the second and the fourth
    assert found["perfect_scope"] == [100, 100, 100, 0]
    assert found["random"] == [50, 50, 50, 0]
    assert found["oracle"] == [100, 100, 100, 0]


def test_said_takes_the_likeliest_and_its_lead() -> None:
    item = replace(load_items("toy", "test")[0], answer=1)
    one = said([np.log(0.2), np.log(0.7), np.log(0.1)], item)
    assert (one.index, one.right) == (1, True)
    assert one.margin == pytest.approx(0.5)
    assert not said([0.0, -1.0, -2.0], item).right


def test_the_server_is_asked_with_the_options_listed(cache: AnswerCache) -> None:
    server, items = Knowing(), load_items("far", "test")[:3]
    found = ServerSide(cast("Any", server), cache, "key").ask(items, lambda: None)
    assert all(one.right for one in found)
    assert all(f"- {items[0].choices[0]}" in text for text in server.asked)


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(InvalidRequestError, match="--items: must be at least 10"):
        RouteSettings(items=3)


def test_tuning_traffic_is_from_train_splits_and_holds_no_sample(pool: Pool) -> None:
    for user in make_users(pool.manifest, replace(SETTINGS, split="train")):
        known = {item.id for item in user.known} | {item.id for draw in user.draws for item in draw}
        assert user.queries
        assert all("/train/" in query.item.id for query in user.queries)
        assert not known & {query.item.id for query in user.queries}
    with pytest.raises(InvalidRequestError, match="split: must be test or train"):
        replace(SETTINGS, split="all")


def test_what_is_outside_is_decided_before_the_device_answers(model_path: Path, pool: Pool, cache: AnswerCache) -> None:
    """It was once decided by the device's margin, which the product does not have there."""
    measured = run(model_path, pool, cache, Knowing(0.5))
    for _, draws in measured.results:
        for one in draws:
            assert len(set(one.benefit[~one.let_in].tolist())) <= 1
            assert all(case.sure is None for case in one.cases if case.inside_score < 0)


def test_beliefs_are_a_users_spread_and_not_luck() -> None:
    rng = np.random.default_rng(5)
    alike = [(rng.random(200) < 0.7).astype(float) for _ in range(12)]
    right, wrong = beliefs.beta(alike)
    assert right / (right + wrong) == pytest.approx(0.7, abs=0.03)
    assert right + wrong == beliefs.MOST
    right, wrong = beliefs.beta([np.ones(50), np.zeros(50), np.ones(50), np.zeros(50)])
    assert (right, wrong) == (pytest.approx(2.0), pytest.approx(2.0))


def test_the_believed_curve_is_that_of_the_users() -> None:
    rng = np.random.default_rng(6)
    groups = []
    for shift in (-1.0, 0.0, 1.0):
        sure = rng.random(3000)
        groups.append((sure, (rng.random(3000) < 1 / (1 + np.exp(-(4 * sure - 1 + shift)))).astype(float)))
    slope, intercept = beliefs.curve(groups)
    assert slope == (pytest.approx(4.0, abs=0.3), 1.0)
    assert intercept == (pytest.approx(-1.0, abs=0.2), 1.0)
    assert beliefs.curve([]) == ((1.0, 2.0), (0.0, 2.0))


def test_beliefs_are_an_entry_that_the_product_reads(
    model_path: Path, pool: Pool, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = run(model_path, pool, cache, Knowing(0.5))
    (pair,) = tomllib.loads(beliefs.toml(measured.results, "a", "b"))["pairs"]
    monkeypatch.setattr("crayon.data.priors.tomllib.loads", lambda _: {"pairs": [pair]})
    found = load_priors("a", "b", "margin")
    assert found is not None
    assert found.curve is not None
    assert load_priors("a", "b", "mean_logprob") == replace(found, curve=None)
