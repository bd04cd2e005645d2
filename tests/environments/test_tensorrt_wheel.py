"""TensorRT's provider in the real onnxruntime-gpu, without TensorRT: its options' names, and what compiling says there.

Asked for by scripts/test --gpu-wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import tensorrt
from edgeseq.runtime.nvidia import read_driver
from edgeseq.runtime.tiny import tiny_model

pytestmark = pytest.mark.gpu_wheel


@pytest.fixture
def gpu(environment: Callable[[str], Any]) -> Any:
    return environment("gpu-libraries")


def test_every_option_that_is_set_is_one_of_the_provider_s(gpu: Any) -> None:
    [library] = gpu.python.parent.parent.glob("lib/python*/site-packages/onnxruntime/capi/*providers_tensorrt.so")
    content = library.read_bytes()
    used = [*tensorrt.OPTIONS, *(option for option in tensorrt.PRECISIONS.values() if option)]
    assert len(used) == 13
    assert [name for name in used if name.encode() + b"\0" not in content] == []
    assert b"trt_not_an_option\0" not in content


@pytest.mark.skipif(bool(read_driver().devices), reason="this machine has a GPU")
def test_compiling_ends_with_the_real_cause(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    code, document = gpu.edgeseq("compile", tmp_path / "tiny.onnx", variables={"EDGESEQ_CACHE": str(tmp_path / "c")})
    assert code == 3
    assert document["error"]["details"]["provider"] == "tensorrt"
    assert "libnvinfer.so." in document["error"]["message"]
    assert "there is no NVIDIA driver" in document["error"]["message"]
    assert not (tmp_path / "tiny.tensorrt.onnx").exists()


def test_a_dry_run_plans_without_a_gpu(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    variables = {"EDGESEQ_CACHE": str(tmp_path / "c")}
    code, document = gpu.edgeseq("compile", tmp_path / "tiny.onnx", "--dry-run", variables=variables)
    assert code == 0
    assert document["cached"] is False
    assert document["profiles"] == {}  # its shape is fixed
    assert document["built_on"]["cuda"]
    assert document["cache_folder"].startswith(str(tmp_path / "c"))


@pytest.mark.skipif(bool(read_driver().devices), reason="this machine has a GPU")
def test_a_missing_library_is_told_before_a_missing_range(gpu: Any, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, ["batch"])], [value("y", TensorProto.FLOAT, ["batch"])]
    )
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "free.onnx")
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    code, document = gpu.edgeseq("run", tmp_path / "free.onnx", tmp_path / "x.npy", "-p", "tensorrt")
    assert code == 3
    assert "libnvinfer.so." in document["error"]["message"]
    code, document = gpu.edgeseq("compile", tmp_path / "free.onnx", "--dry-run")
    assert code == 2
    assert "a range is needed for 'batch'" in document["error"]["message"]
