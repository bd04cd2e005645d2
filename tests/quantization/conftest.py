"""Small ONNX files made node by node, and a trial whose times are all alike, so that no test depends on the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.bench.stats import Interval, Ratio
from edgeseq.quantization.measure import SampledTrial
from edgeseq.runtime.golden import Golden, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Manifest, RecurrentLayer, StateSpec, TensorSpec, ThreadAdvice

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, list[Any] | None],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    # Outputs given without a shape get the one that follows from the nodes.
    model.graph.CopyFrom(onnx.shape_inference.infer_shapes(model).graph)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    """Nodes, inputs {name: (type, shape)}, outputs {name: shape} and constants to a checked model."""
    return _model


@pytest.fixture
def make_classifier() -> Callable[..., onnx.ModelProto]:
    """Word ids (batch, time) -> embedding -> recurrent layer -> dense -> probability, as exported from Keras."""

    def make(
        kind: str = "LSTM",
        *,
        vocabulary: int = 300,
        features: int = 16,
        units: int = 24,
        bidirectional: bool = False,
        seed: int = 0,
    ) -> onnx.ModelProto:
        random = np.random.default_rng(seed)
        directions, gates = 1 + bidirectional, GATES[kind]

        def normal(*shape: int, scale: float) -> np.ndarray:
            return (random.standard_normal(shape) * scale).astype(np.float32)

        # Rows of a trained table differ much in length: frequent words move far, rare ones hardly.
        lengths = np.exp(random.standard_normal((vocabulary, 1))).astype(np.float32)
        constants = {
            "table": normal(vocabulary, features, scale=0.3) * lengths,
            "W": normal(directions, gates * units, features, scale=1 / np.sqrt(features)),
            "R": normal(directions, gates * units, units, scale=1 / np.sqrt(units)),
            "B": normal(directions, 2 * gates * units, scale=0.1),
            "dense_kernel": normal(directions * units, 16, scale=0.3),
            "dense_bias": normal(16, scale=0.1),
            "last_kernel": normal(16, 1, scale=0.5),
        }
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["vectors"], "embedding/Gather_0"),
            helper.make_node("Transpose", ["vectors"], ["steps"], perm=[1, 0, 2]),
            helper.make_node(
                kind,
                ["steps", "W", "R", "B"],
                ["", "state"],
                "rnn/fused_2",
                hidden_size=units,
                direction="bidirectional" if bidirectional else "forward",
                **({"linear_before_reset": 1} if kind == "GRU" else {}),
            ),
            helper.make_node("Transpose", ["state"], ["state_first"], perm=[1, 0, 2]),
            helper.make_node("Flatten", ["state_first"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "dense_kernel", "dense_bias"], ["hidden"], "dense/Gemm_5"),
            helper.make_node("MatMul", ["hidden", "last_kernel"], ["logit"], "last/MatMul_6"),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ]
        inputs = {"ids": (TensorProto.INT32, ["batch", "time"])}
        return _model(nodes, inputs, {"probability": ["batch", 1]}, constants)

    return make


@pytest.fixture
def make_streaming() -> Callable[[], onnx.ModelProto]:
    """(batch, time, 4) and the states of an LSTM to (batch, time, 32) and the states after it."""

    def make() -> onnx.ModelProto:
        random = np.random.default_rng(3)
        constants = {
            "W": random.standard_normal((1, 128, 4)).astype(np.float32) / 2,
            "R": random.standard_normal((1, 128, 32)).astype(np.float32) / 6,
            "axis": np.array([0], np.int64),
            "axis_1": np.array([1], np.int64),
        }
        nodes = [
            helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
            helper.make_node("Unsqueeze", ["state_in.00.rnn.h", "axis"], ["h"]),
            helper.make_node("Unsqueeze", ["state_in.01.rnn.c", "axis"], ["c"]),
            helper.make_node("LSTM", ["steps", "W", "R", "", "", "h", "c"], ["y", "hn", "cn"], "rnn", hidden_size=32),
            helper.make_node("Squeeze", ["y", "axis_1"], ["y_squeezed"]),
            helper.make_node("Transpose", ["y_squeezed"], ["out"], perm=[1, 0, 2]),
            helper.make_node("Squeeze", ["hn", "axis"], ["state_out.00.rnn.h"]),
            helper.make_node("Squeeze", ["cn", "axis"], ["state_out.01.rnn.c"]),
        ]
        state = (TensorProto.FLOAT, ["batch", 32])
        inputs = {
            "x": (TensorProto.FLOAT, ["batch", "time", 4]),
            "state_in.00.rnn.h": state,
            "state_in.01.rnn.c": state,
        }
        outputs = {
            "out": ["batch", "time", 32],
            "state_out.00.rnn.h": ["batch", 32],
            "state_out.01.rnn.c": ["batch", 32],
        }
        return _model(nodes, inputs, outputs, constants)

    return make


@pytest.fixture
def save_with_manifest() -> Callable[..., Path]:
    """Save a model with a manifest that fits it; with golden samples beside it where they are given."""

    def save(model: onnx.ModelProto, path: Path, golden: Golden | None = None, **changes: Any) -> Path:
        states = [value.name for value in model.graph.input if value.name.startswith("state_in.")]
        specs = {value.name: _spec(value) for value in (*model.graph.input, *model.graph.output)}
        inputs = tuple(specs[value.name] for value in model.graph.input if value.name not in states)
        outputs = tuple(specs[value.name] for value in model.graph.output if not value.name.startswith("state_out."))
        manifest = Manifest(
            **{
                "inputs": inputs,
                "outputs": outputs,
                "input_structure": inputs[0].name,
                "output_structure": outputs[0].name,
                "states": tuple(
                    StateSpec(input=name, output=name.replace("_in.", "_out."), dtype="float32", axes=specs[name].axes)
                    for name in states
                ),
                "recurrent": (RecurrentLayer(name="rnn", layer_type="LSTM", strategy="fused", op_types=("LSTM",)),),
                "threads": (ThreadAdvice(batch=1, threads=1),),
                "model_hash": "abc123",
                **changes,
            }
        )
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        helper.set_model_props(copy, {METADATA_KEY: manifest.to_json(), "author": "somebody"})
        onnx.save(copy, path)
        if golden is not None:
            write_golden(path, golden, manifest.model_hash)
        return path

    return save


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
        axes=tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim),
    )


@pytest.fixture
def same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form takes as long as fp32, on one thread: what is chosen then depends on sizes and errors alone."""
    ratio = Ratio(value=1.0, interval=Interval(low=0.99, high=1.01))
    monkeypatch.setattr(SampledTrial, "time_ratio", lambda *_: ratio)
    monkeypatch.setattr(SampledTrial, "source_latency_ms", lambda _: 2.0)
    monkeypatch.setattr("edgeseq.quantization.finding.thread_counts", lambda: (1,))
