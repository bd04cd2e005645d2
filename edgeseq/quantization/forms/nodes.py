"""One node of a file as a model of its own: what works on whole models is then asked about that node alone."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.layers import Layer

# Inputs that are not float32, by op type and index: sequence lengths, and the indices of a lookup.
_INTEGER_INPUTS = {
    ("LSTM", 4): TensorProto.INT32,
    ("GRU", 4): TensorProto.INT32,
    ("RNN", 4): TensorProto.INT32,
    ("Gather", 1): TensorProto.INT64,
}


def model_of(layer: Layer, node: onnx.NodeProto) -> onnx.ModelProto:
    """A model of the node alone, its constants as initializers."""
    inputs = [
        helper.make_tensor_value_info(name, _INTEGER_INPUTS.get((node.op_type, index), TensorProto.FLOAT), None)
        for index, name in enumerate(node.input)
        if name and name not in layer.constants
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output if name]
    constants = [
        numpy_helper.from_array(layer.constants[name], name)
        for name in dict.fromkeys(node.input)
        if name in layer.constants
    ]
    graph = helper.make_graph(
        [node], "node", list({entry.name: entry for entry in inputs}.values()), outputs, constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", layer.opset)])
