"""The forms a layer can take. A candidate is one small object; a new form is one new function here or beside.

Weights kept in 8 bits are symmetric: q = round(w / scale), scale = max |w| / 127 over one output unit (a row of a
recurrent matrix, a column of a dense kernel, an output channel of a convolution, a row of an embedding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.layers import RECURRENT, WITH_BODY, Layer
from edgeseq.quantization.onnxruntime_quantizer import quantize_node
from edgeseq.quantization.rewriting import Declined, Piece, splice

Array = npt.NDArray[Any]
Rewrite = Callable[[Layer, onnx.NodeProto], Piece]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One form that a layer can take."""

    name: str
    """Name in plans, manifests and reports."""
    op_types: frozenset[str]
    """ONNX op types it applies to."""
    rows_independent: bool
    """Whether a row's answer is the same whatever rows and steps run beside it."""
    rewrite: Rewrite
    """Makes the piece that replaces one node of the layer; raises Declined with the reason where it does not fit."""


CANDIDATES: dict[str, Candidate] = {}
"""Every candidate by name. Of two that measure alike, the earlier is taken."""


def candidate(name: str, op_types: Sequence[str], *, rows_independent: bool) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite under `name`."""

    def register(rewrite: Rewrite) -> Rewrite:
        CANDIDATES[name] = Candidate(
            name=name, op_types=frozenset(op_types), rows_independent=rows_independent, rewrite=rewrite
        )
        return rewrite

    return register


def candidates_for(layer: Layer) -> tuple[Candidate, ...]:
    """The candidates for a layer's op type, in order of preference."""
    return tuple(entry for entry in CANDIDATES.values() if layer.op_type in entry.op_types)


def rows_independent(choices: Mapping[str, str]) -> bool:
    """Whether every candidate named (layer to candidate) keeps rows and steps independent."""
    return all(CANDIDATES[name].rows_independent for name in choices.values())


def apply(model: onnx.ModelProto, layers: Sequence[Layer], choices: Mapping[str, str]) -> onnx.ModelProto:
    """`model` with each layer named in `choices` in the form of the candidate named there; a pure function.

    Raises Declined when a candidate does not fit its layer, or two do not fit together.
    """
    pieces = {
        node.name: CANDIDATES[choices[layer.name]].rewrite(layer, node)
        for layer in layers
        if layer.name in choices
        for node in layer.nodes
    }
    return splice(model, pieces)


# onnxruntime's dynamic quantization takes one scale for a whole activation tensor, all rows and steps together.
@candidate("dynamic-int8-per-channel", ["LSTM", "MatMul", "Gemm"], rows_independent=False)
def _dynamic_per_channel(layer: Layer, node: onnx.NodeProto) -> Piece:
    return quantize_node(layer, node, per_channel=True)


@candidate("dynamic-int8", ["LSTM", "MatMul", "Gemm", "Conv"], rows_independent=False)
def _dynamic(layer: Layer, node: onnx.NodeProto) -> Piece:
    return quantize_node(layer, node, per_channel=False)


@candidate("int8-rows", ["Gather"], rows_independent=True)
def _int8_rows(layer: Layer, node: onnx.NodeProto) -> Piece:
    """An embedding whose rows stay int8 in memory, each with its own scale, and are decoded after the lookup."""
    name, table = _embedding(layer, node)
    quantized, scale = _to_int8(table, axes=(1,))
    looked_up, scales, numbers = (f"{node.output[0]}/{role}" for role in ("int8", "scale", "numbers"))
    return Piece(
        nodes=(
            helper.make_node("Gather", [f"{name}/int8", node.input[1]], [looked_up], node.name, axis=0),
            helper.make_node("Gather", [f"{name}/scale", node.input[1]], [scales], f"{node.name}/scale", axis=0),
            helper.make_node("Cast", [looked_up], [numbers], f"{node.name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [numbers, scales], node.output, f"{node.name}/decode"),
        ),
        initializers=(_tensor(f"{name}/int8", quantized), _tensor(f"{name}/scale", scale)),
    )


@candidate("int8-table", ["Gather"], rows_independent=True)
def _int8_table(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The embedding as onnxruntime's quantizer makes it: one scale for the whole table, decoded after the lookup."""
    _embedding(layer, node)
    return quantize_node(layer, node, per_channel=False)


_ALL = ["LSTM", "GRU", "RNN", "MatMul", "Gemm", "Conv", "Gather", *WITH_BODY]


# Stored weights are decoded by Cast and Mul, not DequantizeLinear: onnxruntime folds the former into constants when the
# session loads, and the latter never.
@candidate("int8-weights", _ALL, rows_independent=True)
def _int8_weights(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The op as it was, its weights stored as int8 and decoded when the session loads."""
    decoders, initializers = [], []
    for name, (reader, _) in layer.weights.items():
        quantized, scale = _to_int8(layer.constants[name], _axes_of_one_unit(reader, layer.constants[name].ndim))
        decoders += [
            helper.make_node("Cast", [f"{name}/int8"], [f"{name}/numbers"], f"{name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/numbers", f"{name}/scale"], [name], f"{name}/decode"),
        ]
        initializers += [_tensor(f"{name}/int8", quantized), _tensor(f"{name}/scale", scale)]
    return Piece(nodes=(node,), decoders=tuple(decoders), initializers=tuple(initializers))


@candidate("float16-weights", _ALL, rows_independent=True)
def _float16_weights(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The op as it was, its weights stored as float16 and decoded when the session loads."""
    decoders, initializers = [], []
    for name in layer.weights:
        array = layer.constants[name]
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise Declined(f"constant '{name}' holds values beyond float16's {np.finfo(np.float16).max:.0f}")
        decoders.append(helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/cast", to=TensorProto.FLOAT))
        initializers.append(_tensor(f"{name}/half", array.astype(np.float16)))
    return Piece(nodes=(node,), decoders=tuple(decoders), initializers=tuple(initializers))


def _embedding(layer: Layer, node: onnx.NodeProto) -> tuple[str, Array]:
    """Name and values of the table of a Gather that looks up rows; Declined when it looks up anything else."""
    table = layer.constants[node.input[0]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if table.ndim != 2 or axis not in (0, -2):
        raise Declined(f"it gathers along axis {axis} of an array of rank {table.ndim}, not rows of a table")
    return node.input[0], table


def _axes_of_one_unit(reader: onnx.NodeProto, rank: int) -> tuple[int, ...]:
    """The axes that one scale spans: those that one output unit sums over."""
    if reader.op_type in RECURRENT:
        return (2,)  # W (directions, gates × units, features), R (directions, gates × units, units)
    if reader.op_type in ("Conv", "Gather"):
        return tuple(range(1, rank))  # W (output channels, input channels, kernel...), data (rows, ...)
    if reader.op_type == "Gemm" and any(entry.name == "transB" and entry.i for entry in reader.attribute):
        return (1,)  # B (outputs, inputs)
    return (rank - 2,)  # B (..., inputs, outputs)


def _to_int8(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """int8 numbers of the array's shape, and float32 scales with length 1 along `axes`."""
    scale = np.abs(array).max(axis=axes, keepdims=True, initial=0) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale


def _tensor(name: str, array: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
