"""One small model for llama.cpp and for vLLM, and an engine of each on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tiny_pool
from vllm_tools import engine_on, tiny_file, tiny_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.server.engines.llama.engine import LlamaCppEngine
    from crayon.server.engines.vllm.engine import VllmEngine


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="session")
def folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(gguf, tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="session")
def pool(gguf: Path) -> Pool:
    return tiny_pool.shared_pool(gguf, size=2.0)


@pytest.fixture(scope="session")
def mixed(gguf: Path) -> Pool:
    return tiny_pool.independent_pool(gguf, size=2.0)


@pytest.fixture(scope="session")
def named(gguf: Path, mixed: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third party's adapter in PEFT's format: in truth the second member of the pool `mixed`."""
    from crayon.adapters.formats.matrices import BaseShapes
    from crayon.adapters.formats.peft_folder import write_peft

    folder = tmp_path_factory.mktemp("peft") / "adapter"
    write_peft(mixed.member(1), folder, BaseShapes.read(gguf))
    return folder


@pytest.fixture(scope="session")
def engine(folder: Path, pool: Pool, mixed: Pool, named: Path) -> Iterator[VllmEngine]:
    """Two adapters at a time, so that a third has to wait."""
    with engine_on(folder, pools=[pool, mixed], adapters={"theirs": named}, more={"max_loras": 2}) as engine:
        yield engine


@pytest.fixture(scope="session")
def llama(gguf: Path, pool: Pool, mixed: Pool) -> Iterator[LlamaCppEngine]:
    from crayon.server.engines.llama.engine import LlamaCppEngine

    with LlamaCppEngine(gguf, name="it", n_ctx=4096, n_seq_max=8, threads=1, pools=[pool, mixed]) as engine:
        yield engine
