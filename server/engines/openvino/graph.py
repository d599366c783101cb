"""A GGUF model as an OpenVINO graph with paged attention: any rows of any sequences in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from crayon.errors import EngineError, InvalidRequestError, ModelFileError
from crayon.server.engines.openvino.architectures import ARCHITECTURES, read_sizes
from crayon.server.engines.openvino.forms import FORMS, matrix, rows_of, times
from crayon.server.engines.openvino.gates import Gating
from crayon.server.engines.openvino.weights import Grouped, Weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.server.engines.openvino.architectures import Sizes
    from crayon.server.engines.openvino.forms import WeightForm
    from crayon.server.engines.openvino.gates import Slots

Node: TypeAlias = Any  # the library has no types


@dataclass(frozen=True, slots=True)
class Built:
    """A model that can be compiled, its sizes, and the blends that its rows can name.

    Inputs: `input_ids` and `position_ids` i64 (tokens,); `past_lens` i32 (sequences,); `subsequence_begins` and
    `block_indices_begins` i32 (sequences + 1,); `block_indices` i32; `max_context_len` i32 (); `key_cache.N` and
    `value_cache.N` of each layer; `sampled_tokens_indices` i64 (rows,), the tokens whose logits are wanted; with slots
    `gates` f32 (tokens, slots.count).

    Outputs: `logits` f32 (rows, vocab); with a middle layer `hidden` f32 (tokens, width), what it gives for each token.
    """

    model: ov.Model
    sizes: Sizes
    slots: Slots | None


def build_model(path: Path, *, form: WeightForm, slots: Slots | None = None, middle_layer: int | None = None) -> Built:
    """Return the graph of a model file; nothing is compiled yet.

    Args:
        path: a GGUF file, or the first of several.
        form: how weights are kept, see `forms.matrix`; the output matrix keeps the file's own bits in all of them.
        slots: pools whose members every row may mix by its gates.
        middle_layer: the layer, counted from 0, whose output is wanted as well.

    Raises:
        ModelFileError: the file is damaged, or its architecture or a tensor's type is not known here.
        AdapterError: a pool changes a weight that the model does not have.
        InvalidRequestError: there is no such form or layer.
        EngineError: this OpenVINO does not recognise the attention, so that it is another version than ours.
    """
    if form not in FORMS:
        raise InvalidRequestError("form", f"is {form!r}; there are {', '.join(FORMS)}")
    return _Builder(Weights(path), form, slots, middle_layer).build()


class _Builder:
    def __init__(self, weights: Weights, form: WeightForm, slots: Slots | None, middle_layer: int | None) -> None:
        self.weights, self.form = weights, form
        self.sizes = read_sizes(weights)
        if middle_layer is not None and not 0 <= middle_layer < self.sizes.layers:
            raise InvalidRequestError(
                "middle_layer", f"is {middle_layer}; the model has {self.sizes.layers}, from 0 on"
            )
        self.middle_layer = middle_layer
        self.kind = ARCHITECTURES[self.sizes.architecture]
        self.slots = slots
        self.gating = Gating(slots, form) if slots else None
        self.hidden: Node = None

    def build(self) -> Built:
        # The transformation takes sequences of tokens, (batch, tokens), and makes each token a row, (tokens, 1).
        ids, positions = (_input(name, [-1, -1], ov.Type.i64) for name in ("input_ids", "position_ids"))
        beams, wanted = (_input(name, [-1], ov.Type.i64) for name in ("beam_idx", "sampled_tokens_indices"))
        self.beams = beams
        self.batch = ops.gather(ops.shape_of(ids), ops.constant(np.array([0])), ops.constant(np.int64(0)))
        embeddings = self.weights.matrix("token_embd.weight")
        states = rows_of(embeddings, ids)
        self.angles = self._angles(positions)
        for layer in range(self.sizes.layers):
            states = self._layer(layer, states)
            if layer == self.middle_layer:
                self.hidden = states
        picked = ops.gather(states, wanted, ops.constant(np.int64(0)))
        logits = self._head(embeddings, self._norm("output_norm.weight", picked))
        results = [_output("logits", logits, self.sizes.vocab)]
        if self.hidden is not None:
            results.append(_output("hidden", self.hidden, self.sizes.width))
        inputs = [ids, positions, beams, wanted, *([self.gating.gates] if self.gating else [])]
        self._check_read()
        model = ov.Model(results, inputs, "crayon")
        paged_attention_transformation(model)
        model.validate_nodes_and_infer_types()
        self._check_paged(model)
        return Built(model, self.sizes, self.slots)

    # -- a layer

    def _layer(self, layer: int, states: Node) -> Node:
        name = f"blk.{layer}."
        states = ops.add(states, self._attention(name, self._norm(f"{name}attn_norm.weight", states)))
        normed = self._norm(f"{name}ffn_norm.weight", states)
        gate = ops.swish(self._product(f"{name}ffn_gate", normed))
        inner = ops.multiply(gate, self._product(f"{name}ffn_up", normed))
        return ops.add(states, self._product(f"{name}ffn_down", inner))

    def _attention(self, name: str, states: Node) -> Node:
        sizes = self.sizes
        query = self._heads(f"{name}attn_q", states, sizes.heads)
        key = self._heads(f"{name}attn_k", states, sizes.kv_heads)
        value = self._split(self._product(f"{name}attn_v", states), sizes.kv_heads)
        key, value = (self._remembered(f"{name}{what}", new) for what, new in (("key", key), ("value", value)))
        # Paged attention knows what each row may see: the mask is only there because the pattern has one.
        mask = ops.constant(np.zeros((1, 1, 1, 1), np.float32))
        scale = ops.constant(np.float32(sizes.head_size**-0.5))
        found = ops.scaled_dot_product_attention(query, self._repeated(key), self._repeated(value), mask, scale)
        joined = ops.reshape(
            ops.transpose(found, ops.constant(np.array([0, 2, 1, 3]))),
            ops.constant(np.array([0, 0, sizes.heads * sizes.head_size])),
            special_zero=True,
        )
        return self._product(f"{name}attn_output", joined)

    def _heads(self, name: str, states: Node, heads: int) -> Node:
        """Return queries or keys, (batch, heads, tokens, head size), turned by their positions."""
        order = self.sizes.head_order(heads) if self.kind.interleaved else None
        x = self._split(
            self._product(name, states, order), heads, f"{name}_norm.weight" if self.kind.head_norms else None
        )
        cosines, sines = self.angles
        half = self.sizes.head_size // 2
        first, second = _slice(x, 0, half), _slice(x, half, 2 * half)
        turned = ops.concat([ops.multiply(second, ops.constant(np.float32(-1))), first], -1)
        return ops.add(ops.multiply(x, cosines), ops.multiply(turned, sines))

    def _split(self, x: Node, heads: int, norm: str | None = None) -> Node:
        split = ops.reshape(x, ops.constant(np.array([0, 0, heads, self.sizes.head_size])), special_zero=True)
        if norm is not None:
            split = self._norm(norm, split)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3])))

    def _remembered(self, name: str, new: Node) -> Node:
        """Return what was and what is new: the form of a state, which the transformation turns into pages."""
        sizes = self.sizes
        shape = ops.concat([self.batch, ops.constant(np.array([sizes.kv_heads, 0, sizes.head_size]))], 0)
        empty = ops.broadcast(ops.constant(np.float32(0)), shape)
        past = ops.read_value(empty, name, ov.Type.f32, ov.PartialShape([-1, sizes.kv_heads, -1, sizes.head_size]))
        return ops.concat([ops.gather(past, self.beams, ops.constant(np.int64(0))), new], 2)

    def _repeated(self, x: Node) -> Node:
        """Return keys or values, each head as often as queries share it."""
        sizes = self.sizes
        times = sizes.heads // sizes.kv_heads
        if times == 1:
            return x
        shape = ops.constant(np.array([1, 1, times, 1, 1]))
        wide = ops.broadcast(ops.unsqueeze(x, ops.constant(np.int64(2))), shape, broadcast_spec="BIDIRECTIONAL")
        whole = ops.constant(np.array([0, sizes.heads, -1, sizes.head_size]))
        return ops.reshape(wide, whole, special_zero=True)

    def _angles(self, positions: Node) -> tuple[Node, Node]:
        """Return cosines and sines, (batch, 1, tokens, head size) each."""
        sizes = self.sizes
        frequencies = sizes.rope_base ** (-np.arange(0, sizes.head_size, 2, dtype=np.float64) / sizes.head_size)
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights.vector("rope_freqs.weight")
        inverse = (frequencies / sizes.rope_factor).astype(np.float32).reshape(1, -1, 1)
        shape = ops.concat([self.batch, ops.constant(np.array([1, 1]))], 0)
        column = ops.broadcast(ops.constant(inverse), shape, broadcast_spec="BIDIRECTIONAL")
        row = ops.convert(ops.unsqueeze(positions, ops.constant(np.int64(1))), "f32")
        angles = ops.transpose(
            ops.matmul(column, row, transpose_a=False, transpose_b=False), ops.constant(np.array([0, 2, 1]))
        )
        both = ops.concat([angles, angles], -1)
        one = ops.constant(np.int64(1))
        return ops.unsqueeze(ops.cos(both), one), ops.unsqueeze(ops.sin(both), one)

    # -- products and norms

    def _norm(self, name: str, x: Node) -> Node:
        square = ops.power(x, ops.constant(np.float32(2)))
        mean = ops.reduce_mean(square, ops.constant(np.array([-1])), keep_dims=True)
        root = ops.sqrt(ops.add(mean, ops.constant(np.float32(self.sizes.epsilon))))
        normed = ops.multiply(x, ops.divide(ops.constant(np.float32(1)), root))
        return ops.multiply(normed, ops.constant(self.weights.vector(name)))

    def _product(self, name: str, x: Node, order: NDArray[np.int64] | None = None) -> Node:
        """Return x times a matrix, its rows in an order, with what the gates add and the bias that the file has."""
        weight = self.weights.matrix(f"{name}.weight")
        if order is not None:
            weight = weight.rows(order) if isinstance(weight, Grouped) else weight[order]
        if self.gating and self.gating.changes(f"{name}.weight"):
            found = self.gating.product(f"{name}.weight", x, weight, order)
        else:
            found = times(x, matrix(weight, self.form))
        if f"{name}.bias" in self.weights:
            bias = self.weights.vector(f"{name}.bias")
            found = ops.add(found, ops.constant(bias if order is None else bias[order]))
        return found

    def _head(self, embeddings: Grouped | NDArray[np.floating], states: Node) -> Node:
        weight = self.weights.matrix("output.weight") if "output.weight" in self.weights else embeddings
        # Its values are rounded once, by who made the file: as float16 it would be twice as long to read in each step.
        form: WeightForm = "int4" if self.form == "f16" and isinstance(weight, Grouped) else self.form
        logits = times(states, matrix(weight, form))
        if "output.bias" in self.weights:
            logits = ops.add(logits, ops.constant(self.weights.vector("output.bias")))
        return logits

    # -- the whole

    def _check_read(self) -> None:
        """Refuse a file with weights that the graph has no place for: its answers would be other than llama.cpp's."""
        if left := sorted(self.weights.unread):
            raise ModelFileError(
                f"{self.weights.path}: the engine openvino does not know what to do with the tensor {left[0]!r}"
                f"{f' and {len(left) - 1} others' if left[1:] else ''}: take the engine llama.cpp"
            )
        if self.gating:
            self.gating.check_used()

    def _check_paged(self, model: ov.Model) -> None:
        names = {name for each in model.inputs for name in each.get_names()}
        caches = sum(name.startswith("key_cache.") for name in names)
        if caches != self.sizes.layers or "past_lens" not in names:
            raise EngineError(
                f"OpenVINO {ov.__version__} recognises the attention of {caches} of {self.sizes.layers} layers: "
                "install the version that the extra 'openvino' names"
            )


def _input(name: str, shape: list[int], kind: ov.Type) -> Node:
    node = ops.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).set_names({name})
    return node


def _output(name: str, x: Node, width: int) -> Node:
    flat = ops.reshape(x, ops.constant(np.array([-1, width])), special_zero=False)
    result = ops.result(flat)
    result.output(0).set_names({name})
    return result


def _slice(x: Node, start: int, stop: int) -> Node:
    return ops.slice(x, *(ops.constant(np.array([each])) for each in (start, stop, 1, -1)))
