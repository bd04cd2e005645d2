"""Small ONNX files with manifests, built by onnx.helper, and the numpy equations they must agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a graph, with its manifest unless that is None, and return the path."""

    def write_model(
        nodes: list[Any],
        inputs: list[Any],
        outputs: list[Any],
        weights: dict[str, np.ndarray],
        manifest: Manifest | str | None,
        name: str = "model.onnx",
    ) -> Path:
        initializers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
        graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else manifest.to_json()
            helper.set_model_props(model, {"edgeseq": text, "other": "entry"})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write_model


@dataclass(frozen=True)
class Lstm:
    """A one-layer LSTM that returns sequences, as a file and as equations (ONNX gate order i, o, f, c)."""

    path: Path
    W: np.ndarray
    R: np.ndarray

    def answer(self, x: np.ndarray, h: float | np.ndarray = 0.0, c: float | np.ndarray = 0.0) -> np.ndarray:
        units = self.R.shape[-1]
        h, c = np.full((len(x), units), h), np.full((len(x), units), c)
        outputs = []
        for step in x.transpose(1, 0, 2):
            i, o, f, g = np.split(step @ self.W[0].T + h @ self.R[0].T, 4, axis=1)
            i, o, f = (1 / (1 + np.exp(-gate)) for gate in (i, o, f))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs, axis=1)


@pytest.fixture
def make_lstm(write: Write) -> Callable[..., Lstm]:
    """An LSTM of 3 features and 4 units: plain, or streaming with states; the manifest can be changed or left out."""

    def make(
        *,
        streaming: bool = False,
        batch: str | int = "batch",
        time: str | int = "time",
        initial: float = 0.0,
        manifest: bool = True,
        **changes: Any,
    ) -> Lstm:
        random = np.random.default_rng(7)
        W = random.normal(size=(1, 16, 3)).astype(np.float32)
        R = random.normal(size=(1, 16, 4)).astype(np.float32)
        float_ = TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", float_, [batch, time, 3])]
        outputs = [helper.make_tensor_value_info("y", float_, [batch, time, 4])]
        nodes = [helper.make_node("Transpose", ["x"], ["x_time_first"], perm=[1, 0, 2])]
        states: tuple[StateSpec, ...] = ()
        if streaming:
            states = tuple(
                StateSpec(
                    input=f"state_in.0{i}.lstm.{s}",
                    output=f"state_out.0{i}.lstm.{s}",
                    dtype="float32",
                    axes=(batch, 4),
                    initial=initial,
                )
                for i, s in enumerate("hc")
            )
            for state in states:
                inputs.append(helper.make_tensor_value_info(state.input, float_, [batch, 4]))
                outputs.append(helper.make_tensor_value_info(state.output, float_, [batch, 4]))
            nodes += [helper.make_node("Unsqueeze", [state.input, "zero"], [state.input + "0"]) for state in states]
            given = [state.input + "0" for state in states]
            nodes.append(
                helper.make_node("LSTM", ["x_time_first", "W", "R", "", "", *given], ["Y", "h", "c"], hidden_size=4)
            )
            for state, last in zip(states, "hc", strict=True):
                nodes.append(helper.make_node("Squeeze", [last, "zero"], [state.output]))
        else:
            nodes.append(helper.make_node("LSTM", ["x_time_first", "W", "R"], ["Y"], hidden_size=4))
        nodes.append(helper.make_node("Squeeze", ["Y", "one"], ["Y_flat"]))
        nodes.append(helper.make_node("Transpose", ["Y_flat"], ["y"], perm=[1, 0, 2]))
        said = {
            "inputs": (TensorSpec(name="x", dtype="float32", axes=(batch, time, 3)),),
            "outputs": (TensorSpec(name="y", dtype="float32", axes=(batch, time, 4)),),
            "input_structure": "x",
            "output_structure": "y",
            "states": states,
            **changes,
        }
        weights = {"W": W, "R": R, "zero": np.array([0]), "one": np.array([1])}
        return Lstm(write(nodes, inputs, outputs, weights, Manifest(**said) if manifest else None), W, R)

    return make


TEXT_STEP = {
    "kind": "text",
    "lowercase": True,
    "filters": '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n',
    "split": " ",
    "vocabulary": ["the", "good", "bad"],
    "first_id": 4,
    "pad_id": 0,
    "start_id": 1,
    "unknown_id": 2,
    "length": None,
    "padding": "pre",
    "truncating": "pre",
}


@pytest.fixture
def text_step() -> dict[str, Any]:
    return dict(TEXT_STEP)


@pytest.fixture
def embedding(write: Write) -> tuple[Path, np.ndarray]:
    """int32 ids (batch, time) -> the mean of their rows of an 8 by 2 table, with preprocessing for text; its table."""
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "one"], ["score"], keepdims=0),
    ]
    manifest = Manifest(
        inputs=(TensorSpec(name="ids", dtype="int32", axes=("batch", "time")),),
        outputs=(TensorSpec(name="score", dtype="float32", axes=("batch", 2)),),
        input_structure="ids",
        output_structure="score",
        preprocessing={
            "inputs": {"ids": TEXT_STEP},
            "outputs": {"score": {"kind": "scale", "offset": [100.0, 0.0], "scale": [1.0, 10.0]}},
        },
    )
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "time"])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 2])]
    return write(nodes, inputs, outputs, {"table": table, "one": np.array([1])}, manifest), table


@pytest.fixture
def make_pair(write: Write) -> Callable[..., Path]:
    """a (batch, 2) float32 and keep (batch, 2) bool -> total = a + 1 (batch, 2) and kept = a where keep (batch, 2)."""

    def make(input_structure: Any = None, output_structure: Any = None, **changes: Any) -> Path:
        nodes = [
            helper.make_node("Add", ["a", "one"], ["total"]),
            helper.make_node("Where", ["keep", "a", "zero"], ["kept"]),
        ]
        float_ = TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("a", float_, ["batch", 2]),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, ["batch", 2]),
        ]
        outputs = [helper.make_tensor_value_info(name, float_, ["batch", 2]) for name in ("total", "kept")]
        manifest = Manifest(
            inputs=(
                TensorSpec(name="a", dtype="float32", axes=("batch", 2)),
                TensorSpec(name="keep", dtype="bool", axes=("batch", 2)),
            ),
            outputs=tuple(TensorSpec(name=name, dtype="float32", axes=("batch", 2)) for name in ("total", "kept")),
            input_structure=["a", "keep"] if input_structure is None else input_structure,
            output_structure=["total", "kept"] if output_structure is None else output_structure,
            **changes,
        )
        return write(
            nodes,
            inputs,
            outputs,
            {"one": np.float32(1)[()] * np.ones((), np.float32), "zero": np.zeros((), np.float32)},
            manifest,
        )

    return make
