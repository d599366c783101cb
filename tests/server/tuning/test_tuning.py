"""The search on an engine whose costs are known; records, and resuming."""

from __future__ import annotations

import inspect
import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_chat import write_model

from crayon.cli.serve.tuned import DEFAULT_SLOTS
from crayon.errors import CancelledError, ConfigError
from crayon.llama.model import Model
from crayon.server.cost.online import CLOSE
from crayon.server.cost.step_cost import StepCost, StepShape
from crayon.server.engines.llama.engine import LlamaCppEngine
from crayon.server.tuning import ExpectedLoad, Key, TunedProfile, TunedSettings, engine_arguments, load, tune
from crayon.server.tuning.host_load import MOST, PER_TOKEN_S, HostLoad, host_share
from crayon.server.tuning.interference import Interference
from crayon.server.tuning.record import keep, partial_path, path_of
from crayon.server.tuning.rig import TrialRun
from crayon.server.tuning.saturation import steady
from crayon.server.tuning.search import UNTUNED_BATCH, UNTUNED_SEQS, SearchSpace, structures, untuned
from crayon.server.tuning.session import tune_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.server.cost.profile import ProfileStep
    from crayon.server.steps.limits import StepLimits
    from crayon.server.tuning.saturation import Steady

# Per-token work dominates above 32 tokens; attention is dear enough to matter.
COST = StepCost(base=0.004, per_token=0.0005, weights=0.016, per_context=1e-8, per_output=0.0002, per_switch=0.01)
WORKLOAD = ExpectedLoad(n_ctx=4096)
KEY = Key(
    model_sha256="a" * 64, quantization="Q4_0", cpu="a CPU [avx2]", cores=2, quota=None, library="1.0", n_ctx=4096
)


class KnownRig:
    """An engine that costs what it says, but for factors of what no cost can know."""

    def __init__(
        self,
        *,
        host_factor: float = 1.0,
        dual: float = 0.5,
        split: float = 1.0,
        slow: float = 1.0,
        luck: float = 1.0,
        stop_after: int = 10**9,
    ):
        self.host_factor, self.dual, self.split, self.stop_after = host_factor, dual, split, stop_after
        self.slow, self.luck = slow, luck
        self.done: list[str] = []

    def _count(self, name: str) -> None:
        if len(self.done) >= self.stop_after:
            raise KeyboardInterrupt
        self.done.append(name)

    @contextmanager
    def timer(self, limits: StepLimits, threads: int) -> Iterator[KnownRig]:
        yield self

    def time(self, recipe: ProfileStep) -> list[float]:
        self._count(f"call {recipe}")
        return [COST.seconds(self.shape(recipe))] * recipe.repeats

    def shape(self, recipe: ProfileStep) -> StepShape:
        return recipe.shape

    def trial(self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, seconds: float) -> TrialRun:
        self._count(f"trial {choice}")
        factor = self.host_factor if choice.threads < 2 else 1.0
        if self.done.count(f"trial {choice}") == 1 and choice != untuned(space(), workload):
            factor *= self.luck
        rate = steady(COST, choice, workload)
        if not choice.kv_unified:
            factor *= self.split
        return TrialRun(tokens_per_s=rate.tokens_per_s * factor, longest_s=self.slow * rate.longest_s, steps=3)

    def interference(
        self, choice: TunedSettings, load: Steady, workload: ExpectedLoad, prefill_cores: int, seconds: float
    ) -> Any:
        self._count(f"overlap {prefill_cores}")
        return Interference(
            prefill_cores=prefill_cores,
            decode_cores=1,
            prefill_s=1.0,
            decode_s=1.0,
            prefill_both_s=1.0,
            decode_both_s=1.0,
            ratio=self.dual,
            tokens_per_s=load.tokens_per_s * self.dual,
        )


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.server.tuning.session.usable_cores", lambda: 2)


def run(rig: KnownRig, folder: Path | None = None, **wanted: Any) -> TunedProfile:
    return tune_on(rig, KEY, folder, workload=WORKLOAD, longest=4096, overlap=True, **{"seconds": 1e6, **wanted})


# -- stage I


def space(**other: Any) -> SearchSpace:
    return SearchSpace(**{"max_batch": 512, "max_seqs": 32, "cores": 2, "overlap": False, "trial_s": 1.0, **other})


def test_the_best_structure_is_the_best_of_all() -> None:
    ranked = structures(COST, space(), WORKLOAD)
    within = [load for _, load in ranked if load.longest_s <= WORKLOAD.itl_target_s]
    assert ranked[0][1].tokens_per_s == pytest.approx(max(load.tokens_per_s for load in within))
    assert ranked[0][1].longest_s <= WORKLOAD.itl_target_s


def test_a_tighter_target_gives_a_smaller_batch() -> None:
    wide, tight = (
        structures(COST, space(), replace(WORKLOAD, itl_target_s=seconds))[0][0].n_batch for seconds in (10.0, 0.03)
    )
    assert tight < wide


def test_a_split_cache_must_hold_the_longest_request() -> None:
    found = {choice.n_seq_max for choice, _ in structures(COST, space(), WORKLOAD) if not choice.kv_unified}
    assert found == {1, 2}


def test_blends_take_turns_only_where_there_are_some() -> None:
    assert {choice.quantum for choice, _ in structures(COST, space(), WORKLOAD)} == {0}
    many = replace(WORKLOAD, blends=8, itl_target_s=10.0)
    assert {choice.quantum for choice, _ in structures(COST, space(), many)} > {0}


def test_a_steady_server_reads_what_its_answers_need() -> None:
    for n_batch, n_seq_max in ((16, 8), (64, 4), (256, 32)):
        load = steady(COST, TunedSettings(n_batch=n_batch, n_seq_max=n_seq_max, threads=1), WORKLOAD)
        assert load.decoding + load.chunk <= n_batch
        assert load.share <= 1
        assert load.share * load.chunk == pytest.approx(load.decoding * WORKLOAD.prompt / WORKLOAD.answer)


def test_one_sequence_reads_then_writes() -> None:
    load = steady(COST, TunedSettings(n_batch=256, n_seq_max=1, threads=1), WORKLOAD)
    assert load.alone
    assert load.chunk == WORKLOAD.prompt


# -- stage II


def test_the_search_finds_the_known_optimum() -> None:
    profile = run(KnownRig())
    # Cores of two, or fewer, are alike for this engine: the plain value stays.
    plain = [choice for choice, _ in structures(COST, space(), WORKLOAD) if choice.kv_unified and choice.nano == 1]
    best = steady(COST, plain[0], WORKLOAD).tokens_per_s
    assert steady(COST, profile.choice, WORKLOAD).tokens_per_s == pytest.approx(best, rel=0.03)
    assert profile.choice.threads == 2
    assert profile.choice.overlap == "none"
    assert profile.cost["per_token"] == pytest.approx(COST.per_token, rel=0.05)
    assert profile.fit["error"] < 0.05


def test_a_core_is_kept_for_the_host_where_that_is_faster() -> None:
    assert run(KnownRig(host_factor=1.5)).choice.threads == 1


@pytest.mark.parametrize(("gain", "overlap"), [(0.5, "none"), (1.02, "none"), (1.5, "dual")])
def test_only_measurement_decides_on_overlap(gain: float, overlap: str) -> None:
    profile = run(KnownRig(dual=gain))
    assert profile.choice.overlap == overlap
    assert profile.evidence["interference"]
    assert profile.evidence["why"]["overlap"].startswith(f"{overlap}:")


def test_a_split_cache_is_taken_where_it_measures_better() -> None:
    assert run(KnownRig()).choice.kv_unified
    assert not run(KnownRig(split=9.0)).choice.kv_unified


def test_no_search_ends_below_the_untuned_engine_nor_gives_up_its_slots_for_long_steps() -> None:
    plain = untuned(space(), WORKLOAD)
    assert (plain.n_batch, plain.n_seq_max, plain.kv_unified) == (512, 8, False)
    # As slow as a large model: a step of 512 tokens is far over the target, and the engine would not make one.
    held = run(KnownRig(split=3.0, slow=20.0), quick=True)
    assert held.choice == plain
    measured = [row["choice"] for row in held.evidence["measured"]]
    assert measured[0] == plain.as_json()
    assert len(measured) > 2
    # Only what measures better is taken.
    assert run(KnownRig(split=0.1), quick=True).choice != plain


def test_a_gain_that_is_gone_when_measured_again_was_luck() -> None:
    plain = untuned(space(), WORKLOAD)
    lucky = run(KnownRig(split=3.0, luck=9.0), quick=True)
    assert lucky.choice == plain
    assert lucky.evidence["tokens_per_s"] == pytest.approx(3 * steady(COST, plain, WORKLOAD).tokens_per_s)
    assert "untuned" in lucky.evidence["why"]["structure"]
    assert lucky.evidence["why"]["threads"].startswith("all cores, as without a search")
    rig = KnownRig(split=0.1)
    kept = run(rig, quick=True).choice
    assert kept != plain
    assert rig.done.count(f"trial {kept}") == rig.done.count(f"trial {plain}") == 2


def test_a_quick_search_never_takes_fewer_requests_at_once_than_no_search() -> None:
    # Only one at a time is in time here.
    slow = replace(WORKLOAD, itl_target_s=0.022)
    assert {choice.n_seq_max for choice, _ in structures(COST, space(quick=True), slow)} == {8, 16, 32}
    assert structures(COST, space(), slow)[0][0].n_seq_max < 8


def test_an_engine_that_was_told_nothing_is_as_the_search_believes() -> None:
    assert UNTUNED_SEQS == DEFAULT_SLOTS
    assert inspect.signature(LlamaCppEngine).parameters["n_batch"].default == UNTUNED_BATCH
    assert inspect.signature(LlamaCppEngine).parameters["kv_unified"].default is False


def test_losers_are_in_the_record_and_what_was_left_out_too() -> None:
    profile = run(KnownRig())
    assert len(profile.evidence["measured"]) >= 5
    hurried = run(KnownRig(), seconds=1e-3)
    assert hurried.evidence["skipped"]
    assert "no time" in hurried.evidence["why"]["overlap"]


def test_a_cost_of_small_calls_only_is_not_kept() -> None:
    """Reading the weights hides what a token costs: of a large model 57 ms a token were believed in place of 6."""
    slow = StepCost(**{name: 100 * value for name, value in COST.terms().items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownRig, "time", lambda _, recipe: [slow.seconds(recipe.shape)] * recipe.repeats)
        hurried, patient = (run(KnownRig(), seconds=seconds) for seconds in (30.0, 1e6))
    assert hurried.fit["largest"] < 64
    assert hurried.cost == {}
    assert patient.fit["largest"] >= 64
    assert patient.cost["per_token"] == pytest.approx(slow.per_token, rel=0.05)


def test_a_cost_that_does_not_predict_what_it_has_not_seen_is_not_kept() -> None:
    def uneven(_: KnownRig, recipe: ProfileStep) -> list[float]:
        return [COST.seconds(recipe.shape) * (4 if hash(recipe) % 3 else 1)] * recipe.repeats

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownRig, "time", uneven)
        profile = run(KnownRig())
    assert profile.fit["largest"] >= 64
    assert profile.fit["error_out"] > CLOSE
    assert profile.cost == {}


def test_a_quick_search_without_time_for_a_pair_measures_nothing_in_vain() -> None:
    rig = KnownRig()
    hurried = run(rig, quick=True, seconds=0.5)
    assert hurried.choice == untuned(space(), WORKLOAD)
    assert not [name for name in rig.done if name.startswith(("trial", "overlap"))]
    assert hurried.evidence["skipped"] == ["every trial"]


def test_the_first_rough_calls_are_part_of_the_cost() -> None:
    rig = KnownRig()
    assert run(rig, seconds=0.2).fit["largest"] >= 16


# -- resuming


def test_a_killed_search_repeats_nothing(tmp_path: Path) -> None:
    whole = KnownRig()
    run(whole)
    for stop_after in (1, 7, len(whole.done) - 2):
        first = KnownRig(stop_after=stop_after)
        with pytest.raises(KeyboardInterrupt):
            run(first, tmp_path)
        assert partial_path(tmp_path, KEY).exists()
        second = KnownRig()
        profile = run(second, tmp_path)
        assert first.done + second.done == whole.done
        assert profile.evidence["resumed"] == stop_after
        assert not partial_path(tmp_path, KEY).exists()


def test_other_settings_or_no_resume_begin_anew(tmp_path: Path) -> None:
    for other in ({"resume": False}, {"quick": True}):
        with pytest.raises(KeyboardInterrupt):
            run(KnownRig(stop_after=5), tmp_path)
        assert run(KnownRig(), tmp_path, **other).evidence["resumed"] == 0


def test_a_damaged_journal_is_measured_anew(tmp_path: Path) -> None:
    partial_path(tmp_path, KEY).write_text("{", encoding="utf-8")
    assert run(KnownRig(), tmp_path).evidence["resumed"] == 0


# -- records


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = run(KnownRig(), tmp_path)
    assert load(tmp_path, KEY) == (profile, "")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cpu": "another CPU [avx]"}, "another CPU (a CPU)"),
        ({"cores": 4}, "with 2 cores, here are 4 cores"),
        ({"quota": 1.5}, "a quota of 1.5"),
        ({"library": "2.0"}, "llama-cpp-python 1.0, here is 2.0"),
        ({"quantization": "Q8_0"}, "another model file"),
        ({"n_ctx": 2048}, "a context of 4096 tokens, here are 2048"),
    ],
)
def test_a_record_of_elsewhere_is_refused_with_the_reason(other: dict[str, Any], reason: str, tmp_path: Path) -> None:
    run(KnownRig(), tmp_path)
    found, why = load(tmp_path, replace(KEY, **other))
    assert found is None
    assert reason in why
    # A file that was copied under the right name is no better.
    path_of(tmp_path, KEY).rename(path_of(tmp_path, replace(KEY, **other)))
    assert load(tmp_path, replace(KEY, **other))[0] is None


def test_no_record_says_so(tmp_path: Path) -> None:
    assert load(tmp_path / "nowhere", KEY) == (None, "this model was never tuned here")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1}'])
def test_a_damaged_record_is_refused(text: str, tmp_path: Path) -> None:
    path_of(tmp_path, KEY).write_text(text, encoding="utf-8")
    found, why = load(tmp_path, KEY)
    assert found is None
    assert why


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    path = keep(run(KnownRig()), tmp_path)
    raw = json.loads(path.read_text("utf-8"))
    raw["choice"]["threads"] = 64
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert load(tmp_path, KEY) == (None, "it was edited after it was measured")


# -- what an engine is told


def test_an_engine_is_told_what_it_knows() -> None:
    choice = TunedSettings(n_batch=64, n_seq_max=4, threads=1, overlap="dual", prefill_threads=3)
    known = {"n_batch", "n_seq_max", "threads", "overlap", "prefill_threads"}
    assert engine_arguments(choice, known) == {
        "n_batch": 64, "n_seq_max": 4, "threads": 1, "overlap": "dual", "prefill_threads": 3,
    }  # fmt: skip
    # One that cannot do both at once has all their threads.
    assert engine_arguments(choice, {"threads"}) == {"threads": 4}


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"overlap": "dual"}, {"quantum": -1}, {"n_batch": True}])
def test_choices_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TunedSettings(**{"n_batch": 16, "n_seq_max": 1, "threads": 1, **wrong})


# -- the server's own work


def test_the_servers_own_work_follows_the_answers_it_writes() -> None:
    load = steady(COST, untuned(space(), WORKLOAD), WORKLOAD)
    answers = load.tokens_per_s * WORKLOAD.answer / WORKLOAD.tokens
    assert host_share(load, WORKLOAD) == pytest.approx(PER_TOKEN_S * answers)
    assert host_share(load._replace(tokens_per_s=1e6), WORKLOAD) == MOST


def test_the_servers_own_work_is_done_for_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(write_model(tmp_path / "tiny.gguf")) as model:
        load = HostLoad(model, 0.2)
        waits: list[float] = []
        monkeypatch.setattr(load._stop, "wait", lambda seconds: waits.append(seconds) or load._stop.set())
        with load:
            load._thread.join()
    (idle,) = waits
    assert idle == pytest.approx(4 * 0.001)  # four fifths, after a millisecond of work


# -- the real thing, small


def test_a_real_model_is_measured(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.gguf")
    workload = ExpectedLoad(prompt=40, answer=10, n_ctx=512, longest=128)
    profile = tune(model, KEY, tmp_path, workload=workload, seconds=2)
    assert profile.evidence["measured"]
    assert profile.fit["shapes"] > 2
    assert load(tmp_path, KEY)[0] == profile


def test_a_search_that_is_given_up_ends_at_the_next_measurement_and_is_gone_on_with(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.gguf")
    workload = ExpectedLoad(prompt=40, answer=10, n_ctx=512, longest=128)
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(CancelledError):
        tune(model, KEY, tmp_path, workload=workload, seconds=60, stopped=stopped)
    assert len(asked) == 4
    said: list[str] = []
    with pytest.raises(CancelledError):
        tune(model, KEY, tmp_path, workload=workload, seconds=60, say=said.append, stopped=lambda: True)
    assert said[0].startswith("going on with")
