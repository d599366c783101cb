"""A small random chat model with a vocabulary, and adapters for it.

Its weights are float32, so that other orders of summation change log-probabilities by thousandths: what a test compares
can be held to be equal. (With a real quantized model the same changes log-probabilities by tenths, since activations
are rounded to 8 bits.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT, RANK = 64, 128, 4, 4, 1024, 4
CLOSE = 0.05  # nats a token: keys and values are kept as float16; another context differs by whole nats
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The last three join parts of characters: two bytes of an emoji, the first two bytes of many CJK characters.
PAIRS = ("t h", "th e", "i n", "a n", "Ġ t", "Ġ a", "Ġt he", "o r", "e r", "ð Ł", "æ ¼", "ç Ľ")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


TOKENS = [*CONTROL, *byte_letters(), *(pair.replace(" ", "") for pair in PAIRS)]


def write_model(
    path: Path, seed: int = 0, heads: int = HEADS, pairs: tuple[str, ...] = PAIRS, *, spoilt: str = "", eos: int = 2
) -> Path:
    """Write the model; it answers nonsense, the same for the same seed. What is `spoilt` gives logits that are nan.

    Args:
        path: the file.
        seed: of its weights.
        heads: of attention.
        pairs: what the tokenizer merges.
        eos: the token that the file names as the end of texts.
        spoilt: characters, of a byte each, whose tokens are broken; "*" breaks all.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(WIDTH // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(list(pairs))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(False)  # the writer's signature
    writer.add_chat_template(TEMPLATE)
    embeddings = _weights(rng, len(TOKENS), WIDTH, scale=8.0)
    embeddings[slice(None) if spoilt == "*" else [TOKENS.index(letter) for letter in spoilt]] = np.nan
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(LAYERS):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(WIDTH, np.float32))
        for name, (rows, columns) in SHAPES.items():
            writer.add_tensor(f"blk.{i}.{name}.weight", _weights(rng, rows, columns, scale=2.0))
    return _write(writer, path)


SHAPES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}


def write_adapter(path: Path, seed: int, shapes: dict[str, tuple[int, int]], scale: float = 1.0) -> Path:
    """Write a random LoRA adapter; `shapes` gives (outputs, inputs) of each weight that it changes."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for name, (rows, columns) in shapes.items():
        writer.add_tensor(f"{name}.lora_a", _weights(rng, RANK, columns))
        writer.add_tensor(f"{name}.lora_b", _weights(rng, rows, RANK, scale=scale))
    return _write(writer, path)


def tiny_shapes() -> dict[str, tuple[int, int]]:
    """Every matrix of every layer of the small model."""
    return {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in SHAPES.items()}


def _weights(rng: np.random.Generator, rows: int, columns: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)


def _write(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
