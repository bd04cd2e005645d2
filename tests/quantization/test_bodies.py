"""Products in the bodies of Scan, Loop and If: those of cells that no fused op computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.lowering.rewriting import rewrite_node
from edgeseq.quantization.candidates import CANDIDATES, apply
from edgeseq.quantization.layers import find_layers, load_model
from edgeseq.quantization.rewriting import Declined, subgraphs
from edgeseq.quantization.runs import serialize
from edgeseq.runtime.providers import open_session

Make = Callable[..., onnx.ModelProto]
FORMS = [name for name in CANDIDATES if name.startswith("body-")]
FLOAT = TensorProto.FLOAT


def answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    onnx.checker.check_model(model)
    return open_session(serialize(model), threads=1).run(None, feed)[0]


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - exact).mean() / np.square(exact).mean()))


def inner_ops(model: onnx.ModelProto) -> set[str]:
    return {inner.op_type for node in model.graph.node for body in subgraphs(node) for inner in body.node}


@pytest.fixture
def relu_gru(make_model: Make, tmp_path: Path) -> onnx.ModelProto:
    """A GRU with relu, masked, as edgeseq writes it: a Scan."""
    random = np.random.default_rng(0)
    constants = {
        "W": random.standard_normal((1, 72, 8)).astype(np.float32) / 4,
        "R": random.standard_normal((1, 72, 24)).astype(np.float32) / 8,
        "B": random.standard_normal((1, 144)).astype(np.float32) / 8,
    }
    node = helper.make_node(
        "GRU",
        ["x", "W", "R", "B", "lengths"],
        ["y"],
        "rnn",
        hidden_size=24,
        linear_before_reset=1,
        activations=["Sigmoid", "Relu"],
    )
    inputs = {"x": (FLOAT, ["time", "batch", 8]), "lengths": (TensorProto.INT32, ["batch"])}
    model = ir.serde.deserialize_model(make_model([node], inputs, {"y": None}, constants))
    rewrite_node(model, model.graph[0], lowering="scan")
    onnx.save(ir.serde.serialize_model(model), tmp_path / "model.onnx")
    return load_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", FORMS)
def test_a_layer_that_edgeseq_wrote_as_a_scan(relu_gru: onnx.ModelProto, name: str) -> None:
    layers, _ = find_layers(relu_gru)
    scan = next(layer for layer in layers if layer.op_type == "Scan")
    changed = apply(relu_gru, layers, {scan.name: name})
    assert "MatMul" not in inner_ops(changed)
    assert not set(scan.weights) & {tensor.name for tensor in changed.graph.initializer}
    random = np.random.default_rng(1)
    feed = {
        "x": random.standard_normal((9, 3, 8)).astype(np.float32),
        "lengths": np.array([9, 4, 0], np.int32),
    }
    error = relative_error(answers(changed, feed), answers(relu_gru, feed))
    assert 0 < error < (0.3 if "4-bit" in name else 0.05)


def body_with_its_own(make_model: Make, matrix: np.ndarray, *, as_node: bool) -> onnx.ModelProto:
    """A Scan whose matrix lies in its body, under a name that the graph around it has, too."""
    value = helper.make_tensor_value_info
    constant = numpy_helper.from_array(matrix, "inner")
    body = helper.make_graph(
        [
            *([helper.make_node("Constant", [], ["inner"], value=constant)] if as_node else []),
            helper.make_node("MatMul", ["h", "inner"], ["product"]),
            helper.make_node("Add", ["product", "x_t"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["y_t"]),
        ],
        "step",
        [value(name, FLOAT, ["batch", 16]) for name in ("h", "x_t")],
        [value(name, FLOAT, ["batch", 16]) for name in ("h_next", "y_t")],
        [] if as_node else [constant],
    )
    node = helper.make_node("Scan", ["h0", "x"], ["h_last", "y"], "scan", body=body, num_scan_inputs=1)
    return make_model([node], {"x": (FLOAT, ["time", 3, 16])}, {"y": None}, {"h0": np.ones((3, 16), np.float32)})


@pytest.mark.parametrize("as_node", [False, True])
def test_constants_of_a_body_are_found(make_model: Make, as_node: bool, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
    onnx.save(body_with_its_own(make_model, matrix, as_node=as_node), tmp_path / "model.onnx")
    exact = onnx.load(tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    feed = {"x": np.random.default_rng(1).standard_normal((9, 3, 16)).astype(np.float32)}
    np.testing.assert_array_equal(answers(model, feed), answers(exact, feed))
    [layer], _ = find_layers(model)
    assert list(layer.weights) == ["scan/0/inner"]
    for name in FORMS:
        changed = apply(model, [layer], {"scan": name})
        assert "MatMul" not in inner_ops(changed)
        assert 0 < relative_error(answers(changed, feed), answers(exact, feed)) < (0.3 if "4-bit" in name else 0.05)


def test_two_bodies_with_constants_of_one_name(make_model: Make, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrices = [random.standard_normal((16, 16)).astype(np.float32) / 4 for _ in range(2)]
    models = [body_with_its_own(make_model, matrix, as_node=False) for matrix in matrices]
    first, second = (onnx.NodeProto.FromString(model.graph.node[0].SerializeToString()) for model in models)
    second.name, second.input[1] = "again", "y"
    second.output[:] = ["last", "z"]
    model = make_model(
        [first, second], {"x": (FLOAT, ["time", 3, 16])}, {"z": None}, {"h0": np.ones((3, 16), np.float32)}
    )
    onnx.save(model, tmp_path / "model.onnx")
    loaded = load_model(tmp_path / "model.onnx")
    feed = {"x": random.standard_normal((9, 3, 16)).astype(np.float32)}
    np.testing.assert_array_equal(answers(loaded, feed), answers(model, feed))
    layers, _ = find_layers(loaded)
    assert [list(layer.weights) for layer in layers] == [["scan/0/inner"], ["again/0/inner"]]
    changed = apply(loaded, layers, {"scan": "body-8-bit-blocks", "again": "body-8-bit-blocks"})
    assert relative_error(answers(changed, feed), answers(model, feed)) < 0.05


def test_a_body_without_a_product_is_declined(make_model: Make) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "i_t"], ["row"]),
            helper.make_node("Add", ["h", "row"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["y_t"]),
        ],
        "step",
        [value("h", FLOAT, ["batch", 16]), value("i_t", TensorProto.INT64, ["batch"])],
        [value(name, FLOAT, ["batch", 16]) for name in ("h_next", "y_t")],
    )
    node = helper.make_node("Scan", ["h0", "i"], ["h_last", "y"], "scan", body=body, num_scan_inputs=1)
    constants = {"h0": np.ones((3, 16), np.float32), "table": np.ones((50, 16), np.float32)}
    model = make_model([node], {"i": (TensorProto.INT64, ["time", 3])}, {"y": None}, constants)
    layers, _ = find_layers(model)
    for name in FORMS:
        with pytest.raises(Declined, match="no product in its body has a constant matrix"):
            apply(model, layers, {"scan": name})


def test_forms_that_bring_one_constant_differently_are_declined(make_model: Make) -> None:
    kernel = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "K"], ["a"], "first"),
        helper.make_node("Gemm", ["a", "K"], ["y"], "second"),
    ]
    model = make_model(nodes, {"x": (FLOAT, ["batch", 16])}, {"y": None}, {"K": kernel})
    layers, _ = find_layers(model)
    both = apply(model, layers, {"first": "4-bit-blocks-32", "second": "8-bit-blocks"})
    feed = {"x": np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)}
    assert relative_error(answers(both, feed), answers(model, feed)) < 0.3
    other = dataclasses.replace(layers[1], constants={"K": kernel * 2})
    with pytest.raises(Declined, match=r"another layer's form makes the constant 'K/8bit16[^']*' in another way"):
        apply(model, [layers[0], other], {"first": "8-bit-blocks", "second": "8-bit-blocks"})
