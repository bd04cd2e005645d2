"""The forms a product of numbers with constant weights can take: y = x W + b, W of shape (inputs, outputs).

Each form replaces one MatMul by nodes of onnxruntime that multiply small integers, and says so by its name. Operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.

A form is given a node with the inputs x, W and, where there is one, a bias of shape (outputs,): all that matters of it
are its names. Where weights have a choice of 8 or 7 bits, see `edgeseq.quantization.forms.processors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.ranges import scale_and_zero
from edgeseq.quantization.rewriting import subgraphs

CONTRIBUTED = "com.microsoft"
"""Domain of the operators that onnxruntime has beside ONNX's own."""

_SMALLEST_BLOCK = 16
# MatMulNBits computes with 8-bit integers, each row of x quantized by blocks of its own.
_COMPUTE_IN_8_BITS = 4
# Shares of a block's largest number that its scale may be chosen for: a smaller one cuts that number, and rounds the
# others more finely.
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product, as nodes."""

    nodes: tuple[onnx.NodeProto, ...]
    """They read x and make y."""
    initializers: tuple[onnx.TensorProto, ...]
    """The weights as the nodes read them."""


Form = Callable[[onnx.NodeProto, Array], Product]
"""A product (its names are kept) and its weights (inputs, outputs), float32, to the product in another form."""


def dynamic(bits: int = 8) -> Form:
    """Weights of 8 or 7 `bits` with a scale an output; x in 8 bits with one scale for all of it, found while running.

    A row's answer depends on the rows and steps that share its call.
    """

    def form(node: onnx.NodeProto, weights: Array) -> Product:
        name = f"{node.input[1]}/int{bits}"
        quantized, scale = to_int8(weights, (0,), bits)
        return Product(
            nodes=(
                helper.make_node(
                    "DynamicQuantizeMatMul",
                    _without_trailing_gaps([node.input[0], name, f"{name}/scale", "", *node.input[2:]]),
                    node.output,
                    node.name,
                    domain=CONTRIBUTED,
                ),
            ),
            initializers=(tensor(name, quantized), tensor(f"{name}/scale", scale.reshape(-1))),
        )

    return form


def bounded(bound: float, bits: int = 8) -> Form:
    """Weights of 8 or 7 `bits` with a scale an output; x in 8 bits with the scale of -bound..bound, known beforehand.

    Rows and steps stay independent. Numbers beyond the bound are taken for the bound.
    """
    return _static(np.float32(bound / 127), np.uint8(128), bits)


def ranged(low: float, high: float, bits: int = 8) -> Form:
    """As `bounded`, for x in the range low..high, which holds 0."""
    return _static(*scale_and_zero(low, high), bits)


def _static(scale_x: np.float32, zero: np.uint8, bits: int) -> Form:
    def form(node: onnx.NodeProto, weights: Array) -> Product:
        name, x = f"{node.input[1]}/int{bits}", f"{node.output[0]}/int8"
        quantized, scale = to_int8(weights, (0,), bits)
        return Product(
            nodes=(
                helper.make_node(
                    "QuantizeLinear", [node.input[0], f"{x}/scale", f"{x}/zero"], [x], f"{node.name}/quantize"
                ),
                helper.make_node(
                    "MatMulIntegerToFloat",
                    _without_trailing_gaps([x, name, f"{x}/scale", f"{name}/scale", f"{x}/zero", "", *node.input[2:]]),
                    node.output,
                    node.name,
                    domain=CONTRIBUTED,
                ),
            ),
            initializers=(
                tensor(name, quantized),
                tensor(f"{name}/scale", scale.reshape(-1)),
                tensor(f"{x}/scale", scale_x),
                tensor(f"{x}/zero", zero),
            ),
        )

    return form


def blocks(bits: int, size: int) -> Form:
    """Weights in 4 or 8 bits, a scale for each `size` inputs of an output; x in 8 bits by the same blocks of a row.

    Where there are fewer inputs, blocks are shorter. Rows and steps stay independent. onnxruntime adds
    its products in 32 bits on every processor.
    """

    def form(node: onnx.NodeProto, weights: Array) -> Product:
        inputs, outputs = weights.shape
        # What fills no block is stored all the same.
        length = min(size, max(_SMALLEST_BLOCK, 1 << (inputs - 1).bit_length()))
        name = f"{node.input[1]}/{bits}bit{length}"
        packed, scale, zeros = to_blocks(weights, bits, length)
        zero_name = f"{name}/zeros" if zeros is not None else ""
        return Product(
            nodes=(
                helper.make_node(
                    "MatMulNBits",
                    _without_trailing_gaps([node.input[0], name, f"{name}/scale", zero_name, "", *node.input[2:]]),
                    node.output,
                    node.name,
                    domain=CONTRIBUTED,
                    K=inputs,
                    N=outputs,
                    bits=bits,
                    block_size=length,
                    accuracy_level=_COMPUTE_IN_8_BITS,
                ),
            ),
            initializers=(
                tensor(name, packed),
                tensor(f"{name}/scale", scale),
                *((tensor(zero_name, zeros),) if zeros is not None else ()),
            ),
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


def to_blocks(weights: Array, bits: int, size: int) -> tuple[Array, Array, Array | None]:
    """MatMulNBits's layout of (inputs, outputs).

    That is the numbers (outputs, blocks, bytes of a block), scales (outputs, blocks), and of 4 bits the zero of each
    block, (outputs, bytes of its zeros): the error of a product is then 5 % smaller for random weights and 5 to 70 %
    for most trained ones. Eight bits are so fine that the zero may lie in the middle.
    """
    inputs, outputs = weights.shape
    count = -(-inputs // size)
    padded = np.zeros((outputs, count * size), np.float32)
    padded[:, :inputs] = weights.T
    block = padded.reshape(outputs, count, size)
    if bits == 8:
        numbers, scale = round_blocks(block, bits)
        return pack(numbers, bits), scale[..., 0], None
    most = 2**bits - 1
    low, high = (np.asarray(end(block, axis=-1, initial=0, keepdims=True)) for end in (np.min, np.max))
    scale = np.where(low == high, np.float32(1), (high - low) / most).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, most)
    numbers = np.clip(np.rint(block / scale) + zero, 0, most).astype(np.uint8)
    zeros = np.zeros((outputs, count + count % 2), np.uint8)
    zeros[:, :count] = zero[..., 0]
    return pack(numbers, bits), scale[..., 0], pack(zeros, bits)


def round_blocks(block: Array, bits: int, *, cut: bool = False) -> tuple[Array, Array]:
    """The numbers (..., size) of blocks as unsigned integers with the zero in the middle, and scales (..., 1).

    The number that is largest in a block gets the lowest integer, whose magnitude is the larger one: of ``[-8, 7]`` all
    are used. With `cut` it may be cut where the sum of squared errors falls by it. That is for numbers that are read
    alone, such as rows of an embedding. In products it makes the error of random weights 4 % smaller, but that of
    trained LSTMs up to twice as large: the largest of their weights do the most.
    """
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(block, np.abs(block).argmax(-1)[..., None], axis=-1)
    whole = np.where(largest == 0, np.float32(1), largest / -half).astype(np.float32)
    best, least = whole, np.full(whole.shape, np.inf, np.float32)
    for clip in _CLIPS if cut else ():
        scale = whole * np.float32(clip)
        off = np.clip(np.rint(block / scale), -half, half - 1) * scale - block
        error = np.einsum("...i,...i->...", off, off)[..., None]
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return (np.clip(np.rint(block / best), -half, half - 1) + half).astype(np.uint8), best


def pack(numbers: Array, bits: int) -> Array:
    """Unsigned integers (..., size) as bytes: of 4 bits two to a byte, the earlier one in the lower half."""
    return numbers if bits == 8 else numbers[..., 0::2] | (numbers[..., 1::2] << 4)


def _without_trailing_gaps(names: list[str]) -> list[str]:
    while not names[-1]:
        names.pop()
    return names
