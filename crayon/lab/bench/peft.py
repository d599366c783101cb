"""PEFT's own way to blend, on matrices of the same shapes: it needs torch, which the extra 'train' brings."""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from typing import TYPE_CHECKING, Any

from crayon.errors import MissingExtraError
from crayon.lab.bench.report import BenchRow

if TYPE_CHECKING:
    from crayon.adapters.pool import Pool

# Singular values of every matrix take seconds: fewer runs tell as much.
MOST_RUNS = 5


def require() -> Any:
    """Return PEFT.

    Raises:
        MissingExtraError: it or torch is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "peft")):
        raise MissingExtraError("train", "--peft")
    return importlib.import_module("peft")


def bench_peft(peft: Any, pool: Pool, runs: int) -> list[BenchRow]:
    """Time `add_weighted_adapter` on as many adapters of the pool's rank and matrices, side by side and by SVD.

    What it makes lies in torch's memory: neither converted for another engine nor applied.
    """
    torch = importlib.import_module("torch")
    manifest = pool.manifest
    names = {target.name: target.name.replace(".", "_") for target in manifest.targets}

    class Matrices(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is only there with the extra
        """The pool's matrices as bare layers."""

        def __init__(self) -> None:
            super().__init__()
            for target in manifest.targets:
                self.add_module(names[target.name], torch.nn.Linear(target.inputs, target.outputs, bias=False))

    config = peft.LoraConfig(
        r=manifest.rank, lora_alpha=manifest.alpha, target_modules=list(names.values()), init_lora_weights=False
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of a model that is none of the known architectures
        torch.manual_seed(0)
        model = peft.PeftModel(Matrices(), config, adapter_name="member0")
        members = ["member0"]
        for k in range(1, len(pool)):
            members.append(f"member{k}")
            model.add_adapter(members[-1], config)
        return [_row(model, kind, members, min(runs, MOST_RUNS), pool) for kind in ("cat", "svd")]


def _row(model: Any, kind: str, members: list[str], runs: int, pool: Pool) -> BenchRow:
    taken = []
    rank = {"svd_rank": pool.manifest.rank} if kind == "svd" else {}
    for run in range(runs + 1):
        started = time.perf_counter()
        weights = [1.0 / len(members)] * len(members)
        model.add_weighted_adapter(members, weights, f"{kind}{run}", combination_type=kind, **rank)
        taken.append(1000 * (time.perf_counter() - started))
        model.delete_adapter(f"{kind}{run}")
    shapes = f"{len(members)} members of rank {pool.manifest.rank}, {len(pool.manifest.targets)} matrices"
    note = "in torch's memory, neither converted nor applied"
    return BenchRow.median(f"peft_{kind}_ms", "ms", taken[1:], workload=shapes, note=note)
