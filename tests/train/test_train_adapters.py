"""Adapters in PEFT and in llama.cpp on the same weights: live on the real small model, and the golden files anew.

As in test_train_encode, transformers computes the dequantized weights in float32 and llama.cpp rounds activations to 8
bits, which moves distributions by about 0.005 nats with an adapter or without. An adapter whose rows of q and k are in
the wrong order is off by tenths.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from crayon.adapters import LoraTensors, MemoryFile, Pool, blend, gguf_bytes
from crayon.adapters.formats import BaseShapes, pool_from_adapters, read_base, read_peft, write_peft
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.train,
    # Other people's libraries under our "warnings are errors".
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
TEXTS = (
    "Transfer fifty pounds to my savings account, then tell me what is left of it.",
    "<|im_start|>user\nHow long do I boil an egg?<|im_end|>\n<|im_start|>assistant\n",
)
# Mean and largest divergence over the rows, in nats, that rounding of activations explains.
MEAN_KL, MAX_KL = 0.02, 0.15


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def network(device_model_path: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(
        device_model_path.parent,
        gguf_file=device_model_path.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).eval()


@pytest.fixture(scope="module")
def model(device_model_path: Path) -> Iterator[Model]:
    with Model(device_model_path) as model:
        yield model


@pytest.fixture(scope="module")
def shapes(device_model_path: Path) -> BaseShapes:
    return BaseShapes.read(device_model_path)


@pytest.fixture(scope="module")
def tokens(model: Model) -> list[list[int]]:
    return [model.tokenize(text, special=True) for text in TEXTS]


def random_adapter(shapes: BaseShapes, matrices: Sequence[str], size: float, seed: int = 0) -> LoraTensors:
    """An adapter of rank 8 on the upper half of the layers; `size` is about that of dW's entries times sqrt(inputs)."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for target, (outputs, inputs) in shapes.targets.items():
        _, layer, matrix, _ = target.split(".")
        if int(layer) >= 15 and matrix in matrices:
            a = rng.standard_normal((8, inputs)) / np.sqrt(inputs)
            b = size * rng.standard_normal((outputs, 8)) / np.sqrt(8)
            tensors[target] = a.astype(np.float32), b.astype(np.float32)
    return LoraTensors(tensors, 2.0)


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def by_peft(network: Any, tokens: list[list[int]]) -> NDArray[np.float64]:
    """Log-probabilities of every row, (rows, vocabulary)."""
    import torch

    with torch.no_grad():
        return log_softmax(np.concatenate([network(torch.tensor([prompt])).logits[0].numpy() for prompt in tokens]))


def by_llama(model: Model, lora: LoraTensors | None, tokens: list[list[int]]) -> NDArray[np.float64]:
    rows: list[NDArray[np.float32]] = []
    with Context(model, n_ctx=256, n_batch=256, threads=1) as context:
        data = gguf_bytes(lora, "llama") if lora else b""
        with MemoryFile(data) as file:
            adapter = Adapter(model, file.path) if lora else None
            context.set_adapters([(adapter, 1.0)] if adapter else [])
            for prompt in tokens:
                context.clear()
                batch = Batch(len(prompt))
                places = batch.add(prompt, 0, 0, "all")
                context.decode(batch)
                rows += [context.logits(row).copy() for row in places]
        context.set_adapters()
        if adapter:
            adapter.close()
    return log_softmax(np.array(rows))


def divergence(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(wanted, found) of each row, in nats."""
    return np.asarray((np.exp(wanted) * (wanted - found)).sum(axis=1))


def check_alike(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
    apart = divergence(found, wanted)
    assert apart.mean() < MEAN_KL
    assert apart.max() < MAX_KL
    # Where the first choice is clear it is the same one.
    ranked = np.sort(wanted, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 0.7
    assert clear.any()
    assert np.array_equal(found.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])


def swapped(lora: LoraTensors, shapes: BaseShapes) -> LoraTensors:
    """The adapter as a converter without the permutation would make it."""
    return LoraTensors({t: (a, shapes.to_transformers(t, b)) for t, (a, b) in lora.tensors.items()}, lora.scale)


@pytest.mark.models
@pytest.mark.parametrize(
    ("matrices", "size"),
    [
        (("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), 0.5),
        (("attn_q", "attn_k"), 1.5),
    ],
    ids=["all seven", "q and k"],
)
def test_peft_and_llama_cpp_agree_on_an_adapter_that_we_wrote(
    network: Any,
    model: Model,
    shapes: BaseShapes,
    tokens: list[list[int]],
    tmp_path: Path,
    matrices: tuple[str, ...],
    size: float,
) -> None:
    from peft import PeftModel

    lora = random_adapter(shapes, matrices, size)
    write_peft(lora, tmp_path / "adapter", shapes)
    adapted = PeftModel.from_pretrained(network, str(tmp_path / "adapter")).eval()
    try:
        wanted = by_peft(adapted, tokens)
    finally:
        adapted.unload()
    check_alike(by_llama(model, lora, tokens), wanted)
    assert divergence(by_llama(model, None, tokens), wanted).mean() > 10 * MEAN_KL, "the adapter matters"
    if matrices == ("attn_q", "attn_k"):
        assert divergence(by_llama(model, swapped(lora, shapes), tokens), wanted).mean() > 10 * MEAN_KL


@pytest.mark.models
def test_llama_cpp_gives_pefts_logits_with_a_blend_of_adapters_that_peft_saved(
    network: Any, model: Model, shapes: BaseShapes, tokens: list[list[int]], device_model_path: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    configs = {
        "first": LoraConfig(r=8, lora_alpha=16, target_modules=linear, rank_pattern={"k_proj": 4}),
        "second": LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"], use_rslora=True),
    }
    weights = {"first": 0.7, "second": 0.5}
    torch.manual_seed(0)  # some random As make activations so large that their rounding shows, 30 times as much
    adapted = get_peft_model(network, configs["first"], adapter_name="first")
    try:
        adapted.add_adapter("second", configs["second"])
        noise = torch.Generator().manual_seed(3)
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                size = 0.5 if ".first." in key else 2.0
                weight.data = size * torch.randn(weight.shape, generator=noise) / weight.shape[1] ** 0.5
        adapted.save_pretrained(str(tmp_path))
        adapted.add_weighted_adapter(list(weights), list(weights.values()), "both", combination_type="cat")
        adapted.set_adapter("both")
        wanted = by_peft(adapted.eval(), tokens)
    finally:
        adapted.unload()
    adapters = {name: read_peft(tmp_path / name, shapes) for name in weights}
    pool_from_adapters(adapters, read_base(device_model_path), shapes, name="imported").save(tmp_path / "pool")
    blended = blend(Pool.open(tmp_path / "pool"), list(weights.values()))
    check_alike(by_llama(model, blended, tokens), wanted)
    assert divergence(by_llama(model, None, tokens), wanted).mean() > 10 * MEAN_KL, "the blend matters"


def test_the_golden_files_are_what_peft_computes_now(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("golden", ROOT / "tools" / "golden.py")
    assert spec is not None
    assert spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    golden.main(tmp_path)
    committed = ROOT / "tests" / "golden"
    names = sorted(path.relative_to(committed) for path in committed.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in names:
        old, new = committed / name, tmp_path / name
        if name.suffix == ".npz":
            with np.load(old) as wanted, np.load(new) as found:
                assert wanted.files == found.files
                assert all(np.allclose(found[key], wanted[key], atol=1e-3) for key in wanted.files), name
        elif name.name == "adapter_config.json":
            assert settings(new) == settings(old), name
        else:
            assert new.read_bytes() == old.read_bytes(), name


def settings(path: Path) -> dict[str, Any]:
    """A PEFT configuration without what changes from release to release and run to run."""
    config: dict[str, Any] = json.loads(path.read_text())
    config.pop("peft_version")
    return config | {"target_modules": sorted(config["target_modules"])}
