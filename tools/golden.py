"""Writes tests/golden/: small random models of each architecture, adapters saved by PEFT, and PEFT's logits with them.

Run it in the training environment (`make golden`). `make test` reads the adapters with our importer and compares
llama.cpp's logits with these, without torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
ARCHITECTURES = ("llama", "qwen2")
VOCAB, WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, RANK = 256, 32, 48, 3, 4, 2, 4
PROMPTS, TOKENS = 2, 12
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": MODULES, "lora_alpha": 8},
    "rslora": {"target_modules": MODULES, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "target_modules": MODULES,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2, "model.layers.1.mlp.down_proj": 6},
        "alpha_pattern": {"k_proj": 3, r"layers\.[12]\.self_attn\..*": 5, "layers.0.mlp.up_proj": 20},
    },
    "partial": {"target_modules": ["q_proj", "k_proj", "down_proj"], "lora_alpha": 12, "layers_to_transform": [1, 2]},
    "shared-0": {"target_modules": MODULES, "lora_alpha": 8},
    "shared-1": {"target_modules": MODULES, "lora_alpha": 8},
    "shared-2": {"target_modules": MODULES, "lora_alpha": 8},
}
HALF = "partial"  # saved as bfloat16
# What PEFT calls "cat": the exact weighted sum. Its first adapter decides the factor of the result, so no rsLoRA there.
BLENDS = {
    "blend": {"shared-0": 0.5, "shared-1": 0.3, "shared-2": -0.2},
    "cat": {"plain": 0.6, "rslora": 0.5, "patterns": -0.3, "partial": 0.4},
}


def main(folder: Path = FOLDER) -> None:
    """Write everything anew; fixed seeds make it the same every time."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed, architecture in enumerate(ARCHITECTURES):
        place = folder / architecture
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write(place, architecture, np.random.default_rng(seed))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size:,} bytes")


def write(place: Path, architecture: str, rng: np.random.Generator) -> None:
    """Write the model, the adapters and the logits of one architecture."""
    network = model(architecture, rng)
    write_gguf(place / "base.gguf", network, architecture)
    tokens = rng.integers(3, VOCAB, (PROMPTS, TOKENS))
    logits = {"base": run(network, tokens)}
    adapted = adapt(network, rng)
    for name in ADAPTERS:
        logits[name] = run_with(adapted, name, tokens)
        save(adapted, name, place)
    for name, weights in BLENDS.items():
        adapted.add_weighted_adapter(list(weights), list(weights.values()), name, combination_type="cat")
        logits[name] = run_with(adapted, name, tokens)
    np.savez(place / "logits.npz", tokens=tokens.astype(np.int32), **logits)
    (place / "weights.json").write_text(json.dumps(BLENDS, indent=1) + "\n", "utf-8")


def model(architecture: str, rng: np.random.Generator) -> Any:
    """Return a random model whose logits spread over several nats."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "attn_implementation": "eager",
        # One of them as SmolLM2 and Qwen2.5 have it, one not.
        "tie_word_embeddings": architecture == "qwen2",
    }
    if architecture == "llama":
        network: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    else:
        network = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))
    for name, weight in network.named_parameters():
        if "norm" in name:
            values = 1.0 + 0.2 * rng.standard_normal(weight.shape)
        elif name.endswith("bias"):
            values = 0.5 * rng.standard_normal(weight.shape)
        else:
            scale = 3.0 if "embed" in name else 1.5
            values = scale * rng.standard_normal(weight.shape) / np.sqrt(weight.shape[-1])
        weight.data = torch.from_numpy(values.astype(np.float32))
    return network.eval()


def adapt(network: Any, rng: np.random.Generator) -> PeftModel:
    """Return the model with all adapters: random A and B, the shared ones with one A."""
    configs = {name: LoraConfig(r=RANK, task_type="CAUSAL_LM", **options) for name, options in ADAPTERS.items()}
    first, *others = configs
    adapted = get_peft_model(network, configs[first], adapter_name=first)
    for name in others:
        adapted.add_adapter(name, configs[name])
    shared: dict[str, torch.Tensor] = {}
    for name in ADAPTERS:
        for key, weight in adapted.named_parameters():
            if f".{name}." not in key:
                continue
            scale = 0.5 / np.sqrt(weight.shape[-1])
            values = torch.from_numpy((scale * rng.standard_normal(weight.shape)).astype(np.float32))
            if name == HALF:
                values = values.bfloat16().float()
            if name.startswith("shared") and "lora_A" in key:
                values = shared.setdefault(key.replace(name, ""), values)
            weight.data = values.clone()
    return adapted.eval()


def save(adapted: PeftModel, name: str, place: Path) -> None:
    """Let PEFT write an adapter, without the card it adds."""
    kind = torch.bfloat16 if name == HALF else torch.float32
    own = [weight for key, weight in adapted.named_parameters() if f".{name}." in key]
    for weight in own:
        weight.data = weight.data.to(kind)
    adapted.save_pretrained(str(place), selected_adapters=[name])
    for weight in own:
        weight.data = weight.data.float()
    (place / "README.md").unlink(missing_ok=True)


def run(network: Any, tokens: np.ndarray) -> np.ndarray:
    """Return logits, (prompts, tokens, vocabulary)."""
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(tokens)).logits.float().numpy())


def run_with(adapted: PeftModel, name: str, tokens: np.ndarray) -> np.ndarray:
    """Return logits with one adapter."""
    adapted.set_adapter(name)
    return run(adapted, tokens)


def write_gguf(path: Path, network: Any, architecture: str) -> None:
    """Write the model as llama.cpp's converter would, in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    for key, weight in network.state_dict().items():
        values = weight.float().numpy()
        if key == "lm_head.weight" and network.config.tie_word_embeddings:
            continue
        if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            values = permute(values, HEADS if "q_proj" in key else KV_HEADS)
        writer.add_tensor(gguf_name(key), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(key: str) -> str:
    """Return llama.cpp's name of a parameter."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if key in whole:
        return whole[key]
    _, _, layer, rest = key.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """As in `LlamaModel.permute` of llama.cpp's conversion."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    main(parser.parse_args().folder)
