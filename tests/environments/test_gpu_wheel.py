"""The real onnxruntime-gpu on machines without a GPU: every way it cannot start comes out as its typed error.

Asked for by scripts/test --gpu-wheel. The driver, where a test needs one, is a library of our own in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.nvidia import read_driver
from edgeseq.runtime.tiny import tiny_model

pytestmark = [
    pytest.mark.gpu_wheel,
    pytest.mark.skipif(bool(read_driver().devices), reason="this machine has a GPU, on which these do start"),
]


@pytest.fixture
def run_arguments(tmp_path: Path) -> tuple[Any, ...]:
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    return ("run", tmp_path / "tiny.onnx", tmp_path / "x.npy")


def verdicts(document: Any) -> dict[str, Any]:
    return {check["name"]: check for check in document["checks"]}


def test_the_cpu_package_alone(environment: Callable[[str], Any], run_arguments: Any) -> None:
    cpu = environment("cpu")
    code, document = cpu.edgeseq("doctor")
    assert (code, document["providers"]) == (0, ["cpu"])
    code, document = cpu.edgeseq(*run_arguments, "-p", "cuda")
    assert code == 3
    assert "was built without it" in document["error"]["message"]
    assert "pip install 'edgeseq[gpu]'" in document["error"]["message"]


def test_the_gpu_package_without_libraries(environment: Callable[[str], Any], run_arguments: Any) -> None:
    gpu = environment("gpu")
    code, document = gpu.edgeseq("doctor")
    found = verdicts(document)
    assert (code, document["providers"]) == (3, ["cpu"])
    assert "libcudnn.so.9" in found["NVIDIA libraries"]["detail"]
    assert found["provider cuda"]["ok"] is False
    assert found["provider tensorrt"]["ok"] is None
    code, document = gpu.edgeseq(*run_arguments, "-p", "cuda")
    assert code == 3
    assert "libraries are missing: libcublasLt.so." in document["error"]["message"]
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in document["error"]["message"]
    code, document = gpu.edgeseq(*run_arguments, "-p", "tensorrt")
    assert code == 3
    assert "libnvinfer.so." in document["error"]["message"]
    code, document = gpu.edgeseq(*run_arguments, "-p", "cuda,cpu")
    assert code == 0
    assert "cuda was not used: it cannot start" in document["notes"][0]


def test_libraries_of_another_version_are_named(
    environment: Callable[[str], Any], run_arguments: Any, tmp_path: Path
) -> None:
    (tmp_path / "libcublas.so.11").touch()
    variables = {"LD_LIBRARY_PATH": str(tmp_path)}
    code, document = environment("gpu").edgeseq(*run_arguments, "-p", "cuda", variables=variables)
    assert code == 3
    assert "of another version there is libcublas.so.11" in document["error"]["message"]


def test_libraries_without_a_driver(environment: Callable[[str], Any], run_arguments: Any) -> None:
    gpu = environment("gpu-libraries")
    code, document = gpu.edgeseq(*run_arguments, "-p", "cuda")
    assert code == 3
    assert "cannot start: there is no NVIDIA driver (libcuda.so.1" in document["error"]["message"]
    found = verdicts(gpu.edgeseq("doctor")[1])
    assert found["NVIDIA libraries"]["ok"] is None  # only TensorRT's are missing
    assert found["NVIDIA driver"]["ok"] is False


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            {"DRIVER_CUDA": "11040"},
            "the NVIDIA driver is too old: it runs CUDA up to 11.4, this onnxruntime was built for",
        ),
        ({"DRIVER_CUDA": "99000", "DRIVER_INIT": "100"}, "no GPU can be used: the driver finds no GPU"),
        ({"DRIVER_CUDA": "99000", "DRIVER_INIT": "803"}, "kernel module are of different versions"),
        ({"DRIVER_CUDA": "99000"}, "no GPU can be used: there is none"),
    ],
)
def test_a_driver_that_does_not_serve(
    environment: Callable[[str], Any], run_arguments: Any, pretended_driver: Path, said: dict[str, str], reason: str
) -> None:
    variables = {"LD_LIBRARY_PATH": str(pretended_driver), **said}
    code, document = environment("gpu-libraries").edgeseq(*run_arguments, "-p", "cuda", variables=variables)
    assert code == 3
    assert reason in document["error"]["message"]


def test_both_packages_at_once(environment: Callable[[str], Any]) -> None:
    code, document = environment("both").edgeseq("doctor")
    found = verdicts(document)["onnxruntime"]
    assert code == 3
    assert found["ok"] is False
    assert "overwrite each other's files" in found["detail"]
    assert found["advice"].startswith("pip uninstall -y onnxruntime onnxruntime-gpu")
