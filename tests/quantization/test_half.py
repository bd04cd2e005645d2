"""Files for GPUs: half precision where it is safe, 8 bits in pairs for TensorRT. Values are checked on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.calibration import observe
from edgeseq.quantization.candidates import CANDIDATES, FLOAT16, apply, candidates_for
from edgeseq.quantization.forms.half import to_float16
from edgeseq.quantization.layers import find_layers
from edgeseq.quantization.runs import serialize
from edgeseq.runtime.providers import open_session

Make = Callable[..., onnx.ModelProto]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    return open_session(serialize(model), threads=1).run(None, feed)


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - exact).mean() / np.square(exact).mean()))


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture
def attention(make_model: Make) -> onnx.ModelProto:
    """Scores (batch, time, 8) through a normalised product, a softmax and a sum."""
    random = np.random.default_rng(0)
    constants = {
        "kernel": random.standard_normal((8, 8)).astype(np.float32),
        "scale": np.ones(8, np.float32),
        "axis": np.array([1], np.int64),
        "last": random.standard_normal((8, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["normal"], "normalise", axis=-1),
        helper.make_node("MatMul", ["normal", "kernel"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], "softmax", axis=1),
        helper.make_node("ReduceSum", ["shares", "axis"], ["total"], "sum", keepdims=0),
        helper.make_node("MatMul", ["total", "last"], ["y"], "last"),
    ]
    return make_model(nodes, {"x": (FLOAT, ["batch", "time", 8])}, {"y": None}, constants)


def test_sensitive_ops_stay_in_float32_between_products_in_float16(attention: onnx.ModelProto) -> None:
    half = to_float16(attention)
    found = types(half)
    assert found["scores/float16"] == found["kernel/float16"] == HALF
    assert found["normal"] == found["shares"] == found["total"] == FLOAT
    assert "kernel" not in found
    feed = {"x": np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)}
    [ours], [exact] = run(half, feed), run(attention, feed)
    assert ours.dtype == np.float32
    # Float16 has 11 bits: 0.0005 of a number is rounded away.
    assert 0 < relative_error(ours, exact) < 0.002


def test_what_is_kept_computes_what_it_did(attention: onnx.ModelProto) -> None:
    kept = to_float16(attention, ["scores", "last"])
    assert op_types(kept) == op_types(attention)
    assert {tensor.name for tensor in kept.graph.initializer} == {"kernel", "scale", "axis", "last"}
    feed = {"x": np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)}
    np.testing.assert_array_equal(run(kept, feed)[0], run(attention, feed)[0])


def test_weights_beyond_65504_keep_their_node_in_float32(make_model: Make) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["z"], "large"),
        helper.make_node("Mul", ["z", "small"], ["y"], "small"),
    ]
    constants = {"large": np.full((1, 4), 1e5, np.float32), "small": np.full((1, 4), 1e-5, np.float32)}
    model = make_model(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": None}, constants)
    feed = {"x": np.ones((2, 4), np.float32)}
    kept = to_float16(model, ["small"])
    assert run(kept, feed)[0] == pytest.approx(1)
    assert op_types(to_float16(model)) == ["Mul", "Cast", "Mul", "Cast"]


def test_shapes_and_indices_are_no_floats(make_model: Make) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "first"], ["rows"], "rows"),
        helper.make_node("Concat", ["rows", "minus"], ["target"], "target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"], "flat"),
        helper.make_node("Relu", ["flat"], ["y"], "relu"),
    ]
    constants = {"first": np.array([0]), "minus": np.array([-1])}
    model = make_model(nodes, {"x": (FLOAT, ["batch", 2, 3])}, {"y": ["batch", "n"]}, constants)
    found = types(to_float16(model))
    assert found["shape"] == found["rows"] == found["target"] == TensorProto.INT64
    [answer] = run(to_float16(model), {"x": np.ones((4, 2, 3), np.float32)})
    assert answer.shape == (4, 6)


@pytest.mark.parametrize("keep", [[], ["rnn"]])
def test_states_stay_float32_outside(make_streaming: Callable[[], onnx.ModelProto], keep: list[str]) -> None:
    model = make_streaming()
    half = to_float16(model, keep)
    assert {value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)} == {FLOAT}
    random = np.random.default_rng(0)
    feed = {
        "x": random.standard_normal((2, 6, 4)).astype(np.float32),
        "state_in.00.rnn.h": random.uniform(-1, 1, (2, 32)).astype(np.float32),
        "state_in.01.rnn.c": random.uniform(-1, 1, (2, 32)).astype(np.float32),
    }
    for ours, exact in zip(run(half, feed), run(model, feed), strict=True):
        assert relative_error(ours, exact) < 0.002


def test_a_transposed_factor_stays_float32_for_the_cpu(make_model: Make, tmp_path: Path) -> None:
    """onnxruntime 1.31 crashes on the two in float16, and takes the process with it: so another one opens the file."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "B"], ["y"], "product"),
    ]
    model = make_model(nodes, {"x": (FLOAT, ["a", "b", 4])}, {"y": None}, {"B": np.ones((4, 4), np.float32)})
    onnx.save(to_float16(model), tmp_path / "half.onnx")
    code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "half.onnx")], check=True, capture_output=True)


def test_layers_that_are_not_chosen_stay_float32(make_classifier: Make) -> None:
    """What a search that takes layers back needs."""
    model = make_classifier()
    layers, _ = find_layers(model)
    changed = apply(model, layers, {"rnn/fused_2": FLOAT16, "dense/Gemm_5": FLOAT16})
    found = types(changed)
    assert found["R/float16"] == found["dense_kernel/float16"] == HALF
    assert found["table"] == found["last_kernel"] == FLOAT
    assert "table/float16" not in found
    feed = {"ids": np.random.default_rng(0).integers(0, 300, (3, 9)).astype(np.int32)}
    assert 0 < relative_error(run(changed, feed)[0], run(model, feed)[0]) < 0.002


# What onnx-tensorrt's table of operators names as not taken, and every op of onnxruntime's own.
_NOT_TENSORRT = {
    *("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
}


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_forms_for_gpus_have_no_op_that_they_lack(make_classifier: Make, target: str) -> None:
    model = make_classifier()
    layers, _ = find_layers(model)
    feed = {"ids": np.random.default_rng(0).integers(0, 300, (8, 9)).astype(np.int32)}
    tried = set()
    for layer in layers:
        for entry in candidates_for(layer, target=target):
            parameters = {}
            if entry.calibration:
                seen = observe(model, entry.calibration.observed(layer), [feed])
                parameters = {layer.name: entry.calibration.calibrate(layer, seen)}
            changed = apply(model, [layer], {layer.name: entry.name}, parameters)
            assert not set(op_types(changed)) & _NOT_TENSORRT
            assert {node.domain for node in changed.graph.node} == {""}
            assert relative_error(run(changed, feed)[0], run(model, feed)[0]) < 0.05
            tried.add(entry.name)
    expected = {FLOAT16, "float16-weights", "qdq-int8" if target == "tensorrt" else "int8-weights"}
    assert tried == expected


def test_pairs_for_tensorrt_are_symmetric_and_by_output(make_classifier: Make) -> None:
    model = make_classifier()
    layers, _ = find_layers(model)
    layer = next(layer for layer in layers if layer.op_type == "Gemm")
    changed = apply(model, layers, {layer.name: "qdq-int8"}, {layer.name: {"x_bound": 1.0}})
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    zeros = [array for array in tensors.values() if array.dtype == np.int8 and not array.any()]
    assert len(zeros) == 2
    assert not {array.dtype for array in tensors.values()} & {np.dtype(np.uint8)}
    assert tensors["dense_kernel/axis1/scale"].shape == (16,)
    readers = [node.op_type for node in changed.graph.node if any("decoded" in name for name in node.input)]
    assert readers == ["Gemm"]


def test_the_cpu_gets_none_of_them(make_classifier: Make) -> None:
    for layer in find_layers(make_classifier())[0]:
        names = {entry.name for entry in candidates_for(layer)}
        assert not names & {FLOAT16, "qdq-int8"}
    assert CANDIDATES["dynamic-int8"].targets == {"cpu"}
