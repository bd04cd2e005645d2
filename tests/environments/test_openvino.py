"""A second provider that computes without a GPU: OpenVINO, through the same path as any other, and what it compiles.

Asked for by scripts/test --gpu-wheel. The package lacks the library with which OpenVINO reads back what it compiled for
its CPU (see `test_compiling_says_what_the_package_lacks`); what it writes is looked into instead.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers as L

import edgeseq

pytestmark = pytest.mark.gpu_wheel

NAME = "OpenVINOExecutionProvider"
ON_CPU = ("-p", NAME, "--provider-option", "device_type=CPU")

CASES: dict[str, Callable[[], Any]] = {
    "lstm": lambda: [L.LSTM(8, return_sequences=True), L.Dense(3)],
    "gru": lambda: [L.GRU(8), L.Dense(3)],
    "bidirectional": lambda: [L.Bidirectional(L.GRU(8, return_sequences=True)), L.Dense(3)],
    "relu": lambda: [L.LSTM(8, activation="relu")],
    "convolution": lambda: [L.Conv1D(8, 3), L.MaxPooling1D(2), L.LSTM(8)],
}

# Opens a model as `edgeseq compile` does, and tells what became of it.
COMPILE = """
import dataclasses, json, sys
from edgeseq.runtime import providers, wire
from edgeseq.runtime.partitions import read_partitions
source, target = sys.argv[1:]
config = {"ep.context_enable": "1", "ep.context_file_path": target, "ep.context_embed_mode": "1"}
session = providers.open_session(
    source, provider="OpenVINOExecutionProvider", provider_options={"device_type": "CPU"}, config=config
)
wire.write_with_metadata(target, target + ".marked", {"edgeseq": "{}", "mark": "here"})
print(json.dumps(dataclasses.asdict(read_partitions(session))))
"""


@pytest.fixture(scope="module")
def openvino(environment: Callable[[str], Any]) -> Any:
    return environment("openvino")


@pytest.fixture(scope="module")
def models(tmp_path_factory: Any) -> dict[str, Path]:
    folder: Path = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    found = {}
    for case, layers in CASES.items():
        found[case] = folder / f"{case}.onnx"
        edgeseq.export(keras.Sequential([L.Input((None, 4), name="x"), *layers()]), found[case])
    found["streaming"] = folder / "streaming.onnx"
    model = keras.Sequential([L.Input((None, 4), name="x"), L.LSTM(8, return_sequences=True)])
    edgeseq.export(model, found["streaming"], streaming=True)
    found["masked"] = folder / "masked.onnx"
    samples = np.random.default_rng(0).standard_normal((4, 9, 4)).astype(np.float32)
    samples[1, 5:] = 0
    edgeseq.export(
        keras.Sequential([L.Input((None, 4), name="x"), L.Masking(), L.LSTM(8)]),
        found["masked"],
        samples={"x": samples},
    )
    found["partial"] = folder / "partial.onnx"
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        # OpenVINO has no Inverse, an op of onnxruntime's own.
        [
            node("Add", ["x", "x"], ["twice"], "add"),
            node("Inverse", ["twice"], ["inverse"], "inverse", domain="com.microsoft"),
            node("Mul", ["inverse", "inverse"], ["y"], "mul"),
        ],
        "partial",
        [value("x", onnx.TensorProto.FLOAT, [2, 2])],
        [value("y", onnx.TensorProto.FLOAT, [2, 2])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), found["partial"])
    return found


@pytest.mark.parametrize("case", [*CASES, "streaming"])
def test_answers_are_keras_s(openvino: Any, models: dict[str, Path], case: str) -> None:
    code, document = openvino.edgeseq("check", models[case], *ON_CPU)
    assert code == 0, document
    assert (document["provider"], document["reference"]) == (NAME, "golden")
    assert document["notes"] == []


def test_a_list_is_allowed_and_reported(openvino: Any, models: dict[str, Path]) -> None:
    code, document = openvino.edgeseq("check", models["lstm"], "-p", f"{NAME},cpu", *ON_CPU[2:])
    assert (code, document["notes"]) == (0, [])
    code, document = openvino.edgeseq("check", models["lstm"], "-p", f"cuda,{NAME}")
    assert code == 0
    assert "cuda was not used: it cannot start" in document["notes"][0]


def test_options_that_it_has_not_are_refused(openvino: Any, models: dict[str, Path]) -> None:
    for command in ("check", "compile"):
        code, document = openvino.edgeseq(command, models["lstm"], "-p", NAME, "--provider-option", "device=CPU")
        assert code == 2
        assert "Invalid OpenVINO EP option: device" in document["error"]["message"]
        assert ".cc:" not in document["error"]["message"]


def test_a_device_that_is_not_there_is_not_the_cpu_in_silence(openvino: Any, models: dict[str, Path]) -> None:
    code, document = openvino.edgeseq("check", models["lstm"], "-p", NAME, "--provider-option", "device_type=XPU")
    assert code == 4
    assert document["error"]["type"] == "PlacementRefused"


@pytest.mark.parametrize("case", [*CASES, "streaming"])
def test_it_takes_the_whole_model_and_writes_one_node(
    openvino: Any, models: dict[str, Path], tmp_path: Path, case: str
) -> None:
    target = tmp_path / "context.onnx"
    ran = subprocess.run(
        [openvino.python, "-c", COMPILE, models[case], target], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    taken = json.loads(ran.stdout)
    assert (taken["provider"], len(taken["subgraphs"]), taken["left"]) == (NAME, 1, [])
    assert {"LSTM", "GRU"} & set(taken["subgraphs"][0]["op_types"])
    written = onnx.load(f"{target}.marked")
    assert [(node.op_type, node.domain) for node in written.graph.node] == [("EPContext", "com.microsoft")]
    assert {entry.key: entry.value for entry in written.metadata_props} == {"edgeseq": "{}", "mark": "here"}
    plain = onnx.load(target)
    del plain.metadata_props[:], written.metadata_props[:]
    assert plain == written


def test_compiling_says_what_the_package_lacks(openvino: Any, models: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "small.onnx"
    code, document = openvino.edgeseq("compile", models["lstm"], *ON_CPU, "-o", target)
    packages = openvino.python.parent.parent.glob("lib/python*/site-packages/onnxruntime/capi/*openvino_ir_frontend*")
    if next(packages, None) is None:
        assert code == 3
        assert "the library openvino_ir_frontend" in document["error"]["message"]
        assert list(tmp_path.iterdir()) == []
        return
    assert code == 0, document
    assert document["parity"]["outputs"][0]["within"]
    code, document = openvino.edgeseq("check", target, "-p", NAME)
    assert code == 0, document


def test_a_dry_run_plans(openvino: Any, models: dict[str, Path]) -> None:
    code, document = openvino.edgeseq("compile", models["lstm"], *ON_CPU, "--dry-run")
    assert code == 0
    assert (document["provider"], document["options"]) == (NAME, {"device_type": "CPU"})
    assert document["built_on"]["machine"]
    assert document["cache_folder"] is None
    code, document = openvino.edgeseq("compile", models["lstm"], *ON_CPU, "--dry-run", "--range", "time=1:9")
    assert code == 2


def test_rows_of_other_lengths_in_one_batch_are_found_wrong(openvino: Any, models: dict[str, Path]) -> None:
    # OpenVINO's CPU steps over the lengths of rows when they differ. What is wrong must not pass.
    code, document = openvino.edgeseq("check", models["masked"], *ON_CPU)
    assert code == 1
    assert not document["outputs"][0]["within"]
    code, document = openvino.edgeseq("check", models["masked"], "-p", "cpu")
    assert code == 0


def test_one_name_is_that_provider_alone(openvino: Any, models: dict[str, Path], tmp_path: Path) -> None:
    inputs = tmp_path / "x.npz"
    np.savez(inputs, x=np.float32([[2, 0], [0, 4]]))
    code, document = openvino.edgeseq("run", models["partial"], inputs, *ON_CPU)
    assert code == 4
    # It leaves the Add before it too, which alone would be a part of one node.
    assert "2 of 3 nodes ran on CPUExecutionProvider" in document["error"]["message"]
    assert document["error"]["details"]["nodes"] == ["add", "inverse"]
    assert "Inverse 'inverse'" in document["error"]["message"]
    code, document = openvino.edgeseq("run", models["partial"], inputs, "-p", f"{NAME},cpu", *ON_CPU[2:])
    assert code == 0
    assert document["outputs"][0]["values"] == [[0.0625, 0.0], [0.0, 0.015625]]
    assert document["notes"] == [f"2 of 3 nodes ran on CPUExecutionProvider, not on {NAME}: 1 Add, 1 Inverse"]


def test_the_parts_of_a_model_that_it_takes_only_in_part(
    openvino: Any, models: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "context.onnx"
    ran = subprocess.run(
        [openvino.python, "-c", COMPILE, models["partial"], target], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    taken = json.loads(ran.stdout)
    assert [(node["name"], node["op_type"], node["provider"]) for node in taken["left"]] == [
        ("add", "Add", "CPUExecutionProvider"),
        ("inverse", "Inverse", "CPUExecutionProvider"),
    ]
    assert [part["op_types"] for part in taken["subgraphs"]] == [{"Mul": 1}]
