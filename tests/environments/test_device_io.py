"""Inputs, outputs and states on the device, and CUDA graphs, with the real onnxruntime-gpu on a pretended GPU.

Asked for by scripts/test --gpu-wheel. No kernel can compute there, but the models here are copies alone, which are
made: by onnxruntime's own IO binding, and its own capture and replay of CUDA graphs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.runtime.manifest import Manifest, MaskSpec, RecurrentLayer, StateSpec, TensorSpec

pytestmark = pytest.mark.gpu_wheel

PRETENDED = Path(__file__).parent / "pretended_gpu"
STATE_IN, STATE_OUT = "state_in.00.delay", "state_out.00.delay"


def tensor(name: str, *axes: str | int, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, axes)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], *, weights: Any = (), **said: Any
) -> None:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(*weight) for weight in weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    states = said.get("states", ())
    hidden = {name for state in states for name in (state.input, state.output)}

    def specs(arguments: list[Any]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=argument.name,
                dtype=np.dtype(helper.tensor_dtype_to_np_dtype(argument.type.tensor_type.elem_type)).name,
                axes=tuple(axis.dim_param or axis.dim_value for axis in argument.type.tensor_type.shape.dim),
            )
            for argument in arguments
            if argument.name not in hidden
        )

    def nested(tensors: tuple[TensorSpec, ...]) -> Any:
        return tensors[0].name if len(tensors) == 1 else [spec.name for spec in tensors]

    taken, given = specs(inputs), specs(outputs)
    manifest = Manifest(
        inputs=taken, outputs=given, input_structure=nested(taken), output_structure=nested(given), **said
    )
    helper.set_model_props(model, {"edgeseq": manifest.to_json()})
    onnx.save(model, path)


def identity(source: str, target: str) -> Any:
    return helper.make_node("Identity", [source], [target])


def delay(axes: tuple[str | int, ...]) -> tuple[StateSpec, ...]:
    return (StateSpec(input=STATE_IN, output=STATE_OUT, dtype="float32", axes=axes, initial=0.5),)


def write_models(folder: Path) -> None:
    """Two delay lines and a model without a state; then what CUDA graphs cannot take."""
    one, many = ("batch", 1, 2), ("batch", "time", 2)
    save(
        folder / "delay.onnx",
        [identity(STATE_IN, "y"), identity("x", STATE_OUT)],
        [tensor("x", *one), tensor(STATE_IN, *one)],
        [tensor("y", *one), tensor(STATE_OUT, *one)],
        states=delay(one),
    )
    save(
        folder / "lengths.onnx",
        [identity("x", "y"), identity(STATE_IN, "z"), identity("u", STATE_OUT)],
        [tensor("x", *many), tensor("u", "batch", 2), tensor(STATE_IN, "batch", 2)],
        [tensor("y", *many), tensor("z", "batch", 2), tensor(STATE_OUT, "batch", 2)],
        states=delay(("batch", 2)),
    )
    x, y = tensor("x", *many), tensor("y", *many)
    save(folder / "plain.onnx", [identity("x", "y")], [x], [y])
    branches = {
        f"{name}_branch": helper.make_graph([identity("x", name)], name, [], [tensor(name, *many)])
        for name in ("then", "else")
    }
    flag = tensor("flag", dtype=TensorProto.BOOL)
    save(folder / "if.onnx", [helper.make_node("If", ["flag"], ["y"], **branches)], [x, flag], [y])
    body = helper.make_graph([identity("xs", "ys")], "body", [tensor("xs", "batch", 2)], [tensor("ys", "batch", 2)])
    scan = helper.make_node(
        "Scan", ["x"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]
    )
    layer = RecurrentLayer(name="my_cell", layer_type="RNN", strategy="scan", op_types=("Scan",))
    save(folder / "scan.onnx", [scan], [x], [y], recurrent=(layer,))
    matrix = tensor("matrix", "batch", 2, 2)
    save(
        folder / "host.onnx",
        [identity("x", "y"), helper.make_node("Det", ["matrix"], ["size"])],
        [x, matrix],
        [y, tensor("size", "batch")],
    )
    save(
        folder / "fallen.onnx",
        [
            identity("x", "y"),
            helper.make_node("Shape", ["x"], ["lengths"]),
            helper.make_node("Cast", ["lengths"], ["numbers"], to=TensorProto.FLOAT, name="longest/Cast"),
            helper.make_node("Hardmax", ["numbers"], ["longest"], name="longest/Hardmax"),
        ],
        [x],
        [y, tensor("longest", 3)],
    )
    lstm = [
        helper.make_node("ReduceSum", ["mask", "zero"], ["lengths"], keepdims=0),
        helper.make_node("LSTM", ["x", "W", "R", "", "lengths"], ["", "y"], hidden_size=3),
    ]
    weights = [(np.zeros((1, 12, size), np.float32), name) for name, size in (("W", 2), ("R", 3))]
    save(
        folder / "mask.onnx",
        lstm,
        [tensor("x", "time", "batch", 2), tensor("mask", "time", "batch", dtype=TensorProto.INT32)],
        [tensor("y", 1, "batch", 3)],
        weights=[*weights, (np.array([0]), "zero")],
        masks=(MaskSpec(input="x", layer="masking", value=0.0),),
    )
    found = tensor("found", 3, "count", dtype=TensorProto.INT64)
    save(folder / "free.onnx", [helper.make_node("NonZero", ["x"], ["found"])], [x], [found])


@pytest.fixture(scope="module")
def came(environment: Callable[[str], Any], tmp_path_factory: Any) -> Any:
    """What came of each case in device_io.py."""
    folder, library = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("gpu")
    python = environment("gpu-libraries").python
    command = [sys.executable, PRETENDED / "build.py", library, python]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode == 3:
        pytest.skip(built.stderr)
    assert built.returncode == 0, built.stderr
    write_models(folder)
    variables = {**os.environ, **json.loads(built.stdout), "DRIVER_DEVICES": "2"}
    command = [python, PRETENDED / "device_io.py", folder]
    ran = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("case", ["lived", "lived with graphs"])
def test_a_stream_on_the_device_is_an_exact_delay_line(came: Any, case: str) -> None:
    right = [[0.5, 0.5], *([number, number + 100] for number in range(5))]
    right += [[5, 0.5], [6, 106]]  # after the reset of one row
    right += [[0.5, 0.5]]  # after that of all
    right += [[7, 107], [9, 109]]  # and with the state of before
    assert came[case] == {"then": right, "kept": right, "saved": [[7, 7], [107, 107]]}


@pytest.mark.parametrize("case", ["chunks", "chunks with graphs"])
def test_chunks_of_other_lengths_share_the_state(came: Any, case: str) -> None:
    assert came[case] == [[True, 0.5], *([True, number] for number in range(9))]


def test_a_step_copies_its_input_in_and_its_output_out_and_nothing_else(came: Any) -> None:
    # to the device, from it, within it (the model's own two); graphs captured, launched
    assert came["steady"] == [1, 1, 2, 0, 0]
    assert came["steady with graphs"] == [1, 1, 0, 0, 1]


def test_buffers_are_made_on_the_device_asked_for(came: Any) -> None:
    one = {"buffers": 4, "providers": {"CUDAExecutionProvider": 2}}
    assert came["placed"] == {**one, "places": [[2, 0]]}
    assert came["placed on the second"] == {**one, "places": [[2, 1]]}
    kind, message = came["placed on the third"]
    assert kind == "WrongUsage"
    assert "device_id" in message


def test_a_buffer_takes_every_dtype(came: Any) -> None:
    assert came["dtypes"] == [True] * 8


def test_calls_replay_the_graph_of_their_shape(came: Any) -> None:
    # The first of all is profiled, without a graph. A capture ends with a launch.
    assert came["calls"] == {
        "right": [True] * 7,
        "captured and launched": [[0, 0], [1, 1], [1, 1], [0, 1], [0, 1], [0, 1], [0, 1]],
    }


def test_streams_take_over_graphs_and_16_shapes_are_the_most(came: Any) -> None:
    shared = came["shared"]
    assert shared["right"] == [True] * 20
    assert shared["captures"] == 2  # there and back
    kind, message = shared["error"]
    assert kind == "WrongUsage"
    assert "CUDA graphs are kept for 16 shapes of a session at most" in message
    assert shared["goes on"] == [16, 0]


def test_threads_share_a_model_with_graphs(came: Any) -> None:
    assert came["at once"] == [True] * 4


def test_a_thread_too_many_is_refused(came: Any) -> None:
    *first, (kind, message) = came["threads"]
    assert first == [["nothing", ""]] * 4
    assert kind == "WrongUsage"
    assert "at most 4 threads may run a Model" in message


def test_a_node_on_the_cpu_is_refused_where_the_caller_allows_it_too(came: Any) -> None:
    kind, message = came["with consent"]
    assert kind == "PlacementRefused"
    assert "Cast 'longest/Cast' ran on CPUExecutionProvider, and a graph repeats what the GPU does alone" in message


@pytest.mark.parametrize(
    ("case", "kind", "reason"),
    [
        ("if", "PlacementRefused", "it holds an If, a Loop or a Scan, which the CPU steers"),
        ("scan", "PlacementRefused", "Scan of the layer 'my_cell' is steered by the CPU"),
        ("host", "PlacementRefused", "the CPU reads the input 'matrix'"),
        ("mask", "PlacementRefused", "the CPU reads the lengths that the mask of the layer 'masking' gives"),
        ("free", "WrongUsage", "the length of 'count' of the output 'found' is known only after a run"),
    ],
)
def test_what_graphs_cannot_take_is_refused_with_the_reason(came: Any, case: str, kind: str, reason: str) -> None:
    found, message = came["refused"][case]
    assert (found, reason in message) == (kind, True), message
    assert "Leave the option enable_cuda_graph out" in message
