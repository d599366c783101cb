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
EXPERTS, USED = 4, 3
KINDS = ("qwen2", "qwen3", "qwen3moe", "phi3", "gemma2", "gemma3", "mamba", "jamba", "lfm2", "granitehybrid")
_EMBEDDING = {"gemma2": 3.0, "lfm2": 1.0}  # what was said long ago is to matter
STATES = ("mamba", "jamba", "lfm2", "granitehybrid")  # keep a state of all that was read, in some layers or in all


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
    writer.add_tensor("token_embd.weight", _weights(rng, len(TOKENS), WIDTH, scale=_EMBEDDING.get(kind, 8.0)))
    writer.add_tensor(f"{'token_embd' if kind == 'lfm2' else 'output'}_norm.weight", np.ones(WIDTH, np.float32))
    _KINDS[kind](writer, rng)
    return _write(writer, path)


def _attention(writer: gguf.GGUFWriter, rng: np.random.Generator, i: int, scale: float = 2.0) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.{i}.{name}.weight", _weights(rng, WIDTH, WIDTH, scale=scale))


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


def _qwen3(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 3)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(3):
        _norms(writer, i, "attn_norm", "ffn_norm")
        _norms(writer, i, "attn_q_norm", "attn_k_norm", width=HEAD)
        _attention(writer, rng, i)
        _feed_forward(writer, rng, i)


def _qwen3moe(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 3)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_expert_feed_forward_length(HIDDEN)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(3):
        _norms(writer, i, "attn_norm", "ffn_norm")
        _norms(writer, i, "attn_q_norm", "attn_k_norm", width=HEAD)
        _attention(writer, rng, i)
        writer.add_tensor(f"blk.{i}.ffn_gate_inp.weight", _weights(rng, EXPERTS, WIDTH, scale=2.0))
        for name, (rows, columns) in (("gate", (HIDDEN, WIDTH)), ("up", (HIDDEN, WIDTH)), ("down", (WIDTH, HIDDEN))):
            # Much alike: where rounding picks another expert, that is to be no other answer.
            base = _weights(rng, rows, columns, scale=2.0)
            experts = np.stack([base + _weights(rng, rows, columns, scale=0.1) for _ in range(EXPERTS)])
            writer.add_tensor(f"blk.{i}.ffn_{name}_exps.weight", experts)


def _phi3(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    _heads(writer, 3)
    writer.add_rope_dimension_count(HEAD)
    writer.add_sliding_window(WINDOW)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(3):
        _norms(writer, i, "attn_norm", "ffn_norm")
        writer.add_tensor(f"blk.{i}.attn_qkv.weight", _weights(rng, 3 * WIDTH, WIDTH, scale=2.0))
        writer.add_tensor(f"blk.{i}.attn_output.weight", _weights(rng, WIDTH, WIDTH, scale=2.0))
        writer.add_tensor(f"blk.{i}.ffn_up.weight", _weights(rng, 2 * HIDDEN, WIDTH, scale=2.0))
        writer.add_tensor(f"blk.{i}.ffn_down.weight", _weights(rng, WIDTH, HIDDEN, scale=2.0))


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


def _state_space(writer: gguf.GGUFWriter, rank: int = RANK) -> None:
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(rank)


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


def _lfm2(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    writer.add_block_count(4)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, HEADS, 0, HEADS])  # a short convolution, attention, ...
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_shortconv_l_cache(KERNEL)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(4):
        _norms(writer, i, "attn_norm", "ffn_norm")
        _feed_forward(writer, rng, i)
        if i % 2:
            _norms(writer, i, "attn_q_norm", "attn_k_norm", width=HEAD)
            _attention(writer, rng, i, scale=4.0)
        else:
            writer.add_tensor(f"blk.{i}.shortconv.conv.weight", _weights(rng, WIDTH, KERNEL, scale=2.0))
            writer.add_tensor(f"blk.{i}.shortconv.in_proj.weight", _weights(rng, 3 * WIDTH, WIDTH, scale=2.0))
            writer.add_tensor(f"blk.{i}.shortconv.out_proj.weight", _weights(rng, WIDTH, WIDTH, scale=2.0))


def _granitehybrid(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    groups, heads = 1, 8
    mixed = INNER + 2 * groups * STATE
    writer.add_block_count(4)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, HEADS, 0, HEADS])  # a state, attention, ...
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    _state_space(writer, rank=heads)
    writer.add_ssm_group_count(groups)
    writer.add_logit_scale(1.0)
    writer.add_residual_scale(1.0)
    writer.add_embedding_scale(1.0)
    writer.add_attention_scale(HEAD**-0.5)
    writer.add_tensor("output.weight", _weights(rng, len(TOKENS), WIDTH, scale=3.0))
    for i in range(4):
        _norms(writer, i, "attn_norm", "ffn_norm")
        _feed_forward(writer, rng, i)
        if i % 2:
            _attention(writer, rng, i)
            continue
        b = f"blk.{i}.ssm_"
        writer.add_tensor(b + "in.weight", _weights(rng, INNER + mixed + heads, WIDTH, scale=2.0))
        writer.add_tensor(b + "conv1d.weight", _weights(rng, mixed, KERNEL))
        writer.add_tensor(b + "conv1d.bias", np.zeros(mixed, np.float32))
        writer.add_tensor(b + "dt.bias", np.zeros(heads, np.float32))
        writer.add_tensor(b + "a", -0.02 * np.arange(1, heads + 1, dtype=np.float32)[:, None])
        writer.add_tensor(b + "d", np.ones((heads, 1), np.float32))
        writer.add_tensor(b + "norm.weight", np.ones((groups, INNER // groups), np.float32))
        writer.add_tensor(b + "out.weight", _weights(rng, WIDTH, INNER, scale=2.0))


_KINDS: dict[str, Callable[[gguf.GGUFWriter, np.random.Generator], None]] = {
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "mamba": _mamba,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "granitehybrid": _granitehybrid,
}
