"""Small integers that a graph computes from the lengths of axes: known ones become constants, the rest one `Shape`.

TensorFlow asks for each length by itself, and in int32; what it puts together again is often the shape of an input.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq.conversion.cleaning import graphs
from edgeseq.lowering.builder import Builder

_LONGEST = 16


@dataclass(frozen=True)
class Axis:
    """The length of an axis that is not known; two with one name are equally long."""

    name: str
    value: ir.Value
    """Where it can be read."""
    index: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Axis) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


Element = int | Axis
Elements = tuple[Element, ...]


def simplify_shapes(graph: ir.Graph) -> None:
    """Replace what is computed from lengths, wherever it takes fewer nodes to say the same.

    Needs inferred shapes: equal names of free axes are taken for equal lengths.
    """
    known: dict[int, Elements | None] = {}
    for node in list(graph):
        _fold(graph, node, known)
    for node in list(graph):
        if node.op_type == "Reshape":
            _constant_target(graph, node, known)
    for node in list(graph):
        for index in _SHAPE_INPUTS.get(node.op_type, ()):
            if index < len(node.inputs):
                _rebuild(graph, node, index, known)


# Inputs that take a shape: an int64 vector.
_SHAPE_INPUTS = {"Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Tile": (1,), "Slice": (1, 2)}


def _fold(graph: ir.Graph, node: ir.Node, known: dict[int, Elements | None]) -> None:
    """A computed vector or number whose elements are all known becomes a constant."""
    output = node.outputs[0]
    if node.op_type not in _RULES or output.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        return
    elements, rank = evaluate(output, known), graphs.rank(output)
    if elements is None or rank is None:
        return
    limits = np.iinfo(output.dtype.numpy())
    if not all(isinstance(element, int) and limits.min <= element <= limits.max for element in elements):
        return
    b = graphs.builder(node)
    array = np.array(elements, output.dtype.numpy())
    made = b.constant(array if rank else array.reshape(()), array.dtype)
    graphs.insert(graph, node, b)
    graphs.replace(graph, node, [made])


def _constant_target(graph: ir.Graph, node: ir.Node, known: dict[int, Elements | None]) -> None:
    """Reshape to lengths that the input has in the same places (0) and to at most one other (-1)."""
    source, target = node.inputs
    if source is None or target is None or graphs.integers(target) is not None or _attribute(node, "allowzero", 0):
        return
    wanted, given = evaluate(target, known), graphs.lengths(source)
    if wanted is None or given is None:
        return
    result = []
    for index, element in enumerate(wanted):
        if isinstance(element, int):
            result.append(element)
        else:
            result.append(0 if index < len(given) and given[index] == element.name else -1)
    if result.count(-1) > 1:
        return
    b = graphs.builder(node)
    made = b.op("Reshape", source, b.integers(*result))
    graphs.insert(graph, node, b)
    graphs.replace(graph, node, [made])


def _rebuild(graph: ir.Graph, node: ir.Node, index: int, known: dict[int, Elements | None]) -> None:
    """Put a shape together from as few `Shape` nodes as it takes."""
    target = node.inputs[index]
    elements = None if target is None or graphs.rank(target) != 1 else evaluate(target, known)
    if target is None or target.dtype != ir.DataType.INT64 or elements is None:
        return
    if all(isinstance(element, int) for element in elements):
        return
    # By the inputs of the graph where they have it, so that nothing between must keep its layout.
    axes = {name: Axis(name, value, axis) for value in reversed(graph.inputs) for axis, name in _free(value)}
    best = [axes.get(element.name, element) if isinstance(element, Axis) else element for element in elements]
    b = graphs.builder(node)
    made = _put_together(b, best)
    if len(b.nodes) >= _cost(target):
        return
    made.shape, made.type = ir.Shape([len(elements)]), ir.TensorType(ir.DataType.INT64)
    graphs.insert(graph, node, b)
    node.replace_input_with(index, made)


def _free(value: ir.Value) -> list[tuple[int, str]]:
    return [(axis, name) for axis, name in enumerate(graphs.lengths(value) or ()) if isinstance(name, str)]


def _put_together(b: Builder, elements: Sequence[Element]) -> ir.Value:
    parts: list[ir.Value] = []
    rest = list(elements)
    while rest:
        first = rest[0]
        if isinstance(first, int):
            run = list(itertools.takewhile(lambda element: isinstance(element, int), rest))
            parts.append(b.integers(*[element for element in run if isinstance(element, int)]))
        else:
            run = [first]
            for element in rest[1:]:
                if not isinstance(element, Axis) or element.value is not first.value:
                    break
                if element.index != first.index + len(run):
                    break
                run.append(element)
            parts.append(b.shape(first.value, first.index, first.index + len(run)))
        rest = rest[len(run) :]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)


def _cost(value: ir.Value) -> int:
    """Number of nodes that a computed shape takes, those that others read too included."""
    seen: set[int] = set()
    stack = [value.producer()]
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type != "Shape":
            stack += [inner.producer() for inner in node.inputs if inner is not None]
    return len(seen)


def evaluate(value: ir.Value | None, known: dict[int, Elements | None]) -> Elements | None:
    """The elements of a vector, or of a number (one element); None where they do not come from lengths alone."""
    if value is None:
        return None
    if id(value) not in known:
        known[id(value)] = None  # a value cannot depend on itself; this ends the search if a graph is broken
        known[id(value)] = _evaluate(value, known)
    return known[id(value)]


def _evaluate(value: ir.Value, known: dict[int, Elements | None]) -> Elements | None:
    found = graphs.integers(value)
    if found is not None:
        return found
    node = value.producer()
    rule = None if node is None or node.domain or len(node.outputs) != 1 else _RULES.get(node.op_type)
    if node is None or rule is None or graphs.rank(value) not in (0, 1):
        return None
    result = rule(node, known)
    return result if result is not None and len(result) <= _LONGEST else None


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes.get_int(name, default))


def _shape(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:  # noqa: ARG001
    (source,) = node.inputs
    found = graphs.lengths(source)
    if source is None or found is None:
        return None
    # An axis without a name is one of its own.
    elements: list[Element] = [
        length if isinstance(length, int) else Axis(length or f"{source.name}/{axis}", source, axis)
        for axis, length in enumerate(found)
    ]
    start, end = _attribute(node, "start", 0), _attribute(node, "end", len(found))
    return tuple(elements[start:end])


def _same(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    if node.op_type == "Cast" and node.attributes.get_int("to") not in (ir.DataType.INT32, ir.DataType.INT64):
        return None
    return evaluate(node.inputs[0], known)


def _slice(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    source = evaluate(node.inputs[0], known)
    bounds = [graphs.integers(value) for value in node.inputs[1:]]
    if source is None or any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    (start, end, *rest) = [bound[0] for bound in bounds if bound is not None]
    step = rest[1] if len(rest) > 1 else 1
    return source[start:end:step] if step > 0 else None


def _gather(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    source, indices = evaluate(node.inputs[0], known), graphs.integers(node.inputs[1])
    if source is None or indices is None or graphs.rank(node.inputs[0]) != 1:
        return None
    if not all(-len(source) <= index < len(source) for index in indices):
        return None
    return tuple(source[index] for index in indices)


def _concat(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    parts = [evaluate(value, known) for value in node.inputs]
    return tuple(itertools.chain(*[part for part in parts if part is not None])) if None not in parts else None


def _arithmetic(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    left, right = (evaluate(value, known) for value in node.inputs)
    if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
        return None
    length = max(len(left), len(right))
    results: list[Element] = []
    for a, b in zip(left * (length // len(left)), right * (length // len(right)), strict=True):
        if isinstance(a, int) and isinstance(b, int):
            results.append({"Add": a + b, "Sub": a - b, "Mul": a * b}[node.op_type])
        elif node.op_type == "Mul" and 1 in (a, b):
            results.append(a if b == 1 else b)
        else:
            return None
    return tuple(results)


def _product(node: ir.Node, known: dict[int, Elements | None]) -> Elements | None:
    source = evaluate(node.inputs[0], known)
    if source is None or graphs.rank(node.inputs[0]) != 1:
        return None
    free = [element for element in source if isinstance(element, Axis)]
    product = int(np.prod([element for element in source if isinstance(element, int)], dtype=np.int64))
    if not free:
        return (product,)
    return (free[0],) if len(free) == 1 and product == 1 else None


_RULES = {
    "Shape": _shape,
    "Cast": _same,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Slice": _slice,
    "Gather": _gather,
    "Concat": _concat,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "ReduceProd": _product,
}
