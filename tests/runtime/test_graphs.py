"""What CUDA graphs need is asked before there is one; onnxruntime's own capture is tested in tests/environments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from edgeseq.errors import InvalidFile, PlacementRefused, WrongUsage
from edgeseq.runtime import graphs
from edgeseq.runtime.manifest import Manifest, TensorSpec
from edgeseq.runtime.placement import PlacedNode, Placement

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


def manifest(*output: str | int) -> Manifest:
    spec = TensorSpec(name="x", dtype="float32", axes=("batch", "time", 2))
    return Manifest(
        inputs=(spec,),
        outputs=(TensorSpec(name="y", dtype="float32", axes=output),),
        input_structure="x",
        output_structure="y",
    )


def session(provider: str, memory: str = "Cuda", **options: str) -> Any:
    """What is asked of a session."""
    return SimpleNamespace(
        get_providers=lambda: [provider, CPU],
        get_provider_options=lambda: {provider: options, CPU: {}},
        get_inputs=lambda: [SimpleNamespace(name="x")],
        get_input_memory_infos=lambda: [SimpleNamespace(name=memory)],
    )


@pytest.mark.parametrize(
    "opened",
    [
        session(CUDA),
        session(CUDA, enable_cuda_graph="0"),
        session(TENSORRT, trt_cuda_graph_enable="0"),
        session("OtherExecutionProvider", enable_cuda_graph="1"),
    ],
)
def test_without_the_option_there_are_none(opened: Any):
    assert graphs.graphs_of("model.onnx", opened, manifest("batch")) is None


def test_with_the_option_there_are():
    opened = session(CUDA, enable_cuda_graph="1")
    found = graphs.graphs_of("model.onnx", opened, manifest("batch", "time"))
    assert found is not None
    assert found.off.get_run_config_entry("gpu_graph_id") == "-1"


@pytest.mark.parametrize(
    ("opened", "output", "kind", "message"),
    [
        (
            session(TENSORRT, trt_cuda_graph_enable="1"),
            "batch",
            WrongUsage,
            "TensorRT's provider keeps one CUDA graph a session.*use provider 'cuda' with enable_cuda_graph=1",
        ),
        (
            session(CUDA, "Cpu", enable_cuda_graph="1"),
            "batch",
            PlacementRefused,
            "model.onnx cannot use CUDA graphs: the CPU reads the input 'x'",
        ),
        (
            session(CUDA, enable_cuda_graph="1"),
            "time_2",
            WrongUsage,
            "the length of 'time_2' of the output 'y' is known only after a run. Export the model with fixed lengths",
        ),
    ],
)
def test_what_would_answer_wrong_is_refused(opened: Any, output: str, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        graphs.graphs_of("model.onnx", opened, manifest(output))


def test_an_onnxruntime_that_does_not_tell_is_refused():
    opened = session(CUDA, enable_cuda_graph="1")
    del opened.get_input_memory_infos
    with pytest.raises(WrongUsage, match=r"need a newer onnxruntime than .* pip install --upgrade onnxruntime-gpu"):
        graphs.graphs_of("model.onnx", opened, manifest("batch"))


def test_each_graph_has_its_number_and_16_shapes_are_the_most():
    found = graphs.Graphs(onnxruntime)
    options = [each for _ in range(16) for each in found.options(2)]
    assert len({each.get_run_config_entry("gpu_graph_id") for each in options} - {"-1", "0"}) == 32
    with pytest.raises(WrongUsage, match="CUDA graphs are kept for 16 shapes of a session at most"):
        found.options(1)


def test_a_few_threads_may_run():
    found = graphs.Graphs(onnxruntime)
    refused: list[str] = []

    def enter() -> None:
        try:
            found.enter()
            found.enter()
        except WrongUsage as error:
            refused.append(str(error))

    for _ in range(5):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "at most 4 threads may run a Model" in refused[0]


def test_what_fell_back_with_consent_is_not_for_graphs():
    def node(provider: str, floating: bool) -> PlacedNode:
        return PlacedNode(name="gru/GRU", op_type="GRU", layer="gru", provider=provider, floating=floating)

    graphs.check_placement("model.onnx", None)
    graphs.check_placement("model.onnx", Placement(requested=(CUDA, CPU), nodes=(node(CUDA, True), node(CPU, False))))
    with pytest.raises(PlacementRefused, match=f"GRU 'gru/GRU' ran on {CPU}, and a graph repeats") as raised:
        graphs.check_placement("model.onnx", Placement(requested=(CUDA, CPU), nodes=(node(CPU, True),)))
    assert raised.value.nodes == ("gru/GRU",)


def test_other_errors_are_not_touched():
    assert graphs.refusal(InvalidFile("model.onnx", "damaged"), "model.onnx", None) is None


def test_a_model_on_the_cpu_has_none(make_lstm: Callable[..., Any]):
    from edgeseq.runtime import Model

    assert Model(make_lstm().path).runner.graphs is None
