"""The race runs through and prints the rows that are promised; how large the figures are is not tested here."""

from __future__ import annotations

import gzip
import json
import math
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_pool import shared_pool
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.lab.bench.serving import race as racing
from crayon.lab.bench.serving import single, tuning
from crayon.lab.bench.serving.offline import open_openvino
from crayon.lab.bench.serving.optimum import Optimum
from crayon.lab.bench.serving.peers import Peers
from crayon.lab.bench.serving.plan import FULL, PARTS, QUICK, ModelPlan, Plan
from crayon.lab.bench.serving.prompts import PromptMaker
from crayon.lab.bench.serving.systems import HttpConnection, LlamaServer, SystemSettings
from crayon.lab.bench.serving.testbed import ServingTestbed
from crayon.lab.bench.serving.workloads import CONSTANT, CONVERSATION, TextPair
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crayon.completion import Blend
    from crayon.lab.bench.serving.prompts import Prompt
    from crayon.lab.bench.serving.systems import Connection, System

METRICS = {
    "offline": {"offline_ratio_vs_llama_server", "fraction_of_opt_engine", "offline_ratio_vs_openvino"},
    "online": {"online_rate_ratio_vs_llama_server", "online_requests_per_s", "token_latency_p99_over_mean"},
    "long_prompt": {"long_prompt_gap_ratio_vs_step", "long_prompt_p95_gap_ratio_vs_step"},
    "single": {"b1_decode_ratio_vs_library"},
    "blends": {"many_blends_ratio_vs_one"},
    "prefix": {"prefix_ratio_vs_llama_server"},
    "concurrency": {"tokens_per_s_at_concurrency"},
}


class Stranger(LlamaServer):
    """The stand-in of a peer in our server's place: it starts faster, and takes blends."""

    name = "crayon"

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        yield Unblended(self.port)


class Unblended(HttpConnection):
    def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        return super().stream(prompt, answer)


@pytest.fixture
def small(tiny_path: Path, peers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A plan for the tiny model, its pool, a trace; the words that run the race on them."""
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "traces").mkdir(parents=True)
    rows = "".join(f"{n}.0,{400 + 8 * n},{40 + 8 * (n % 3)}\n" for n in range(30))
    trace = gzip.compress(f"t_s,input_tokens,output_tokens\n{rows}99.0,80000,8\n".encode())
    (tmp_path / "data" / "traces" / "azure_2023_conv.csv.gz").write_bytes(trace)
    shared_pool(tiny_path).save(tmp_path / "pool")
    share = ModelPlan(
        reference=str(tiny_path),
        workloads=(CONSTANT, CONVERSATION),
        tokens=300,
        requests=3,
        runs=2,
        online=(CONSTANT,),
        first_seconds=60.0,
        parts=frozenset(PARTS),
        openvino=(CONSTANT,),
        probes=2,
    )
    plan = Plan(
        models=(share,),
        search_requests=2,
        probe_seconds=0.5,
        arrivals=3,
        context=512,
        long_prompt=600,
        concurrencies=(1, 2),
    )
    monkeypatch.setattr(racing, "QUICK", plan)
    monkeypatch.setattr(tuning, "SLOTS", (2,))
    monkeypatch.setattr(tuning, "UBATCHES", (128,))
    monkeypatch.setattr(tuning, "BATCHES", (128, 256))
    monkeypatch.setattr(single, "CLIENTS", 3)
    monkeypatch.setattr(single, "SYSTEM_WORDS", 30)
    monkeypatch.setattr(single, "OTHERS", TextPair(40, 100))
    words = ["bench", "server", "--quick", "--threads", "1", "--peers", str(peers_folder)]
    return [*words, "--pool", str(tmp_path / "pool")]


def rows_of(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["bench"] == "server"
    assert record["env"]["models"]
    for row in record["rows"]:
        assert math.isfinite(row["value"])
        assert row["runs"]
        assert {"model", "workload"} <= set(row)
    return list(record["rows"])


def test_every_part_prints_its_rows_and_pictures(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(bed: ServingTestbed, settings: SystemSettings, *, pools: bool = False) -> System:
        assert pools == (settings.slots == single.CLIENTS)
        return Stranger(bed.peers.llama_server, bed.path, settings)

    monkeypatch.setattr(ServingTestbed, "ours", ours)
    monkeypatch.setenv("FAKE_GAP", "0.01")  # the long prompt has to come while answers are under way
    monkeypatch.setenv("FAKE_FIRST", "0.05")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*small, "--json", "--out", str(out)])
    rows = rows_of(done)
    assert {row["metric"] for row in rows} == set().union(*METRICS.values())
    for row in rows:
        if row["metric"] == "offline_ratio_vs_llama_server" and "geometric" not in row["workload"]:
            assert row["against"].startswith("llama-server -np 2 -b ")
            assert "of Opt_engine" in row["note"]
            assert "cores busy" in row["note"]
            assert len(row["runs"]) == 2
    (conversation,) = [row for row in rows if row["workload"] == CONVERSATION and "offline" in row["metric"]]
    assert "1 of 31 rows over the context skipped" in conversation["note"]
    (mean,) = [row for row in rows if "geometric" in row["workload"]]
    assert len(mean["runs"]) == 2
    assert json.loads((out / "server.json").read_text())["rows"] == rows
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".png", ".png"]


def test_our_own_server_is_raced_over_the_wire(small: list[str]) -> None:
    rows = rows_of(CliRunner().invoke(app, [*small, "--json", "--only", "offline, single,blends"]))
    assert {row["metric"] for row in rows} == METRICS["offline"] | METRICS["single"] | METRICS["blends"]
    assert all(row["value"] > 0 for row in rows)


def test_with_the_flags_of_another_model_one_of_each_server_is_searched_again(
    small: list[str], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[SystemSettings] = []

    def run(_: ServingTestbed, system: System, jobs: list[Any]) -> Any:
        assert len(jobs) == 2
        tried.append(system.settings)
        return SimpleNamespace(tokens_per_second=float(system.settings.parts or 0))

    monkeypatch.setattr(ServingTestbed, "run", run)
    plan = racing.QUICK
    known = {
        ("crayon", CONSTANT): SystemSettings(slots=8, context=999, threads=1, batch=2048),
        ("llama-server", CONSTANT): SystemSettings(slots=8, context=999, threads=1, batch=2048, ubatch=64),
    }
    bed = ServingTestbed(
        label="tiny",
        path=tiny_path,
        source=tiny_path,
        maker=PromptMaker(Model(tiny_path, vocab_only=True)),
        optimum=Optimum(100.0, 64, 0.0, 0.1),
        plan=plan,
        model_plan=plan.models[0],
        peers=Peers.below(Path(small[small.index("--peers") + 1])),
        threads=1,
        known=known,
    )
    assert bed._trial(known["crayon", CONSTANT]) == 3, "no more than the offline runs have"
    ours = bed.best_ours(CONSTANT)
    assert [settings.parts for settings in tried] == [1, 2]
    assert (ours.parts, ours.batch, ours.slots) == (2, 2048, 2)
    assert ours.context == bed.workload(CONSTANT).context
    tried.clear()
    assert bed.best_llama(CONSTANT).ubatch == 128
    assert [settings.ubatch for settings in tried] == [128]


def test_openvino_falls_back_to_the_published_file_and_says_so(
    small: list[str], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UNREADABLE", "prepared")
    plan = racing.QUICK
    bed = ServingTestbed(
        label="tiny",
        path=Path("prepared.gguf"),
        source=tiny_path,
        maker=PromptMaker(Model(tiny_path, vocab_only=True)),
        optimum=Optimum(100.0, 64, 0.0, 0.1),
        plan=plan,
        model_plan=plan.models[0],
        peers=Peers.below(Path(small[small.index("--peers") + 1])),
        threads=1,
    )
    with ExitStack() as stack:
        system, note = open_openvino(bed, stack)
        assert system.name == "openvino-genai"
    assert note == " on tiny-chat.gguf, as it cannot read prepared.gguf"


def test_a_model_that_openvino_cannot_read_ends_no_race_and_what_ran_is_kept(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UNREADABLE", "tiny")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*small, "--json", "--only", "offline", "--out", str(out)])
    assert done.exit_code == 0, done.output
    record = json.loads((out / "server.json").read_text())
    assert {row["metric"] for row in record["rows"]} == METRICS["offline"] - {"offline_ratio_vs_openvino"}
    assert len(record["unmeasured"]) == 1
    assert record["unmeasured"][0].startswith("offline_ratio_vs_openvino, 128/64")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peers", "nowhere"], "make peers"),
        (["--only", "offline,nothing"], "'nothing' is unknown; there is: offline, online"),
        (["--models", "gpt-5"], "'gpt-5' is unknown"),
        (["--pool", "./absent"], "no such folder"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    small: list[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(racing, "measure", lambda *_, **__: pytest.fail("it began"))
    done = CliRunner().invoke(app, [*small, *words])
    assert done.exit_code != 0
    assert said in " ".join(done.output.split())


def test_missing_traces_and_pools_are_said_first(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "measure", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "data" / "traces" / "azure_2023_conv.csv.gz").unlink()
    done = CliRunner().invoke(app, small)
    assert done.exit_code != 0
    assert "CRAYON_DATA" in done.output
    done = CliRunner().invoke(app, [*small[:-2], "--only", "blends"])
    assert done.exit_code != 0
    assert "name one with --pool" in " ".join(done.output.split())


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_plans_name_what_there_is(plan: Plan) -> None:
    for share in plan.models:
        assert share.parts <= set(PARTS)
        assert set(share.openvino) <= set(share.workloads)
        assert set(share.online) <= set(share.workloads)
        assert share.runs >= 1
