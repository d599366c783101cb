"""How weights stand in the graph: as float16, as int8 in groups, or as 4-bit numbers with a float zero point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from crayon.server.engines.openvino.weights import Grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.server.engines.openvino.weights import Floats

Node: TypeAlias = Any  # the library has no types
WeightForm: TypeAlias = Literal["f16", "int8", "int4"]
FORMS: tuple[WeightForm, ...] = ("f16", "int8", "int4")
_GROUP = 32
_MOST_F16 = 60_000.0


def matrix(weight: Grouped | NDArray[np.floating], form: WeightForm) -> Node:
    """Return a constant matrix, (rows, columns) of float32 to whoever multiplies with it, kept in a form.

    "f16" rounds the weights to float16. "int4" keeps the file's own numbers wherever it has any: 4 bits stay 4 bits, 5
    to 8 take 8; scales and zero points are rounded to float16. "int8" has no zero points, as CPUs with instructions for
    products of bytes want it: what the file has without offsets is kept, else there is one more rounding to 8 bits.
    float16 and float32 stay as they are in "f16" alone.
    """
    if form == "f16":
        return half(weight)
    if isinstance(weight, Grouped) and (weight.offset is None or form == "int4"):
        return _affine(weight)
    return _affine(to_int8(weight.dense() if isinstance(weight, Grouped) else np.asarray(weight, np.float32)))


def half(weight: Grouped | NDArray[np.floating]) -> Node:
    """Return a constant matrix kept as float16; as float32 where that is what it has and float16 cannot hold it."""
    dense = weight.dense() if isinstance(weight, Grouped) else weight
    if dense.dtype == np.float32 and float(np.abs(dense).max(initial=0.0)) > _MOST_F16:
        return ops.constant(np.ascontiguousarray(dense))
    return ops.convert(ops.constant(np.ascontiguousarray(dense, np.float16)), "f32")


def times(x: Node, weight: Node) -> Node:
    """Return x (..., columns) times the rows of a matrix, (..., rows)."""
    return ops.matmul(x, weight, transpose_a=False, transpose_b=True)


def rows_of(weight: Grouped | NDArray[np.floating], indices: Node) -> Node:
    """Return rows of a matrix by their numbers, (..., columns): what is not asked for is never decompressed."""
    axis = ops.constant(np.int64(0))
    if not isinstance(weight, Grouped):
        kept = np.ascontiguousarray(weight, np.float16 if weight.dtype == np.float16 else np.float32)
        return ops.convert(ops.gather(ops.constant(kept), indices, axis), "f32")

    def part(values: NDArray[Any]) -> Node:
        return ops.convert(ops.gather(ops.constant(values), indices, axis), "f32")

    found = ops.multiply(part(weight.values), part(weight.scale.astype(np.float32)))
    if weight.offset is not None:
        found = ops.add(found, part(weight.offset))
    return ops.reshape(found, ops.constant(np.array([0, 0, weight.shape[1]], np.int64)), special_zero=True)


def to_int8(dense: Floats) -> Grouped:
    """Return a matrix as int8, each group of 32 in a row with a scale of its own."""
    rows, columns = dense.shape
    size = _GROUP if columns % _GROUP == 0 else columns
    groups = dense.reshape(rows, -1, size)
    scale = (np.abs(groups).max(axis=2, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1.0
    values = np.clip(np.rint(groups / scale), -127, 127).astype(np.int8)
    return Grouped(values, scale, None, 8)


def _affine(weight: Grouped) -> Node:
    rows, columns = weight.shape
    values, scale, zero = weight.values, weight.scale, None
    if weight.offset is not None:
        values, scale, zero = _zero_points(weight)
    if weight.bits == 4:
        unsigned = values if zero is not None else values.astype(np.int16) + 8
        zero = zero if zero is not None else np.full_like(scale, 8.0)
        whole = ops.convert(_four_bits(np.asarray(unsigned, np.uint8)), "f16")
    else:
        whole = ops.convert(ops.constant(np.ascontiguousarray(values)), "f16")
    if zero is not None:
        whole = ops.subtract(whole, ops.constant(zero.astype(np.float16)))
    whole = ops.multiply(whole, ops.constant(scale.astype(np.float16)))
    whole = ops.reshape(whole, ops.constant(np.array([rows, columns], np.int64)), special_zero=False)
    return ops.convert(whole, "f32")


def _zero_points(weight: Grouped) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Return values, scales and zero points: values * scale + offset is (values - zero) * scale."""
    values, scale = np.asarray(weight.values, np.uint8), weight.scale.copy()
    offset = np.zeros_like(scale) if weight.offset is None else weight.offset
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = -offset / scale
    # A group of one value has no step, or next to none: once that value.
    flat = ~np.isfinite(zero) | (np.abs(zero) > _MOST_F16)
    if flat.any():
        middle = np.where(flat, offset + scale * values.mean(axis=2, keepdims=True, dtype=np.float32), 0.0)
        values = np.where(flat, np.uint8(1), values)
        scale, zero = np.where(flat, middle, scale), np.where(flat, 0.0, zero)
    return values, scale.astype(np.float32), zero.astype(np.float32)


def _four_bits(values: NDArray[np.uint8]) -> Node:
    """Return numbers from 0 to 15 as a constant of half bytes, the first in the low half."""
    flat = values.reshape(-1)
    tensor = ov.Tensor(ov.Type.u4, ov.Shape(list(values.shape)))
    tensor.data.reshape(-1)[:] = flat[0::2] | flat[1::2] << 4
    return ov.op.Constant(tensor, shared_memory=False)
