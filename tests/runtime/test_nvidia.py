"""Why a provider for NVIDIA's GPUs cannot start, on machines that are simulated by what can be loaded there."""

from __future__ import annotations

import concurrent.futures
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import nvidia
from edgeseq.runtime.nvidia import Driver, find_cause, find_libraries, needed_libraries, read_driver

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the libraries' names are Linux's")


class CudaDriver:
    """libcuda.so.1 of a machine."""

    def __init__(self, version: int = 13000, init: int = 0, devices: tuple[str, ...] = ("NVIDIA H200",)):
        self.version, self.init, self.devices = version, init, devices

    def cuDriverGetVersion(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = self.version
        return 0

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = len(self.devices)
        return 0

    def cuDeviceGetName(self, buffer: Any, _size: int, device: int) -> int:  # noqa: N802
        buffer.value = self.devices[device].encode()
        return 0


class Machine:
    """Stands in for ctypes.CDLL: what can be loaded."""

    def __init__(self, *libraries: str, driver: CudaDriver | None = None):
        self.libraries, self.driver = libraries, driver

    def __call__(self, name: str) -> Any:
        if name == "libcuda.so.1" and self.driver:
            return self.driver
        if name not in self.libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return object()


def elf(*needed: str) -> bytes:
    """A shared library of Linux that is linked with others and does nothing."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    places = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in needed]
    at, base = 64 + 2 * 56, 0x10000
    dynamic = b"".join(struct.pack("<QQ", 1, place) for place in places)
    dynamic += struct.pack("<QQQQ", 5, base + at, 0, 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    size = at + len(strings) + len(dynamic)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    start = at + len(strings)
    segments += struct.pack("<IIQQQQQQ", 2, 6, start, base + start, 0, len(dynamic), len(dynamic), 8)
    return head + segments + strings + dynamic


NEEDED = ("libcublas.so.13", "libcudart.so.13", "libcuda.so.1")
ALL = ("libcublas.so.13", "libcudart.so.13", "libcudnn.so.9")  # but the driver's, which is a machine's own


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libonnxruntime_providers_cuda.so"
    path.write_bytes(elf(*NEEDED, "libm.so.6"))
    return path


def test_what_a_library_is_linked_with(library: Path):
    assert needed_libraries(library) == NEEDED
    library.write_bytes(b"MZ, as on Windows")
    assert needed_libraries(library) == ()


def test_nothing_is_the_matter(library: Path):
    assert find_cause("cuda", library, "13.0", load=Machine(*ALL, driver=CudaDriver())) is None
    # A newer driver runs what was built for an older CUDA.
    assert find_cause("cuda", library, "12.8", load=Machine(*ALL, driver=CudaDriver(13010))) is None


@pytest.mark.parametrize(
    ("machine", "reason", "advice"),
    [
        (
            Machine("libcudart.so.13", "libcudnn.so.9", driver=CudaDriver()),
            "a library is missing: libcublas.so.13",
            "For CUDA 13 and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        ),
        (
            Machine("libcudart.so.13", "libcublas.so.13", driver=CudaDriver()),
            "a library is missing: libcudnn.so.9",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            Machine(*ALL),
            "there is no NVIDIA driver (libcuda.so.1: cannot open shared object file)",
            "its driver (580 or newer for CUDA 13) is needed",
        ),
        (
            Machine(*ALL, driver=CudaDriver(12080)),
            "the NVIDIA driver is too old: it runs CUDA up to 12.8, this onnxruntime was built for CUDA 13.0",
            "580 or newer",
        ),
        (
            Machine(*ALL, driver=CudaDriver(init=100)),
            "no GPU can be used: the driver finds no GPU",
            "--gpus all",
        ),
        (Machine(*ALL, driver=CudaDriver(init=803)), "of different versions", "580"),
        (Machine(*ALL, driver=CudaDriver(init=999)), "error 999 of cuInit", "580"),
        (Machine(*ALL, driver=CudaDriver(devices=())), "no GPU can be used: there is none", "--gpus all"),
        (
            Machine("libcudart.so.13", "libcublas.so.13"),
            "libcudnn.so.9; there is no NVIDIA driver",
            "[cuda,cudnn]'. A machine with an NVIDIA GPU",
        ),
    ],
)
def test_the_cause_and_what_mends_it(library: Path, machine: Machine, reason: str, advice: str):
    cause = find_cause("cuda", library, "13.0", load=machine)
    assert cause is not None
    assert reason in cause.reason
    assert advice in cause.advice


def test_another_version_of_a_missing_library_is_named(library: Path, tmp_path: Path):
    for name in ("libcublas.so.12", "libcublas.so.12.8.4", "libcublasLt.so.12"):
        (tmp_path / name).touch()
    machine = Machine("libcudart.so.13", "libcudnn.so.9", driver=CudaDriver())
    cause = find_cause("cuda", library, "13.0", load=machine, folders=[tmp_path, tmp_path / "none"])
    assert cause is not None
    assert cause.reason == "a library is missing: libcublas.so.13; of another version there is libcublas.so.12"


def test_tensorrt_of_the_version_that_is_wanted(tmp_path: Path):
    library = tmp_path / "libonnxruntime_providers_tensorrt.so"
    library.write_bytes(elf("libnvinfer.so.10", "libnvonnxparser.so.10", "libcudart.so.13"))
    cause = find_cause("tensorrt", library, "13.0", load=Machine("libcudart.so.13", driver=CudaDriver()))
    assert cause is not None
    assert cause.reason == "2 libraries are missing: libnvinfer.so.10, libnvonnxparser.so.10"
    assert cause.advice == "For TensorRT: pip install 'tensorrt-cu13==10.*'."


def test_the_driver_names_its_gpus():
    two = CudaDriver(13010, devices=("NVIDIA H200", "NVIDIA L4"))
    assert read_driver(Machine(driver=two)) == Driver(cuda=(13, 1), devices=("NVIDIA H200", "NVIDIA L4"), error=None)


def test_pip_puts_tensorrt_where_only_we_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = tmp_path / "tensorrt_libs"
    folder.mkdir()
    for name in ("__init__.py", "libnvonnxparser.so.10", "libnvinfer.so.10", "libnvinfer_builder_resource.so.10"):
        (folder / name).touch()
    # Another test of this process may have done it.
    monkeypatch.setattr(nvidia, "_preloaded", False)
    loaded = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(nvidia.ctypes, "CDLL", lambda path, **_: loaded.append(Path(path).name))
    nvidia.preload(type("onnxruntime", (), {"preload_dlls": staticmethod(lambda: loaded.append("cuda"))}))
    assert loaded == ["cuda", "libnvinfer.so.10", "libnvonnxparser.so.10"]


def test_a_library_that_does_not_tell_what_it_needs_lacks_nothing(tmp_path: Path):
    path = tmp_path / "onnxruntime_providers_cuda.dll"
    path.write_bytes(b"MZ" + bytes(100))

    def nothing_there(name: str) -> None:
        raise OSError(name)

    assert find_libraries("cuda", path, nothing_there) == {}


def test_preloading_in_threads_leaves_stdout_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia, "_preloaded", False)
    calls = []

    class Slow:
        def preload_dlls(self) -> None:
            calls.append(sys.stdout)
            time.sleep(0.02)

    before = sys.stdout
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(nvidia.preload, [Slow()] * 4))
    assert sys.stdout is before
    assert len(calls) == 1
