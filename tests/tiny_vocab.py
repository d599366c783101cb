"""Vocabularies without weights, for what tokenizers and chat templates do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
from tiny_chat import TEMPLATE, byte_letters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NORMAL, UNKNOWN, CONTROL, DEFINED, BYTE = 1, 2, 3, 4, 6
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_bpe(
    path: Path,
    template: str | None = TEMPLATE,
    *,
    marks: Sequence[str] = MARKS,
    defined: Sequence[str] = (),
    eos: int = 2,
    eot: int | None = None,
) -> Path:
    """Write control tokens, bytes, and user-defined tokens, in this order."""
    writer = _writer(path, "gpt2", "smollm", template)
    letters = byte_letters()
    writer.add_token_list([*marks, *letters, *defined])
    writer.add_token_types([CONTROL] * len(marks) + [NORMAL] * len(letters) + [DEFINED] * len(defined))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    if eot is not None:
        writer.add_eot_token_id(eot)
    writer.add_add_bos_token(False)  # the writer's signature
    return _written(writer, path)


def write_spm(path: Path, template: str) -> Path:
    """Write a SentencePiece vocabulary of letters, whose tokenizer puts a space before each text."""
    writer = _writer(path, "llama", "default", template)
    letters = ["\u2581", *map(chr, range(33, 127))]
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(letters))])
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(letters))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)  # the writer's signature
    writer.add_add_space_prefix(True)  # the writer's signature
    return _written(writer, path)


def _writer(path: Path, model: str, pre: str, template: str | None) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    if template is not None:
        writer.add_chat_template(template)
    return writer


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
