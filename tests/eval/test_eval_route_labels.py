from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from crayon.errors import ConfigError, InvalidRequestError
from crayon.eval.route_labels import Label, load_labels, measure

REAL = Path(os.environ.get("CRAYON_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
LINES = [
    '{"id":"gsm8k/test/0","small_correct":true,"large_correct":false,"small_reply_chars":2}',
    '{"id":"mmlu_stem/test/0","small_correct":false,"large_correct":true}',
    '{"id":"mmlu_stem/test/1","small_correct":true,"large_correct":true}',
    '{"id":"mmlu_other/test/2","small_correct":false,"large_correct":true}',
    '{"id":"mmlu_other/test/3","small_correct":true,"large_correct":false}',
]


def write(folder, lines):
    (folder / "routing").mkdir(exist_ok=True)
    (folder / "routing" / "small_vs_large.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))


def test_labels_are_read_in_order_and_measured_by_group(data):
    write(data, LINES)
    labels = load_labels()
    assert labels[0] == Label("gsm8k/test/0", weak=True, strong=False)
    found = measure(labels, "mmlu")
    assert (found.n, found.weak, found.strong) == (4, 50, 75)
    assert (found.only_weak, found.only_strong, found.neither) == (25, 50, 0)
    # The first of two good ones is the whole gap.
    assert (found.oracle_cpt50, found.oracle_cpt80) == (pytest.approx(12.5), pytest.approx(20))
    assert (found.oracle_peak, found.oracle_peak_share) == (100, 50)
    # Mean heights of the four quarters over the device: 1/8, 3/8, 4/8, 3/8, in parts of a gap of 1/4.
    assert found.oracle_apgr == pytest.approx((1 + 3 + 4 + 3) / 8 / 4 / 0.25)
    assert measure(labels, "gsm8k").oracle_apgr is None
    assert measure(labels, "all").n == 5
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"id":"mmlu"}', '{"id":1,"small_correct":true,"large_correct":true}',
     '{"id":"mmlu","small_correct":1,"large_correct":true}', LINES[0]],
)  # fmt: skip
def test_a_line_that_is_no_label_is_refused(data, line):
    write(data, [LINES[0], line, LINES[1]])
    with pytest.raises(InvalidRequestError, match=r"small_vs_large\.jsonl\.gz"):
        load_labels()


def test_a_damaged_or_missing_file_is_named(data):
    with pytest.raises(ConfigError, match="small_vs_large"):
        load_labels()
    write(data, LINES)
    path = data / "routing" / "small_vs_large.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        load_labels()
    with pytest.raises(InvalidRequestError, match="group"):
        measure([], "bbh")
    with pytest.raises(InvalidRequestError, match="none is of mmlu"):
        measure([], "mmlu")


@pytest.mark.skipif(not (REAL / "routing").is_dir(), reason="needs the folder of datasets beside the checkout")
def test_known_numbers_of_the_3878_mmlu_rows(monkeypatch):
    monkeypatch.setenv("CRAYON_DATA", str(REAL))
    found = measure(load_labels(), "mmlu")
    assert found.n == 3878
    assert found.weak == pytest.approx(70.53, abs=0.005)
    assert found.strong == pytest.approx(80.84, abs=0.005)
    assert found.random_apgr == pytest.approx(0.5, abs=0.02)
    assert found.oracle_peak == pytest.approx(found.weak + found.only_strong)
    assert found.oracle_apgr > 1
