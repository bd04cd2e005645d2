"""What machine this is: what a measured time means nothing without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeseq.bench.gpu import driver_version
from edgeseq.runtime.nvidia import Driver, read_driver

_CPU_INFO = Path("/proc/cpuinfo")
_CPU = Path("/sys/devices/system/cpu/cpu0")
_CGROUP = Path("/sys/fs/cgroup")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}

# Features that decide which matrix kernels run; Linux's names, x86 first, then ARM.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The processor and the system."""

    cpu_model: str
    """The processor's name, as the system gives it."""
    cores: int
    """Logical cores that this process may use."""
    cpu_features: tuple[str, ...]
    """Those vector and matrix extensions that decide which kernels run; empty where the system does not tell."""
    architecture: str
    """Such as ``x86_64`` or ``aarch64``."""
    system: str
    """Operating system and its version."""
    memory_bytes: int | None = None
    """Memory of the machine; None where the system does not tell."""
    caches: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each cache that the first core reads data through, by name: ``L1d`` and ``L2`` are mostly its own,
    ``L3`` is shared. Empty where the system does not tell."""
    cpu_governor: str | None = None
    """How Linux chooses the clock rate, such as ``performance`` or ``powersave``; None where it does not tell."""
    cpu_limit: float | None = None
    """Cores' worth of time that a container's quota allows; None without a quota."""
    gpus: tuple[str, ...] = ()
    """NVIDIA's GPUs that this process may use, each with the driver, such as ``NVIDIA H200, driver 580.65.06``."""


def this_machine() -> Machine:
    """Describe the machine this runs on. CPU features, caches, governor and quota are known on Linux only."""
    info = _cpu_info()
    features = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        cpu_model=info.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        cpu_features=tuple(name for name in _FEATURES if name in features),
        architecture=platform.machine(),
        system=platform.platform(),
        memory_bytes=_memory_bytes(),
        caches=_caches(_CPU / "cache"),
        cpu_governor=_read(_CPU / "cpufreq" / "scaling_governor"),
        cpu_limit=_cpu_limit(_CGROUP),
        gpus=_gpus(read_driver(), driver_version()),
    )


def usable_cores() -> int:
    """Logical cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, read without importing it; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> Mapping[str, str]:
    """Versions of those of `packages` that are installed."""
    found = {package: installed_version(package) for package in packages}
    return {package: version for package, version in found.items() if version is not None}


def _cpu_info() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty on other systems."""
    if not _CPU_INFO.is_file():
        return {}
    first = _CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_bytes() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _caches(folder: Path) -> dict[str, int]:
    """Sizes as Linux gives them (Documentation/ABI/testing/sysfs-devices-system-cpu), instruction caches left out."""
    found = {}
    for place in sorted(folder.glob("index*")):
        level, kind, size = (_read(place / name) for name in ("level", "type", "size"))
        measured = re.fullmatch(r"(\d+)([KMG]?)", size or "")
        if level is None or kind not in ("Data", "Unified") or measured is None:
            continue
        found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(measured[1]) * _UNITS[measured[2]]
    return found


def _cpu_limit(folder: Path) -> float | None:
    """The quota of this control group: cpu.max of version 2, and what version 1 has in two files."""
    both = _read(folder / "cpu.max")
    if both is not None:
        quota, _, period = both.partition(" ")
    else:
        quota, period = (_read(folder / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    # "max", or -1 in version 1: there is none.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _gpus(driver: Driver, version: str | None) -> tuple[str, ...]:
    return tuple(f"{name}, driver {version}" if version else name for name in driver.devices)


def _read(path: Path) -> str | None:
    """The text of one of the system's files; None where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
