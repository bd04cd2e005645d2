"""Energy, where the machine counts it: Linux's powercap (RAPL) for processors, NVML for NVIDIA's GPUs.

Both count all that happens on their part of the machine, idle power and other processes included. RAPL ticks every
millisecond, so that a figure rests on blocks of calls, never on one call. NVML ticks about every tenth of a second,
which is longer than a block: it is read only where one subject is measured, whose blocks are all that the GPU does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseq.bench.gpu import on_gpu
from edgeseq.runtime.nvidia import Load

_POWERCAP = Path("/sys/class/powercap")
_NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"

SLOW_COUNTER = (
    "the GPU's energy was not counted: its counter is too slow for subjects that take turns; measure one alone for it"
)
"""Why NVML's counters were left out."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a call cost, everything else on the same counter included."""

    counter: str
    """Name of the counter, such as ``package-0`` or ``GPU 0``."""
    microjoules_per_call: float
    """Energy that the counter counted during the timed calls / their number, in microjoules. Idle power is in it."""
    watts: float
    """The same over the time it took."""


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A counter of energy."""

    name: str
    """Such as ``package-0``, ``package-0 dram`` or ``GPU 0``."""
    read: Callable[[], int]
    """What it shows, in microjoules. Raises OSError when it cannot be read any more."""
    wraps_at: int | None = None
    """The value after which it starts again from 0; None when it does not."""

    def spent(self, before: int, after: int) -> int:
        """Microjoules between two readings, which are less than one turn of the counter apart."""
        if after < before and self.wraps_at is not None:
            return after - before + self.wraps_at
        return after - before


def processor_meters(folder: Path | None = None) -> tuple[Meter, ...]:
    """The counters of the processor that may be read; most systems let only root (CVE-2020-8694).

    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html.
    """
    found = []
    for zone in sorted((folder or _POWERCAP).glob("intel-rapl:*")):
        try:
            name = _text(zone / "name")
            limit = int(_text(zone / "max_energy_range_uj"))
            int(_text(zone / "energy_uj"))
            # intel-rapl:0:1 is a part of intel-rapl:0: "dram" alone would not tell of which package.
            parent = zone.name.rpartition(":")[0]
            if parent.count(":"):
                name = f"{_text(zone.parent / parent / 'name')} {name}"
        except (OSError, ValueError):
            continue
        found.append(Meter(name=name, read=_reader(zone / "energy_uj"), wraps_at=limit))
    return tuple(found)


def gpu_meters(load: Load = ctypes.CDLL) -> tuple[Meter, ...]:
    """The counters of NVIDIA's GPUs, from Volta on; empty without a driver.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html: nvmlDeviceGetTotalEnergyConsumption counts
    millijoules since the driver was loaded.
    """
    try:
        library = load(_NVML)
    except OSError:
        return ()
    count = ctypes.c_uint()
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        device = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)):
            continue
        read = _gpu_reader(library, device)
        try:
            read()
        except OSError:
            # An older GPU, which does not count.
            continue
        found.append(Meter(name=f"GPU {number}", read=read))
    return tuple(found)


def energies(meters: Sequence[Meter], microjoules: Sequence[int | None], calls: int, ns: int) -> tuple[Energy, ...]:
    """What `calls` calls cost that took `ns` nanoseconds together, by what each of `meters` counted meanwhile.

    A meter that could not be read, whose count is None, is left out.
    """
    if not calls or not ns:
        return ()
    return tuple(
        Energy(counter=meter.name, microjoules_per_call=spent / calls, watts=spent * 1e3 / ns)
        for meter, spent in zip(meters, microjoules, strict=True)
        if spent is not None
    )


def find_meters(providers: Sequence[str]) -> tuple[tuple[Meter, ...], str]:
    """The counters to read for subjects that run on `providers`, one a subject, and a note on those left out, if any.

    Those are the processor's, and the GPUs' where the only subject runs on one.
    """
    gpus = gpu_meters() if any(on_gpu(provider) for provider in providers) else ()
    if gpus and len(providers) > 1:
        return processor_meters(), SLOW_COUNTER
    return (*processor_meters(), *gpus), ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(_text(path))


def _gpu_reader(library: Any, device: ctypes.c_void_p) -> Callable[[], int]:
    def read() -> int:
        millijoules = ctypes.c_ulonglong()
        code = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules))
        if code:
            raise OSError(f"the GPU's energy counter cannot be read (error {code} of NVML)")
        return millijoules.value * 1000

    return read
