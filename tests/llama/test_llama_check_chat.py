"""A model that could answer nobody is told apart when it is opened."""

import pytest
from tiny_chat import TEMPLATE, write_model

from crayon.errors import ModelFileError
from crayon.llama.model import Model

KEY = b"tokenizer.chat_template"


def with_template(path, source):
    """Write the tiny model with a template of the same length or shorter, or without one."""
    data = write_model(path).read_bytes()
    if source is None:
        data = data.replace(KEY, b"tokenizer.chat_templatX")
    else:
        data = data.replace(TEMPLATE.encode(), source.encode().ljust(len(TEMPLATE.encode())))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "holds no chat template"),
        ("{% for message in messages %}", "not valid Jinja"),
        ("{{ raise_exception('never') }}", "does not take a plain question.*never"),
        ("{{ nothing.at.all }}", "does not take a plain question"),
    ],
)
def test_a_template_that_takes_no_question_is_named_with_its_file(tmp_path, source, said):
    path = with_template(tmp_path / "m.gguf", source)
    with Model(path, vocab_only=True) as model, pytest.raises(ModelFileError, match=said) as caught:
        model.check_chat()
    assert str(path) in str(caught.value)


def test_a_usable_template_passes(tmp_path):
    with Model(write_model(tmp_path / "m.gguf"), vocab_only=True) as model:
        model.check_chat()


def test_a_servers_engine_does_not_open_what_can_answer_nobody(tmp_path):
    from crayon.server.engines.llama.engine import LlamaCppEngine

    path = with_template(tmp_path / "m.gguf", None)
    with pytest.raises(ModelFileError, match="holds no chat template"):
        LlamaCppEngine(path, n_ctx=256, n_seq_max=1, threads=1)
