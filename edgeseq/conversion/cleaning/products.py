"""`Einsum` of two operands as the matrix product that it is, which onnxruntime runs faster and edgeseq can quantize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeseq.conversion.cleaning import graphs
from edgeseq.lowering.builder import Builder


def write_products(graph: ir.Graph) -> None:
    """Replace each Einsum that is one product, transpositions apart; the others stay."""
    for node in list(graph):
        if node.op_type != "Einsum" or node.domain or len(node.inputs) != 2:
            continue
        terms = node.attributes.get_string("equation").replace(" ", "").replace("->", ",").split(",")
        if len(terms) != 3 or any(len(set(term)) < len(term) or not term.isalpha() for term in terms):
            continue
        b = graphs.builder(node)
        made = _by_a_constant(b, node, *terms) or _by_a_value(b, node, *terms)
        if made is not None:
            graphs.insert(graph, node, b)
            graphs.replace(graph, node, [made])


def _by_a_constant(b: Builder, node: ir.Node, left: str, right: str, result: str) -> ir.Value | None:
    """(rows..., summed...) times a constant, as in attention's projections: its axes are put together to a matrix."""
    x, matrix = node.inputs[0], graphs.constant(node.inputs[1])
    lengths = graphs.lengths(x)
    if x is None or matrix is None or lengths is None or len(lengths) != len(left):
        return None
    summed = "".join(axis for axis in left if axis in right)
    rows, columns = left[: len(left) - len(summed)], "".join(axis for axis in right if axis not in summed)
    # Where the summed axes are not the last ones of x, one of them is among the rows, and not in the result.
    if result != rows + columns or not summed or not rows or not columns:
        return None
    sizes = dict(zip(right, matrix.shape, strict=True))
    array = matrix.transpose([right.index(axis) for axis in summed + columns])
    array = array.reshape(_size(sizes, summed), _size(sizes, columns))
    if len(summed) > 1:
        x = b.op("Reshape", x, b.integers(*[0] * len(rows), array.shape[0]))
    product = b.op("MatMul", x, b.constant(array, array.dtype))
    product.shape = ir.Shape([*lengths[: len(rows)], array.shape[1]])
    if len(columns) == 1:
        return product
    return b.op("Reshape", product, b.integers(*[0] * len(rows), *[sizes[axis] for axis in columns]))


def _size(sizes: dict[str, int], axes: str) -> int:
    return int(np.prod([sizes[axis] for axis in axes]))


def _by_a_value(b: Builder, node: ir.Node, left: str, right: str, result: str) -> ir.Value | None:
    """One axis of each, one summed axis, and any that are in all three."""
    shared = "".join(axis for axis in result if axis in left and axis in right)
    summed = [axis for axis in left if axis in right and axis not in result]
    rows = [axis for axis in result if axis not in right]
    columns = [axis for axis in result if axis not in left]
    x, y = node.inputs
    if x is None or y is None or not len(summed) == len(rows) == len(columns) == 1:
        return None
    # An axis of only one operand that is not in the result would be summed by itself.
    if len(left) != len(shared) + 2 or len(right) != len(shared) + 2:
        return None
    first, second = shared + rows[0] + summed[0], shared + summed[0] + columns[0]
    product = b.op("MatMul", _ordered(b, x, left, first), _ordered(b, y, right, second))
    return _ordered(b, product, shared + rows[0] + columns[0], result)


def _ordered(b: Builder, value: ir.Value, axes: Sequence[str], wanted: Sequence[str]) -> ir.Value:
    return value if axes == wanted else b.transpose(value, *[axes.index(axis) for axis in wanted])
