"""The finished graph: in one canonical order with canonical names, checked.

The same model gives the same bytes in every process: nothing depends on the names or the order in which TensorFlow and
tf2onnx made things.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeseq.errors import EdgeseqError
from edgeseq.files import StrPath


def name_axes(values: Iterable[ir.Value], axes: Mapping[str, Sequence[str | int]]) -> None:
    """Write the axes' names into the shapes of a graph's inputs or outputs."""
    for value in values:
        if value.name is not None and value.name in axes:
            value.shape = ir.Shape(list(axes[value.name]))


def canonical(model: ir.Model) -> None:
    """One order and one naming, whatever was there before."""
    common.TopologicalSortPass()(model)
    _rename(model.graph, "")
    for graph in [model.graph, *model.graph.subgraphs()]:
        _order_initializers(graph, "" if graph is model.graph else f"{graph.name}/")
    model.graph.name = "edgeseq"
    model.graph.doc_string = None
    model.producer_name, model.producer_version = "edgeseq", None
    for domain in [domain for domain in model.opset_imports if domain]:
        del model.opset_imports[domain]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.doc_string = None


def _depth_first(graph: ir.Graph) -> list[ir.Node]:
    """Nodes in the order in which a walk from the outputs finishes them: it depends on the structure alone."""
    order: list[ir.Node] = []
    seen: set[int] = set()
    own = {id(node) for node in graph}

    def needs(node: ir.Node) -> list[ir.Node]:
        values = [value for value in node.inputs if value is not None]
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                    values += [value for value in inner.inputs if value is not None]
        producers = [value.producer() for value in values]
        return [producer for producer in producers if producer is not None and id(producer) in own]

    for output in graph.outputs:
        stack = [(output.producer(), False)]
        while stack:
            node, finished = stack.pop()
            if node is None or (id(node) in seen and not finished) or id(node) not in own:
                continue
            if finished:
                order.append(node)
                continue
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((producer, False) for producer in reversed(needs(node)))
    return order


def _rename(graph: ir.Graph, prefix: str) -> None:
    """Nodes in depth-first order; values and nodes named by layer, op and number.

    Every name made here has a slash, and no name of a user's does, so that they can never meet.
    """
    order = _depth_first(graph)
    kept = {id(node) for node in order}
    graph.remove([node for node in graph if id(node) not in kept], safe=True)
    # Moving each node to the end, one after another, leaves them in this order.
    for node in order:
        graph.remove(node)
        graph.append(node)
    for number, node in enumerate(order):
        # Scopes of TensorFlow's would tell the layer of the other nodes too, but equal nodes of two layers are put
        # together under either name, by chance.
        layer = node.metadata_props.pop("layer", "") or "node"
        node.name = f"{prefix}{layer}/{node.op_type}_{number}"
        for index, output in enumerate(node.outputs):
            if output.is_graph_output() and not prefix:
                continue
            output.name = node.name if len(node.outputs) == 1 else f"{node.name}:{index}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                body.name = node.name
                for index, value in enumerate(body.inputs):
                    value.name = f"{node.name}/in_{index}"
                _rename(body, f"{node.name}/")


def _order_initializers(graph: ir.Graph, prefix: str) -> None:
    """Constants named and stored by the order of their first use; unused ones are dropped. Bodies have their own."""
    own = {id(value) for value in graph.initializers.values()}
    order: dict[int, ir.Value] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is not None and id(value) in own:
                order.setdefault(id(value), value)
    for output in graph.outputs:
        if id(output) in own:
            order.setdefault(id(output), output)
    graph.initializers.clear()
    for number, value in enumerate(order.values()):
        value.name = f"{prefix}weight/{number:03d}"
        if value.const_value is not None:
            value.const_value.name = value.name
        graph.initializers.add(value)


def check(path: StrPath) -> None:
    """ONNX's own checker and its strict shape inference. What they find is a bug of ours, not of the user."""
    try:
        # By its path, because only that way the checker takes models above protobuf's 2 GB.
        onnx.checker.check_model(os.fspath(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EdgeseqError(f"the finished graph is not valid ONNX, which is a bug in edgeseq: {error}") from error


def loops(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The Loop nodes among `nodes` and in their bodies."""
    found = []
    for node in nodes:
        found += [node] if node.op_type == "Loop" else []
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found += loops(attribute.as_graph())
    return found
