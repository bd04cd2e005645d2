"""Reading the file to quantize, and finding its layers: the nodes whose constant weights could be made smaller."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from edgeseq.errors import InvalidFile, Refused, WrongUsage
from edgeseq.files import StrPath, check_input
from edgeseq.quantization.forms.cells import ConvolutionalCell, find_cells
from edgeseq.quantization.forms.hoisting import hoist_constants
from edgeseq.quantization.rewriting import subgraphs
from edgeseq.runtime import wire

RECURRENT = ("LSTM", "GRU", "RNN")
WITH_BODY = ("Scan", "Loop", "If")
CONV_LSTM = "ConvLSTM"
"""Op type of a layer that is a whole ConvLSTM, written out."""
# Indices of the inputs that hold weights, by op type; biases stay in full precision everywhere.
WEIGHT_INPUTS = {
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "MatMul": (1,),
    "Gemm": (1,),
    "Conv": (1,),
    "Gather": (0,),
}
_ONNX_DOMAINS = ("", "ai.onnx")
_QUANTIZED_OPS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"),
    *("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "GatherBlockQuantized", "ConvInteger"),
    *("QLinearConv", "QLinearMatMul", "QGemm"),
}
# Ops that a state fed by the caller may pass on its way to the recurrent op.
_MOVES_DATA = {
    *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"),
    *("Slice", "Split", "Gather", "Concat", "Expand"),
}
# Of a protobuf message, and so of a model that a session opens from memory.
LARGEST_BYTES = 2**31 - 1
_EIGHT_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Nodes that share their weights: one node, or several where a layer is called more than once."""

    name: str
    """Name of the first node; files that edgeseq exports begin it with the Keras layer's name and a slash."""
    op_type: str
    """ONNX op type of every node."""
    nodes: tuple[onnx.NodeProto, ...]
    """In graph order."""
    weights: Mapping[str, tuple[onnx.NodeProto, int]]
    """Name of each weight, with a node that reads it (in a body, where the layer has one) and its input's index."""
    constants: Mapping[str, npt.NDArray[Any]]
    """Every constant that the nodes read, by name; the weights are float32."""
    opset: int
    """Version of ONNX's own operators that the file uses."""
    cell: ConvolutionalCell | None = None
    """The whole of a ConvLSTM that is written out; its nodes are then those with weights."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in the file."""
        return sum(self.constants[name].nbytes for name in self.weights)


def load_model(path: StrPath) -> onnx.ModelProto:
    """Read an ONNX file, external data included, with a unique name on every node and constants as initializers.

    Raises MissingInput; InvalidFile when it is not a valid ONNX file; Refused when it is larger than 2 GB.
    """
    source = check_input(path, "ONNX file")
    try:
        model = onnx.load(source, load_external_data=False)
        size_bytes = source.stat().st_size + sum(map(_outside_bytes, model.graph.initializer))
        if size_bytes >= LARGEST_BYTES:
            raise Refused(f"{source} holds {size_bytes / 1e9:.1f} GB; files up to 2 GB can be quantized")
        onnx.external_data_helper.load_external_data_for_model(model, str(source.parent))
        # By its path, because only that way the checker takes models above protobuf's 2 GB.
        onnx.checker.check_model(str(source))
    except DecodeError as error:
        raise InvalidFile(source, "it is not an ONNX file") from error
    except (onnx.checker.ValidationError, OSError) as error:
        raise InvalidFile(source, f"it is not a valid ONNX file ({_first_line(error)})") from error
    _constants_to_initializers(model.graph)
    _name_nodes(model.graph)
    hoist_constants(model.graph)
    return model


def has_external_data(path: StrPath) -> bool:
    """Whether weights of the file lie in other files beside it."""
    return bool(wire.read_data_files(path))


def _outside_bytes(tensor: onnx.TensorProto) -> int:
    if not onnx.external_data_helper.uses_external_data(tensor):
        return 0
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size: int = math.prod(tensor.dims) * itemsize
    return size


def refuse_quantized(model: onnx.ModelProto, path: StrPath) -> None:
    """Raise WrongUsage when the file holds quantized weights or ops already."""
    ops = sorted({node.op_type for node in model.graph.node} & _QUANTIZED_OPS)
    tensors = [tensor.name for tensor in model.graph.initializer if tensor.data_type in _EIGHT_BITS]
    if ops or tensors:
        found = f"it has the ops {', '.join(ops)}" if ops else f"its constant '{tensors[0]}' is stored in 8 bits"
        raise WrongUsage(f"{Path(path)} is quantized already: {found}. Give the file it was made from.")


def find_layers(model: onnx.ModelProto) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers in graph order, and notes on recurrent nodes that are left alone, with the reason."""
    # A constant that is also a graph input can be replaced by the caller at run time.
    overridable = {value.name for value in model.graph.input}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in overridable}
    groups: dict[tuple[str, ...], list[onnx.NodeProto]] = defaultdict(list)
    weights: dict[tuple[str, ...], dict[str, tuple[onnx.NodeProto, int]]] = {}
    notes = []
    floats = {name: tensor for name, tensor in tensors.items() if tensor.data_type == onnx.TensorProto.FLOAT}
    cells = find_cells(model.graph, floats)
    within = {node.name for cell in cells for node in cell.nodes}
    for node in model.graph.node:
        if node.name in within:
            continue
        places = {
            reader.input[index]: (reader, index)
            for reader in _weight_readers(node)
            for index in WEIGHT_INPUTS[reader.op_type]
            if len(reader.input) > index
        }
        found = {
            name: place
            for name, place in places.items()
            if name in tensors and tensors[name].data_type == onnx.TensorProto.FLOAT and len(tensors[name].dims) > 1
        }
        complete = found if node.op_type in WITH_BODY else len(found) == len(places) > 0
        if complete:
            key = (node.op_type, *found)
            groups[key].append(node)
            weights.setdefault(key, found)
        elif node.op_type in RECURRENT:
            notes.append(f"{node.op_type} '{node.name}' is left as it is: its weights are not float32 constants.")
    opset = next(entry.version for entry in model.opset_import if entry.domain in _ONNX_DOMAINS)
    layers = []
    for key, nodes in groups.items():
        read = dict.fromkeys([*weights[key], *(name for node in nodes for name in node.input)])
        layers.append(
            Layer(
                name=nodes[0].name,
                op_type=nodes[0].op_type,
                nodes=tuple(nodes),
                weights=weights[key],
                constants={name: numpy_helper.to_array(tensors[name]) for name in read if name in tensors},
                opset=opset,
            )
        )
    layers += [_conv_lstm(cell, model.graph, tensors, opset) for cell in cells]
    place = {node.name: index for index, node in enumerate(model.graph.node)}
    return tuple(sorted(layers, key=lambda layer: place[layer.name])), tuple(notes)


def _conv_lstm(
    cell: ConvolutionalCell, graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto], opset: int
) -> Layer:
    names = {node.name for step in cell.steps for node in ([step.scan] if step.scan else step.convolutions)}
    nodes = tuple(node for node in graph.node if node.name in names)
    of_input, of_state = cell.of_input, cell.of_state
    read = dict.fromkeys((*of_input.input, *of_state.input))
    return Layer(
        name=nodes[0].name,
        op_type=CONV_LSTM,
        nodes=nodes,
        weights={of_input.input[1]: (of_input, 1), of_state.input[1]: (of_state, 1)},
        constants={name: numpy_helper.to_array(tensors[name]) for name in read if name in tensors},
        opset=opset,
        cell=cell,
    )


def carries_states(model: onnx.ModelProto) -> bool:
    """Whether the caller feeds a recurrent node's initial state, so that one run can continue another."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}

    def comes_from_caller(name: str) -> bool:
        while name in made_by and made_by[name].op_type in _MOVES_DATA:
            name = made_by[name].input[0]
        return name in inputs

    # Initial states: inputs 5 and 6 of the recurrent ops.
    recurrent = [node for node in model.graph.node if node.op_type in RECURRENT]
    return any(comes_from_caller(name) for node in recurrent for name in node.input[5:7])


def _weight_readers(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node itself, or the nodes in its body, whose op types have weights."""
    if node.domain in _ONNX_DOMAINS and node.op_type in WEIGHT_INPUTS:
        yield node
    for body in subgraphs(node):
        for inner in body.node:
            yield from _weight_readers(inner)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give nodes without a name, or with another node's name, one made from their op type and place."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}/{index}"
        taken.add(node.name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
