"""The forms a product of numbers with constant weights can take: y = x W, W of shape (inputs, outputs).

Each form replaces one MatMul by nodes of onnxruntime that multiply small integers, and says so by its name. Operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.integers import Array, tensor, to_int8
from edgeseq.quantization.rewriting import subgraphs

CONTRIBUTED = "com.microsoft"
"""Domain of the operators that onnxruntime has beside ONNX's own."""

# MatMulNBits computes with 8-bit integers, each row of x quantized by blocks of its own.
_COMPUTE_IN_8_BITS = 4


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product, as nodes."""

    nodes: tuple[onnx.NodeProto, ...]
    """They read x and make y."""
    initializers: tuple[onnx.TensorProto, ...]
    """The weights as the nodes read them."""


Form = Callable[[onnx.NodeProto, Array], Product]
"""A MatMul (its names are kept) and its weights (inputs, outputs), float32, to the product in another form."""


def dynamic(node: onnx.NodeProto, weights: Array) -> Product:
    """8-bit weights with a scale an output; x in 8 bits with one scale for all of it, found while running.

    A row's answer depends on the rows and steps that share its call.
    """
    name = node.input[1]
    quantized, scale = to_int8(weights, axes=(0,))
    return Product(
        nodes=(
            helper.make_node(
                "DynamicQuantizeMatMul",
                [node.input[0], f"{name}/int8", f"{name}/scale"],
                node.output,
                node.name,
                domain=CONTRIBUTED,
            ),
        ),
        initializers=(tensor(f"{name}/int8", quantized), tensor(f"{name}/scale", scale.reshape(-1))),
    )


def bounded(bound: float) -> Form:
    """8-bit weights with a scale an output; x in 8 bits with the scale of -bound..bound, known beforehand.

    Rows and steps stay independent. Numbers beyond the bound are taken for the bound.
    """
    scale_x, zero = np.float32(bound / 127), np.uint8(128)

    def form(node: onnx.NodeProto, weights: Array) -> Product:
        name, x = node.input[1], f"{node.output[0]}/int8"
        quantized, scale = to_int8(weights, axes=(0,))
        return Product(
            nodes=(
                helper.make_node(
                    "QuantizeLinear", [node.input[0], f"{name}/scale_x", f"{name}/zero_x"], [x], f"{node.name}/quantize"
                ),
                helper.make_node(
                    "MatMulIntegerToFloat",
                    [x, f"{name}/int8", f"{name}/scale_x", f"{name}/scale", f"{name}/zero_x"],
                    node.output,
                    node.name,
                    domain=CONTRIBUTED,
                ),
            ),
            initializers=(
                tensor(f"{name}/int8", quantized),
                tensor(f"{name}/scale", scale.reshape(-1)),
                tensor(f"{name}/scale_x", scale_x),
                tensor(f"{name}/zero_x", zero),
            ),
        )

    return form


def blocks(bits: int, size: int) -> Form:
    """Weights in 4 or 8 bits, a scale for each `size` inputs of an output; x in 8 bits by the same blocks of a row.

    Rows and steps stay independent.
    """

    def form(node: onnx.NodeProto, weights: Array) -> Product:
        name = node.input[1]
        inputs, outputs = weights.shape
        packed, scale = _to_blocks(weights, bits, size)
        return Product(
            nodes=(
                helper.make_node(
                    "MatMulNBits",
                    [node.input[0], f"{name}/{bits}bit", f"{name}/scale"],
                    node.output,
                    node.name,
                    domain=CONTRIBUTED,
                    K=inputs,
                    N=outputs,
                    bits=bits,
                    block_size=size,
                    accuracy_level=_COMPUTE_IN_8_BITS,
                ),
            ),
            initializers=(tensor(f"{name}/{bits}bit", packed), tensor(f"{name}/scale", scale)),
        )

    return form


def replace_products(
    graph: onnx.GraphProto, constants: Mapping[str, Array], *, outside: Form | None, inside: Form | None
) -> list[onnx.TensorProto]:
    """Give every MatMul with constant weights, in place, the form for those `outside` or `inside` of bodies.

    None leaves them as they are. `constants` are those of the outermost graph. Returns what the new nodes read.
    """
    made: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            made += replace_products(body, constants, outside=inside, inside=inside)
        weights = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if outside is None or weights is None or weights.ndim != 2:
            nodes.append(node)
            continue
        product = outside(node, weights)
        nodes += product.nodes
        made += product.initializers
    # The list cannot be assigned to, and clearing it would empty the nodes kept: copies go back.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return made


def _to_blocks(weights: Array, bits: int, size: int) -> tuple[Array, Array]:
    """MatMulNBits's layout: (outputs, blocks, bytes of a block) and scales (outputs, blocks).

    Numbers are unsigned with the zero in the middle. The number that is largest in a block gets the lowest integer,
    whose magnitude is the larger one: of ``[-8, 7]`` it uses all.
    """
    inputs, outputs = weights.shape
    count = -(-inputs // size)
    padded = np.zeros((outputs, count * size), np.float32)
    padded[:, :inputs] = weights.T
    block = padded.reshape(outputs, count, size)
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(block, np.abs(block).argmax(-1)[..., None], axis=-1)
    scale = np.where(largest == 0, np.float32(1), largest / -half).astype(np.float32)
    numbers = np.clip(np.rint(block / scale) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        # Two to a byte, the earlier one in the lower half.
        numbers = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    return numbers, scale[..., 0]
