"""Small random chat models of other architectures: biases, a sliding window, a state in place of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
from tiny_chat import CONTROL, HEADS, HIDDEN, PAIRS, TEMPLATE, TOKENS, WIDTH, _weights, _write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTEXT, WINDOW, HEAD = 1024, 24, WIDTH // HEADS
KINDS = ("qwen2", "gemma2", "gemma3", "mamba", "jamba")


def write_kind(path: Path, kind: str, seed: int = 0) -> Path:
    """Write a model of one of `KINDS`; it answers nonsense, the same for the same seed."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(list(PAIRS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)  # the writer's signature
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor("token_embd.weight", _weights(rng, len(TOKENS), WIDTH, scale=8.0 if kind != "gemma2" else 3.0))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    _KINDS[kind](writer, rng)
    return _write(writer, path)


def _attention(writer: gguf.GGUFWriter, rng: np.random.Generator, i: int) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.{i}.{name}.weight", _weights(rng, WIDTH, WIDTH, scale=2.0))


def _feed_forward(writer: gguf.GGUFWriter, rng: np.random.Generator, i: int) -> None:
    for name, shape in (("ffn_gate", (HIDDEN, WIDTH)), ("ffn_up", (HIDDEN, WIDTH)), ("ffn_down", (WIDTH, HIDDEN))):
        writer.add_tensor(f"blk.{i}.{name}.weight", _weights(rng, *shape, scale=2.0))


def _norms(writer: gguf.GGUFWriter, i: int, *names: str, width: int = WIDTH) -> None:
    for name in names:
        writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))


def _heads(writer: gguf.GGUFWriter, layers: int) -> None:
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_freq_base(10_000.0)


def _qwen2(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 3)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(3):
        _norms(writer, i, "attn_norm", "ffn_norm")
        _attention(writer, rng, i)
        for name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.{i}.{name}.bias", _weights(rng, 1, WIDTH)[0])
        _feed_forward(writer, rng, i)


def _gemma2(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 4)
    writer.add_sliding_window(WINDOW)
    for i in range(4):
        _norms(writer, i, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        _attention(writer, rng, i)
        _feed_forward(writer, rng, i)


def _gemma3(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 7)
    writer.add_sliding_window(WINDOW)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(7):
        _norms(writer, i, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        _norms(writer, i, "attn_q_norm", "attn_k_norm", width=HEAD)
        _attention(writer, rng, i)
        _feed_forward(writer, rng, i)


INNER, STATE, RANK, KERNEL = 2 * WIDTH, 8, 4, 4


def _state_space(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)


def _mamba_layer(writer: gguf.GGUFWriter, rng: np.random.Generator, i: int) -> None:
    _norms(writer, i, "attn_norm")
    writer.add_tensor(f"blk.{i}.ssm_in.weight", _weights(rng, 2 * INNER, WIDTH, scale=2.0))
    writer.add_tensor(f"blk.{i}.ssm_conv1d.weight", _weights(rng, INNER, KERNEL))
    writer.add_tensor(f"blk.{i}.ssm_conv1d.bias", np.zeros(INNER, np.float32))
    writer.add_tensor(f"blk.{i}.ssm_x.weight", _weights(rng, RANK + 2 * STATE, INNER, scale=2.0))
    writer.add_tensor(f"blk.{i}.ssm_dt.weight", _weights(rng, INNER, RANK))
    writer.add_tensor(f"blk.{i}.ssm_dt.bias", np.zeros(INNER, np.float32))
    # A slow decay: the state remembers the whole prompt.
    writer.add_tensor(f"blk.{i}.ssm_a", -np.tile(0.02 * np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1)))
    writer.add_tensor(f"blk.{i}.ssm_d", np.ones(INNER, np.float32))
    writer.add_tensor(f"blk.{i}.ssm_out.weight", _weights(rng, WIDTH, INNER, scale=2.0))


def _mamba(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    writer.add_block_count(3)
    _state_space(writer)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(3):
        _mamba_layer(writer, rng, i)


def _jamba(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    writer.add_block_count(4)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, HEADS, 0, HEADS])  # a state, attention, a state, attention
    _state_space(writer)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(4):
        if i % 2:
            _norms(writer, i, "attn_norm")
            _attention(writer, rng, i)
        else:
            _mamba_layer(writer, rng, i)
            _norms(writer, i, "ssm_dt_norm", width=RANK)
            _norms(writer, i, "ssm_b_norm", "ssm_c_norm", width=STATE)
        _norms(writer, i, "ffn_norm")
        _feed_forward(writer, rng, i)


_KINDS: dict[str, Callable[[gguf.GGUFWriter, np.random.Generator], None]] = {
    "qwen2": _qwen2,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "mamba": _mamba,
    "jamba": _jamba,
}
