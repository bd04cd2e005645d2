"""What CUDA's own kernels take, asked of the real onnxruntime-gpu: the lowering for `target="cuda"` keeps all of a
recurrent layer there, and what the lowering for the CPU would lose is what the rules say.

Asked for by scripts/test --gpu-wheel. The GPU is pretended: placing nodes computes nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers as L
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from onnxruntime.quantization import QuantType, quantize_dynamic

import edgeseq
from edgeseq.prediction import predict

pytestmark = pytest.mark.gpu_wheel

# Ops that onnxruntime keeps on the host where they compute with shapes and lengths.
SHAPES = {"Concat", "Squeeze", "Unsqueeze", "Gather", "Shape", "Slice", "Cast", "Add", "Sub", "Mul", "Max", "Range"}

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # name: layers of a model of (batch, time, 4), and the op that leaves the GPU when lowered for the CPU
    "lstm": (lambda: [L.LSTM(8)], ""),
    "lstm relu": (lambda: [L.LSTM(8, activation="relu")], "LSTM"),
    "lstm hard_sigmoid": (lambda: [L.LSTM(8, recurrent_activation="hard_sigmoid")], "LSTM"),
    "gru": (lambda: [L.GRU(8)], ""),
    "gru reset before": (lambda: [L.GRU(8, reset_after=False)], "GRU"),
    "gru gelu": (lambda: [L.GRU(8, activation="gelu")], ""),
    "rnn": (lambda: [L.SimpleRNN(8)], ""),
    "rnn relu": (lambda: [L.SimpleRNN(8, activation="relu")], "RNN"),
    "masked": (lambda: [L.Masking(), L.LSTM(8, return_sequences=True), L.GRU(4)], ""),
    "bidirectional": (lambda: [L.Masking(), L.Bidirectional(L.GRU(8, return_sequences=True)), L.Dense(3)], ""),
    "bidirectional relu": (lambda: [L.Bidirectional(L.LSTM(8, activation="relu"))], "LSTM"),
    "convolution": (lambda: [L.Conv1D(8, 3), L.MaxPooling1D(2), L.LSTM(8)], ""),
    "normalised": (lambda: [L.LSTM(8, return_sequences=True), L.LayerNormalization(), L.GlobalAveragePooling1D()], ""),
}


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# Of ONNX 1.23's 1,884 tests of single ops, those with a newer opset than this.
NEWEST_OPSET = 25


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> dict[tuple[str, str], Path]:
    """A file by case and target."""
    folder: Path = tmp_path_factory.mktemp("models")
    paths: dict[tuple[str, str], Path] = {}
    for number, (case, (layers, _)) in enumerate(CASES.items()):
        model = keras.Sequential([L.Input((None, 4)), *layers()])
        for target in ("cpu", "cuda"):
            paths[case, target] = folder / f"{number}-{target}.onnx"
            edgeseq.export(model, paths[case, target], target=target)
    model = keras.Sequential([L.Input((5, 8, 8, 1)), L.ConvLSTM2D(4, 3, padding="same")])
    paths["convlstm", "cuda"] = folder / "convlstm.onnx"
    edgeseq.export(model, paths["convlstm", "cuda"], target="cuda")
    model = keras.Sequential([L.Input((None, 4)), L.GRU(8, return_sequences=True), L.LSTM(4)])
    paths["streaming", "cuda"] = folder / "streaming.onnx"
    edgeseq.export(model, paths["streaming", "cuda"], target="cuda", streaming=True)
    for name, model in attention():
        for target in ("cpu", "cuda"):
            paths[name, target] = folder / f"{name}-{target}.onnx"
            edgeseq.export(model, paths[name, target], target=target)
    for name, layers in {
        "gru": [L.GRU(8)],
        "masked": [L.Masking(), L.LSTM(8)],
        "two": [L.Bidirectional(L.GRU(4))],
    }.items():
        model = keras.Sequential([L.Input((None, 4)), *layers])
        model(np.zeros((1, 3, 4), "float32"))
        paths[f"keras {name}", "loop"] = folder / f"keras-{name}.onnx"
        model.export(str(paths[f"keras {name}", "loop"]), format="onnx", verbose=False)
    for name, kind in (("lstm", QuantType.QUInt8), ("bidirectional", QuantType.QInt8), ("masked", QuantType.QInt8)):
        paths[name, "int8"] = folder / f"{name}-int8.onnx"
        quantize_dynamic(paths[name, "cpu"], paths[name, "int8"], weight_type=kind)
    for number, model in enumerate(hand_made()):
        paths[str(number), "hand-made"] = folder / f"hand-made-{number}.onnx"
        onnx.save(model, paths[str(number), "hand-made"])
    return paths


def attention() -> Iterator[tuple[str, Any]]:
    inputs = L.Input((None, 4))
    states = L.LSTM(8, return_sequences=True)(inputs)
    yield "attention", keras.Model(inputs, L.Dense(2)(L.Attention()([states, states])))
    inputs = L.Input((None, 8))
    yield "heads", keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, inputs))


def hand_made() -> Iterator[onnx.ModelProto]:
    """What no Keras model of these has: every type of a recurrent op, and what cuDNN lacks."""
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
            yield recurrent(op, gates, kind)
        for attributes in (
            {"clip": 3.0},
            {"activation_alpha": [0.1]},
            {"activations": ["tanh"] * {"LSTM": 3, "GRU": 2, "RNN": 1}[op]},
            {"layout": 0},
            {"linear_before_reset": 1} if op == "GRU" else {},
            {"input_forget": 1} if op == "LSTM" else {},
        ):
            yield recurrent(op, gates, TensorProto.FLOAT, **attributes)
    yield recurrent("LSTM", 4, TensorProto.FLOAT, peepholes=True)


def recurrent(op: str, gates: int, kind: int, *, peepholes: bool = False, **attributes: Any) -> onnx.ModelProto:
    shapes = {"w": (1, gates * 3, 2), "r": (1, gates * 3, 3), **({"p": (1, 9)} if peepholes else {})}
    weights = [helper.make_tensor(name, kind, shape, [0.0] * int(np.prod(shape))) for name, shape in shapes.items()]
    inputs = ["x", "w", "r", *(["", "", "", "", "p"] if peepholes else [])]
    node = helper.make_node(op, inputs, ["y"], name="layer/op", hidden_size=3, **attributes)
    values = [
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", (4, 1, 2)), ("y", (4, 1, 1, 3)))
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def placed(files: Any, place_on_cuda: Any) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """Name, op type and provider of every node, by case and target."""
    found = place_on_cuda(list(files.values()))
    return {case: found[path] for case, path in files.items()}


@pytest.mark.parametrize("case", [*CASES, "convlstm", "streaming"])
def test_what_is_lowered_for_cuda_stays_there(placed: Any, case: str) -> None:
    nodes = placed[case, "cuda"]
    on_host = {op for _, op, provider in nodes if provider != "CUDAExecutionProvider"}
    assert on_host <= SHAPES
    assert len([op for _, op, _ in nodes if op in SHAPES]) < len(nodes)
    assert sum(provider == "CUDAExecutionProvider" for _, _, provider in nodes) > len(nodes) / 2


@pytest.mark.parametrize("case", CASES)
def test_what_is_lowered_for_the_cpu_leaves_where_the_rules_say(placed: Any, case: str) -> None:
    lost = {op for _, op, provider in placed[case, "cpu"] if provider != "CUDAExecutionProvider"} - SHAPES
    assert lost == ({CASES[case][1]} if CASES[case][1] else set())


def test_what_is_predicted_is_where_it_is(files: Any, placed: Any) -> None:
    compared = Counter[str]()
    for case, path in files.items():
        compare(path, placed[case], compared)
    # Files that are really placed on both, and not only arithmetic on shapes.
    assert compared["cuda"] > 500
    assert compared["cpu"] > 50
    assert compared["floating on cpu"] > 10


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_kernels_are_those_of_every_op_that_onnx_tests(place_on_cuda: Any, tmp_path: Path) -> None:
    paths = []
    for case in collect_testcases(None):
        model = case.model
        if [entry.domain for entry in model.opset_import] != [""] or model.opset_import[0].version > NEWEST_OPSET:
            continue
        for number, node in enumerate(model.graph.node):
            node.name = f"node_{number}"
        paths.append(tmp_path / f"{case.name}.onnx")
        onnx.save(model, paths[-1])
    compared = Counter[str]()
    for path, nodes in place_on_cuda(paths).items():
        compare(path, nodes, compared)
    assert compared["cuda"] > 500
    assert compared["floating on cpu"] > 100


def test_the_table_is_that_of_this_onnxruntime(environment: Any) -> None:
    python = environment("gpu-libraries").python
    command = [sys.executable, SCRIPTS / "kernels", "--cuda", python, "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def compare(path: Path, nodes: list[tuple[str, str, str]], compared: Counter[str]) -> None:
    """Hold the prediction of a file against where its nodes are, as far as onnxruntime has kept them."""
    actual = {name: (op, provider) for name, op, provider in nodes}
    prediction = predict(path, "cuda")
    names = Counter(node.name for node in prediction.nodes)
    for node in prediction.nodes:
        op, provider = actual.get(node.name, ("", ""))
        if names[node.name] > 1 or op != node.op_type.rpartition("::")[2]:
            continue
        assert provider == {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[node.provider], (path, node)
        compared[node.provider] += 1
        compared[f"floating on {node.provider}"] += node.floating
