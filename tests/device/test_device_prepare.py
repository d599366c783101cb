from __future__ import annotations

import dataclasses
import errno
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from crayon.contention import BUSY
from crayon.device import DeviceEngine, opening, prepare
from crayon.device.preparation import prepare as prepare_model
from crayon.device.prepare import choose, pareto, write
from crayon.errors import DownloadError, InvalidRequestError, ModelFileError, NoSpaceError
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.models.prepared import SOURCE, SOURCE_KEY, TYPE_KEY, Candidate

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.models import LocalModel

TURN = {"types": ("Q8_0", "Q4_0"), "prompt_tokens": 8, "answer_tokens": 2, "threads": 1}


def candidate(name: str, turn_ratio: float, loss: float) -> Candidate:
    return Candidate(name, 1, 1.0, 1.0, turn_ratio, 1.0 + loss, loss / 2, 0.9)


SOURCE_ROW = candidate(SOURCE, 1.0, 0.0)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def local(tiny_chat_path: Path, models_dir: Path) -> LocalModel:
    return resolve(str(tiny_chat_path), models_dir=models_dir)


def test_the_fastest_within_the_loss_is_chosen() -> None:
    rows = [SOURCE_ROW, candidate("A", 1.3, 0.005), candidate("B", 1.6, 0.009), candidate("C", 2.0, 0.02)]
    assert choose(rows).candidate.type == "B"
    assert "C is faster still" in choose(rows).reason
    assert choose(rows, 0.05).candidate.type == "C"


def test_ties_within_five_percent_go_to_the_smaller_loss() -> None:
    rows = [SOURCE_ROW, candidate("A", 1.53, 0.002), candidate("B", 1.60, 0.009)]
    assert choose(rows).candidate.type == "A"
    assert choose([SOURCE_ROW, candidate("A", 1.50, 0.002), rows[2]]).candidate.type == "B"


def test_the_source_stays_where_nothing_is_clearly_faster() -> None:
    assert choose([SOURCE_ROW, candidate("A", 1.04, 0.002), candidate("B", 3.0, 0.5)]).candidate.type == SOURCE


@pytest.mark.parametrize(("ratio", "kl"), [(1.011, 0.0), (1.0, 0.011)])
def test_both_perplexity_and_divergence_are_bounded(ratio: float, kl: float) -> None:
    over = dataclasses.replace(candidate("A", 2.0, 0.0), perplexity_ratio=ratio, kl=kl)
    assert choose([SOURCE_ROW, over]).candidate.type == SOURCE


def test_the_pareto_front_leaves_out_what_another_beats() -> None:
    rows = [SOURCE_ROW, candidate("A", 1.5, 0.01), candidate("B", 1.4, 0.02), candidate("C", 2.0, 0.03)]
    assert [row.type for row in pareto(rows)] == ["C", "A", SOURCE]


def test_preparing_keeps_one_file_that_knows_its_source(local: LocalModel, models_dir: Path) -> None:
    told: list[tuple[str, float]] = []
    info = prepare_model(
        local, models_dir=models_dir, max_loss=5.0, progress=lambda what, share: told.append((what, share)), **TURN
    )
    assert [row.type for row in info.candidates] == [SOURCE, "Q8_0", "Q4_0"]
    assert info.candidates[1].kl < info.candidates[2].kl
    assert told[-1] == ("done", 1.0)
    assert info.machine == prepared.machine_key()
    folder = models_dir / "prepared" / local.sha256
    kept = {path.name for path in folder.iterdir()} - {"lock"}
    if info.path is None:  # on this tiny model speed is a toss-up
        assert info.chosen == SOURCE
        assert kept == {"prepared.json"}
    else:
        assert kept == {"prepared.json", info.path.name}
        with Model(info.path, vocab_only=True) as model:
            assert model.metadata[SOURCE_KEY] == local.sha256
            assert model.metadata[TYPE_KEY] == info.chosen


def force_choice(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def choice(candidates: Any, _: float) -> prepare.TypeChoice:
        return prepare.TypeChoice(next(row for row in candidates if row.type == name), "the test says so")

    monkeypatch.setattr("crayon.device.preparation.choose", choice)
    monkeypatch.setattr("crayon.device.preparation.confirmed", lambda *_: True)  # however busy this machine is


def test_the_device_uses_the_prepared_file_by_itself(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_choice(monkeypatch, "Q8_0")
    info = prepare_model(local, models_dir=models_dir, **TURN)
    assert info.path is not None
    assert opening.find(str(local.path), models_dir=models_dir).path == info.path
    with DeviceEngine.open(str(local.path), models_dir=models_dir, n_ctx=128, threads=1) as engine:
        (served,) = engine.models()
        assert engine.file_sha256 == info.sha256
    assert served.source_sha256 == local.sha256
    assert served.quantization == "Q8_0"
    with DeviceEngine.open(str(info.path), models_dir=models_dir, n_ctx=128, threads=1) as engine:  # by its path
        assert engine.models()[0].source_sha256 == local.sha256
        assert engine.file_sha256 == info.sha256
    unprepared = opening.find(str(local.path), models_dir=models_dir, prepared_file=False)
    assert (unprepared.path, unprepared.file_sha256) == (local.path, local.sha256)


def test_a_changed_or_stale_file_is_not_used(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_choice(monkeypatch, "Q8_0")
    info = prepare_model(local, models_dir=models_dir, **TURN)
    assert info.path is not None
    assert prepared.usable(local, models_dir) == info.path
    monkeypatch.setattr(prepared, "machine_key", lambda: "another machine")
    stale = prepared.describe(local, models_dir)
    assert stale is not None
    assert stale.stale == "it was measured on another CPU"
    assert prepared.usable(local, models_dir) is None
    monkeypatch.undo()
    info.path.write_bytes(info.path.read_bytes() + b"x")
    assert prepared.usable(local, models_dir) is None
    assert opening.find(str(local.path), models_dir=models_dir).path == local.path


def test_a_damaged_record_is_named_and_the_source_runs(local: LocalModel, models_dir: Path) -> None:
    record = models_dir / "prepared" / local.sha256 / "prepared.json"
    record.parent.mkdir(parents=True)
    for text in ("{", "{}", '{"schema": 99}', "[]"):
        record.write_text(text)
        with pytest.raises(ModelFileError, match="crayon models prepare"):
            prepared.describe(local, models_dir)
        assert opening.find(str(local.path), models_dir=models_dir).path == local.path


def test_a_record_cannot_point_outside_its_folder(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_choice(monkeypatch, "Q8_0")
    prepare_model(local, models_dir=models_dir, **TURN)
    record = models_dir / "prepared" / local.sha256 / "prepared.json"
    record.write_text(record.read_text().replace('"Q8_0.gguf"', '"../../evil.gguf"'))
    with pytest.raises(ModelFileError, match="leaves its folder"):
        prepared.describe(local, models_dir)


def test_the_same_settings_are_not_measured_twice(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[str, ...]] = []
    real = prepare.measure

    def counting(*args: Any, **kwargs: Any) -> prepare.MeasuredTypes:
        runs.append(kwargs["types"])
        return real(*args, **kwargs)

    monkeypatch.setattr("crayon.device.preparation.measure", counting)
    first = prepare_model(local, models_dir=models_dir, max_loss=0.5, **TURN)
    assert prepare_model(local, models_dir=models_dir, max_loss=0.5, **TURN) == first
    assert prepare_model(local, models_dir=models_dir) == first  # nothing asked for: what there is will do
    assert len(runs) == 1
    prepare_model(local, models_dir=models_dir, max_loss=0.6, **TURN)
    prepare_model(local, models_dir=models_dir, force=True, **TURN)
    assert len(runs) == 3


def test_where_time_is_short_the_type_most_often_chosen_is_tried_and_the_rest_named(
    local: LocalModel, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[int] = []
    real = prepare.compare
    monkeypatch.setattr(prepare, "compare", lambda *args: (shares.append(len(args[3])), real(*args))[1])
    found = prepare.measure(
        local.path, tmp_path, text="word " * 2000, source_sha256=local.sha256, types=("Q8_0", "Q5_0", "Q4_0"),
        prompt_tokens=8, answer_tokens=2, threads=1, seconds=0.0,
    )  # fmt: skip
    assert [row.type for row in found.candidates] == [SOURCE, "Q4_0"]
    assert found.skipped == ("Q8_0", "Q5_0")
    assert shares == [prepare.WINDOW], "quality is compared on a single window first"
    monkeypatch.setattr("crayon.device.preparation.measure", lambda *_, **__: found)
    info = prepare_model(local, models_dir=models_dir, max_loss=9.0, **TURN)
    assert info.reason.endswith("; there was no time for Q8_0, Q5_0 in 60 s")


@pytest.mark.parametrize("again", [True, False], ids=["it is the faster one again", "it is not"])
def test_a_choice_beside_neighbours_is_measured_again(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    rows = (SOURCE_ROW, candidate("Q8_0", 1.5, 0.001), candidate("Q4_0", 1.0, 0.002))
    runs: list[int] = []

    def measured(*_: Any, **__: Any) -> prepare.MeasuredTypes:
        runs.append(1)
        return prepare.MeasuredTypes(rows, (), 1.0)

    quiet = False
    monkeypatch.setattr("crayon.device.preparation.measure", measured)
    monkeypatch.setattr("crayon.device.preparation.confirmed", lambda *_: again)
    monkeypatch.setattr("crayon.device.preparation._quiet", lambda _: quiet)
    info = prepare_model(local, models_dir=models_dir, **TURN)
    assert (info.chosen, info.disturbed) == (("Q8_0", False) if again else (SOURCE, True))
    assert (info.path is None) == (not again)
    assert ("busy" in info.reason) == (not again)
    assert prepare_model(local, models_dir=models_dir, **TURN) == info
    assert len(runs) == 1, "while the machine is busy, or where nothing was disturbed, the choice stays"
    quiet = True
    prepare_model(local, models_dir=models_dir, **TURN)
    assert len(runs) == (1 if again else 2)


def test_a_neighbour_is_seen_while_it_is_measured(local: LocalModel, tmp_path: Path) -> None:
    found = prepare.MeasuredTypes((), (), BUSY)
    assert found.busy
    assert not prepare.MeasuredTypes((), (), BUSY / 2).busy
    ratio = prepare.measure(
        local.path, tmp_path, text="word " * 300, source_sha256=local.sha256, types=("Q8_0",), prompt_tokens=8,
        answer_tokens=2, threads=1,
    )  # fmt: skip
    assert ratio.missed >= 0.0
    assert ratio.skipped == ()


def test_confirming_compares_again(local: LocalModel) -> None:
    assert not prepare.confirmed(local.path, local.path, candidate("Q8_0", 50.0, 0.0), 8, 2, 1), "it was noise"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"types": ("Q9_9",)}, "types"),
        ({"types": ()}, "types"),
        ({"max_loss": -1.0}, "max_loss"),
        ({"max_loss": float("nan")}, "max_loss"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"answer_tokens": 5000}, "answer_tokens"),
    ],
)
def test_bad_settings_are_named(local: LocalModel, models_dir: Path, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepare_model(local, models_dir=models_dir, **settings)
    assert caught.value.field == field


def test_a_failed_requantization_leaves_no_target(tiny_chat_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "x.gguf"
    with pytest.raises((ModelFileError, OSError)):
        write(tiny_chat_path, target, "Q8_0", "0" * 64)
    assert not target.exists()


def test_a_full_disk_is_named_and_leaves_nothing(
    local: LocalModel, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("crayon.device.preparation.measure", full)
    with pytest.raises(NoSpaceError):
        prepare_model(local, models_dir=models_dir, **TURN)
    left = {path.name for path in (models_dir / "prepared" / local.sha256).iterdir()} - {"lock"}
    assert left == set()
    assert issubclass(NoSpaceError, DownloadError)


def test_an_interrupted_preparation_leaves_no_half_file(local: LocalModel, models_dir: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from crayon.device.preparation import prepare\n"
        "from crayon.models import resolve\n"
        "models = Path(sys.argv[2])\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    prepare(resolve(sys.argv[1], models_dir=models), models_dir=models, types=('Q8_0', 'Q4_0'), threads=1,\n"
        "            force=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(local.path), str(models_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    folder = models_dir / "prepared" / local.sha256
    assert not list(folder.glob("work-*"))
    assert not list(folder.glob("*.partial"))
    info = prepared.describe(local, models_dir)
    assert info is None or info.path is None or info.path.is_file()


@pytest.mark.models
def test_the_real_model_loses_almost_nothing_at_eight_bits(device_model_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "Q8_0.gguf"
    write(device_model_path, target, "Q8_0", "0" * 64)
    text = "The ferry left the harbour a little after seven, when the fog had thinned enough to see the far buoy."
    with Model(device_model_path) as base, prepare.TurnBench(base, 16, 2, threads=1) as reference:
        pair = prepare.compare(reference, target, "Q8_0", base.tokenize(text), rounds=1)
    assert pair.candidate.kl < 0.05
    assert pair.candidate.perplexity_ratio == pytest.approx(1.0, abs=0.1)
    assert pair.candidate.turn_ratio > 0
