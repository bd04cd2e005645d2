"""What machine this is: what a measured time means nothing without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")

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


def this_machine() -> Machine:
    """Describe the machine this runs on. CPU features are known on Linux only."""
    info = _cpu_info()
    features = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        cpu_model=info.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        cpu_features=tuple(name for name in _FEATURES if name in features),
        architecture=platform.machine(),
        system=platform.platform(),
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
