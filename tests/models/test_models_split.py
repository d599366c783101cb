"""Models in several files: all parts are counted, hashed and looked for."""

import os

import gguf
import pytest
import tiny_chat
from tiny_chat import write_model

from crayon.errors import ModelFileError
from crayon.models import resolve
from crayon.models.gguf_file import check_model
from crayon.models.split import parts_of


@pytest.fixture
def whole(tmp_path):
    return write_model(tmp_path / "whole.gguf")


@pytest.fixture
def split(whole, tmp_path):
    """The same model in three files; its first."""
    folder = tmp_path / "split"
    folder.mkdir()
    reader = gguf.GGUFReader(whole)
    paths = [folder / f"m-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            copy_metadata(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::3]:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


def copy_metadata(reader, writer):
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        if kind is gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), kind)


def test_all_parts_are_counted(split, whole):
    one, all_parts = check_model(whole), check_model(split)
    assert all_parts.parameters == one.parameters
    assert all_parts.tensor_count == one.tensor_count
    assert all_parts.tensors.keys() == one.tensors.keys()
    assert all_parts.parts == 3
    assert all_parts.size == sum(path.stat().st_size for path in parts_of(split))


def test_every_part_is_hashed_and_a_change_of_any_is_seen(split, tmp_path):
    first = resolve(str(split), models_dir=tmp_path / "models")
    assert first.size == sum(path.stat().st_size for path in parts_of(split))
    last = parts_of(split)[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    os.utime(last, ns=(1, 1))
    assert resolve(str(split), models_dir=tmp_path / "models").sha256 != first.sha256


def test_a_missing_part_is_named(split, tmp_path):
    resolve(str(split), models_dir=tmp_path / "models")
    parts_of(split)[1].unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf is not beside it"):
        resolve(str(split), models_dir=tmp_path / "models")


def test_another_part_than_the_first_is_refused(split):
    with pytest.raises(ModelFileError, match="part 2 of 3 of a model; name its first part"):
        check_model(parts_of(split)[1])


def test_a_first_part_by_another_name_is_refused(split):
    with pytest.raises(ModelFileError, match="00001-of-00003"):
        check_model(split.rename(split.with_name("model.gguf")))


def test_parts_that_do_not_belong_together_are_refused(split):
    _, second, third = parts_of(split)
    second.write_bytes(third.read_bytes())
    with pytest.raises(ModelFileError, match="is not part 2 of 3"):
        check_model(split)


def test_a_split_model_answers_as_the_whole_one(split, whole, tmp_path, monkeypatch):
    from crayon import Crayon

    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    said = []
    for path in (split, whole):
        with Crayon(path, device_options={"threads": 1}) as client:
            said.append(client.ask("hi", max_tokens=8).text)
    assert said[0] == said[1]


def test_a_name_that_only_looks_like_a_part_is_one_file(tmp_path):
    assert parts_of(tmp_path / "m-00001-of-00001.gguf") == (tmp_path / "m-00001-of-00001.gguf",)
    assert parts_of(tmp_path / "m-00002-of-00003.gguf") == (tmp_path / "m-00002-of-00003.gguf",)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.block_count", 0, "from 1 to 512"),
        ("llama.block_count", 2**31 - 1, "from 1 to 512"),
        ("llama.context_length", 0, "from 1 to"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "finite"),
        ("llama.attention.layer_norm_rms_epsilon", float("inf"), "finite"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "from 0 to 1"),
        ("llama.rope.freq_base", 0.0, "more than 0"),
        ("llama.rope.freq_base", float("nan"), "finite"),
    ],
)
def test_a_size_that_ends_llama_cpp_is_named(whole, key, value, said):
    import struct

    data = bytearray(whole.read_bytes())
    at = data.find(key.encode()) + len(key) + 4
    struct.pack_into("<f" if isinstance(value, float) else "<I", data, at, value)
    whole.write_bytes(data)
    with pytest.raises(ModelFileError, match=said) as caught:
        check_model(whole)
    assert key in str(caught.value)


@pytest.mark.parametrize(("experts", "used"), [(4, 0), (4, 5), (0, 2), (100_000, 2)])
def test_experts_that_cannot_be_are_named(tmp_path, monkeypatch, experts, used):
    class Writer(gguf.GGUFWriter):
        def add_embedding_length(self, length):
            super().add_embedding_length(length)
            self.add_expert_count(experts)
            self.add_expert_used_count(used)

    monkeypatch.setattr(tiny_chat.gguf, "GGUFWriter", Writer)
    with pytest.raises(ModelFileError, match="expert"):
        check_model(write_model(tmp_path / "m.gguf"))
