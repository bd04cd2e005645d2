"""Transpositions moved behind the ops that do not mind them, where fewer remain that way.

Recurrent ops take (time, batch, features), and Keras's layers between them (batch, time, features). What lies between
two transpositions and works element by element, or along other axes, can be computed in the other layout as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeseq.conversion.cleaning import graphs
from edgeseq.lowering.builder import Builder

_ELEMENTWISE = {
    *("Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Log"),
    *("Neg", "Not", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh"),
    *("ThresholdedRelu", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "PRelu", "Where"),
    *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
}
# Along axes that stay where they are, the order of a sum stays too.
_ALONG_AXES = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2", "ReduceProd"}


@dataclass
class _Region:
    """Nodes that could be computed in the layout before a transposition."""

    perm: list[int]
    nodes: dict[int, ir.Node] = field(default_factory=dict)
    sources: dict[int, ir.Node] = field(default_factory=dict)
    """The transpositions by `perm` whose results come in."""
    outside: dict[int, ir.Value] = field(default_factory=dict)
    """Values that come in as they are, and would have to be put back."""
    ends: list[ir.Node] = field(default_factory=list)
    """Nodes that take the layout before as well: the opposite transpositions, and picks of one step."""
    leaving: dict[int, ir.Value] = field(default_factory=dict)
    """Values that something else reads, so that they must be transposed."""


def sink_transposes(graph: ir.Graph) -> None:
    """Move transpositions as long as that leaves fewer."""
    moved = True
    while moved:
        moved = any(_try(graph, node) for node in list(graph) if graphs.permutation(node))


def _try(graph: ir.Graph, transpose: ir.Node) -> bool:
    perm = graphs.permutation(transpose)
    assert perm is not None
    region = _region(perm, transpose)
    if region is None:
        return False
    inside = {*region.nodes, *map(id, region.ends)}
    gone = [
        source
        for source in region.sources.values()
        if not source.outputs[0].is_graph_output() and all(id(use.node) in inside for use in source.outputs[0].uses())
    ]
    opposite = sum(1 for end in region.ends if end.op_type == "Transpose")
    new = sum(1 for value in region.outside.values() if _transposed(value, _inverse(perm)) is None)
    if len(gone) + opposite <= new + len(region.leaving):
        return False
    _apply(graph, region)
    return True


def _inverse(perm: list[int]) -> list[int]:
    return [int(axis) for axis in np.argsort(perm)]


def _transposed(value: ir.Value, perm: list[int]) -> ir.Value | None:
    """`value` in another layout, if the graph has it."""
    return next((use.node.outputs[0] for use in value.uses() if graphs.permutation(use.node) == perm), None)


def _region(perm: list[int], transpose: ir.Node) -> _Region | None:
    """Everything that can be reached from a transposition through ops that take either layout."""
    region = _Region(perm)
    reached: dict[int, ir.Value] = {}
    pending = [transpose.outputs[0]]
    region.sources[id(transpose)] = transpose
    while pending:
        value = pending.pop()
        if id(value) in reached:
            continue
        reached[id(value)] = value
        for use in value.uses():
            node = use.node
            if id(node) in region.nodes or any(end is node for end in region.ends) or node.graph is not transpose.graph:
                continue
            if graphs.permutation(node) == _inverse(perm) or _picks_one_step(node, perm):
                region.ends.append(node)
            elif _takes_either_layout(node, perm):
                region.nodes[id(node)] = node
                pending.append(node.outputs[0])
                for inner in _tensors(node):
                    source = inner.producer()
                    if graphs.permutation(source) == perm and source is not None:
                        region.sources[id(source)] = source
                        pending.append(inner)
    inputs = {id(inner): inner for node in region.nodes.values() for inner in _tensors(node)}
    region.outside = {key: value for key, value in inputs.items() if key not in reached}
    handled = {*region.nodes, *(id(end) for end in region.ends)}
    made = [node.outputs[0] for node in region.nodes.values()]
    region.leaving = {
        id(value): value
        for value in made
        if value.is_graph_output() or any(id(use.node) not in handled for use in value.uses())
    }
    return region if region.nodes or region.ends else None


def _tensors(node: ir.Node) -> list[ir.Value]:
    """The inputs that have a layout: neither constants nor what an op takes besides its tensor."""
    inputs = node.inputs if node.op_type in _ELEMENTWISE or node.op_type == "Concat" else node.inputs[:1]
    return [value for value in inputs if value is not None and graphs.constant(value) is None]


def _takes_either_layout(node: ir.Node, perm: list[int]) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return False
    if any(graphs.rank(value) != len(perm) for value in _tensors(node)):
        return False
    if node.op_type in _ELEMENTWISE:
        constants = [graphs.constant(value) for value in node.inputs]
        return all(array is None or array.ndim <= len(perm) for array in constants)
    if node.op_type == "Concat":
        return all(value is not None and graphs.constant(value) is None for value in node.inputs)
    if node.op_type in ("Softmax", "LogSoftmax"):
        axis = node.attributes.get_int("axis", -1) % len(perm)
        return perm[axis] == axis
    if node.op_type in _ALONG_AXES:
        axes = _axes(node)
        keeps = node.attributes.get_int("keepdims", 1) == 1
        return keeps and axes is not None and all(perm[axis % len(perm)] == axis % len(perm) for axis in axes)
    return False


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a reduction; None where they are not known, or all."""
    if "axes" in node.attributes:
        return tuple(node.attributes.get_ints("axes"))
    return graphs.integers(node.inputs[1]) or None if len(node.inputs) > 1 else None


def _picks_one_step(node: ir.Node, perm: list[int]) -> bool:
    """A Gather of one place along an axis, after which the other axes are in order."""
    if node.op_type != "Gather" or node.domain or graphs.integers(node.inputs[1]) is None:
        return False
    if graphs.rank(node.inputs[1]) != 0:
        return False
    axis = perm[node.attributes.get_int("axis", 0) % len(perm)]
    rest = [other for other in perm if other != axis]
    return rest == sorted(rest)


def _apply(graph: ir.Graph, region: _Region) -> None:
    perm, back = region.perm, _inverse(region.perm)
    before: dict[int, ir.Value] = {}
    for source in region.sources.values():
        assert source.inputs[0] is not None
        before[id(source.outputs[0])] = source.inputs[0]
    for value in region.outside.values():
        found = _transposed(value, back)
        if found is None:
            b = Builder("")
            found = b.transpose(value, *back)
            reader = next(node for node in graph if id(node) in region.nodes and value in node.inputs)
            graph.insert_before(reader, b.nodes)
        before[id(value)] = found
    # Values that leave, first: what reads them must not be told of the new layout.
    leaving = {key: (value, list(value.uses())) for key, value in region.leaving.items()}
    handled = {*region.nodes, *(id(end) for end in region.ends)}
    for node in [node for node in graph if id(node) in region.nodes]:
        for index, given in enumerate(node.inputs):
            array = graphs.constant(given)
            if id(given) in before:
                node.replace_input_with(index, before[id(given)])
            elif array is not None and node.op_type in _ELEMENTWISE and array.size > 1:
                _transpose_constant(graph, node, index, array, back)
        if node.op_type == "Concat":
            axis = perm[node.attributes.get_int("axis") % len(perm)]
            node.attributes["axis"] = ir.AttrInt64("axis", axis)
        # Axes that are counted from the end, or stay in place, mean the same axes.
        output = node.outputs[0]
        if output.shape is not None:
            output.shape = ir.Shape([output.shape[axis] for axis in back])
    for value, uses in leaving.values():
        _put_back(graph, value, [use for use in uses if id(use.node) not in handled], perm)
    for end in region.ends:
        now = before.get(id(end.inputs[0]), end.inputs[0])
        if end.op_type == "Transpose":
            graphs.replace(graph, end, [now])
        else:
            end.replace_input_with(0, now)
            end.attributes["axis"] = ir.AttrInt64("axis", perm[end.attributes.get_int("axis", 0) % len(perm)])


def _transpose_constant(graph: ir.Graph, node: ir.Node, index: int, array: graphs.Array, back: list[int]) -> None:
    full = array.reshape((1,) * (len(back) - array.ndim) + array.shape)
    turned = np.ascontiguousarray(full.transpose(back))
    # Of one layout and the other, an axis of features is the same constant, which can stay shared with other nodes.
    if np.array_equal(turned, full):
        return
    b = graphs.builder(node)
    node.replace_input_with(index, b.constant(turned, turned.dtype))
    graphs.insert(graph, node, b)


def _put_back(graph: ir.Graph, value: ir.Value, uses: list[Any], perm: list[int]) -> None:
    """Give those that read `value` in the old layout a transposition of it."""
    node = value.producer()
    assert node is not None
    made = ir.Node("", "Transpose", [value], ir.convenience.convert_attributes({"perm": perm}))
    made.metadata_props.update(node.metadata_props)
    graph.insert_after(node, made)
    (out,) = made.outputs
    out.type = value.type
    if value.shape is not None:
        out.shape = ir.Shape([value.shape[axis] for axis in perm])
    if value.is_graph_output():
        out.name, value.name = value.name, None
        graph.outputs[list(graph.outputs).index(value)] = out
    for use in uses:
        use.node.replace_input_with(use.idx, out)
