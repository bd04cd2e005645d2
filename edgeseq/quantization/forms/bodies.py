"""Scan, Loop and If: the products with constant weights in their bodies, in another form.

This is what a recurrent layer is that no fused op computes: a cell with other activations, a custom cell, a masked one.
The nodes around the products stay as they are, whatever the body does.
"""

from __future__ import annotations

import onnx

from edgeseq.quantization.forms.dense import in_form
from edgeseq.quantization.forms.products import CONTRIBUTED, Form
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece, subgraphs


def with_products(layer: Layer, node: onnx.NodeProto, form: Form) -> Piece:
    """The node with every MatMul and Gemm in its bodies that has a constant matrix in this form.

    Raises Declined when there is none.
    """
    made = onnx.NodeProto()
    made.CopyFrom(node)
    initializers: dict[str, onnx.TensorProto] = {}
    for body in subgraphs(made):
        _replace(body, layer, form, initializers)
    if not initializers:
        raise Declined("no product in its body has a constant matrix")
    return Piece(nodes=(made,), initializers=tuple(initializers.values()), domains={CONTRIBUTED: 1})


def _replace(graph: onnx.GraphProto, layer: Layer, form: Form, initializers: dict[str, onnx.TensorProto]) -> None:
    # Constants of the body itself, and what its nodes make, are not the file's of the same name.
    own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    constants = {name: array for name, array in layer.constants.items() if name not in own}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            _replace(body, layer, form, initializers)
        is_product = node.op_type in ("MatMul", "Gemm") and node.domain in ("", "ai.onnx")
        if not is_product or node.input[1] not in layer.weights or node.input[1] not in constants:
            nodes.append(node)
            continue
        try:
            piece = in_form(node, constants, form)
        except Declined:
            # The others may still take the form, and this one stays exact.
            nodes.append(node)
            continue
        nodes += piece.nodes
        initializers.update({tensor.name: tensor for tensor in piece.initializers})
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
