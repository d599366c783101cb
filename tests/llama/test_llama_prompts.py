"""From messages to tokens: no stray spaces, and one idea of where an answer ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_chat import TEMPLATE
from tiny_vocab import MARKS, write_bpe, write_spm

from crayon.llama.model import Model
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)

ENDLESS = INST.replace("+ eos_token", "")


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[Model]:
    with Model(write_spm(tmp_path / "spm.gguf", INST), vocab_only=True) as model:
        yield model


def spelled(model: Model, tokens: Sequence[int]) -> str:
    """The text of tokens, control tokens in brackets."""
    texts = {token: f"[{model.token_text(token)}]".encode() for token in (1, 2)}
    return b"".join(texts.get(token) or model.piece(token) for token in tokens).decode()


@pytest.mark.parametrize("question", ["so?", "is </s> it?", "</s>", "a<s></s>b", "<s> ", "é </s>漢"])
def test_a_tokenizer_that_puts_spaces_first_puts_none_within(spm: Model, question: str) -> None:
    tokens = spm.tokenize_chat([Message("user", question)])
    assert spelled(spm, tokens) == f"[<s>] [INST] {question} [/INST]"


def test_behind_a_control_token_such_a_tokenizer_puts_its_space(spm: Model) -> None:
    turns = [Message("user", "a </s>"), Message("assistant", "b"), Message("user", "c")]
    plain = [Message("user", "a /s"), *turns[1:]]
    assert spelled(spm, spm.tokenize_chat(turns)) == "[<s>] [INST] a </s> [/INST]b[</s>] [INST] c [/INST]"
    assert spelled(spm, spm.tokenize_chat(plain)) == "[<s>] [INST] a /s [/INST]b[</s>] [INST] c [/INST]"


@pytest.mark.parametrize("question", ["<|turn|>", "a <|turn|>b", "<|turn|><|turn|>"])
@pytest.mark.parametrize("mark", ["<|turn|>", "{{ '<|' + 'turn' + '|>' }}"])
def test_a_user_defined_mark_of_the_template_is_text_in_a_message(tmp_path: Path, question: str, mark: str) -> None:
    template = "{% for m in messages %}MARK{{ m.role }} {{ m.content | trim }}{% endfor %}MARK".replace("MARK", mark)
    path = write_bpe(tmp_path / "bpe.gguf", template, defined=["<|turn|>", "\n\n", "<b>"])
    with Model(path, vocab_only=True) as model:
        (turn,) = model.tokenize("<|turn|>", special=True)
        tokens = model.tokenize_chat([Message("user", question)])
        assert tokens.count(turn) == 2
        assert b"".join(map(model.piece, tokens)) == f"<|turn|>user {question}<|turn|>".encode()


def test_user_defined_pieces_of_text_are_no_marks(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}\n\n{% endfor %}"
    path = write_bpe(tmp_path / "bpe.gguf", template, defined=["\n\n", "<b>"])
    with Model(path, vocab_only=True) as model:
        (gap,), (bold,) = (model.tokenize(text) for text in ("\n\n", "<b>"))
        tokens = model.tokenize_chat([Message("user", "a\n\n<b> <|im_end|>\n\n")])
        assert tokens.count(gap) == 2  # that within the question, and the template's
        assert tokens.count(bold) == 1


@pytest.mark.parametrize(("before", "answer"), [("a\n", "red"), ("a ", "red"), ("a", " red"), ("", " red")])
def test_an_answer_behind_white_space_begins_without_a_space(spm: Model, before: str, answer: str) -> None:
    prompt = [1, *spm.tokenize(before)]
    assert spelled(spm, spm.tokenize_answer("red", prompt)) == answer


def test_a_tokenizer_of_bytes_tokenizes_an_answer_as_a_text(tmp_path: Path) -> None:
    with Model(write_bpe(tmp_path / "bpe.gguf"), vocab_only=True) as model:
        assert model.tokenize_answer("the red", model.tokenize("a\n")) == model.tokenize("the red")


@pytest.mark.parametrize(
    ("template", "marks", "eos", "eot", "end"),
    [
        pytest.param(TEMPLATE, MARKS, 2, None, "<|im_end|>", id="the same for turns and texts"),
        pytest.param(TEMPLATE, MARKS, 0, 2, "<|im_end|>", id="one for turns, one for texts"),
        pytest.param(TEMPLATE, MARKS, 0, None, "<|im_end|>", id="the file does not say which ends turns"),
        pytest.param(
            TEMPLATE.replace("im_end", "over"), ("<|endoftext|>", "<|im_start|>", "<|over|>"), 0, None, "<|over|>",
            id="only the template says which ends turns",
        ),
        pytest.param(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
            ("<eos>", "<|user|>", "<|assistant|>", "<bos>"), 0, None, "<eos>", id="no end in the template, bos is first"
        ),
        pytest.param(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
            ("<eos>", "<bos>", "<|user|>", "<|assistant|>"), 0, None, "<|user|>", id="the next question ends an answer"
        ),
        pytest.param(ENDLESS, MARKS, 0, 2, "<|im_end|>", id="no end in the template: the file's for turns"),
        pytest.param(ENDLESS, ("<e>", "<b>"), 0, None, "<e>", id="no end in the template: the file's for texts"),
        pytest.param(None, MARKS, 0, 2, "<|im_end|>", id="no template"),
        pytest.param(
            TEMPLATE.replace("im_end", "end").replace("im_start", "start"),
            ("<|return|>", "<|start|>", "<|end|>", "<|call|>"), 0, None, "<|return|>", id="gpt-oss: parts of one answer"
        ),
    ],
)  # fmt: skip
def test_where_an_answer_ends(
    tmp_path: Path, template: str | None, marks: tuple[str, ...], eos: int, eot: int | None, end: str
) -> None:
    path = write_bpe(tmp_path / "bpe.gguf", template, marks=marks, eos=eos, eot=eot)
    with Model(path, vocab_only=True) as model:
        assert model.token_text(model.turn_end) == end
        assert model.is_end(model.turn_end)
        assert model.is_end(model.eos)
        assert not model.is_end(model.tokenize("a")[0])


def test_a_model_that_loses_what_is_said_says_so_when_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Model(write_bpe(tmp_path / "bpe.gguf", "{{ messages[-1].content }}"), vocab_only=True) as model:
        model.log_limits()
    assert "the chat template of bpe.gguf leaves out all questions but the last" in caplog.text
