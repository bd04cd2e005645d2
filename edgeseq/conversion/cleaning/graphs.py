"""What the passes over a graph ask and do: constants, shapes, values put in the place of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeseq.lowering.builder import Builder

Array = npt.NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer or a Constant node; None for what is computed, or given by the caller."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The elements of a small integer constant, such as axes or a shape; None for anything else."""
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > 64 or not tensor.dtype.is_integer():
        return None
    return tuple(int(element) for element in np.ravel(tensor.numpy()))


def lengths(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Each axis's length, or its name where it is free; None without a known rank."""
    if value is None or value.shape is None:
        return None
    return tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape)


def rank(value: ir.Value | None) -> int | None:
    """Number of axes; None where it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of ONNX's own operators that makes `value`, if it is one of `op_types`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx") else None


def is_single_use(value: ir.Value) -> bool:
    """Whether one input of one node reads `value`, and nothing else does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def permutation(node: ir.Node | None) -> list[int] | None:
    """The order of axes that a Transpose makes; None for any other node."""
    if node is None or node.op_type != "Transpose" or node.domain or "perm" not in node.attributes:
        return None
    return list(node.attributes.get_ints("perm"))


def builder(node: ir.Node) -> Builder:
    """For nodes in the place of `node`, under the same layer's name."""
    return Builder(node.metadata_props.get("layer", ""))


def insert(graph: ir.Graph, node: ir.Node, b: Builder) -> None:
    """Put what was built before `node`."""
    for value in b.initializers:
        value.name = None
        graph.register_initializer(_named(graph, value))
    graph.insert_before(node, b.nodes)


def _named(graph: ir.Graph, value: ir.Value) -> ir.Value:
    value.name = f"made/{len(graph.initializers)}"
    while value.name in graph.initializers:
        value.name += "'"
    return value


def replace(graph: ir.Graph, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    """Let `values` be read where the outputs of `node` were, and remove it. None leaves an output that nothing reads.

    Outputs of the graph keep their names: an Identity gives them.
    """
    for old, new in zip(node.outputs, values, strict=True):
        if new is None:
            continue
        new.shape = new.shape if new.shape is not None else old.shape
        new.type = new.type if new.type is not None else old.type
        if old.is_graph_output():
            holder = ir.Node("", "Identity", [new], metadata_props=dict(node.metadata_props))
            graph.insert_before(node, holder)
            (out,) = holder.outputs
            out.name, out.shape, out.type = old.name, old.shape, old.type
            old.name = None
            graph.outputs[list(graph.outputs).index(old)] = out
        ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)
