"""A ConvLSTM computed in 8 bits as a whole.

onnxruntime's integer convolution is slower than the one in float, but the one with known scales (`QLinearConv`) is
several times faster, where the numbers stay in 8 bits from the input to the gates. So a step's input and hidden state
are put together, one convolution of both gives gates and candidate in 8 bits, and the gates' sigmoid is a table of 256
entries (`QLinearSigmoid`). Other functions, and the cell state, go on in float, where small numbers keep their digits.
All scales are known beforehand, so that rows and steps stay independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.forms.cells import ConvolutionalCell, Step, attributes_of
from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.products import CONTRIBUTED
from edgeseq.quantization.rewriting import Declined, Piece, subgraphs, values_read

_IN_NUMPY: Mapping[str, Callable[[Array], Array]] = {
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "Tanh": np.tanh,
    "Relu": lambda z: np.maximum(z, 0),
}
# Shares of the largest number seen that a range may be: what lies beyond is taken for its end.
_CLIPS = np.linspace(0.1, 1.0, 19)
# The zero of unsigned 8-bit numbers that stand for both signs.
_MIDDLE = 128


def observed(cell: ConvolutionalCell) -> list[str]:
    """The values whose ranges `ranges` needs, each once."""
    names = [name for step in cell.steps for name in (step.x, step.last.output[0], *step.split.output)]
    return list(dict.fromkeys(names))


def ranges(cell: ConvolutionalCell, seen: Mapping[str, Array]) -> dict[str, float]:
    """The bound of each quantized value: those of the gates by the least error after their functions.

    ``signed`` is 1 where inputs or states may be negative, else 0. Raises Declined where the cell saw nothing but
    zeros.
    """

    def all_of(names: Sequence[str]) -> Array:
        return np.concatenate([seen[name] for name in names])

    inputs, states = all_of([step.x for step in cell.steps]), all_of([step.last.output[0] for step in cell.steps])
    gates = all_of([step.split.output[gate] for step in cell.steps for gate in (0, 1, 3)])
    candidates = all_of([step.split.output[2] for step in cell.steps])
    found = {
        "x": float(np.abs(inputs).max()),
        "h": float(np.abs(states).max()),
        "gates": _best_bound(gates, cell.steps[0].gate.op_type),
        "candidate": _best_bound(candidates, cell.steps[0].candidate.op_type),
    }
    if not all(found.values()):
        raise Declined("its inputs or states are zero in all samples, so that no range can be chosen")
    return found | {"signed": float(inputs.min() < 0 or states.min() < 0)}


def in_8_bits(
    cell: ConvolutionalCell, constants: Mapping[str, Array], bounds: Mapping[str, float], bits: int = 8
) -> dict[str, Piece]:
    """The pieces, by node name, that compute the cell with these bounds and weights of 8 or 7 `bits`.

    Raises Declined where the input convolution moves its window otherwise than the recurrent one.
    """
    if len({_window(node, constants) for step in cell.steps for node in step.convolutions}) > 1:
        raise Declined("its input convolution has other padding, strides or dilation than the recurrent one")
    writer = _Writer(cell, constants, bounds, bits)
    pieces = {node.name: Piece(nodes=()) for node in cell.nodes}
    for step in cell.steps:
        if step.scan is None:
            pieces[step.last.name] = writer.piece(writer.step(step))
        else:
            pieces[step.scan.name] = writer.piece([writer.scan(step.scan, step)])
    return pieces


class _Writer:
    """Writes the nodes of a cell in 8 bits. Input and hidden state share a scale, so that they can be put together."""

    def __init__(self, cell: ConvolutionalCell, constants: Mapping[str, Array], bounds: Mapping[str, float], bits: int):
        self._attributes, self._name = attributes_of(cell.of_state), str(cell.steps[0].last.name)
        _, kernel_name, *bias_name = cell.of_input.input
        kernel, recurrent = constants[kernel_name], constants[cell.of_state.input[1]]
        self._filters = len(kernel) // 4
        bias = constants[bias_name[0]] if any(bias_name) else np.zeros(len(kernel), np.float32)
        shared = 127 if bounds["signed"] else 255
        scale = {
            name: np.float32(bounds[name] / (shared if name in "xh" else 127))
            for name in ("x", "h", "gates", "candidate")
        }
        self._stretch = scale["gates"] / scale["candidate"]
        # x / scale_x is as large as h / scale_h: the weights of x take up the difference.
        inputs = kernel * (scale["x"] / scale["h"])
        self._constants: dict[str, Any] = {f"{self._name}/scale_{name}": entry for name, entry in scale.items()} | {
            f"{self._name}/zero": np.uint8(_MIDDLE),
            f"{self._name}/zero_xh": np.uint8(_MIDDLE if bounds["signed"] else 0),
            f"{self._name}/sigmoid_scale": np.float32(1 / 256),
            f"{self._name}/sigmoid_zero": np.uint8(0),
            f"{self._name}/thirds": np.array([self._filters] * 3, np.int64),
            f"{self._name}/quarters": np.array([3 * self._filters, self._filters], np.int64),
        }
        for form, weights in (("first", inputs), ("step", np.concatenate([inputs, recurrent], axis=1))):
            chosen, its_bias = self._stretched(weights), self._stretched(bias)
            numbers, weight_scale = to_int8(chosen, tuple(range(1, chosen.ndim)), bits)
            weight_scale = weight_scale.reshape(-1)
            self._constants |= {
                f"{self._name}/{form}/int8": numbers,
                f"{self._name}/{form}/scale": weight_scale,
                f"{self._name}/{form}/zero": np.zeros(len(numbers), np.int8),
                f"{self._name}/{form}/bias": np.rint(its_bias / (weight_scale * scale["h"])).astype(np.int32),
            }

    def _stretched(self, array: Array) -> Array:
        """Rows of the gates, then those of the candidate, which fills their range: its own is another."""
        input_, forget, candidate, output = np.split(array, 4)
        return np.concatenate([input_, forget, output, candidate * self._stretch])

    def piece(self, nodes: Sequence[onnx.NodeProto]) -> Piece:
        read = set(values_read(nodes))
        return Piece(
            nodes=tuple(nodes),
            initializers=tuple(tensor(name, array) for name, array in self._constants.items() if name in read),
            domains={CONTRIBUTED: 1},
        )

    def scan(self, scan: onnx.NodeProto, step: Step) -> onnx.NodeProto:
        """The Scan with its step in 8 bits."""
        changed: onnx.NodeProto = onnx.NodeProto.FromString(scan.SerializeToString())
        [body] = subgraphs(changed)
        replaced = {node.name for node in step.nodes}
        nodes: list[onnx.NodeProto] = []
        for node in body.node:
            if node.name == step.last.name:
                nodes += self.step(step)
            elif node.name not in replaced:
                nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        del body.node[:], body.value_info[:]
        body.node.extend(nodes)
        return changed

    def step(self, step: Step) -> list[onnx.NodeProto]:
        """All of one step: reads and makes the values that the step in float does."""
        at, name = str(step.last.name), self._name
        made: list[onnx.NodeProto] = []

        def op(op_type: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
            made.append(helper.make_node(op_type, inputs, [output], f"{output}", domain=domain, **attributes))
            return output

        x, form = op("QuantizeLinear", [step.x, f"{name}/scale_x", f"{name}/zero_xh"], f"{at}/x"), "first"
        if step.of_state is not None:
            h = op("QuantizeLinear", [step.of_state.input[0], f"{name}/scale_h", f"{name}/zero_xh"], f"{at}/h")
            x, form = op("Concat", [x, h], f"{at}/both", axis=1), "step"
        zero = f"{name}/zero"
        both = op(
            "QLinearConv",
            [
                *(x, f"{name}/scale_h", f"{name}/zero_xh"),
                *(f"{name}/{form}/{entry}" for entry in ("int8", "scale", "zero")),
                *(f"{name}/scale_gates", zero, f"{name}/{form}/bias"),
            ],
            f"{at}/numbers",
            **self._attributes,
        )
        gates, candidate = f"{at}/gates", f"{at}/candidate"
        made.append(helper.make_node("Split", [both, f"{name}/quarters"], [gates, candidate], f"{at}/divide", axis=1))
        if step.gate.op_type == "Sigmoid":
            sigmoid = [f"{name}/sigmoid_scale", f"{name}/sigmoid_zero"]
            op("QLinearSigmoid", [gates, f"{name}/scale_gates", zero, *sigmoid], f"{at}/table", CONTRIBUTED)
            values = op("DequantizeLinear", [f"{at}/table", *sigmoid], f"{at}/values")
        else:
            opened = op("DequantizeLinear", [gates, f"{name}/scale_gates", zero], f"{at}/opened")
            values = op(step.gate.op_type, [opened], f"{at}/values", **attributes_of(step.gate))
        opened = op("DequantizeLinear", [candidate, f"{name}/scale_candidate", zero], f"{at}/float")
        new = op(step.candidate.op_type, [opened], f"{at}/new", **attributes_of(step.candidate))
        input_, forget, output = (f"{at}/{gate}" for gate in ("input", "forget", "output"))
        made.append(
            helper.make_node("Split", [values, f"{name}/thirds"], [input_, forget, output], f"{at}/split", axis=1)
        )
        if step.cell_before is None:
            op("Mul", [input_, new], step.cell_after)
        else:
            op(
                "Add",
                [op("Mul", [forget, step.cell_before], f"{at}/kept"), op("Mul", [input_, new], f"{at}/added")],
                step.cell_after,
            )
        shown = op(step.shown.op_type, [step.cell_after], f"{at}/shown", **attributes_of(step.shown))
        made.append(helper.make_node("Mul", [output, shown], step.last.output, step.last.name))
        return made


def _best_bound(numbers: Array, op_type: str) -> float:
    """The bound with which 8-bit numbers come nearest after the function of that op type."""
    function = _IN_NUMPY.get(op_type, np.asarray)
    largest = float(np.abs(numbers).max())
    exact = function(numbers)

    def error(bound: float) -> float:
        step = bound / 127
        rounded = np.clip(np.rint(numbers / step), -_MIDDLE, 127) * step
        return float(np.square(function(rounded) - exact).mean())

    return min((float(largest * clip) for clip in _CLIPS), key=error) if largest else 0.0


def _window(node: onnx.NodeProto, constants: Mapping[str, Array]) -> tuple[object, ...]:
    """How a convolution moves over an image, with ONNX's defaults written out."""
    shape = constants[node.input[1]].shape[2:]
    given = attributes_of(node)
    rank = len(shape)
    return (
        shape,
        tuple(given.get("pads", [0] * (2 * rank))),
        tuple(given.get("strides", [1] * rank)),
        tuple(given.get("dilations", [1] * rank)),
        given.get("auto_pad", b"NOTSET"),
        given.get("group", 1),
    )
