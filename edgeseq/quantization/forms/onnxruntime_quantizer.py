"""onnxruntime's own dynamic quantizer, used on one node at a time.

Given a whole model it skips what it cannot do without a word, renames Gemm nodes before it looks their names up, and
warns through the root logger. A model of one node has none of that: either the op changed, or it did not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import helper

from edgeseq.quantization.forms.nodes import model_of
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece

# What proves that the quantizer did something.
_MADE_FROM = {
    "LSTM": "DynamicQuantizeLSTM",
    "MatMul": "MatMulInteger",
    "Gemm": "MatMulInteger",
    "Gather": "DequantizeLinear",
}
# Tells the quantizer that the model needs no pre-processing, which is true of a single node; else it logs a warning
# through the root logger, and so installs a handler there in the user's program.
_NO_WARNING = {"onnx.quant.pre_process": "onnxruntime.quant"}


def quantize_node(layer: Layer, node: onnx.NodeProto, *, per_channel: bool, bits: int = 8) -> Piece:
    """The piece that `onnxruntime.quantization.quantize_dynamic` makes of one node of `layer`, with weights of 8
    or 7 `bits`.

    Raises Declined when the quantizer leaves the op as it is, or would change its meaning.
    """
    # Imported here because it is slow (half a second) and only some layers need it.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if node.op_type == "LSTM" and any(entry.name == "layout" and entry.i for entry in node.attribute):
        raise Declined("onnxruntime's quantizer drops layout=1")
    with tempfile.TemporaryDirectory(prefix="edgeseq-") as folder:
        target = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            _without_warning(model_of(layer, node)),
            target,
            per_channel=per_channel,
            reduce_range=bits < 8,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(target)
    expected = _MADE_FROM[node.op_type]
    if expected not in {entry.op_type for entry in made.graph.node}:
        raise Declined(f"onnxruntime's quantizer leaves this {node.op_type} as it is")
    versions = {entry.domain: entry.version for entry in made.opset_import}
    if versions.pop("", layer.opset) != layer.opset:
        raise Declined(f"onnxruntime's quantizer needs a newer opset than the file's {layer.opset}")
    return _renamed(layer, node, made.graph, versions)


def _without_warning(model: onnx.ModelProto) -> onnx.ModelProto:
    helper.set_model_props(model, _NO_WARNING)
    return model


def _renamed(layer: Layer, node: onnx.NodeProto, graph: onnx.GraphProto, domains: dict[str, int]) -> Piece:
    """The graph as a piece; the names it adds get the layer's name in front, so that they meet no others."""
    outside = {*node.input, *node.output, ""}

    def rename(name: str) -> str:
        return name if name in outside else f"{layer.name}/quantized/{name}"

    nodes, initializers = [], []
    for old in graph.node:
        new = onnx.NodeProto()
        new.CopyFrom(old)
        new.name = f"{layer.name}/quantized/{old.name or old.output[0]}"
        new.input[:] = [rename(name) for name in old.input]
        new.output[:] = [rename(name) for name in old.output]
        nodes.append(new)
    for tensor in graph.initializer:
        renamed = onnx.TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = rename(tensor.name)
        initializers.append(renamed)
    return Piece(nodes=tuple(nodes), initializers=tuple(initializers), domains=domains)
