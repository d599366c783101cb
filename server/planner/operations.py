"""What a layer of LLaMA-2-70B computes, what needs what, and how long it takes on eight A100s.

The times are NanoFlow's Table 2 (arXiv 2408.12757): milliseconds of all 80 layers at 2048 tokens an iteration, measured
with nothing beside the operation. Table 2 has one number for the network; its three collectives share it as the paper's
cost model does, where an all-gather moves one unit and an all-reduce two. Prefill attention counts as compute.

How long a nano-operation of b of the 2048 tokens takes is a model, since Table 2 knows one size only:

    T(b) = fixed + (measured - fixed) * b / 2048

- Dense operations: `fixed` is one read of the operation's weights at the full memory bandwidth, which every
  nano-operation pays anew, hidden behind nothing. Smaller products also use a GPU worse; of that Table 2 says nothing.
- Prefill attention is bound by launches (0.37 ms of arithmetic in 4.56 ms): all but the arithmetic is `fixed`.
- Decode attention reads each request's cache once however it is cut, and a collective moves each token once: `fixed` is
  0.

Each range of tokens holds decode and prefill rows in the proportion of the whole batch, so attention shrinks with its
range like everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_MS_PER_GB = 1 / 16  # eight A100s read 16 TB/s together
_PREFILL_ARITHMETIC_MS = 0.37
_NETWORK_MS = 47.92


class Class(StrEnum):
    """Which part of a GPU an operation keeps busy; two operations of one class never run at once."""

    COMPUTE = "compute"
    MEMORY = "memory"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a layer.

    Args:
        name: as in the paper.
        resource: what it keeps busy.
        measured: its time for the whole batch and all layers, in ms.
        fixed: the part of `measured` that a nano-operation pays whatever its size.
        after: operations of the same layer that it needs.
        after_previous: operations of the layer before that it needs.
        group: operations of one group are cut at the same tokens.
    """

    name: str
    resource: Class
    measured: float
    fixed: float
    after: tuple[str, ...] = ()
    after_previous: tuple[str, ...] = ()
    group: str = "rest"


@dataclass(frozen=True, slots=True)
class LayerWorkload:
    """The operations of one layer, in an order in which they could run, and how often they run."""

    operations: tuple[Operation, ...]
    layers: int
    tokens: int
    gpus: int
    unit: int = 128

    @property
    def units(self) -> int:
        """How many pieces the batch can be cut into."""
        return self.tokens // self.unit

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in order."""
        return tuple(dict.fromkeys(operation.group for operation in self.operations))

    def sequential(self) -> float:
        """Return the time of one layer in ms, one whole operation after the other."""
        return sum(operation.measured for operation in self.operations) / self.layers

    def alone(self, operation: Operation, tokens: int) -> float:
        """Return the time in ms of a nano-operation of one layer with nothing beside it."""
        whole = operation.fixed + (operation.measured - operation.fixed) * tokens / self.tokens
        return whole / self.layers

    def tokens_per_second(self, makespan: float) -> float:
        """Return tokens/s of one GPU where an iteration takes `makespan` ms."""
        return self.tokens / makespan * 1000 / self.gpus


def llama2_70b(*, reduce: bool, layers: int = 80) -> LayerWorkload:
    """Return Table 2 as operations.

    Args:
        reduce: join the halves of O by one all-reduce after it; else gather attention before O and O's result after it,
            which moves as much in two pieces.
        layers: how many layers to plan for; each takes an 80th of the published times.
    """
    unit = _NETWORK_MS / 4
    compute, memory, network = Class.COMPUTE, Class.MEMORY, Class.NETWORK
    operations = [
        Operation("KQV", compute, 16.08, 13.42 * _MS_PER_GB, after_previous=("UGD.AR",), group="attention"),
        Operation("DecAttn", memory, 35.60, 0, ("KQV",), group="attention"),
        Operation("PfAttn", compute, 4.56, 4.56 - _PREFILL_ARITHMETIC_MS, ("KQV",)),
    ]
    o_weights = 10.74 * _MS_PER_GB
    if reduce:
        operations += [
            Operation("O", compute, 16.01, o_weights, ("DecAttn", "PfAttn")),
            Operation("O.AR", network, 2 * unit, 0, ("O",)),
        ]
    else:
        operations += [
            Operation("Attn.AG", network, unit, 0, ("DecAttn", "PfAttn")),
            Operation("O", compute, 16.01, o_weights, ("Attn.AG",)),
            Operation("O.AG", network, unit, 0, ("O",)),
        ]
    operations += [
        Operation("UG", compute, 69.92, 75.16 * _MS_PER_GB, (operations[-1].name,)),
        Operation("D", compute, 34.96, 37.58 * _MS_PER_GB, ("UG",)),
        Operation("UGD.AR", network, 2 * unit, 0, ("D",)),
    ]
    scale = layers / 80
    scaled = (
        Operation(o.name, o.resource, o.measured * scale, o.fixed * scale, o.after, o.after_previous, o.group)
        for o in operations
    )
    return LayerWorkload(tuple(scaled), layers, 2048, 8)
