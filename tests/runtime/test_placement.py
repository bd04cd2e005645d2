"""Where nodes ran: proved by the profile, refused or reported where that is not the provider asked for.

onnxruntime's CPU build has a second provider, Azure's, which starts and has no kernels: all falls back from it.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgeseq.errors import InputMismatch, ModelRefused, PlacementRefused, ProviderUnavailable, WrongUsage
from edgeseq.runtime import Model, opening, providers
from edgeseq.runtime.placement import PlacedNode, Placement, check_strict, read_profile
from edgeseq.runtime.tiny import tiny_model

AZURE, CPU, CUDA = "AzureExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider"

needs_azure = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has no second provider"
)


def event(name: str, op: str, provider: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    shapes = [[{kind: [2, 3]} for kind in kinds] for kinds in (inputs, outputs)]
    arguments = {"op_name": op, "provider": provider, "input_type_shape": shapes[0], "output_type_shape": shapes[1]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": arguments}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("lstm_1/Transpose_0", "Transpose", CUDA, ["float"], ["float"]),
        event("lstm_1/LSTM_1", "LSTM", CPU, ["float", "float", "int32"], ["float"]),
        event("lstm_1/Scan_2/lstm_1/MatMul_0", "MatMul", CUDA, ["float16"], ["float16"]),
        event("lstm_1/Scan_2/lstm_1/MatMul_0", "MatMul", CUDA, ["float16"], ["float16"]),
        event("fused out/MatMul_4/MatMulAddFusion", "FusedGemm", CUDA, ["float"], ["float"]),
        event("Memcpy_token_1", "MemcpyToHost", CUDA, ["float"], ["float"]),
        event("lstm_1/Shape_3", "Shape", CPU, ["float"], ["int64"]),
        event("lstm_1/Concat_5", "Concat", CPU, ["int64", "int64"], ["int64"]),
    ]
    path.write_text(json.dumps(events))
    return path


def test_a_profile_is_read(profile: Path):
    nodes = read_profile(profile)
    assert [(node.op_type, node.layer) for node in nodes] == [
        ("Transpose", "lstm_1"),
        ("LSTM", "lstm_1"),
        ("MatMul", "lstm_1"),
        ("FusedGemm", "out"),
        ("MemcpyToHost", ""),
        ("Shape", "lstm_1"),
        ("Concat", "lstm_1"),
    ]
    placement = Placement(requested=(CUDA,), nodes=nodes)
    assert [node.op_type for node in placement.fallen] == ["LSTM"]
    assert [node.op_type for node in placement.host] == ["Shape", "Concat"]
    assert placement.counts == {CUDA: 4, CPU: 3}
    with pytest.raises(
        PlacementRefused, match=r"1 of 7 nodes ran on CPU.*: LSTM 'lstm_1/LSTM_1' of layer 'lstm_1'"
    ) as e:
        check_strict(placement)
    assert e.value.nodes == ("lstm_1/LSTM_1",)


def test_a_list_is_consent_and_what_fell_back_is_told(profile: Path):
    unavailable = {"tensorrt": "it cannot start (no library)"}
    placement = Placement(requested=(CUDA, CPU), nodes=read_profile(profile), unavailable=unavailable)
    check_strict(placement)
    assert placement.notes == (
        "tensorrt was not used: it cannot start (no library)",
        "1 of 7 nodes ran on CPUExecutionProvider, not on CUDAExecutionProvider: 1 LSTM",
    )


def test_integers_alone_may_stay_on_the_host():
    shape = PlacedNode(name="Concat_1", op_type="Concat", layer="", provider=CPU, floating=False)
    check_strict(Placement(requested=(CUDA,), nodes=(shape,)))


@needs_azure
def test_a_fallback_is_an_error_that_names_node_and_layer(make_lstm: Callable[..., Any]):
    model = Model(make_lstm().path, provider=AZURE)
    assert model.placement is None
    for _ in range(2):  # and stays one
        with pytest.raises(PlacementRefused, match=r"not on AzureExecutionProvider.*LSTM.*allow it by a list"):
            model(_fed(model))
    assert model.placement is not None
    assert model.placement.fallen


@needs_azure
def test_a_list_runs_and_reports(make_lstm: Callable[..., Any]):
    path = make_lstm().path
    model = Model(path, provider=f"{AZURE},cpu")
    with pytest.raises(InputMismatch):
        model("nothing that fits")
    fed = _fed(model)
    np.testing.assert_array_equal(model(fed), Model(path)(fed))
    assert model.placement is not None
    assert set(model.placement.counts) == {CPU}
    assert "nodes ran on CPUExecutionProvider, not on AzureExecutionProvider" in model.placement.notes[0]
    np.testing.assert_array_equal(model(fed), Model(path)(fed))


@needs_azure
def test_the_first_calls_may_come_from_several_threads(make_lstm: Callable[..., Any]):
    path = make_lstm().path
    model = Model(path, provider=f"{AZURE},cpu")
    fed, wanted = _fed(model), Model(path)(_fed(model))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: model(fed), range(32)):
            np.testing.assert_array_equal(answer, wanted)


def test_what_cannot_start_is_left_out_of_a_list_and_told(make_lstm: Callable[..., Any], monkeypatch: Any):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    model = Model(make_lstm().path, provider="cuda, cpu", provider_options={"device_id": 1})
    assert model.session.get_providers() == [CPU]
    assert model.placement is not None
    assert list(model.placement.unavailable) == ["cuda"]
    assert model.placement.notes[0].startswith("cuda was not used: it cannot start (the installed onnxruntime")
    with pytest.raises(ProviderUnavailable, match=r"'cuda,tensorrt' cannot start: cuda: .*; tensorrt: "):
        Model(make_lstm().path, provider="cuda,tensorrt")


@pytest.mark.parametrize("provider", ["cuda,", ",", "cpu,cpu", "cuda,CUDAExecutionProvider"])
def test_a_list_is_of_different_names(make_lstm: Callable[..., Any], provider: str):
    with pytest.raises(WrongUsage, match="different names with commas between"):
        Model(make_lstm().path, provider=provider)


def test_the_cpu_alone_needs_no_proof(make_lstm: Callable[..., Any]):
    for name in ("cpu", CPU):
        assert Model(make_lstm().path, provider=name).placement == Placement(requested=(CPU,))


def _fed(model: Model) -> np.ndarray:
    [spec] = model.inputs
    return np.ones([2 if isinstance(axis, str) else axis for axis in spec.axes], np.dtype(spec.dtype))


def test_nodes_that_share_a_name_are_not_taken_for_one(tmp_path: Path):
    """onnxruntime numbers nodes without names anew in each subgraph."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([event("Add_0", "Add", provider, ["float"], ["float"]) for provider in (CUDA, CPU)]))
    placement = Placement(requested=(CUDA,), nodes=read_profile(path))
    assert [node.provider for node in placement.fallen] == [CPU]
    with pytest.raises(PlacementRefused, match="Add_0"):
        check_strict(placement)


@needs_azure
@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"), reason="this onnxruntime is old"
)
def test_a_branch_not_taken_is_told(tmp_path: Path):
    def branch(op_type: str) -> onnx.GraphProto:
        made = helper.make_node(op_type, ["x", "x"], [f"by_{op_type}"], f"branch/{op_type}")
        return helper.make_graph([made], op_type, [], [helper.make_tensor_value_info(f"by_{op_type}", 1, [2])])

    graph = helper.make_graph(
        [helper.make_node("If", ["which"], ["y"], "choose", then_branch=branch("Add"), else_branch=branch("Mul"))],
        "test",
        [helper.make_tensor_value_info("which", 9, []), helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "if.onnx")
    model = Model(tmp_path / "if.onnx", provider=f"{AZURE},cpu")
    model({"which": np.array(True), "x": np.ones(2, np.float32)})
    assert model.placement is not None
    assert model.placement.not_run == ("Mul 'branch/Mul'",)
    assert "did not come to nodes that are not on AzureExecutionProvider: Mul 'branch/Mul'" in model.placement.notes[-1]


def test_providers_may_be_a_sequence(tmp_path: Path):
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    model = Model(tmp_path / "tiny.onnx", provider=["cuda", "cpu"])
    model(np.ones(2, np.float32))
    assert model.placement is not None
    assert model.placement.ran_on == (CPU,)


@pytest.mark.parametrize("provider", [None, 3, [], {"cuda": 1}, ["cuda", None]])
def test_what_is_no_provider_is_said(tmp_path: Path, provider: Any):
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    with pytest.raises(WrongUsage, match="provider is a name"):
        Model(tmp_path / "tiny.onnx", provider=provider)


def test_a_model_that_the_first_does_not_take_goes_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    opened, asked = opening.open_planned, []

    def refuses(path: Any, manifest: Any, choice: Any, **options: Any) -> Any:
        asked.append(choice.names)
        if choice.names[0] == AZURE:
            raise ModelRefused(AZURE, "Unknown activation function: elu")
        return opened(path, manifest, choice, **options)

    monkeypatch.setattr(opening, "open_planned", refuses)
    monkeypatch.setattr(providers, "choose", lambda *_: providers.Choice(names=(AZURE, "cpu"), unavailable={}))
    model = Model(tmp_path / "tiny.onnx", provider=f"{AZURE},cpu")
    assert asked == [(AZURE, "cpu"), ("cpu",)]
    assert model.placement is not None
    assert model.placement.notes == (
        f"{AZURE} was not used: it does not take this model (Unknown activation function: elu)",
    )
    monkeypatch.setattr(providers, "choose", lambda *_: providers.Choice(names=(AZURE,), unavailable={}))
    with pytest.raises(ModelRefused, match="starts, but does not take this model"):
        Model(tmp_path / "tiny.onnx", provider=AZURE)
