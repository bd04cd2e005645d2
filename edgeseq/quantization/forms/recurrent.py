"""A recurrent node written out as a Scan, whose products with constant weights then take another form.

onnxruntime has an 8-bit LSTM and no other fused recurrent op of that kind, so that a GRU or SimpleRNN can only be
quantized step by step. The products of all inputs are taken at once before the Scan, in the same form.
"""

from __future__ import annotations

import hashlib

import onnx
import onnx_ir as ir
from onnx import numpy_helper

from edgeseq.errors import UnsupportedLayer
from edgeseq.lowering.reading import read_node
from edgeseq.lowering.rewriting import rewrite_node
from edgeseq.quantization.forms.hoisting import rename_reads
from edgeseq.quantization.forms.nodes import model_of
from edgeseq.quantization.forms.products import CONTRIBUTED, Form, replace_products
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece, values_read

# Activations whose values lie in -1..1, and so a state that is made of them.
_WITHIN_ONE = {"tanh", "sigmoid", "softsign", "hard_sigmoid", "hard_tanh"}


def written_out(layer: Layer, node: onnx.NodeProto, *, inputs: Form, states: Form) -> Piece:
    """The piece in which the products of the inputs and those of the states have these forms.

    Raises Declined when the node cannot be written out.
    """
    model = ir.serde.deserialize_model(model_of(layer, node))
    try:
        rewrite_node(model, model.graph[0], lowering="scan")
    except UnsupportedLayer as error:
        raise Declined(f"it cannot be written out step by step: {error}") from error
    made = ir.serde.serialize_model(model)
    if len(layer.nodes) > 1:
        _name_by_content(made.graph, layer.name)
    constants = {entry.name: numpy_helper.to_array(entry) for entry in made.graph.initializer}
    initializers = replace_products(made.graph, constants, outside=inputs, inside=states)
    read = set(values_read(made.graph.node))
    return Piece(
        nodes=tuple(made.graph.node),
        initializers=tuple(entry for entry in [*made.graph.initializer, *initializers] if entry.name in read),
        domains={CONTRIBUTED: 1},
    )


def _name_by_content(graph: onnx.GraphProto, prefix: str) -> None:
    """Name constants after what they hold, so that those of a layer called more than once are stored once."""
    names = {}
    for constant in graph.initializer:
        array = numpy_helper.to_array(constant)
        content = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        names[constant.name] = f"{prefix}/constant/{hashlib.sha256(content).hexdigest()[:16]}"
    rename_reads(graph, names)
    for constant in graph.initializer:
        constant.name = names[constant.name]


def check_bounded(layer: Layer, node: onnx.NodeProto) -> None:
    """Raise Declined unless the hidden state lies in -1..1 whatever the inputs."""
    model = ir.serde.deserialize_model(model_of(layer, node))
    try:
        spec = read_node(model.graph[0])
    except UnsupportedLayer as error:
        raise Declined(str(error)) from error
    for direction in spec.directions:
        if direction.activation.name not in _WITHIN_ONE:
            raise Declined(f"its activation '{direction.activation.name}' does not keep the hidden state in -1..1")
