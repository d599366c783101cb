"""PEFT folders that somebody else made: what is understood, what is refused, and by which name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from golden_tools import Golden
from safetensors.numpy import load_file, save_file

from crayon.adapters import LoraTensors
from crayon.adapters.formats import BaseShapes, read_adapter, read_peft, write_peft
from crayon.adapters.formats.peft_config import parse_config
from crayon.errors import AdapterError, AdapterMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

Tensors: TypeAlias = "dict[str, NDArray[Any]]"
Q = "base_model.model.model.layers.1.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden.load("llama")


@pytest.fixture
def folder(golden: Golden, tmp_path: Path) -> Path:
    """A copy of an adapter that PEFT saved."""
    shutil.copytree(golden.folder / "plain", tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder: Path, **changes: object) -> Path:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))
    return folder


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


# -- settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changes the base"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "'layer_replication' is set"),
        ({"alora_invocation_tokens": [1, 2]}, "'alora_invocation_tokens' is set"),
        ({"trainable_token_indices": [5]}, "'trainable_token_indices' is set"),
        ({"use_qalora": True}, "'use_qalora' is set"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "'target_parameters' is set"),
        ({"use_something_new": True}, "'use_something_new' is set, which is not understood"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'"),
        ({"r": True}, "r is True"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": 1e300}, r"lora_alpha is 1e\+300"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"rank_pattern": [1]}, "rank_pattern must be a JSON object"),
        ({"rank_pattern": {"q_proj": "two"}}, "rank_pattern is 'two'"),
        ({"alpha_pattern": {"q_proj": [1]}}, r"alpha_pattern is \[1\]"),
        ({"target_modules": 7}, "target_modules must be"),
        ({"layers_to_transform": "all"}, "layers_to_transform must be whole numbers"),
    ],
)
def test_what_is_more_than_b_a_is_refused_by_name(
    golden: Golden, folder: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(AdapterError, match=words) as caught:
        read_peft(edit(folder, **changes), golden.shapes)
    assert str(folder) in str(caught.value)


def test_unknown_settings_that_are_off_do_no_harm(golden: Golden, folder: Path) -> None:
    edit(folder, use_something_new=False, another=None, third={}, revision="main", eva_config=None)
    assert read_peft(folder, golden.shapes).scale == 2.0


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_how_the_training_began_is_no_matter_where_the_base_stayed(start: object) -> None:
    assert parse_config({**CONFIG, "init_lora_weights": start}).r == 4


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', "NaN", '{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "[" * 100_000, "\xff\xfe"],
)
def test_a_configuration_that_is_no_json_object(golden: Golden, folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_peft(folder, golden.shapes)


@pytest.mark.parametrize(
    "wanted", ["all-linear", "ALL-LINEAR", r".*layers.*_proj", ["q_proj", "v_proj", "mlp.up_proj"]]
)
def test_target_modules_come_in_many_forms(wanted: object) -> None:
    config = parse_config({**CONFIG, "target_modules": wanted})
    modules = [f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.x")]
    found = config.expected(modules)
    if isinstance(wanted, str) and wanted.startswith("."):
        assert found is None
    else:
        assert found == {module for module in modules if not module.endswith(".x")}


def test_only_the_named_layers_are_expected(golden: Golden, folder: Path) -> None:
    keep = ".layers.1."
    rewrite(folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if keep not in key])
    for layers in (1, [1]):
        lora = read_peft(edit(folder, layers_to_transform=layers), golden.shapes)
        assert {target.split(".")[1] for target in lora.tensors} == {"1"}
    with pytest.raises(AdapterError, match="does not name: PEFT would leave it out"):
        read_peft(edit(folder, layers_to_transform=[1], target_modules=["q_proj"]), golden.shapes)


def test_a_file_without_a_named_module_is_not_whole(golden: Golden, folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(f"{Q}.lora_{part}.weight") for part in "AB"])
    with pytest.raises(AdapterError, match=r"names model\.layers\.1\.self_attn\.q_proj, which the file does not hold"):
        read_peft(folder, golden.shapes)
    # Where an expression names the modules, the tensors say which they are.
    assert "blk.1.attn_q.weight" not in read_peft(edit(folder, target_modules=".*_proj"), golden.shapes).tensors


# -- patterns: PEFT's own reading, and hostile ones


def test_patterns_are_read_as_peft_reads_them() -> None:
    config = parse_config(
        CONFIG
        | {
            "rank_pattern": {"q_proj": 2, r"layers\.[01]\.mlp\.(up|gate)_proj": 3, "^model.layers.2.mlp.down_proj": 5},
            "alpha_pattern": {".*q_proj": 6, "q_proj": 7},
        }
    )
    assert config.rank("model.layers.9.self_attn.q_proj") == 2
    assert config.rank("model.layers.9.self_attn.qq_proj") == 4
    assert config.rank("model.layers.1.mlp.gate_proj") == 3
    assert config.rank("model.layers.2.mlp.gate_proj") == 4
    assert config.rank("model.layers.2.mlp.down_proj") == 5
    assert config.scale("model.layers.0.self_attn.q_proj") == 6 / 2, "the first that fits"
    assert parse_config(CONFIG | {"use_rslora": True}).scale("x") == 4.0


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(.*)*x",
        ".*.*.*.*x",
        "(a|a)(a|a)",
        "a{1,99999}",
        "(?P<x>a)",
        "[",
        "a" * 201,
        "(?=a)",
        "\n",
        "a**",
        r"\w?" * 30,
    ],
)
def test_patterns_that_could_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(AdapterError, match="too intricate"):
        parse_config(CONFIG | {"rank_pattern": {pattern: 4}})


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(AdapterError, match="2,000"):
        parse_config(CONFIG | {"rank_pattern": {f"m{i}": 4 for i in range(2001)}})
    with pytest.raises(AdapterError, match="17 regular expressions"):
        parse_config(CONFIG | {"rank_pattern": {f"m{i}.*": 4 for i in range(17)}})


# -- tensors


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"{Q}.lora_magnitude_vector", "DoRA"),
        (f"{Q}.lora_magnitude_vector.default.weight", "DoRA"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        ("base_model.model.model.embed_tokens.lora_A.weight", "changes 'model.embed_tokens'"),
        ("base_model.model.lm_head.lora_A.weight", "changes 'lm_head'"),
        ("base_model.model.lm_head.weight", "neither A nor B"),
        (f"{Q}.lora_B.bias", "lora_bias"),
        (f"{Q}.lora_C.weight", "neither A nor B"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "neither A nor B"),
        ("base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight", "changes 'model.layers.0.self_attn.qkv"),
        ("base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight", "changes 'model.layers.00"),
        ("base_model.model.../../etc.lora_A.weight", "changes"),
    ],
)
def test_tensors_that_are_not_ours_are_refused_by_name(golden: Golden, folder: Path, key: str, words: str) -> None:
    rewrite(folder, lambda tensors: tensors.update({key: np.ones((4, 32), np.float32)}))
    with pytest.raises(AdapterError, match=words):
        read_peft(folder, golden.shapes)


@pytest.mark.parametrize(
    ("part", "shape", "kind", "words"),
    [
        ("A", (4, 33), AdapterMismatchError, "32 x 32 in base.gguf and 32 x 33 in the adapter"),
        ("B", (64, 4), AdapterMismatchError, "another base model"),
        ("B", (32, 5), AdapterError, r"A \(4, 32\) and B \(32, 5\)"),
        ("A", (4, 32, 1), AdapterError, "are not"),
        ("A", (0, 32), AdapterError, "are not"),
        ("A", (), AdapterError, "are not"),
    ],
)
def test_wrong_shapes(
    golden: Golden, folder: Path, part: str, shape: tuple[int, ...], kind: type[AdapterError], words: str
) -> None:
    change = {f"{Q}.lora_{part}.weight": np.ones(shape, np.float32)}
    with pytest.raises(kind, match=words):
        read_peft(rewrite(folder, lambda tensors: tensors.update(change)), golden.shapes)


def test_an_adapter_for_a_deeper_model_is_a_mismatch(golden: Golden, folder: Path) -> None:
    def add(tensors: Tensors) -> None:
        for part in "AB":
            tensors[f"{Q.replace('.1.', '.7.')}.lora_{part}.weight"] = tensors[f"{Q}.lora_{part}.weight"]

    with pytest.raises(AdapterMismatchError, match=r"changes blk\.7\.attn_q\.weight, which base\.gguf does not have"):
        read_peft(rewrite(folder, add), golden.shapes)


def test_a_rank_other_than_the_configured_one_is_refused(golden: Golden, folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"has rank 4 and adapter_config\.json says 8"):
        read_peft(edit(folder, r=8), golden.shapes)


def test_half_a_pair_is_refused(golden: Golden, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(f"{Q}.lora_B.weight"))
    with pytest.raises(AdapterError, match=r"q_proj has only its A"):
        read_peft(folder, golden.shapes)


def test_no_tensors_at_all(golden: Golden, folder: Path) -> None:
    with pytest.raises(AdapterError, match="changes nothing"):
        read_peft(rewrite(folder, lambda tensors: tensors.clear()), golden.shapes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(golden: Golden, folder: Path, value: float) -> None:
    def poison(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_B.weight"][3, 1] = value

    with pytest.raises(AdapterError, match=r"q_proj\.lora_B\.weight' holds numbers that are not finite"):
        read_peft(rewrite(folder, poison), golden.shapes)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int8, bool])
def test_other_types_are_refused_by_name(golden: Golden, folder: Path, dtype: type) -> None:
    def cast(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_A.weight"] = tensors[f"{Q}.lora_A.weight"].astype(dtype)

    with pytest.raises(AdapterError, match=r"is of type [A-Z0-9]+; F32, F16 and BF16"):
        read_peft(rewrite(folder, cast), golden.shapes)


def test_float16_is_read(golden: Golden, folder: Path) -> None:
    wanted = read_peft(folder, golden.shapes)
    rewrite(folder, lambda tensors: tensors.update({key: value.astype(np.float16) for key, value in tensors.items()}))
    found = read_peft(folder, golden.shapes)
    for target, (a, b) in wanted.tensors.items():
        assert np.array_equal(found.tensors[target][0], a.astype(np.float16))
        assert np.array_equal(found.tensors[target][1], b.astype(np.float16))


def test_a_factor_of_zero_changes_nothing(golden: Golden, folder: Path) -> None:
    lora = read_peft(edit(folder, lora_alpha=0), golden.shapes)
    assert lora.scale == 1.0, "llama.cpp takes an alpha of 0 for none given, which would mean 1"
    assert not any(b.any() for _, b in lora.tensors.values())


# -- files


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "model.ckpt"])
def test_pickles_are_refused_unopened(golden: Golden, folder: Path, name: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return os.symlink, ("gone", str(tmp_path / "exploded"))

    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    for path in (folder, folder / name):
        with pytest.raises(AdapterError, match="pickled file"):
            read_adapter(path, golden.shapes)
    assert not (tmp_path / "exploded").is_symlink()


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_truncated_tensors(golden: Golden, folder: Path, cut: int) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AdapterError, match="no whole safetensors file"):
        read_peft(folder, golden.shapes)


def test_a_header_that_claims_more_than_there_is(golden: Golden, folder: Path) -> None:
    for header in (
        struct.pack("<Q", 1 << 62) + b"{}",
        header_of({"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}),
        header_of({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 50]}}),
        header_of({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
    ):
        (folder / "adapter_model.safetensors").write_bytes(header + bytes(4))
        with pytest.raises(AdapterError, match="no whole safetensors file"):
            read_peft(folder, golden.shapes)


def header_of(entries: dict[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def test_missing_things_are_named(golden: Golden, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is not a folder"):
        read_peft(tmp_path / "nowhere", golden.shapes)
    with pytest.raises(AdapterError, match="no such file"):
        read_adapter(tmp_path / "nowhere", golden.shapes)
    with pytest.raises(AdapterError, match="name its folder"):
        read_adapter(folder / "adapter_model.safetensors", golden.shapes)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"adapter_config\.json: no such file"):
        read_peft(folder, golden.shapes)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_that_lead_out_of_the_folder_are_refused(golden: Golden, folder: Path, name: str, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(AdapterError, match="out of its folder"):
        read_peft(folder, golden.shapes)
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    with pytest.raises(AdapterError):
        read_peft(folder, golden.shapes)


def test_a_pipe_is_not_waited_for(golden: Golden, folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")
    with pytest.raises(AdapterError, match="plain file"):
        read_peft(folder, golden.shapes)


def test_the_hubs_cache_keeps_files_beside_and_links_to_them(golden: Golden, folder: Path, tmp_path: Path) -> None:
    wanted = read_peft(folder, golden.shapes)
    home = tmp_path / "models--somebody--adapter"
    snapshot = home / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(home / "blobs" / f"{i}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    assert read_peft(snapshot, golden.shapes).tensors.keys() == wanted.tensors.keys()
    (snapshot / "adapter_config.json").unlink()
    (tmp_path / "outside.json").write_text("{}")
    (snapshot / "adapter_config.json").symlink_to("../../../outside.json")
    with pytest.raises(AdapterError, match="out of its folder"):
        read_peft(snapshot, golden.shapes)


# -- writing


def test_an_export_overwrites_nothing(golden: Golden, folder: Path, tmp_path: Path) -> None:
    lora = golden.adapter("plain")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AdapterError, match="is there already"):
        write_peft(lora, folder, golden.shapes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AdapterError, match="is there already"):
        write_peft(lora, tmp_path / "file", golden.shapes)
    (tmp_path / "empty").mkdir()
    write_peft(lora, tmp_path / "empty", golden.shapes)


def test_an_export_that_the_disk_cannot_hold_leaves_nothing(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterError, match="the disk is full"):
        write_peft(golden.adapter("plain"), tmp_path / "out", golden.shapes)
    assert list(tmp_path.iterdir()) == []


def test_an_export_names_its_base_and_no_path(golden: Golden, tmp_path: Path) -> None:
    write_peft(golden.adapter("plain"), tmp_path / "out", golden.shapes, base_name="somebody/tiny")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/tiny"
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 8.0, {})
    assert str(tmp_path) not in json.dumps(config)


def test_what_peft_has_no_name_for_is_not_exported(golden: Golden, tmp_path: Path) -> None:
    ones = np.ones((4, 32), np.float32), np.ones((256, 4), np.float32)
    shapes = BaseShapes("llama", 4, 2, {"output.weight": (256, 32)})
    with pytest.raises(AdapterError, match=r"output\.weight has no counterpart in PEFT"):
        write_peft(LoraTensors({"output.weight": ones}), tmp_path / "out", shapes)
    with pytest.raises(AdapterMismatchError, match=r"output\.weight, which base\.gguf does not have"):
        write_peft(LoraTensors({"output.weight": ones}), tmp_path / "out", golden.shapes)
