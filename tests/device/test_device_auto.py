"""What `auto` takes: the decision, the speed it rests on, and the fetching it asks for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import write_model

from crayon.device import DeviceEngine, auto, opening, speed
from crayon.device.auto import Wish
from crayon.device.choice import LARGER, SMALL, SPARE_BYTES, Facts, ModelChoice, Speed, choose_device
from crayon.device.speed import MeasuredSpeed, even, speed_of, time_rounds
from crayon.errors import AbortedError, DownloadError, UnknownModelError
from crayon.models import resolve

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
FAST, SLOW = Speed(200.0, 30.0), Speed(20.0, 30.0)
FACTS = Facts(
    larger_here=True,
    small_here=True,
    may_fetch=True,
    need=800 * MIB,
    room=4000 * MIB,
    disk_need=1000 * MIB,
    disk_room=4000 * MIB,
    cores=2,
    vectors=True,
    speed=FAST,
)
ABSENT = replace(FACTS, larger_here=False, speed=None)


@pytest.mark.parametrize(
    ("facts", "model", "why"),
    [
        (FACTS, LARGER, "800 MiB of 4,000 MiB free; 0.36 s for a question, 30 tokens/s"),
        (replace(FACTS, speed=SLOW), SMALL, "too slow here: 3.60 s for a question"),
        (replace(FACTS, speed=Speed(200.0, 7.9)), SMALL, "wanted are at most 1 s and 8 tokens/s"),
        (replace(FACTS, speed=SLOW, undisturbed=False), SMALL, "the machine is busy, so it is measured again"),
        (replace(FACTS, speed=None), SMALL, "could not be measured"),
        (replace(FACTS, room=1300 * MIB), SMALL, "takes 800 MiB and 512 MiB to spare, 1,300 MiB are free"),
        (replace(FACTS, small_here=False, speed=SLOW), SMALL, "too slow"),
        (replace(FACTS, small_here=False, may_fetch=False, speed=SLOW), LARGER, "nothing else is here"),
        (replace(FACTS, small_here=False, may_fetch=False, room=0), LARGER, "nothing else is here"),
        (ABSENT, LARGER, "2 cores promise to be quick enough"),
        (replace(ABSENT, small_here=False), LARGER, "not here yet"),
        (replace(ABSENT, may_fetch=False), SMALL, "nothing may be fetched"),
        (replace(ABSENT, may_fetch=False, small_here=False), SMALL, "nothing may be fetched"),
        (replace(ABSENT, disk_room=999 * MIB), SMALL, "takes 1,000 MiB of disk, 999 MiB are free"),
        (replace(ABSENT, cores=1), SMALL, "wants 2 cores, 1 may be used"),
        (replace(ABSENT, vectors=False), SMALL, "without AVX2 or dot products"),
        (replace(ABSENT, small_speed=Speed(300.0, 100.0)), LARGER, "promise"),
        (replace(ABSENT, small_speed=Speed(100.0, 100.0)), SMALL, "by the speed of smollm2"),
        (replace(ABSENT, small_speed=Speed(300.0, 20.0)), SMALL, "would be too slow"),
    ],
)
def test_the_choice_and_its_reason(facts: Facts, model: str, why: str) -> None:
    choice = choose_device(facts)
    assert choice.model == model
    assert why in choice.why


SPEEDS = st.none() | st.builds(Speed, st.floats(0.1, 5000.0), st.floats(0.1, 1000.0))
SIZES = st.integers(0, 8000 * MIB)
ANY_FACTS = st.builds(
    Facts,
    larger_here=st.booleans(),
    small_here=st.booleans(),
    may_fetch=st.booleans(),
    need=SIZES,
    room=SIZES,
    disk_need=SIZES,
    disk_room=SIZES,
    cores=st.integers(1, 64),
    vectors=st.booleans(),
    speed=SPEEDS,
    small_speed=SPEEDS,
    undisturbed=st.booleans(),
)


@given(ANY_FACTS)
def test_nothing_is_fetched_that_may_not_be_or_does_not_fit(facts: Facts) -> None:
    choice = choose_device(facts)
    if choice.model == LARGER and not facts.larger_here:
        assert facts.may_fetch
        assert facts.room >= facts.need + SPARE_BYTES
        assert facts.disk_room >= facts.disk_need
    if not facts.may_fetch and (facts.larger_here != facts.small_here):
        assert choice.model == (LARGER if facts.larger_here else SMALL)  # what is there


@given(ANY_FACTS, st.integers(0, 1000 * MIB), st.floats(1.0, 10.0))
def test_more_memory_and_speed_never_lead_to_the_smaller_model(facts: Facts, more: int, factor: float) -> None:
    def faster(one: Speed | None) -> Speed | None:
        return one and Speed(one.prefill_tps * factor, one.decode_tps * factor)

    better = replace(facts, room=facts.room + more, speed=faster(facts.speed), small_speed=faster(facts.small_speed))
    if choose_device(facts).model == LARGER and (facts.small_here or facts.may_fetch):
        assert choose_device(better).model == LARGER


# -- the speed


class Steps:
    """Steps that take as long as they are told; one that would end after `limit` is broken off then."""

    def __init__(self, reads: list[float], writes: float, limit: float = 1e9) -> None:
        self.clock = HandClock(0.0)
        self._reads, self._writes, self._limit = iter(reads), writes, limit

    def rounds(self) -> list[tuple[float, float]]:
        return time_rounds(lambda: self._take(next(self._reads)), lambda _: self._take(self._writes), self.clock)

    def _take(self, seconds: float) -> None:
        if self.clock.now + seconds > self._limit:
            self.clock.now = self._limit
            raise AbortedError("the step was aborted")
        self.clock.now += seconds


def test_a_fast_machine_has_four_rounds_and_the_shortest_count() -> None:
    rounds = Steps([0.2, 0.16, 0.3, 0.16], 0.01).rounds()
    assert len(rounds) == 4
    found = speed_of(rounds)
    assert (round(found.prefill_tps), round(found.decode_tps)) == (200, 100)


def test_a_slower_one_has_two_and_one_that_is_far_too_slow_is_broken_off() -> None:
    assert len(Steps([1.0, 1.0, 1.0], 0.2).rounds()) == 2
    assert len(Steps([2.0, 2.0], 0.1, limit=3.0).rounds()) == 1
    hopeless = Steps([20.0], 1.0, limit=3.0).rounds()
    assert hopeless == [(3.0, 3.0)]
    assert not speed_of(hopeless).enough
    assert not speed_of(Steps([2.9], 1.0, limit=3.0).rounds()).enough


def test_rounds_that_disagree_are_told() -> None:
    assert even([(0.2, 0.1), (0.22, 0.11), (0.21, 0.1), (0.9, 0.5)])  # a blink
    assert not even([(0.2, 0.1), (0.3, 0.1)])
    assert not even([(0.2, 0.1), (0.2, 0.2)])
    assert even([(3.0, 3.0)])


# -- this machine, with two small random models that go by the names of the real ones


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which both models can be fetched; the models folder is another."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    text = ""
    for seed, name in enumerate((LARGER, SMALL)):
        path = write_model(folder / f"{name}.gguf", seed=seed)
        data = path.read_bytes()
        text += f"""
[[model]]
name = "{name}"
aliases = []
about = "A model for tests."
role = "device"
base = "test/tiny"
architecture = "llama"
quantization = "F32"
licence = "Apache-2.0"
file = "{name}.gguf"
size = {len(data)}
sha256 = "{hashlib.sha256(data).hexdigest()}"
sources = [{{ kind = "path", path = "{path}" }}]
"""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(text)
    monkeypatch.setenv("CRAYON_MODELS_CATALOGUE", str(catalogue))
    return folder


@pytest.fixture
def wish(tmp_path: Path, shelf: Path) -> Wish:
    return Wish(models_dir=tmp_path / "models", n_ctx=256, threads=1)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were timed; each is fast, and nothing disturbs it."""
    return pretend(monkeypatch, MeasuredSpeed(FAST, undisturbed=True))


def pretend(monkeypatch: pytest.MonkeyPatch, measured: MeasuredSpeed) -> list[Path]:
    files: list[Path] = []

    def measure(path: Path, threads: int | None = None) -> MeasuredSpeed:
        assert threads == 1
        files.append(path)
        return measured

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(auto, "memory_room", lambda: 8000 * MIB)
    monkeypatch.setattr(Facts, "_promised", True)  # whatever this machine is
    return files


def have(wish: Wish, *names: str) -> None:
    for name in names:
        resolve(name, models_dir=wish.models_dir)


def test_a_real_file_is_timed_within_bounds(shelf: Path) -> None:
    found = speed.measure(shelf / f"{LARGER}.gguf", 1)
    assert found.speed.prefill_tps > 0
    assert found.speed.decode_tps > 0


def test_a_speed_is_measured_once_and_again_where_file_machine_or_library_changed(
    wish: Wish, timed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(wish, LARGER)
    assert auto.peek(wish) is None  # known only once it was timed
    assert auto.pick(wish).model == LARGER
    assert auto.pick(wish) == auto.peek(wish) == ModelChoice(LARGER, choose_device(auto.gather(wish)).why)
    assert len(timed) == 1
    (record,) = (wish.store.folder / "prepared").glob("*/speed-*.json")
    assert json.loads(record.read_text())["prefill_tps"] == FAST.prefill_tps
    found = opening.find(LARGER, models_dir=wish.models_dir, download=False)
    for changed in ({"machine_key": "another CPU"}, {"library_version": "0.0.1"}):
        with monkeypatch.context() as patch:
            for name, value in changed.items():
                patch.setattr(f"crayon.models.prepared.{name}", lambda value=value: value)
            assert speed.known(found, wish.models_dir, 1) is None
    assert speed.known(found, wish.models_dir, 2) is None
    assert speed.known(replace(found, file_sha256="0" * 64), wish.models_dir, 1) is None
    assert speed.known(found, wish.models_dir, 1) == FAST


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"prefill_tps": "x", "decode_tps": 1}', '{"prefill_tps": -1, "decode_tps": 1}']
)
def test_a_damaged_record_is_measured_anew(wish: Wish, timed: list[Path], text: str) -> None:
    have(wish, LARGER)
    auto.pick(wish)
    (record,) = (wish.store.folder / "prepared").glob("*/speed-*.json")
    record.write_text(text)
    assert auto.pick(wish).model == LARGER
    assert len(timed) == 2


def test_what_a_busy_machine_measured_is_not_kept(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pretend(monkeypatch, MeasuredSpeed(SLOW, undisturbed=False))
    have(wish, LARGER, SMALL)
    assert auto.pick(wish).model == SMALL
    assert auto.pick(wish).model == SMALL
    assert len(timed) == 2
    assert auto.peek(wish) is None


def test_the_larger_model_is_fetched_where_it_promises_to_be_quick_and_then_timed(
    wish: Wish, timed: list[Path]
) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> None:
        fetched.append(name)
        have(wish, name)

    assert auto.pick(wish, fetch).model == LARGER
    assert fetched == [LARGER]
    assert [path.stem for path in timed] == [LARGER]


def test_a_slow_machine_that_has_the_small_model_fetches_nothing(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pretend(monkeypatch, MeasuredSpeed(Speed(100.0, 100.0), undisturbed=True))
    have(wish, SMALL)
    assert auto.pick(wish, pytest.fail).model == SMALL
    assert [path.stem for path in timed] == [SMALL]


def test_one_that_turns_out_too_slow_gives_way_to_the_small_one(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, MeasuredSpeed(SLOW, undisturbed=True))
    assert auto.pick(wish).model == SMALL
    with DeviceEngine.open("auto", models_dir=wish.models_dir, n_ctx=256, threads=1) as engine:
        assert engine.models()[0].name == SMALL


def test_where_the_larger_one_cannot_be_fetched_the_small_one_is_taken(
    wish: Wish, timed: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(_: str) -> None:
        raise DownloadError("no network")

    assert auto.pick(wish, fetch).model == SMALL
    assert "no network" in caplog.text


def test_without_downloads_what_is_there_is_taken(
    wish: Wish, timed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = replace(wish, download=False)
    with pytest.raises(UnknownModelError, match=f"crayon models pull {SMALL}"):
        DeviceEngine.open("auto", models_dir=wish.models_dir, download=False, n_ctx=256, threads=1)
    have(wish, SMALL)
    assert auto.pick(offline).model == SMALL
    have(wish, LARGER)
    assert auto.pick(offline).model == LARGER
    monkeypatch.setattr(auto, "memory_room", lambda: 0)
    assert auto.pick(offline).model == SMALL


def test_the_engine_says_the_real_name_and_auto_is_any_case(wish: Wish, timed: list[Path]) -> None:
    have(wish, LARGER)
    with DeviceEngine.open(" Auto ", models_dir=wish.models_dir, n_ctx=256, threads=1) as engine:
        assert engine.models()[0].name == LARGER
    with pytest.raises(UnknownModelError, match="here, name one"):
        resolve("auto", models_dir=wish.models_dir)


def test_a_model_is_found_by_the_hash_of_its_file(wish: Wish, tmp_path: Path) -> None:
    own = write_model(tmp_path / "own.gguf", seed=7)
    local = resolve(str(own), models_dir=wish.models_dir)
    assert auto.made_for(local.sha256, wish.models_dir) == str(own)
    assert auto.made_for(resolve(SMALL, models_dir=wish.models_dir).sha256, wish.models_dir) == SMALL
    own.unlink()
    assert auto.made_for(local.sha256, wish.models_dir) is None
    assert auto.made_for("", wish.models_dir) is None
    assert auto.made_for("0" * 64, wish.models_dir) is None


def test_a_full_disk_keeps_nothing_and_chooses_all_the_same(
    wish: Wish, timed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(wish, LARGER)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", refuse)
        assert auto.pick(wish).model == LARGER
    assert not list((wish.store.folder / "prepared").glob("*/speed-*"))
