"""Convolutions in 8 bits with known scales.

onnxruntime's integer convolution with scales found while running (`ConvInteger`) takes 4 to 22 times as long as
the one in float; `QLinearConv` takes a third to a half of its time where there are 64 channels and more. It needs the
range of its output, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.forms.dense import inputs_of
from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.ranges import range_of, range_parameters
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece


def observed(layer: Layer) -> list[str]:
    """The values whose ranges `ranges` needs: inputs and outputs."""
    return [*inputs_of(layer), *(node.output[0] for node in layer.nodes)]


def ranges(layer: Layer, seen: Mapping[str, Array]) -> dict[str, float]:
    """The ranges of inputs and outputs, as parameters; raises Declined where there is none."""
    return {
        **range_parameters("x", np.concatenate([seen[name] for name in inputs_of(layer)])),
        **range_parameters("y", np.concatenate([seen[node.output[0]] for node in layer.nodes])),
    }


def in_8_bits(layer: Layer, node: onnx.NodeProto, parameters: Mapping[str, float], bits: int) -> Piece:
    """The convolution with weights of 8 or 7 `bits`, a scale for each output channel.

    Raises Declined where its bias is not constant.
    """
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in layer.constants:
        raise Declined("its bias is not constant")
    weights = layer.constants[node.input[1]]
    numbers, scale = to_int8(weights, tuple(range(1, weights.ndim)), bits)
    scale = scale.reshape(-1)
    (x_scale, x_zero), (y_scale, y_zero) = range_of(parameters, "x"), range_of(parameters, "y")
    name, x, y = f"{node.input[1]}/int{bits}", f"{node.output[0]}/x", f"{node.output[0]}/y"
    constants: dict[str, Array | np.generic] = {
        name: numbers,
        f"{name}/scale": scale,
        f"{name}/zero": np.zeros(len(numbers), np.int8),
        f"{x}/scale": x_scale,
        f"{x}/zero": x_zero,
        f"{y}/scale": y_scale,
        f"{y}/zero": y_zero,
    }
    added = []
    if bias:
        # As the sums themselves: in units of the scales' product.
        limits = np.iinfo(np.int32)
        whole = np.rint(layer.constants[bias].astype(np.float64) / (scale.astype(np.float64) * x_scale))
        added = [f"{y}/bias"]
        constants[f"{y}/bias"] = np.clip(whole, limits.min, limits.max).astype(np.int32)
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return Piece(
        nodes=(
            helper.make_node(
                "QuantizeLinear", [node.input[0], f"{x}/scale", f"{x}/zero"], [x], f"{node.name}/quantize"
            ),
            helper.make_node(
                "QLinearConv",
                [
                    *(x, f"{x}/scale", f"{x}/zero"),
                    *(name, f"{name}/scale", f"{name}/zero"),
                    *(f"{y}/scale", f"{y}/zero"),
                    *added,
                ],
                [y],
                node.name,
                **attributes,
            ),
            helper.make_node("DequantizeLinear", [y, f"{y}/scale", f"{y}/zero"], node.output, f"{node.name}/decode"),
        ),
        initializers=tuple(tensor(key, value) for key, value in constants.items()),
    )
