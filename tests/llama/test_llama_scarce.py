"""Too little memory is said to be that, and not a broken file."""

import resource

import pytest
from tiny_chat import write_model

from crayon.errors import ModelFileError, NoMemoryError
from crayon.llama import scarce
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.machine import address_space_left


@pytest.fixture
def limited():
    """Limits this process's address space to so many bytes more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 46, before[1]))
        used = (1 << 46) - address_space_left()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_limit_that_the_file_does_not_fit_is_said_before_it_is_loaded(tmp_path, limited):
    path = write_model(tmp_path / "m.gguf")
    limited(8 << 20)
    with pytest.raises(NoMemoryError, match=r"m\.gguf.*ulimit -v"):
        Model(path)


def test_a_context_that_does_not_fit_says_so(tmp_path, limited):
    with Model(write_model(tmp_path / "m.gguf")) as model:
        limited(40 << 20)
        with pytest.raises(NoMemoryError, match=r"context of 131,072 tokens.*smaller context"):
            Context(model, n_ctx=131_072, n_batch=64, threads=1)


def test_a_load_that_memory_failed_is_told_from_a_broken_file(tmp_path, monkeypatch):
    path = write_model(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ModelFileError, match="truncated"):
        Model(path)
    monkeypatch.setattr("crayon.llama.model.is_memory_short", lambda _: True)
    with pytest.raises(NoMemoryError, match="smaller model"):
        Model(path)


@pytest.mark.parametrize(
    ("log", "short"),
    [
        ("mmap failed: Cannot allocate memory", True),
        ("ggml_aligned_malloc: insufficient memory", True),
        ("std::bad_alloc", True),
        ("tensor 'x' data is not within the file bounds", False),
        ("unknown model architecture: 'x'", False),
    ],
)
def test_what_a_log_says_of_memory(log, short):
    assert scarce.is_memory_short(log) is short


def test_no_limit_leaves_any_room():
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("this process is limited")
    assert address_space_left() is None
