"""Changing nodes and constants of an ONNX graph: a piece takes a node's place, and a plan says which piece each gets.

Everything here is a pure function of the model and the pieces: the same pieces give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx


class Declined(Exception):
    """A candidate does not fit a layer, or not beside another; the message is the reason, shown in the report."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What takes the place of one node: it reads the node's inputs and makes the node's outputs."""

    nodes: tuple[onnx.NodeProto, ...]
    """In topological order."""
    decoders: tuple[onnx.NodeProto, ...] = ()
    """Nodes that read constants alone. They run before all others, and may make a value that was a constant: it is
    then read by everything that read the constant, subgraphs included."""
    initializers: tuple[onnx.TensorProto, ...] = ()
    """Constants to add. Two pieces may bring the same one."""
    domains: Mapping[str, int] = field(default_factory=dict)
    """Operator domains the nodes need besides ONNX's own, with their versions."""


def splice(model: onnx.ModelProto, pieces: Mapping[str, Piece]) -> onnx.ModelProto:
    """A copy of `model` in which the node named by each key is replaced by its piece.

    Nodes and constants that pieces share (the same weights decoded, the same input quantized) appear once, and
    constants nobody reads any more are dropped. Raises Declined when two pieces make one value differently.
    """
    # Without its constants, which are most of it, the copy is cheap.
    result = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _set(result, descriptor.name, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name not in ("node", "initializer"):
            _set(result.graph, descriptor.name, value)

    decoders = [node for piece in pieces.values() for node in piece.decoders]
    replaced = [new for old in model.graph.node for new in (pieces[old.name].nodes if old.name in pieces else (old,))]
    nodes = _without_repetition([*decoders, *replaced])
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in made}
    added: dict[str, onnx.TensorProto] = {}
    for tensor in (entry for piece in pieces.values() for entry in piece.initializers):
        if added.setdefault(tensor.name, tensor) != tensor:
            raise Declined(f"another layer's form makes the constant '{tensor.name}' in another way")
    constants |= added
    read = {*values_read(nodes), *(output.name for output in model.graph.output)}
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensor for name, tensor in constants.items() if name in read)

    known = {opset.domain for opset in result.opset_import}
    for domain, version in sorted({item for piece in pieces.values() for item in piece.domains.items()}):
        if domain not in known:
            result.opset_import.append(onnx.helper.make_opsetid(domain, version))
    return result


def _without_repetition(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    maker: dict[str, bytes] = {}
    kept = []
    for node in nodes:
        content = node.SerializeToString(deterministic=True)
        makers = {maker[name] for name in node.output if name in maker}
        if not makers:
            kept.append(node)
            maker.update({name: content for name in node.output if name})
        elif makers != {content}:
            raise Declined(f"another layer's form makes the value '{node.output[0]}' in another way")
    return kept


def values_read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Names of all values the nodes read, their subgraphs included."""
    for node in nodes:
        yield from node.input
        for body in subgraphs(node):
            yield from values_read(body.node)
            yield from (output.name for output in body.output)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs a node holds in its attributes (the bodies of If, Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _set(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)
