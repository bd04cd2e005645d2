"""What is installed, what can really start, and what to do about the rest. Works with numpy alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeseq import __version__
from edgeseq.bench.gpu import driver_version, library_versions
from edgeseq.bench.machine import Machine, installed_version, this_machine
from edgeseq.diagnosis import machine as hardware
from edgeseq.diagnosis import packages, starting
from edgeseq.diagnosis.checks import Check
from edgeseq.diagnosis.threads import Threads, find_threads
from edgeseq.runtime.caching import cache_folder
from edgeseq.runtime.nvidia import Driver, read_driver
from edgeseq.runtime.providers import DISTRIBUTIONS, SHORT_NAMES

__all__ = ["Check", "Diagnosis", "diagnose"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The state of this installation; truthy when nothing is broken and a model can run."""

    checks: tuple[Check, ...]
    """Processor, threads, Python, packages, extras, folders, NVIDIA's driver and libraries, and providers, in that
    order."""
    machine: Machine
    """Processor and system."""
    versions: Mapping[str, str | None]
    """Version of every package that an extra may bring; None where it is not installed."""
    providers: tuple[str, ...]
    """The execution providers that started and computed: by short name, others by onnxruntime's."""
    threads: Threads
    """Cores, and what keeps this process from some of them."""
    default_threads: int | None
    """Threads within an op that onnxruntime starts when none are told; None where that cannot be seen."""
    driver: Driver
    """NVIDIA's driver and GPUs, as the driver's library describes them."""
    driver_version: str | None
    """Version of NVIDIA's kernel driver; None where there is none."""
    library_versions: Mapping[str, str]
    """Versions of CUDA's runtime, cuDNN and TensorRT, of those that were found, as they themselves say."""
    libraries: Mapping[str, bool]
    """The libraries that the installed onnxruntime needs for NVIDIA, and whether each can be loaded."""
    cache_folder: str
    """Where edgeseq keeps what can be made again, such as engines; it need not exist."""
    verdict: str
    """All of it in one line."""

    def __bool__(self) -> bool:
        return bool(self.providers) and all(check.ok is not False for check in self.checks)


def diagnose() -> Diagnosis:
    """Look at the installation, and try to start each execution provider on a tiny model. Raises nothing of its own.

    TensorFlow is not imported: versions are read from the packages' metadata.
    """
    names = sorted({package for packages in packages.EXTRAS.values() for package in packages})
    versions = {"edgeseq": __version__, "numpy": installed_version("numpy")}
    versions |= {name: installed_version(name) for name in names}
    versions |= {name: version for name in DISTRIBUTIONS if (version := installed_version(name)) is not None}
    machine, threads, driver, libraries = this_machine(), find_threads(), read_driver(), starting.find_libraries()
    known = library_versions(name for name, found in libraries.items() if found)
    default_threads = starting.default_threads()
    asked = (*SHORT_NAMES, *starting.other_providers())
    tried = [starting.check_provider(name, versions) for name in asked]
    started = tuple(name for name, check in zip(asked, tried, strict=True) if check.ok)
    checks = (
        hardware.check_processor(machine),
        hardware.check_threads(threads, default_threads),
        packages.check_python(),
        packages.check_package("numpy", versions["numpy"], packages.NUMPY),
        packages.check_onnxruntime(versions),
        *(packages.check_extra(extra, versions) for extra in packages.EXTRAS),
        hardware.check_cache(cache_folder()),
        hardware.check_data(os.environ.get("EDGESEQ_DATA")),
        hardware.check_driver(driver, driver_version(), expected=versions["onnxruntime-gpu"] is not None),
        hardware.check_libraries(libraries, known),
        *tried,
    )
    return Diagnosis(
        checks=checks,
        machine=machine,
        versions=versions,
        providers=started,
        threads=threads,
        default_threads=default_threads,
        driver=driver,
        driver_version=driver_version(),
        library_versions=known,
        libraries=libraries,
        cache_folder=str(cache_folder()),
        verdict=_verdict(checks, started),
    )


def _verdict(checks: Sequence[Check], started: Sequence[str]) -> str:
    broken = [check.name for check in checks if check.ok is False]
    where = f"models run on {', '.join(started)}" if started else "no model can run"
    return f"something is broken: {', '.join(broken)}; {where}" if broken else f"nothing is broken: {where}"
