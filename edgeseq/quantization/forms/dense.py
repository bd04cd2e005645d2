"""Dense layers: MatMul and Gemm with constant weights, their product in another form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.forms.integers import Array, tensor
from edgeseq.quantization.forms.products import CONTRIBUTED, Form
from edgeseq.quantization.forms.ranges import range_parameters
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece


def in_form(node: onnx.NodeProto, constants: Mapping[str, Array], form: Form) -> Piece:
    """The piece in which the product of a MatMul or Gemm with constant weights has this form.

    Raises Declined where the weights are no matrix, or the Gemm reads its input transposed.
    """
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    weights = constants[node.input[1]]
    if weights.ndim != 2:
        raise Declined(f"its weights have rank {weights.ndim}; this form takes a matrix")
    if given.get("transA"):
        raise Declined("it reads its input transposed, so that rows are columns")
    name = str(node.input[1])
    # Other nodes may read the same weights otherwise.
    if given.get("transB"):
        name, weights = f"{name}/transposed", weights.T
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
    if alpha != 1:
        name, weights = f"{name}/times {alpha:g}", weights * np.float32(alpha)
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias or beta == 0:
        return _piece(form, node, [node.input[0], name], node.output[0], weights)
    added = constants.get(bias)
    if added is not None and added.size == weights.shape[1]:
        bias = f"{bias}/row" if beta == 1 else f"{bias}/row times {beta:g}"
        row = tensor(bias, (added * np.float32(beta)).reshape(-1))
        return _piece(form, node, [node.input[0], name, bias], node.output[0], weights, initializers=[row])
    product, scaled = f"{node.output[0]}/product", f"{node.output[0]}/bias"
    after, factors = [], []
    if beta != 1:
        after = [helper.make_node("Mul", [bias, f"{scaled}/beta"], [scaled], f"{node.name}/beta")]
        factors, bias = [tensor(f"{scaled}/beta", np.float32(beta))], scaled
    after.append(helper.make_node("Add", [product, bias], node.output, f"{node.name}/add"))
    return _piece(form, node, [node.input[0], name], product, weights, after=after, initializers=factors)


def _piece(
    form: Form,
    node: onnx.NodeProto,
    inputs: Sequence[str],
    output: str,
    weights: Array,
    *,
    after: Sequence[onnx.NodeProto] = (),
    initializers: Sequence[onnx.TensorProto] = (),
) -> Piece:
    product = form(helper.make_node("MatMul", inputs, [output], node.name), np.ascontiguousarray(weights))
    return Piece(
        nodes=(*product.nodes, *after),
        initializers=(*product.initializers, *initializers),
        domains={CONTRIBUTED: 1},
    )


def inputs_of(layer: Layer) -> list[str]:
    """The values that a layer of one product or convolution reads."""
    return list(dict.fromkeys(node.input[0] for node in layer.nodes))


def input_range(layer: Layer, seen: Mapping[str, Array]) -> dict[str, float]:
    """The range of the layer's inputs on the samples, as parameters; raises Declined where there is none."""
    return range_parameters("x", np.concatenate([seen[name] for name in inputs_of(layer)]))
