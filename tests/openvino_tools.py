"""Small random models whose heads share keys, and one step of a model on OpenVINO, to hold against llama.cpp's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from tiny_chat import CONTROL, PAIRS, TEMPLATE, TOKENS

from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.server.engines.openvino.graph import Built

    Floats = NDArray[np.float32]

# Wide enough for a block of 256 weights in each row.
WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD = 256, 256, 3, 8, 2, 32
SHAPES = {
    "attn_q": (HEADS * HEAD, WIDTH),
    "attn_k": (KV_HEADS * HEAD, WIDTH),
    "attn_v": (KV_HEADS * HEAD, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}
BLOCK = 32


def random_tensors(architecture: str, seed: int = 0) -> dict[str, Floats]:
    """Return the tensors of a model of llama, qwen2 or qwen3."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> Floats:
        return (scale * rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    tensors = {"token_embd.weight": matrix(len(TOKENS), WIDTH, 8.0), "output_norm.weight": _norm(rng, WIDTH)}
    if architecture != "qwen2":  # whose output matrix is that of its embeddings
        tensors["output.weight"] = matrix(len(TOKENS), WIDTH, 3.0)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{i}.{name}.weight"] = _norm(rng, WIDTH)
        for name, shape in SHAPES.items():
            tensors[f"blk.{i}.{name}.weight"] = matrix(*shape, 1.5)
        if architecture == "qwen2":
            for name in ("attn_q", "attn_k", "attn_v"):
                tensors[f"blk.{i}.{name}.bias"] = matrix(1, SHAPES[name][0], 4.0)[0]
        if architecture == "qwen3":
            for name in ("attn_q_norm", "attn_k_norm"):
                tensors[f"blk.{i}.{name}.weight"] = _norm(rng, HEAD)
    return tensors


def _norm(rng: np.random.Generator, width: int) -> Floats:
    return (1 + 0.2 * rng.standard_normal(width)).astype(np.float32)


def write_tensors(
    path: Path,
    architecture: str,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any] | None = None,
    *,
    most_tensors: int = 0,
) -> Path:
    """Write a model of the sizes above; `metadata` adds keys of the architecture, texts and numbers.

    With `most_tensors`, into files of so many; the first is returned.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=most_tensors)
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in (metadata or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(list(PAIRS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)  # the writer's signature
    writer.add_chat_template(TEMPLATE)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if most_tensors else path


def dequantized(path: Path) -> tuple[dict[str, Floats], set[str]]:
    """Return the tensors of a file as float32, by gguf's own arithmetic, and the types that they had."""
    tensors = gguf.GGUFReader(path).tensors
    return (
        {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in tensors},
        {t.tensor_type.name for t in tensors},
    )


@dataclass
class Part:
    """Tokens of a sequence to compute in a step: after `past` others, with these gates on each."""

    tokens: Sequence[int]
    blocks: Sequence[int]
    past: int = 0
    gates: Floats | None = None


class Compiled:
    """A built model in memory, with a cache that keeps keys and values unrounded."""

    def __init__(self, built: Built, blocks: int = 16, threads: int = 1) -> None:
        import openvino as ov

        self._ov = ov
        settings = {"KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        self.compiled = ov.Core().compile_model(built.model, "CPU", settings)
        self._request = self.compiled.create_infer_request()
        for each in self.compiled.inputs:
            if "_cache." in (name := each.get_any_name()):
                shape = [blocks, *(each.partial_shape[i].get_length() for i in range(1, 4))]
                self._request.set_tensor(name, ov.Tensor(each.element_type, ov.Shape(shape)))
        self._gated = built.slots

    def step(self, *parts: Part) -> dict[str, Floats]:
        """Return all outputs; logits are of every token."""
        lengths = [len(part.tokens) for part in parts]
        used = [part.blocks[: -(-(part.past + len(part.tokens)) // BLOCK)] for part in parts]
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.concatenate([part.tokens for part in parts]).astype(np.int64),
            "position_ids": np.concatenate([np.arange(p.past, p.past + len(p.tokens)) for p in parts]).astype(np.int64),
            "past_lens": np.array([part.past for part in parts], np.int32),
            "subsequence_begins": np.cumsum([0, *lengths]).astype(np.int32),
            "block_indices": np.concatenate(used).astype(np.int32),
            "block_indices_begins": np.cumsum([0, *map(len, used)]).astype(np.int32),
            "max_context_len": np.array(max(p.past + len(p.tokens) for p in parts), np.int32),
            "sampled_tokens_indices": np.arange(sum(lengths), dtype=np.int64),
        }
        if self._gated is not None:
            none = np.zeros(self._gated.count, np.float32)
            rows = [np.tile(none if p.gates is None else p.gates, (len(p.tokens), 1)) for p in parts]
            inputs["gates"] = np.concatenate(rows).astype(np.float32)
        for name, array in inputs.items():
            self._request.set_tensor(name, self._ov.Tensor(array))
        self._request.infer()
        names = [each.get_any_name() for each in self.compiled.outputs]
        return {name: self._request.get_tensor(name).data.copy() for name in names}


def llama_logits(path: Path, tokens: Sequence[int], adapter: Path | None = None) -> Floats:
    """Return what llama.cpp computes for every token, (tokens, vocab)."""
    from crayon.llama.adapter import Adapter

    with Model(path) as model, Context(model, n_ctx=512, n_batch=512, n_outputs_max=512, threads=1) as context:
        loaded = Adapter(model, adapter) if adapter else None
        if loaded:
            context.set_adapters([(loaded, 1.0)])
        batch = Batch(len(tokens))
        batch.add(list(tokens), 0, 0, "all")
        context.decode(batch)
        found = context.logit_rows(range(len(tokens))).copy()
        context.set_adapters()
        if loaded:
            loaded.close()
        return found


def divergence(reference: Floats, other: Floats) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of each row, in nats."""
    p, q = (_log_softmax(each) for each in (reference, other))
    return (np.exp(p) * (p - q)).sum(axis=-1)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
