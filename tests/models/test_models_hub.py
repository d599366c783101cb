from __future__ import annotations

import signal
from pathlib import Path

import pytest
from models_tools import FileServer, Gate, Puller, catalogue_text, sha256, tiny_gguf

from crayon.models import Store, load_catalogue

REPO = "someone/tiny-GGUF"
FILE = "tiny-q4_k_m.gguf"
DATA = tiny_gguf(60_000)


@pytest.fixture(autouse=True)
def tiny_repo(hub: FileServer, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hub[REPO] = {FILE: DATA, "tiny-q8_0.gguf": tiny_gguf(seed=8), "README.md": b"hello"}
    path = tmp_path / "catalogue.toml"
    path.write_text(catalogue_text(DATA, [f'{{ kind = "hf", repo = "{REPO}", file = "{FILE}" }}']))
    monkeypatch.setenv("CRAYON_MODELS_CATALOGUE", str(path))


def pulled(reference: str, **env: str) -> tuple[int, str]:
    code, said, errors = Puller(reference, env).finish()
    assert "Traceback" not in errors
    return code, said


def models_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_catalogue_model_stays_in_the_hub_cache(hub: FileServer, store_dir: Path, tmp_path: Path) -> None:
    puller = Puller("tiny", {})
    code, said, _ = puller.finish()
    assert code == 0, said
    path = Path(said.removeprefix(f"READY {sha256(DATA)} "))
    assert path.is_relative_to(tmp_path / "hf" / "hub")
    assert path.read_bytes() == DATA
    assert models_in(store_dir) == []
    counts = [int(line.split()[1]) for line in puller.lines if line.endswith(f"{len(DATA)} {FILE}")]
    assert counts[-1] == len(DATA)
    assert pulled("tiny") == (code, said)
    assert hub.fetched == [FILE]
    wanted = load_catalogue().find("tiny").wanted
    assert Store(store_dir).remove(wanted) == (0, path)
    assert path.exists()


def test_hash_is_compared_before_a_byte_is_fetched(hub: FileServer, store_dir: Path, tmp_path: Path) -> None:
    hub.hub[REPO][FILE] = tiny_gguf(60_000, seed=1)
    code, said = pulled("tiny")
    assert code == 3
    assert said.startswith("ERROR HashMismatchError")
    assert "nothing was downloaded" in said
    assert hub.fetched == []
    assert models_in(tmp_path / "hf") == models_in(store_dir) == []


def test_bytes_that_are_not_what_the_hub_said_are_refused(hub: FileServer, store_dir: Path, tmp_path: Path) -> None:
    other = tiny_gguf(60_000, seed=1)
    hub.hub[REPO][FILE] = other
    hub.lies[FILE] = sha256(DATA)
    code, said = pulled("tiny")
    assert code == 3
    assert said.startswith("ERROR HashMismatchError")
    assert sha256(other) in said
    assert models_in(tmp_path / "hf") == []
    hub.hub[REPO][FILE] = DATA
    code, said = pulled("tiny")
    assert code == 0, said


def test_reference_by_quantization_and_by_file(hub: FileServer) -> None:
    code, by_type = pulled(f"hf:{REPO}:Q4_K_M")
    assert code == 0, by_type
    assert by_type.startswith(f"READY {sha256(DATA)} ")
    code, by_file = pulled(f"hf:{REPO}/{FILE}")
    assert (code, by_file) == (0, by_type)
    assert hub.fetched == [FILE]
    code, eight = pulled(f"hf:{REPO}:q8_0")
    assert code == 0
    assert eight.startswith(f"READY {sha256(tiny_gguf(seed=8))} ")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"hf:{REPO}:Q2_K", f"{REPO} has no file of Q2_K; it has tiny-q4_k_m.gguf, tiny-q8_0.gguf"),
        (f"hf:{REPO}/none.gguf", "has no file none.gguf; it has tiny-q4_k_m.gguf"),
        ("hf:someone/else:Q8_0", "RepositoryNotFoundError"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: FileServer, store_dir: Path, reference: str, message: str) -> None:
    code, said = pulled(reference)
    assert code == 3
    assert message in said
    assert not list((store_dir / "records").iterdir())


def test_ambiguous_quantization_is_refused(hub: FileServer) -> None:
    hub.hub[REPO]["other-Q8_0.gguf"] = b"x"
    assert "2 files of Q8_0" in pulled(f"hf:{REPO}:Q8_0")[1]


def test_split_files_are_refused(hub: FileServer) -> None:
    hub.hub[REPO]["big-q6_k-00001-of-00002.gguf"] = b"x"
    assert "split in several parts are not supported" in pulled(f"hf:{REPO}:Q6_K")[1]


def test_file_without_a_hash_is_refused(hub: FileServer) -> None:
    hub.plain_files.add(FILE)
    assert "the hub tells no SHA-256" in pulled("tiny")[1]


def test_foreign_file_is_refused(hub: FileServer, store_dir: Path) -> None:
    hub.hub[REPO]["broken-q6_k.gguf"] = b"these are no weights" * 10
    code, said = pulled(f"hf:{REPO}:Q6_K")
    assert code == 3
    assert "not a GGUF" in said
    assert not list((store_dir / "records").iterdir())


def test_token_of_the_environment_is_sent(hub: FileServer) -> None:
    assert pulled("tiny", HF_TOKEN="hf_secret")[0] == 0
    assert hub.tokens == ["Bearer hf_secret"]


def test_offline_uses_what_the_cache_has(hub: FileServer, store_dir: Path) -> None:
    code, said = pulled("tiny", HF_HUB_OFFLINE="1")
    assert code == 3
    assert f"HF_HUB_OFFLINE is set and the Hugging Face cache holds no model of {REPO}" in said
    assert hub.tokens == []
    assert pulled("tiny")[0] == 0
    wanted = load_catalogue().find("tiny").wanted
    Store(store_dir).remove(wanted)  # forgets the record; the cache keeps the file
    code, said = pulled("tiny", HF_HUB_OFFLINE="1")
    assert code == 0, said
    assert hub.fetched == [FILE]
    code, said = pulled(f"hf:{REPO}:Q8_0", HF_HUB_OFFLINE="1")
    assert code == 3
    assert f"{REPO} has no file of Q8_0; it has {FILE}" in said
    code, said = pulled(f"hf:{REPO}:Q4_K_M", HF_HUB_OFFLINE="1")
    assert code == 0, said


def test_offline_never_deletes_another_revision(hub: FileServer, tmp_path: Path) -> None:
    hub.hub[REPO][FILE] = tiny_gguf(60_000, seed=5)
    assert pulled(f"hf:{REPO}/{FILE}")[0] == 0
    code, said = pulled("tiny", HF_HUB_OFFLINE="1")
    assert code == 3
    assert "its SHA-256 is" in said
    assert len(models_in(tmp_path / "hf")) == 2  # the file and the link to it


def test_damaged_file_in_the_cache_is_fetched_again(hub: FileServer, store_dir: Path) -> None:
    code, said = pulled("tiny")
    assert code == 0
    blob = Path(said.split(" ", 2)[2]).resolve()
    blob.write_bytes(b"\0" * len(DATA))
    assert pulled("tiny") == (code, said)
    assert blob.read_bytes() == DATA
    assert hub.fetched == [FILE, FILE]


def test_hub_that_is_away_is_named(hub: FileServer) -> None:
    hub.close()
    code, said = pulled("tiny")
    assert code == 3
    assert said.startswith("ERROR DownloadError no source could deliver tiny")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_download_leaves_nothing(
    hub: FileServer, store_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    gate = hub.gates[FILE] = Gate(after=100_000)
    puller = Puller("tiny", {})
    assert gate.reached.wait(60)
    puller.process.send_signal(number)
    assert puller.finish()[0] != 0
    assert models_in(tmp_path / "hf") == models_in(store_dir) == []
    gate.open.set()
    assert pulled("tiny")[0] == 0
