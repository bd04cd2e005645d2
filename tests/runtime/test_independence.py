"""Files whose rows or steps share a scale do not stream, whoever quantized them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgeseq.errors import DependentRows, Refused
from edgeseq.runtime import Model, wire
from edgeseq.runtime.manifest import Manifest, Quantization


def test_what_another_tool_quantized(make_lstm: Callable[..., Any], tmp_path: Path):
    """Its manifest, which it copies, says nothing."""
    quantize_dynamic(make_lstm(streaming=True).path, tmp_path / "small.onnx", weight_type=QuantType.QInt8)
    model = Model(tmp_path / "small.onnx")
    assert model.manifest.quantization is None
    for start in (model.stream, model.pool):
        with pytest.raises(
            DependentRows, match=r"small.onnx cannot stream exactly: the op DynamicQuantizeLSTM"
        ) as raised:
            start()
        assert "DynamicQuantizeLSTM" in raised.value.cause
        assert isinstance(raised.value, Refused)


def test_what_the_manifest_says(make_lstm: Callable[..., Any]):
    quantization = Quantization(method="post-training", layers={"lstm": "dynamic-int8"}, rows_independent=False)
    model = Model(make_lstm(streaming=True, quantization=quantization).path)
    with pytest.raises(DependentRows, match=r"layer 'lstm' as dynamic-int8"):
        model.pool()


def test_forms_whose_rows_are_independent_stream(make_lstm: Callable[..., Any]):
    quantization = Quantization(method="post-training", layers={"lstm": "int8-weights"}, rows_independent=True)
    model = Model(make_lstm(streaming=True, quantization=quantization).path)
    assert model.stream().batch == 1
    with model.pool() as pool:
        assert pool.open()


@pytest.fixture
def nested(write: Callable[..., Path]) -> Path:
    """An If with a node called deep/neg in it."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["inner"], name="deep/neg")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("Greater", ["x", "x"], ["more"]),
        helper.make_node("Squeeze", ["more"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    manifest = Manifest(inputs=(), outputs=(), input_structure=[], output_structure=[])
    return write(nodes, value[:1], value[1:], {}, manifest)


def test_nodes_are_found_in_subgraphs(nested: Path):
    assert wire.find_node(nested, {"Neg"}) == ("Neg", "deep/neg")
    assert wire.find_node(nested, {"Squeeze", "Abs"}) == ("Squeeze", "")
    assert wire.find_node(nested, {"Abs"}) is None
    assert {node.op_type for node in onnx.load(nested).graph.node} == {"Greater", "Squeeze", "If"}
