"""The forms a layer can take. A candidate is one small object; a new form is one new function here or beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseq.quantization import convolutional, products
from edgeseq.quantization.integers import Array, tensor, to_int8
from edgeseq.quantization.layers import CONV_LSTM, RECURRENT, WITH_BODY, Layer
from edgeseq.quantization.onnxruntime_quantizer import quantize_node
from edgeseq.quantization.recurrent import check_bounded, written_out
from edgeseq.quantization.rewriting import Declined, Piece, splice

Parameters = Mapping[str, float]
"""What calibration found for a form, by name, such as the range of an activation. Kept in plans."""

Rewrite = Callable[[Layer, Parameters], Mapping[str, Piece]]
RewriteNode = Callable[[Layer, onnx.NodeProto], Piece]
Calibrate = Callable[[Layer, Mapping[str, Array]], Parameters]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a form must know of the numbers that flow through its layer."""

    observed: Callable[[Layer], Sequence[str]]
    """Names of the values of the fp32 graph to look at."""
    calibrate: Calibrate
    """From what they were on the samples, by name, to the form's parameters; raises Declined."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One form that a layer can take."""

    name: str
    """Name in plans, manifests and reports."""
    op_types: frozenset[str]
    """Op types of layers it applies to."""
    rows_independent: bool
    """Whether a row's answer is the same whatever rows and steps run beside it."""
    rewrite: Rewrite
    """Makes the pieces, by the name of the node that each replaces; raises Declined with the reason where the form
    does not fit."""
    calibration: Calibration | None = None
    """None for a form without parameters."""
    op_type_after: str | None = None
    """Op type that computes a recurrence in this form; None where it stays as it was."""


CANDIDATES: dict[str, Candidate] = {}
"""Every candidate by name. Of two that measure alike, the earlier is taken."""


def candidate(
    name: str, op_types: Sequence[str], *, rows_independent: bool, op_type_after: str | None = None
) -> Callable[[RewriteNode], RewriteNode]:
    """Register a form that is made node by node, without parameters."""

    def register(rewrite: RewriteNode) -> RewriteNode:
        CANDIDATES[name] = Candidate(
            name=name,
            op_types=frozenset(op_types),
            rows_independent=rows_independent,
            rewrite=lambda layer, _: {node.name: rewrite(layer, node) for node in layer.nodes},
            op_type_after=op_type_after,
        )
        return rewrite

    return register


def candidates_for(layer: Layer) -> tuple[Candidate, ...]:
    """The candidates for a layer's op type, in order of preference."""
    return tuple(entry for entry in CANDIDATES.values() if layer.op_type in entry.op_types)


def rows_independent(choices: Mapping[str, str]) -> bool:
    """Whether every candidate named (layer to candidate) keeps rows and steps independent."""
    return all(CANDIDATES[name].rows_independent for name in choices.values())


def apply(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    choices: Mapping[str, str],
    parameters: Mapping[str, Parameters] | None = None,
) -> onnx.ModelProto:
    """`model` with each layer named in `choices` in the form of the candidate named there; a pure function.

    `parameters` are those of each chosen form that is calibrated, by layer. Raises Declined when a candidate does not
    fit its layer, or two do not fit together.
    """
    pieces: dict[str, Piece] = {}
    for layer in layers:
        if layer.name in choices:
            pieces |= CANDIDATES[choices[layer.name]].rewrite(layer, (parameters or {}).get(layer.name, {}))
    return splice(model, pieces)


# onnxruntime's dynamic quantization takes one scale for a whole activation tensor, all rows and steps together.
@candidate("dynamic-int8-per-channel", ["LSTM", "MatMul", "Gemm"], rows_independent=False, op_type_after="DynamicQuantizeLSTM")
def _dynamic_per_channel(layer: Layer, node: onnx.NodeProto) -> Piece:
    return quantize_node(layer, node, per_channel=True)


@candidate("dynamic-int8", ["LSTM", "MatMul", "Gemm", "Conv"], rows_independent=False, op_type_after="DynamicQuantizeLSTM")
def _dynamic(layer: Layer, node: onnx.NodeProto) -> Piece:
    return quantize_node(layer, node, per_channel=False)


# Written out step by step, in the order of preference among those that measure alike: without row leak first.
@candidate("steps-int8-bounded", RECURRENT, rows_independent=True, op_type_after="Scan")
def _steps_bounded(layer: Layer, node: onnx.NodeProto) -> Piece:
    """States in 8 bits with the scale of -1..1, where their activation keeps them."""
    check_bounded(layer, node)
    return written_out(layer, node, inputs=products.blocks(8, 128), states=products.bounded(1.0))


@candidate("steps-8-bit-blocks", RECURRENT, rows_independent=True, op_type_after="Scan")
def _steps_8_bit(layer: Layer, node: onnx.NodeProto) -> Piece:
    return written_out(layer, node, inputs=products.blocks(8, 128), states=products.blocks(8, 128))


@candidate("steps-4-bit-blocks-32", RECURRENT, rows_independent=True, op_type_after="Scan")
def _steps_4_bit_32(layer: Layer, node: onnx.NodeProto) -> Piece:
    return written_out(layer, node, inputs=products.blocks(4, 32), states=products.blocks(4, 32))


@candidate("steps-4-bit-blocks-128", RECURRENT, rows_independent=True, op_type_after="Scan")
def _steps_4_bit_128(layer: Layer, node: onnx.NodeProto) -> Piece:
    return written_out(layer, node, inputs=products.blocks(4, 128), states=products.blocks(4, 128))


@candidate("steps-int8-dynamic", RECURRENT, rows_independent=False, op_type_after="Scan")
def _steps_dynamic(layer: Layer, node: onnx.NodeProto) -> Piece:
    return written_out(layer, node, inputs=products.dynamic, states=products.dynamic)


def _cell_in_8_bits(layer: Layer, parameters: Parameters) -> Mapping[str, Piece]:
    """A whole ConvLSTM in 8 bits, its scales found on the samples."""
    assert layer.cell is not None
    return convolutional.in_8_bits(layer.cell, layer.constants, parameters)


def _observed_in_cell(layer: Layer) -> Sequence[str]:
    assert layer.cell is not None
    return convolutional.observed(layer.cell)


def _ranges_of_cell(layer: Layer, seen: Mapping[str, Array]) -> Parameters:
    assert layer.cell is not None
    return convolutional.ranges(layer.cell, seen)


CANDIDATES["cell-int8"] = Candidate(
    name="cell-int8",
    op_types=frozenset([CONV_LSTM]),
    rows_independent=True,
    rewrite=_cell_in_8_bits,
    op_type_after="QLinearConv",
    calibration=Calibration(observed=_observed_in_cell, calibrate=_ranges_of_cell),
)


@candidate("int8-rows", ["Gather"], rows_independent=True)
def _int8_rows(layer: Layer, node: onnx.NodeProto) -> Piece:
    """An embedding whose rows stay int8 in memory, each with its own scale, and are decoded after the lookup."""
    name, table = _embedding(layer, node)
    quantized, scale = to_int8(table, axes=(1,))
    looked_up, scales, numbers = (f"{node.output[0]}/{role}" for role in ("int8", "scale", "numbers"))
    return Piece(
        nodes=(
            helper.make_node("Gather", [f"{name}/int8", node.input[1]], [looked_up], node.name, axis=0),
            helper.make_node("Gather", [f"{name}/scale", node.input[1]], [scales], f"{node.name}/scale", axis=0),
            helper.make_node("Cast", [looked_up], [numbers], f"{node.name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [numbers, scales], node.output, f"{node.name}/decode"),
        ),
        initializers=(tensor(f"{name}/int8", quantized), tensor(f"{name}/scale", scale)),
    )


@candidate("int8-table", ["Gather"], rows_independent=True)
def _int8_table(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The embedding as onnxruntime's quantizer makes it: one scale for the whole table, decoded after the lookup."""
    _embedding(layer, node)
    return quantize_node(layer, node, per_channel=False)


_ALL = ["LSTM", "GRU", "RNN", "MatMul", "Gemm", "Conv", "Gather", CONV_LSTM, *WITH_BODY]


# Stored weights are decoded by Cast and Mul, not DequantizeLinear: onnxruntime folds the former into constants when the
# session loads, and the latter never.
@candidate("int8-weights", _ALL, rows_independent=True)
def _int8_weights(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The op as it was, its weights stored as int8 and decoded when the session loads."""
    decoders, initializers = [], []
    for name, (reader, _) in layer.weights.items():
        quantized, scale = to_int8(layer.constants[name], _axes_of_one_unit(reader, layer.constants[name].ndim))
        decoders += [
            helper.make_node("Cast", [f"{name}/int8"], [f"{name}/numbers"], f"{name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/numbers", f"{name}/scale"], [name], f"{name}/decode"),
        ]
        initializers += [tensor(f"{name}/int8", quantized), tensor(f"{name}/scale", scale)]
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
        initializers.append(tensor(f"{name}/half", array.astype(np.float16)))
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
