"""Why a provider for NVIDIA's GPUs cannot start: the libraries it needs, the driver, and what mends each.

onnxruntime itself only logs a part of this. Asked by what is loaded, never by a tool such as nvidia-smi, which a
container may lack; on Windows of the driver alone, since libraries there do not tell what they need.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Load = Callable[[str], Any]

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""The name that NVIDIA's driver is loaded by."""
# Loaded by name when the first recurrent layer or convolution is made, so that the provider's library does not list it.
_LOADED_LATER = {"cuda": ("libcudnn.so.9",), "tensorrt": ()}
# The oldest driver for any CUDA of a major version: https://docs.nvidia.com/deploy/cuda-compatibility/.
_OLDEST_DRIVER = {12: "525", 13: "580"}
# Results of cuInit: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html.
_INIT_ERRORS = {
    34: "the driver's library is a stub that stands in for it while building",
    100: "the driver finds no GPU",
    803: "the driver's library and its kernel module are of different versions; restart the machine, or the container",
    804: "the CUDA compatibility package does not support this GPU",
}

_TAG_END, _TAG_NEEDED, _SEGMENT_LOAD, _SEGMENT_DYNAMIC, _TAG_STRINGS = 0, 1, 1, 2, 5

_preloading = threading.Lock()
_preloaded = False


@dataclass(frozen=True, kw_only=True)
class Driver:
    """NVIDIA's driver, as its own library describes it."""

    cuda: tuple[int, int] | None
    """The newest CUDA that it runs, such as (13, 0); None where there is no driver."""
    devices: tuple[str, ...]
    """Names of the GPUs that this process may use, by device id."""
    error: str | None
    """Why no GPU can be used; None when one can."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a provider cannot start, and what to do."""

    reason: str
    """What is the matter."""
    advice: str
    """What mends it: commands where there are some."""


def preload(onnxruntime: Any) -> None:
    """Load the libraries that pip put into Python's own folders, where the system's loader does not look; once."""
    global _preloaded
    with _preloading:
        if not _preloaded:
            # It prints what it does not find. One at a time, since stdout is the whole program's.
            with contextlib.redirect_stdout(sys.stderr):
                _preload(onnxruntime)
            _preloaded = True


def _preload(onnxruntime: Any) -> None:
    onnxruntime.preload_dlls()
    spec = importlib.util.find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        # The parser needs the builder's library, which sorts first.
        for library in sorted(Path(folder).glob("libnv*infer.so.*")) + sorted(Path(folder).glob("libnv*parser.so.*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def find_cause(
    provider: str, library: Path, cuda_version: str | None, *, load: Load = ctypes.CDLL, folders: Iterable[Path] = ()
) -> Cause | None:
    """Why ``cuda`` or ``tensorrt`` cannot start; None when libraries and driver are all there.

    `library` is the provider's own file and `cuda_version` the CUDA it was built for, such as ``13.0``. Other versions
    of a missing library are looked for in `folders`.
    """
    missing = [name for name, found in find_libraries(provider, library, load).items() if not found]
    causes = [_missing(missing, cuda_version, folders)] if missing else []
    driver = read_driver(load)
    wanted = int(cuda_version.split(".")[0]) if cuda_version else None
    if driver.cuda and wanted and driver.cuda[0] < wanted:
        reason = (
            f"the NVIDIA driver is too old: it runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}, this onnxruntime was "
            f"built for CUDA {cuda_version}"
        )
        causes.append(Cause(reason=reason, advice=_driver_advice(wanted)))
    elif driver.error:
        causes.append(Cause(reason=driver.error, advice=_driver_advice(wanted)))
    if not causes:
        return None
    # All at once: whoever mends one after the other installs gigabytes before hearing that there is no GPU.
    return Cause(reason="; ".join(cause.reason for cause in causes), advice=" ".join(cause.advice for cause in causes))


def find_libraries(provider: str, library: Path, load: Load = ctypes.CDLL) -> dict[str, bool]:
    """The libraries that ``cuda`` or ``tensorrt`` needs beside the driver's, and whether each can be loaded.

    Empty for a library that does not tell, as those of Windows.
    """
    linked = needed_libraries(library)
    needed = dict.fromkeys([*linked, *(_LOADED_LATER[provider] if linked else ())])
    return {name: _loads(name, load) for name in needed if name != DRIVER_LIBRARY}


def read_driver(load: Load = ctypes.CDLL) -> Driver:
    """Ask NVIDIA's driver for its version and its GPUs. Raises nothing."""
    try:
        library = load(DRIVER_LIBRARY)
    except OSError as error:
        return Driver(cuda=None, devices=(), error=f"there is no NVIDIA driver ({error})")
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = (number.value // 1000, number.value % 1000 // 10)
    code = library.cuInit(0)
    if code:
        reason = _INIT_ERRORS.get(code, f"the driver cannot be started (error {code} of cuInit)")
        return Driver(cuda=cuda, devices=(), error=f"no GPU can be used: {reason}")
    library.cuDeviceGetCount(ctypes.byref(number))
    names = []
    for device in range(number.value):
        name = ctypes.create_string_buffer(256)
        library.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode("utf-8", "replace"))
    return Driver(cuda=cuda, devices=tuple(names), error=None if names else "no GPU can be used: there is none")


def needed_libraries(library: Path) -> tuple[str, ...]:
    """NVIDIA's libraries that a shared library of Linux is linked with, by the names they are loaded by.

    Empty for anything but a little-endian 64-bit ELF file. Format: man 5 elf.
    """
    with library.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return ()
        start, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
        file.seek(start)
        table = file.read(size * count)
        # type, file offset, address, size
        segments = [struct.unpack_from("<I4xQQ8xQ", table, place * size) for place in range(count)]
        [dynamic] = [segment for segment in segments if segment[0] == _SEGMENT_DYNAMIC]
        file.seek(dynamic[1])
        entries = list(struct.iter_unpack("<QQ", file.read(dynamic[3] // 16 * 16)))
        strings = next(value for tag, value in entries if tag == _TAG_STRINGS)
        names = []
        for tag, value in entries:
            if tag == _TAG_END:
                break
            if tag == _TAG_NEEDED:
                address = strings + value
                segment = next(
                    found for found in segments if found[0] == _SEGMENT_LOAD and 0 <= address - found[2] < found[3]
                )
                file.seek(segment[1] + address - segment[2])
                names.append(file.read(256).split(b"\0")[0].decode())
    return tuple(name for name in names if name.startswith(("libcu", "libnv")))


def _loads(name: str, load: Load) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True


def _missing(missing: Sequence[str], cuda_version: str | None, folders: Iterable[Path]) -> Cause:
    places = [folder for folder in folders if folder.is_dir()]
    others = []
    for name in missing:
        stem = name.split(".so")[0] + ".so"
        found = {path.name for folder in places for path in folder.glob(f"{stem}.*")} - {name}
        others += [other for other in sorted(found) if re.fullmatch(re.escape(stem) + r"\.\d+", other)]
    plural = "a library is" if len(missing) == 1 else f"{len(missing)} libraries are"
    reason = f"{plural} missing: {', '.join(missing)}"
    if others:
        reason += f"; of another version there is {', '.join(others)}"
    commands = []
    tensorrt = next((name for name in missing if name.startswith("libnv") and "nvrtc" not in name), None)
    if any(name != tensorrt and not name.startswith("libnv") for name in missing):
        what = f"CUDA {cuda_version.split('.')[0]} and cuDNN 9" if cuda_version else "CUDA and cuDNN"
        commands.append(f"For {what}: pip install 'onnxruntime-gpu[cuda,cudnn]'.")
    if tensorrt:
        major = cuda_version.split(".")[0] if cuda_version else ""
        commands.append(f"For TensorRT: pip install 'tensorrt-cu{major}=={tensorrt.rsplit('.', 1)[-1]}.*'.")
    return Cause(reason=reason, advice=" ".join(commands))


def _driver_advice(cuda: int | None) -> str:
    oldest = f" ({_OLDEST_DRIVER[cuda]} or newer for CUDA {cuda})" if cuda in _OLDEST_DRIVER else ""
    return (
        f"A machine with an NVIDIA GPU and its driver{oldest} is needed; in a container, start it with the GPU "
        "(docker run --gpus all). Without one: provider 'cpu'."
    )
