"""The page of results, from any result file."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from crayon.errors import InvalidRequestError
from crayon.lab.eval.document import results_page

ENV = {"cpu": "C", "cores": 2, "memory": 2**33, "versions": {"numpy": "2"}, "models": {"m": "cd" * 32}}


def result(path: Path, bench: str, *rows: dict[str, Any], **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"bench": bench, "env": ENV, "rows": rows, **more}), encoding="utf-8")
    return path


def test_every_file_has_its_part_with_how_it_was_made_and_plots_are_copied(tmp_path: Path) -> None:
    gain = {
        "metric": "gain_of_user",
        "value": -3.0,
        "unit": "points",
        "ci_low": -4.0,
        "ci_high": -1.0,
        "task": "banking",
    }
    made = {"command": "crayon eval run --quick", "commit": "abc", "began": "x", "seconds": 5.0}
    own = result(tmp_path / "a" / "run.json", "eval run", gain, settings={"customize": {"samples": [16]}}, made=made)
    costs = {"metric": "server_tokens_per_query", "value": 8.0, "unit": "tokens", "group": "unseen", "variant": "50%"}
    costs_file = result(tmp_path / "c" / "run.json", "eval run", costs, settings={"customize": {"samples": [16]}})
    (tmp_path / "c" / "run-costs.png").write_bytes(b"png")
    wire = {"metric": "tokens_per_s", "value": 12.3456, "unit": "tokens/s", "workload": "64 streams"}
    other = result(tmp_path / "b" / "wire.json", "wire", wire)
    told = results_page([own, costs_file, other], tmp_path / "images", "images", "It was cold.\n")
    assert told.startswith("# Results\n")
    assert "## Customising and routing" in told
    assert "- gain_of_user (banking): -3.0 [-4.0, -1.0] points" in told
    assert "![What it costs](images/run-costs.png)" in told
    assert (tmp_path / "images" / "run-costs.png").read_bytes() == b"png"
    assert "| tokens_per_s |  | 64 streams |  | 12.346 tokens/s |" in told
    assert "## `bench wire`" in told
    assert told.rstrip().endswith("## What else did not work\n\nIt was cold.")
    assert "C, 2 cores, 8 GiB" in told


def test_the_tool_writes_the_page_where_its_links_to_plots_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {"metric": "server_tokens_per_query", "value": 8.0, "unit": "tokens", "group": "unseen", "variant": "50%"}
    file = result(tmp_path / "c" / "run.json", "eval run", costs, settings={"customize": {"samples": [16]}})
    (tmp_path / "c" / "run-costs.png").write_bytes(b"png")
    page = tmp_path / "docs" / "explanation" / "results.md"
    page.parent.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["results_page.py", str(file), "--out", str(page)])
    runpy.run_path(str(Path(__file__).parents[3] / "tools" / "results_page.py"), run_name="__main__")
    (link,) = re.findall(r"!\[What it costs\]\((.+)\)", page.read_text(encoding="utf-8"))
    assert (page.parent / link).read_bytes() == b"png"


def test_a_race_has_its_plots_and_what_was_not_measured(tmp_path: Path) -> None:
    row = {"metric": "offline_ratio_vs_llama_server", "value": 1.2, "unit": "ratio", "against": "llama-server -np 8"}
    file = result(tmp_path / "race" / "server.json", "server", row, unmeasured=["offline_ratio_vs_openvino: no"])
    (tmp_path / "race" / "server-ablation.png").write_bytes(b"png")
    told = results_page([file], tmp_path / "images", "images")
    assert "| offline_ratio_vs_llama_server |  |  | llama-server -np 8 | 1.200 ratio |" in told
    assert "- not measured: offline_ratio_vs_openvino: no" in told
    assert "![server-ablation](images/server-ablation.png)" in told
    assert (tmp_path / "images" / "server-ablation.png").exists()


def test_plots_of_two_results_do_not_take_each_others_place(tmp_path: Path) -> None:
    row = {"metric": "ratio", "value": 1.0, "unit": "ratio"}
    files = [result(tmp_path / name / "server.json", "server", row) for name in ("one", "two")]
    for name in ("one", "two"):
        (tmp_path / name / "server-ablation.png").write_bytes(name.encode())
    told = results_page(files, tmp_path / "images", "images")
    assert "(images/server-ablation.png)" in told
    assert "(images/two-server-ablation.png)" in told
    assert (tmp_path / "images" / "server-ablation.png").read_bytes() == b"one"
    assert (tmp_path / "images" / "two-server-ablation.png").read_bytes() == b"two"


@pytest.mark.parametrize("text", ["{}", "[1]", "nothing", '{"bench": "x"}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"x\.json"):
        results_page([tmp_path / "x.json"], tmp_path, "images")
