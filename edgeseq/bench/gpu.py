"""What NVIDIA's driver and libraries say of themselves: what a time taken on a GPU means nothing without."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from edgeseq.runtime.nvidia import Load

_DRIVER = Path("/proc/driver/nvidia/version")

_Ask = Callable[[ctypes.CDLL], str]


def on_gpu(provider: str) -> bool:
    """Whether a subject's provider, ours or a rival's own name for one, runs on an NVIDIA GPU."""
    return any(name in provider.lower() for name in ("cuda", "tensorrt"))


def driver_version(path: Path = _DRIVER) -> str | None:
    """Version of NVIDIA's kernel driver, such as ``580.65.06``; None without one, or off Linux."""
    if not path.is_file():
        return None
    found = re.search(r"Module\b.*?\s(\d+(?:\.\d+)+)\s", path.read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else None


def library_versions(names: Iterable[str], load: Load = ctypes.CDLL) -> dict[str, str]:
    """Version by name of those of the libraries `names`, such as ``libcudnn.so.9``, that tell theirs.

    What cannot be loaded, or does not tell, is left out. Raises nothing.
    """
    found = {}
    for name in names:
        stem = re.split(r"\.so|64_|\.dll", name)[0]
        if stem not in _VERSIONS:
            continue
        label, ask = _VERSIONS[stem]
        try:
            found[label] = ask(load(name))
        except (OSError, AttributeError):
            # Not there, or without that function: another kind of library under this name.
            continue
    return found


def _runtime(library: ctypes.CDLL) -> str:
    """https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART____VERSION.html: 13000 is 13.0."""
    number = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _cudnn(library: ctypes.CDLL) -> str:
    """cudnn_version.h: major × 10000 + minor × 100 + patch level, from version 9 on."""
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return _by_hundreds(library.cudnnGetVersion())


def _tensorrt(library: ctypes.CDLL) -> str:
    """NvInferVersion.h: major × 10000 + minor × 100 + patch, from version 10 on."""
    return _by_hundreds(library.getInferLibVersion())


def _by_hundreds(number: int) -> str:
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


_VERSIONS: dict[str, tuple[str, _Ask]] = {
    "libcudart": ("CUDA runtime", _runtime),
    "cudart": ("CUDA runtime", _runtime),
    "libcudnn": ("cuDNN", _cudnn),
    "cudnn": ("cuDNN", _cudnn),
    "libnvinfer": ("TensorRT", _tensorrt),
    "nvinfer": ("TensorRT", _tensorrt),
}
