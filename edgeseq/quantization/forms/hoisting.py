"""Constants of bodies moved out to the graph around them, where layers are looked for."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from edgeseq.quantization.rewriting import subgraphs


def hoist_constants(graph: onnx.GraphProto) -> None:
    """Move the float matrices and vectors that bodies of `graph` hold to the graph itself, under names of their own.

    What a body gives out as it is stays where it is. Every node of `graph` has a unique name.
    """
    for node in graph.node:
        for index, body in enumerate(subgraphs(node)):
            _hoist(body, f"{node.name}/{index}", graph)


def _hoist(body: onnx.GraphProto, prefix: str, graph: onnx.GraphProto) -> None:
    kept = {value.name for value in (*body.input, *body.output)}
    found = {tensor.name: tensor for tensor in body.initializer if _is_weights(tensor) and tensor.name not in kept}
    constants = [
        node
        for node in body.node
        if node.op_type == "Constant"
        and node.attribute[0].name == "value"
        and _is_weights(node.attribute[0].t)
        and node.output[0] not in kept
    ]
    found |= {node.output[0]: node.attribute[0].t for node in constants}
    for name, tensor in found.items():
        moved = graph.initializer.add()
        moved.CopyFrom(tensor)
        moved.name = f"{prefix}/{name}"
    for node in constants:
        body.node.remove(node)
    others = [tensor for tensor in body.initializer if tensor.name not in found]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in others]
    del body.initializer[:]
    body.initializer.extend(copies)
    rename_reads(body, {name: f"{prefix}/{name}" for name in found})
    for position, node in enumerate(body.node):
        for index, inner in enumerate(subgraphs(node)):
            _hoist(inner, f"{prefix}/{position}/{index}", graph)


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give what the nodes of a graph read, those of bodies included, other names; a body's own values keep theirs."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            own = {tensor.name for tensor in inner.initializer} | {value.name for value in inner.input}
            own |= {name for made in inner.node for name in made.output}
            rename_reads(inner, {old: new for old, new in names.items() if old not in own})


def _is_weights(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 0
