"""The machine: processor, threads, folders, and NVIDIA's driver and libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgeseq.bench.machine import Machine
from edgeseq.bench.units import size
from edgeseq.diagnosis.checks import Check
from edgeseq.diagnosis.threads import Threads
from edgeseq.runtime.nvidia import Driver


def check_processor(machine: Machine) -> Check:
    """The processor, and what of it decides which kernels run."""
    features = ", ".join(machine.cpu_features) or "features unknown"
    slow = machine.architecture in ("x86_64", "AMD64") and machine.cpu_features and "avx2" not in machine.cpu_features
    return Check(
        name="processor",
        ok=True,
        detail=f"{machine.cpu_model}, {features}",
        advice="Without AVX2 models run several times slower; in a virtual machine, pass the host's CPU through."
        if slow
        else "",
    )


def check_threads(threads: Threads, default: int | None) -> Check:
    """Cores against what onnxruntime starts: more threads than may run at once wait for each other."""
    physical = f"{threads.physical_cores} physical, " if threads.physical_cores else ""
    told = [f"{physical}{threads.logical_cores} logical cores, {threads.usable_cores} usable"]
    if threads.cpu_limit is not None:
        told.append(f"the container may use {threads.cpu_limit:g} CPUs' time")
    if default is not None:
        told.append(f"onnxruntime starts {default} a session unless told")
    for name, value in threads.variables.items():
        told.append(f"{name}={value} has no effect on onnxruntime")
    crowded = default is not None and default > threads.room
    return Check(
        name="threads",
        ok=True,
        detail="; ".join(told),
        advice=f"Tell it: --threads {threads.room}, threads={threads.room} in Python." if crowded else "",
    )


def check_cache(folder: Path) -> Check:
    """Whether the cache folder can be used; nothing is made or written."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        detail = f"{folder}, {size(_size_bytes(folder))}" if there == folder else f"{folder}, made when it is needed"
        return Check(name="cache folder", ok=True, detail=detail)
    reason = "cannot be written" if there.is_dir() else f"cannot be made: {there} is no folder"
    advice = "Set EDGESEQ_CACHE to a folder that you may write to; engines are kept there."
    return Check(name="cache folder", ok=None, detail=f"{folder} {reason}", advice=advice)


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            # Gone meanwhile, or another user's.
            continue
    return total


def check_data(named: str | None) -> Check:
    """The folder that the environment variable EDGESEQ_DATA names."""
    if not named:
        return Check(name="data folder", ok=None, detail="EDGESEQ_DATA is not set: recipes look in ../shared/data")
    if not Path(named).is_dir():
        advice = "Set EDGESEQ_DATA to the folder of the data sets, or unset it."
        return Check(name="data folder", ok=False, detail=f"EDGESEQ_DATA is {named}, no folder", advice=advice)
    sets = sorted(path.name for path in Path(named).iterdir() if path.is_dir())
    return Check(name="data folder", ok=True, detail=f"{named} with {', '.join(sets) or 'no data sets'}")


def check_driver(driver: Driver, version: str | None, *, expected: bool) -> Check:
    """The driver; only those who installed the build for NVIDIA have `expected` one."""
    if driver.error is None and driver.cuda is not None:
        gpus = ", ".join(driver.devices)
        detail = f"{f'{version}, ' if version else ''}runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}; {gpus}"
        return Check(name="NVIDIA driver", ok=True, detail=detail)
    return Check(name="NVIDIA driver", ok=False if expected else None, detail=driver.error or "its version is unknown")


def check_libraries(libraries: Mapping[str, bool], known: Mapping[str, str]) -> Check:
    """The libraries that the installed onnxruntime needs, and the versions that they tell."""
    name = "NVIDIA libraries"
    if not libraries:
        return Check(name=name, ok=None, detail="not looked for: the installed onnxruntime needs none")
    missing = [library for library, found in libraries.items() if not found]
    there = ", ".join(library for library, found in libraries.items() if found)
    told = [f"missing {', '.join(missing)}"] if missing else []
    told += [f"found {there}" if missing else there] if there else []
    told += [", ".join(f"{label} {version}" for label, version in known.items())] if known else []
    if not missing:
        return Check(name=name, ok=True, detail="; ".join(told))
    # TensorRT is an extra of its own: who wants CUDA alone can do without.
    optional = all(library.startswith(("libnvinfer", "libnvonnxparser")) for library in missing)
    return Check(
        name=name,
        ok=None if optional else False,
        detail="; ".join(told),
        advice="TensorRT's, only for provider tensorrt" if optional else "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )
