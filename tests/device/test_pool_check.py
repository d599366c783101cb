"""`check_pool` finds what it is there to find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_chat import write_model
from tiny_pool import independent_pool, shared_pool

from crayon.adapters import Pool
from crayon.blending import PoolBlends
from crayon.device import pool_check
from crayon.device.pool_check import PoolFinding, check_pool
from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path


def failed(found: list[PoolFinding]) -> list[str]:
    return [finding.check for finding in found if not finding.ok]


@pytest.mark.parametrize("kind", ["shared", "independent", "one member"])
def test_a_good_pool_passes_every_check(tiny_chat_path: Path, kind: str) -> None:
    pool = {
        "shared": lambda: shared_pool(tiny_chat_path, 4),
        "independent": lambda: independent_pool(tiny_chat_path),
        "one member": lambda: shared_pool(tiny_chat_path, 1),
    }[kind]()
    told: list[PoolFinding] = []
    found = check_pool(pool, tiny_chat_path, threads=1, progress=told.append)
    assert failed(found) == []
    assert told == found
    names = [finding.check for finding in found]
    assert names[:2] == ["base", "zero is the base"]
    assert names[2 : 2 + len(pool)] == [f"member {name}" for name in pool.names]
    mixtures = {"shared": ["2", "4"], "independent": ["2", "2"], "one member": ["1"]}[kind]
    assert names[2 + len(pool) :] == [f"blend of {count}" for count in mixtures]


def test_another_base_ends_the_check(tiny_chat_path: Path, tmp_path: Path) -> None:
    pool = shared_pool(tiny_chat_path)
    other = write_model(tmp_path / "other.gguf", seed=1)
    (finding,) = check_pool(pool, other, threads=1)
    assert (finding.check, finding.ok) == ("base", False)
    assert "not for other" in finding.said
    (finding,) = check_pool(pool, tiny_chat_path, source_sha256="ab" * 32, name="x", threads=1)
    assert not finding.ok


def test_a_member_that_changes_nothing_is_found(tiny_chat_path: Path) -> None:
    pool = shared_pool(tiny_chat_path, 3)
    b = pool.b.copy()
    b[1] = 0.0
    quiet = Pool.shared(pool.manifest, b)
    found = check_pool(quiet, tiny_chat_path, threads=1)
    assert failed(found) == ["member b"]
    assert "no effect" in next(finding.said for finding in found if not finding.ok)


def test_a_pool_whose_shapes_are_another_models_is_found(tiny_chat_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = shared_pool(tiny_chat_path, 2)
    wrong = pool.member(0)
    target = next(iter(wrong.tensors))
    a, b = wrong.tensors[target]
    tensors = {**wrong.tensors, target: (np.ascontiguousarray(a[:, :-1]), b)}
    monkeypatch.setattr(Pool, "member", lambda self, k: type(wrong)(tensors, wrong.scale))
    found = check_pool(pool, tiny_chat_path, threads=1)
    assert failed(found) == ["zero is the base", "member a", "member b"]
    assert "cannot be loaded" in found[1].said


def test_a_blend_with_wrong_weights_is_found(tiny_chat_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PoolBlends._bytes

    def swapped(self: PoolBlends, pool: Any, weights: Any) -> Any:
        return real(self, pool, weights[::-1].copy())

    monkeypatch.setattr(PoolBlends, "_bytes", swapped)
    found = check_pool(shared_pool(tiny_chat_path, 3), tiny_chat_path, threads=1)
    assert failed(found) == ["blend of 2", "blend of 3"]


def test_a_blend_with_cross_terms_is_found(tiny_chat_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PEFT's `linear` does to adapters that each have their own A: sum of B times sum of A."""
    pool = independent_pool(tiny_chat_path, (4, 4))
    first, second = pool.member(0), pool.member(1)
    crossed = {
        name: (0.5 * (a + second.tensors[name][0]), (b + second.tensors[name][1]).astype(np.float32))
        for name, (a, b) in first.tensors.items()
    }
    image = pool_check.gguf_bytes(type(first)(crossed, first.scale), "llama")
    monkeypatch.setattr(PoolBlends, "_bytes", lambda self, pool, weights: image)
    assert "blend of 2" in failed(check_pool(pool, tiny_chat_path, threads=1))


def test_a_model_that_is_none_is_an_error(tiny_chat_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        check_pool(shared_pool(tiny_chat_path), tmp_path / "none.gguf")
