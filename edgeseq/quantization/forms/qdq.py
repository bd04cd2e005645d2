"""8 bits for TensorRT: QuantizeLinear and DequantizeLinear around a MatMul, Gemm or Conv.

TensorRT takes no integer op, but fuses these pairs into its own 8-bit kernels. Its parser takes int8 with zero points
of 0 alone, so ranges are symmetric
(https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md). Weights have a scale for each output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.forms.dense import inputs_of
from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.ranges import best_bound
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece

# The one from which on these ops have a scale for each output.
_OLDEST_OPSET = 13


def bounds(layer: Layer, seen: Mapping[str, Array]) -> dict[str, float]:
    """The bound of the layer's inputs on the samples, as a parameter; raises Declined where there is none."""
    return {"x_bound": best_bound(np.concatenate([seen[name] for name in inputs_of(layer)]))}


def in_pairs(layer: Layer, node: onnx.NodeProto, parameters: Mapping[str, float]) -> Piece:
    """The node as it was, its input and weights rounded to 8 bits before it."""
    if layer.opset < _OLDEST_OPSET:
        raise Declined(f"the file is of operator set {layer.opset}; a scale for each output needs {_OLDEST_OPSET}")
    weights = layer.constants[node.input[1]]
    axis = 0 if node.op_type == "Conv" or _is_transposed(node) else weights.ndim - 1
    numbers, scale = to_int8(weights, tuple(index for index in range(weights.ndim) if index != axis))
    if scale.size != weights.shape[axis]:
        raise Declined(f"its weights have rank {weights.ndim}; this form takes a matrix")
    x, name = f"{node.output[0]}/x", f"{node.input[1]}/axis{axis}"
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[0], changed.input[1] = f"{x}/decoded", f"{name}/decoded"
    of_x, of_weights = [f"{x}/scale", f"{x}/zero"], [f"{name}/scale", f"{name}/zero"]
    constants: dict[str, Array | np.generic] = {
        f"{x}/scale": np.float32(parameters["x_bound"] / 127),
        f"{x}/zero": np.int8(0),
        f"{name}/int8": numbers,
        f"{name}/scale": scale.reshape(-1),
        f"{name}/zero": np.zeros(scale.size, np.int8),
    }
    return Piece(
        nodes=(
            helper.make_node("QuantizeLinear", [node.input[0], *of_x], [f"{x}/int8"], f"{node.name}/quantize"),
            helper.make_node("DequantizeLinear", [f"{x}/int8", *of_x], [f"{x}/decoded"], f"{node.name}/dequantize"),
            changed,
        ),
        decoders=(
            helper.make_node(
                "DequantizeLinear", [f"{name}/int8", *of_weights], [f"{name}/decoded"], f"{name}/decode", axis=axis
            ),
        ),
        initializers=tuple(tensor(key, value) for key, value in constants.items()),
    )


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(entry.name == "transB" and entry.i for entry in node.attribute)
