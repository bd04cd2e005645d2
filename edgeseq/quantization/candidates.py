"""The forms a layer can take. A candidate is one small object; a new form is one new function here or beside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseq.bench.machine import this_machine
from edgeseq.quantization.forms import bodies, convolution, convolutional, dense, embedding, products, qdq
from edgeseq.quantization.forms.half import to_float16
from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.onnxruntime_quantizer import quantize_node
from edgeseq.quantization.forms.processors import Sums, reason_against, sums_of
from edgeseq.quantization.forms.recurrent import check_bounded, written_out
from edgeseq.quantization.layers import CONV_LSTM, RECURRENT, WITH_BODY, Layer
from edgeseq.quantization.rewriting import Declined, Piece, splice

Parameters = Mapping[str, float]
"""What calibration found for a form, by name, such as the range of an activation. Kept in plans."""

Rewrite = Callable[[Layer, Parameters], Mapping[str, Piece]]
RewriteNode = Callable[[Layer, onnx.NodeProto], Piece]
RewriteInt8 = Callable[[Layer, Parameters, int], Mapping[str, Piece]]
RewriteInt8Node = Callable[[Layer, onnx.NodeProto, Parameters, int], Piece]
Calibrate = Callable[[Layer, Mapping[str, Array]], Parameters]


CPU_ONLY = frozenset(["cpu"])
FLOAT16 = "float16"
"""Name of the form in which a layer, and all that is no layer, is computed in half precision."""


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
    sums: Sums = "any"
    """Processors on which it is right and of use, by how they add products of 8-bit numbers."""
    targets: frozenset[str] = CPU_ONLY
    """Where the file is to run, of ``"cpu"``, ``"cuda"`` and ``"tensorrt"``: all of the form's ops run there."""


DENSE = ("MatMul", "Gemm")


CANDIDATES: dict[str, Candidate] = {}
"""Every candidate by name. Of two that measure alike, the earlier is taken."""


def candidate(
    name: str,
    op_types: Sequence[str],
    *,
    rows_independent: bool,
    op_type_after: str | None = None,
    targets: frozenset[str] = CPU_ONLY,
) -> Callable[[RewriteNode], RewriteNode]:
    """Register a form that is made node by node, without parameters."""

    def register(rewrite: RewriteNode) -> RewriteNode:
        CANDIDATES[name] = Candidate(
            name=name,
            op_types=frozenset(op_types),
            rows_independent=rows_independent,
            rewrite=lambda layer, _: {node.name: rewrite(layer, node) for node in layer.nodes},
            op_type_after=op_type_after,
            targets=targets,
        )
        return rewrite

    return register


def register_int8(
    name: str,
    op_types: Sequence[str],
    rewrite: RewriteInt8,
    *,
    rows_independent: bool,
    op_type_after: str | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Register a form that multiplies 8-bit activations by weights of 8 bits, and beside it the same with 7 bits.

    Which of the two is for a machine, `edgeseq.quantization.forms.processors` says.
    """
    variants: tuple[tuple[str, int, Sums], ...] = ((name, 8, "wide"), (f"{name}-7-bit", 7, "narrow"))
    for variant, bits, sums in variants:
        CANDIDATES[variant] = Candidate(
            name=variant,
            op_types=frozenset(op_types),
            rows_independent=rows_independent,
            rewrite=_with_bits(rewrite, bits),
            calibration=calibration,
            op_type_after=op_type_after,
            sums=sums,
        )


def _with_bits(rewrite: RewriteInt8, bits: int) -> Rewrite:
    return lambda layer, parameters: rewrite(layer, parameters, bits)


def int8_candidate(
    name: str,
    op_types: Sequence[str],
    *,
    rows_independent: bool,
    op_type_after: str | None = None,
    calibration: Calibration | None = None,
) -> Callable[[RewriteInt8Node], RewriteInt8Node]:
    """As `register_int8`, for a form that is made node by node."""

    def register(rewrite: RewriteInt8Node) -> RewriteInt8Node:
        register_int8(
            name,
            op_types,
            lambda layer, parameters, bits: {node.name: rewrite(layer, node, parameters, bits) for node in layer.nodes},
            rows_independent=rows_independent,
            op_type_after=op_type_after,
            calibration=calibration,
        )
        return rewrite

    return register


def candidates_for(layer: Layer, sums: Sums | None = None, target: str = "cpu") -> tuple[Candidate, ...]:
    """The candidates for a layer's op type, in order of preference.

    They run on `target`, and on the CPU are right on a processor with these `sums` (see
    `edgeseq.quantization.forms.processors`; this machine's unless given).
    """
    sums = sums_here() if sums is None else sums
    return tuple(
        entry
        for entry in CANDIDATES.values()
        if layer.op_type in entry.op_types and target in entry.targets and not reason_against(entry.sums, sums)
    )


def unsuited_for(layer: Layer, sums: Sums | None = None) -> dict[str, str]:
    """The forms that this processor would compute wrongly, by name, with the reason."""
    sums = sums_here() if sums is None else sums
    return {
        entry.name: reason_against(entry.sums, sums)
        for entry in CANDIDATES.values()
        if layer.op_type in entry.op_types and entry.sums == "wide" and reason_against(entry.sums, sums)
    }


@functools.cache
def sums_here() -> Sums:
    """How this machine's processor adds products of 8-bit numbers."""
    machine = this_machine()
    return sums_of(machine.architecture, machine.cpu_features)


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
    made = splice(model, pieces)
    if FLOAT16 not in choices.values():
        return made
    # What is no layer, the functions between them above all, follows.
    kept = {node.name for layer in layers if choices.get(layer.name) != FLOAT16 for node in layer.nodes}
    return to_float16(made, kept)


# In the order of preference among those that measure alike: without row leak first.
@int8_candidate(
    "static-int8",
    DENSE,
    rows_independent=True,
    calibration=Calibration(observed=dense.inputs_of, calibrate=dense.input_range),
)
def _static_dense(layer: Layer, node: onnx.NodeProto, parameters: Parameters, bits: int) -> Piece:
    """The input in 8 bits, its range found on the samples."""
    form = products.ranged(parameters["x_low"], parameters["x_high"], bits)
    return dense.in_form(node, layer.constants, form)


# onnxruntime's dynamic quantization takes one scale for a whole activation tensor, all rows and steps together. Its op
# for convolutions is left out: it was slower than the one in float in every size tried, 4 to 22 times.
@int8_candidate(
    "dynamic-int8-per-channel", ["LSTM", "MatMul", "Gemm"], rows_independent=False, op_type_after="DynamicQuantizeLSTM"
)
def _dynamic_per_channel(layer: Layer, node: onnx.NodeProto, _: Parameters, bits: int) -> Piece:
    return quantize_node(layer, node, per_channel=True, bits=bits)


@int8_candidate("dynamic-int8", ["LSTM", "MatMul", "Gemm"], rows_independent=False, op_type_after="DynamicQuantizeLSTM")
def _dynamic(layer: Layer, node: onnx.NodeProto, _: Parameters, bits: int) -> Piece:
    return quantize_node(layer, node, per_channel=False, bits=bits)


# Written out step by step.
@int8_candidate("steps-int8-bounded", RECURRENT, rows_independent=True, op_type_after="Scan")
def _steps_bounded(layer: Layer, node: onnx.NodeProto, _: Parameters, bits: int) -> Piece:
    """States in 8 bits with the scale of -1..1, where their activation keeps them."""
    check_bounded(layer, node)
    return written_out(layer, node, inputs=products.blocks(8, 128), states=products.bounded(1.0, bits))


_BLOCKS = {
    "8-bit-blocks": (8, 128),
    "4-bit-blocks-32": (4, 32),
    "4-bit-blocks-128": (4, 128),
    "4-bit-blocks-256": (4, 256),
}
"""Name, bits and numbers to a scale of the forms with weights in blocks."""


def _register_blocks(name: str, form: products.Form) -> None:
    @candidate(f"steps-{name}", RECURRENT, rows_independent=True, op_type_after="Scan")
    def _steps(layer: Layer, node: onnx.NodeProto) -> Piece:
        return written_out(layer, node, inputs=form, states=form)

    @candidate(name, DENSE, rows_independent=True)
    def _dense(layer: Layer, node: onnx.NodeProto) -> Piece:
        return dense.in_form(node, layer.constants, form)

    @candidate(f"body-{name}", WITH_BODY, rows_independent=True)
    def _body(layer: Layer, node: onnx.NodeProto) -> Piece:
        return bodies.with_products(layer, node, form)


for _name, (_bits, _size) in _BLOCKS.items():
    _register_blocks(_name, products.blocks(_bits, _size))


@int8_candidate("steps-int8-dynamic", RECURRENT, rows_independent=False, op_type_after="Scan")
def _steps_dynamic(layer: Layer, node: onnx.NodeProto, _: Parameters, bits: int) -> Piece:
    return written_out(layer, node, inputs=products.dynamic(bits), states=products.dynamic(bits))


@int8_candidate("body-int8-dynamic", WITH_BODY, rows_independent=False)
def _body_dynamic(layer: Layer, node: onnx.NodeProto, _: Parameters, bits: int) -> Piece:
    return bodies.with_products(layer, node, products.dynamic(bits))


@int8_candidate(
    "static-int8-convolution",
    ["Conv"],
    rows_independent=True,
    calibration=Calibration(observed=convolution.observed, calibrate=convolution.ranges),
)
def _static_convolution(layer: Layer, node: onnx.NodeProto, parameters: Parameters, bits: int) -> Piece:
    """Input and output in 8 bits, their ranges found on the samples."""
    return convolution.in_8_bits(layer, node, parameters, bits)


def _cell_in_8_bits(layer: Layer, parameters: Parameters, bits: int) -> Mapping[str, Piece]:
    """A whole ConvLSTM in 8 bits, its scales found on the samples."""
    assert layer.cell is not None
    return convolutional.in_8_bits(layer.cell, layer.constants, parameters, bits)


def _observed_in_cell(layer: Layer) -> Sequence[str]:
    assert layer.cell is not None
    return convolutional.observed(layer.cell)


def _ranges_of_cell(layer: Layer, seen: Mapping[str, Array]) -> Parameters:
    assert layer.cell is not None
    return convolutional.ranges(layer.cell, seen)


register_int8(
    "cell-int8",
    [CONV_LSTM],
    _cell_in_8_bits,
    rows_independent=True,
    op_type_after="QLinearConv",
    calibration=Calibration(observed=_observed_in_cell, calibrate=_ranges_of_cell),
)


@candidate("int8-rows", ["Gather"], rows_independent=True)
def _int8_rows(layer: Layer, node: onnx.NodeProto) -> Piece:
    return embedding.int8_rows(layer, node)


@candidate("4-bit-rows", ["Gather"], rows_independent=True)
def _rows_of_4_bits(layer: Layer, node: onnx.NodeProto) -> Piece:
    return embedding.rows_of_4_bits(layer, node, 64)


@candidate("int8-table", ["Gather"], rows_independent=True)
def _int8_table(layer: Layer, node: onnx.NodeProto) -> Piece:
    """The embedding as onnxruntime's quantizer makes it: one scale for the whole table, decoded after the lookup."""
    embedding.table_of(layer, node)
    return quantize_node(layer, node, per_channel=False)


def _in_pairs(layer: Layer, parameters: Parameters) -> Mapping[str, Piece]:
    return {node.name: qdq.in_pairs(layer, node, parameters) for node in layer.nodes}


CANDIDATES["qdq-int8"] = Candidate(
    name="qdq-int8",
    op_types=frozenset([*DENSE, "Conv"]),
    rows_independent=True,
    rewrite=_in_pairs,
    calibration=Calibration(observed=dense.inputs_of, calibrate=qdq.bounds),
    targets=frozenset(["tensorrt"]),
)

_ALL = ["LSTM", "GRU", "RNN", "MatMul", "Gemm", "Conv", "Gather", CONV_LSTM, *WITH_BODY]

# `apply` does it, for all layers that have it and what is between them at once.
CANDIDATES[FLOAT16] = Candidate(
    name=FLOAT16,
    op_types=frozenset(_ALL),
    rows_independent=True,
    rewrite=lambda *_: {},
    targets=frozenset(["cuda", "tensorrt"]),
)


# Stored weights are decoded by Cast and Mul, not DequantizeLinear: onnxruntime folds the former into constants when the
# session loads, and the latter never.
@candidate("int8-weights", _ALL, rows_independent=True, targets=frozenset(["cpu", "cuda"]))
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


@candidate("float16-weights", _ALL, rows_independent=True, targets=frozenset(["cpu", "cuda", "tensorrt"]))
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


def _axes_of_one_unit(reader: onnx.NodeProto, rank: int) -> tuple[int, ...]:
    """The axes that one scale spans: those that one output unit sums over."""
    if reader.op_type in RECURRENT:
        return (2,)  # W (directions, gates × units, features), R (directions, gates × units, units)
    if reader.op_type in ("Conv", "Gather"):
        return tuple(range(1, rank))  # W (output channels, input channels, kernel...), data (rows, ...)
    if reader.op_type == "Gemm" and any(entry.name == "transB" and entry.i for entry in reader.attribute):
        return (1,)  # B (outputs, inputs)
    return (rank - 2,)  # B (..., inputs, outputs)
