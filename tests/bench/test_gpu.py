"""Versions of NVIDIA's driver and libraries, from text and from libraries that are not NVIDIA's."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench.gpu import driver_version, library_versions, on_gpu


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:22 UTC 2026",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)",
    ],
)
def test_the_version_of_the_driver(tmp_path: Path, line: str) -> None:
    (tmp_path / "version").write_text(line + "\nGCC version:  gcc version 12.3.0\n")
    assert driver_version(tmp_path / "version") == "580.65.06"


def test_no_driver(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "version") is None
    (tmp_path / "version").write_text("something else\n")
    assert driver_version(tmp_path / "version") is None


class Function:
    """A C function: it returns `number`, or writes it where it is told to."""

    restype: Any = ctypes.c_int

    def __init__(self, number: int):
        self.number = number

    def __call__(self, place: Any = None) -> int:
        if place is None:
            return self.number
        place._obj.value = self.number
        return 0


class Library:
    def __init__(self, **functions: int):
        vars(self).update({name: Function(number) for name, number in functions.items()})


LIBRARIES = {
    "libcudart.so.13": Library(cudaRuntimeGetVersion=13020),
    "libcudnn.so.9": Library(cudnnGetVersion=92801),
    "libnvinfer.so.10": Library(getInferLibVersion=101602),
    "cudart64_13.dll": Library(cudaRuntimeGetVersion=13000),
    "libcublas.so.13": Library(),
}


def load(name: str) -> Any:
    if name not in LIBRARIES:
        raise OSError(name)
    return LIBRARIES[name]


def test_each_library_is_asked_in_its_own_way() -> None:
    names = ["libcudart.so.13", "libcudnn.so.9", "libnvinfer.so.10", "libcublas.so.13"]
    assert library_versions(names, load) == {"CUDA runtime": "13.2", "cuDNN": "9.28.1", "TensorRT": "10.16.2"}
    assert library_versions(["cudart64_13.dll"], load) == {"CUDA runtime": "13.0"}


def test_what_does_not_tell_is_left_out() -> None:
    assert library_versions(["libcudart.so.12"], load) == {}
    LIBRARIES["libcudnn.so.8"] = Library()
    assert library_versions(["libcudnn.so.8", "libcudart.so.13"], load) == {"CUDA runtime": "13.2"}


def test_what_runs_on_a_gpu() -> None:
    named = ("cpu", "cuda", "tensorrt", "CUDAExecutionProvider", "torch, cuda", "openvino")
    assert [on_gpu(provider) for provider in named] == [False, True, True, True, True, False]
