"""What every test may use. Real data is read in place; a test that needs a missing file skips and names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

# TensorFlow's own log lines would drown the test report.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets (imdb/, cmapss/, ett/, japanese_vowels/, mnist/, series/)."""
    folder = Path(os.environ.get("EDGESEQ_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} (set EDGESEQ_DATA to a folder that has it)")
    return folder


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """Writes a file of `nodes`; its inputs and outputs are those of the manifest, states behind them."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    def write(path: Path, nodes: list[Any], manifest: Any, weights: Mapping[str, Any] | None = None) -> Path:
        def value(spec: Any) -> Any:
            return helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.axes
            )

        graph = helper.make_graph(
            nodes,
            "graph",
            [value(spec) for spec in (*manifest.inputs, *(state.input_spec for state in manifest.states))],
            [value(spec) for spec in (*manifest.outputs, *(state.output_spec for state in manifest.states))],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        helper.set_model_props(model, {"edgeseq": manifest.to_json()})
        onnx.save(model, path)
        return path

    return write


@pytest.fixture(scope="session")
def write_sums(write_model: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a stream: `y` (batch, `time`, *features) sums up x so far, and the state carries the sum."""
    import numpy as np
    from onnx import helper

    from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

    def write(path: Path, *features: int, time: str | int = "time", **changes: Any) -> Path:
        x, y = (TensorSpec(name=name, dtype="float32", axes=("batch", time, *features)) for name in "xy")
        state = StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1, *features))
        said = {"input_structure": "x", "output_structure": "y", "states": (state,), "model_hash": "sums", **changes}
        nodes = [
            helper.make_node("CumSum", ["x", "one"], ["sums"]),
            helper.make_node("Add", ["sums", "state_in"], ["y"]),
            helper.make_node("Gather", ["y", "last"], ["state_out"], axis=1),
        ]
        weights = {"one": np.int64(1), "last": np.int64([-1])}
        return write_model(path, nodes, Manifest(inputs=(x,), outputs=(y,), **said), weights)

    return write
