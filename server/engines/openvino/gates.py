"""Blends by gates: every row of a step mixes the members of the pools for itself, in one product for all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from crayon.adapters.blend import check_weights
from crayon.errors import AdapterError
from crayon.server.engines.openvino.forms import half, matrix, times
from crayon.server.engines.openvino.weights import Grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters import Pool
    from crayon.server.engines.openvino.forms import WeightForm
    from crayon.server.engines.openvino.weights import Floats

Node: TypeAlias = Any  # the library has no types


class Slots:
    """The pools that a model is built with. A row's gates are the weights of all their members, one pool after another.

    Raises:
        AdapterError: there is no pool, or one is there twice.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = tuple(pools)
        if not pools or len({pool.id for pool in pools}) != len(pools):
            raise AdapterError("slots: give one pool or more, each once")
        starts = np.cumsum([0, *(len(pool) for pool in self.pools)])
        self.count = int(starts[-1])
        self._starts = {pool.id: (pool, int(start)) for pool, start in zip(self.pools, starts[:-1], strict=True)}

    def row(self, pool_id: str, weights: Sequence[float]) -> Floats:
        """Return the gates of a blend, (count,).

        Raises:
            AdapterError: the pool is not among these.
            InvalidRequestError: the weights are not what the pool takes.
        """
        if pool_id not in self._starts:
            raise AdapterError(f"there is no pool {pool_id!r} among {', '.join(self._starts)}")
        pool, start = self._starts[pool_id]
        gates = np.zeros(self.count, np.float32)
        gates[start : start + len(pool)] = check_weights(pool, weights)
        return gates

    def factors(self, target: str) -> list[Factor]:
        """Return what the pools add to a weight; nothing where none changes it."""
        found = []
        for pool, start in self._starts.values():
            if pool.manifest.kind == "shared":
                if target in pool.a:
                    members = [pool.member(k).tensors[target][1] for k in range(len(pool))]
                    b = np.concatenate([pool.manifest.scale * each for each in members], axis=1)
                    found.append(Factor(pool.a[target], b, np.arange(start, start + len(pool))))
                continue
            for k in range(len(pool)):
                lora = pool.member(k)
                if target in lora.tensors:
                    a, b = lora.tensors[target]
                    found.append(Factor(a, np.float32(lora.scale) * b, np.array([start + k])))
        return found

    @property
    def targets(self) -> frozenset[str]:
        """The weights that any of the pools changes."""
        return frozenset(target.name for pool in self.pools for target in pool.manifest.targets)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """What members that share A add: a (rank, inputs), b (outputs, members times rank), and whose gates count."""

    a: Floats
    b: Floats
    members: NDArray[np.int64]


class Gating:
    """Puts the gates into a graph as it is built: y = W x becomes [W | s B] [x, gates times A x]."""

    def __init__(self, slots: Slots, form: WeightForm) -> None:
        self._slots, self._form = slots, form
        self._targets = slots.targets
        self._used: set[str] = set()
        self.gates: Node = ops.parameter(ov.PartialShape([-1, slots.count]), ov.Type.f32, name="gates")
        self.gates.output(0).set_names({"gates"})
        self._columns: dict[tuple[int, ...], Node] = {}

    def changes(self, target: str) -> bool:
        """Whether any pool changes a weight."""
        return target in self._targets

    def check_used(self) -> None:
        """See that the model has all that the pools change.

        Raises:
            AdapterError: it lacks one of the weights.
        """
        if missing := sorted(self._targets - self._used):
            pool = next(each for each in self._slots.pools if missing[0] in {t.name for t in each.manifest.targets})
            raise AdapterError(f"pool {pool.id} changes {missing[0]}, which the model does not have")

    def product(
        self, target: str, x: Node, weight: Grouped | NDArray[np.floating], order: NDArray[np.int64] | None
    ) -> Node:
        """Return x (tokens, 1, inputs) times the weight as each row's gates change it.

        Raises:
            AdapterError: a pool's matrices do not fit the weight.
        """
        self._used.add(target)
        factors = self._slots.factors(target)
        rows, columns = weight.shape
        for factor in factors:
            if factor.a.shape[1] != columns or len(factor.b) != rows:
                raise AdapterError(
                    f"{target} is ({rows}, {columns}) in the model, "
                    f"and what a pool adds to it ({len(factor.b)}, {factor.a.shape[1]})"
                )
        added = [self._mixed(factor, x) for factor in factors]
        b = np.concatenate([factor.b for factor in factors], axis=1)
        if order is not None:
            b = b[order]
        if self._form == "f16":
            dense = np.concatenate([_dense(weight), b], axis=1)
            return times(ops.concat([x, *added], 2), half(dense))
        low = times(added[0] if len(added) == 1 else ops.concat(added, 2), half(b))
        return ops.add(times(x, matrix(weight, self._form)), low)

    def _mixed(self, factor: Factor, x: Node) -> Node:
        """Return gates times A x, (tokens, 1, members times rank)."""
        low = times(x, half(factor.a))
        wide = ops.multiply(low, self._of(factor.members))
        return ops.reshape(wide, ops.constant(np.array([-1, 1, factor.b.shape[1]])), special_zero=False)

    def _of(self, members: NDArray[np.int64]) -> Node:
        """Return the gates of some members, (tokens, members, 1)."""
        key = tuple(members.tolist())
        if key not in self._columns:
            gates = self.gates
            if len(members) != self._slots.count:
                gates = ops.gather(gates, ops.constant(members), ops.constant(np.int64(1)))
            self._columns[key] = ops.unsqueeze(gates, ops.constant(np.int64(2)))
        return self._columns[key]


def _dense(weight: Any) -> Floats:
    return weight.dense() if isinstance(weight, Grouped) else np.asarray(weight, np.float32)
