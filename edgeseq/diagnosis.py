"""What is installed, what can really start, and what to do about the rest. Works with numpy alone."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeseq import __version__
from edgeseq.bench.machine import Machine, installed_version, this_machine
from edgeseq.errors import MissingExtra, ProviderUnavailable
from edgeseq.runtime.nvidia import read_driver
from edgeseq.runtime.providers import SHORT_NAMES, nvidia_libraries, open_session
from edgeseq.runtime.tiny import tiny_model

EXTRAS: Mapping[str, Mapping[str, str]] = {
    "cpu": {"onnxruntime": ">=1.22,<2"},
    "gpu": {"onnxruntime-gpu": ">=1.22,<2"},
    "quantize": {"onnx": ">=1.17,<2", "onnx-ir": ">=1.0,<2"},
    "export": {
        "onnx": ">=1.17,<2",
        "onnx-ir": ">=1.0,<2",
        "tensorflow": ">=2.21,<2.22",
        "keras": ">=3.15,<3.16",
        "tf2onnx": ">=1.17,<1.18",
    },
    "cli": {"typer": ">=0.29,<1", "rich": ">=13.9,<16"},
    "report": {"matplotlib": ">=3.9,<4", "pillow": ">=11,<14"},
}
"""What each extra brings. Kept here because a checkout that is not installed has no metadata to ask."""

_TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
"""The packages that bring TensorRT, by the CUDA they are for; no extra of ours does."""

_PYTHON = ">=3.11,<3.14"
_NUMPY = ">=1.26,<3"

_OPENS = {
    "cpu": "embedding: edgeseq.runtime, edgeseq run and check",
    "gpu": "embedding on NVIDIA: cuda and tensorrt",
    "quantize": "edgeseq quantize",
    "export": "edgeseq train and export",
    "cli": "the edgeseq command",
    "report": "learning curves, edgeseq report and pictures",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What."""
    ok: bool | None
    """True when it works, False when it is broken, None when it is not there and need not be."""
    detail: str
    """What was found."""
    advice: str = ""
    """What to do about it, a command where there is one; empty when nothing needs doing."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The state of this installation; truthy when nothing is broken and a model can run."""

    checks: tuple[Check, ...]
    """Processor, Python, packages, extras, NVIDIA's driver and libraries, and providers, in that order."""
    machine: Machine
    """Processor and system."""
    versions: Mapping[str, str | None]
    """Version of every package that an extra may bring; None where it is not installed."""
    providers: tuple[str, ...]
    """The execution providers that started, by short name."""

    def __bool__(self) -> bool:
        return bool(self.providers) and all(check.ok is not False for check in self.checks)


def diagnose() -> Diagnosis:
    """Look at the installation, and try to start each execution provider on a tiny model. Raises nothing of its own.

    TensorFlow is not imported: versions are read from the packages' metadata.
    """
    names = sorted({package for packages in EXTRAS.values() for package in packages})
    versions = {"edgeseq": __version__, "numpy": installed_version("numpy")}
    versions |= {name: installed_version(name) for name in names}
    machine = this_machine()
    tried = [_provider(name, versions) for name in SHORT_NAMES]
    return Diagnosis(
        checks=(
            _processor(machine),
            _python(),
            _package("numpy", versions["numpy"], _NUMPY),
            _onnxruntime(versions),
            *(_extra(extra, versions) for extra in EXTRAS),
            _driver(versions),
            _libraries(versions),
            *tried,
        ),
        machine=machine,
        versions=versions,
        providers=tuple(name for name, check in zip(SHORT_NAMES, tried, strict=True) if check.ok),
    )


def _python() -> Check:
    version = platform.python_version()
    ok = _satisfies(version, _PYTHON)
    advice = "" if ok else f"edgeseq is made for Python {_PYTHON}: make an environment with one of these."
    return Check(name="python", ok=ok, detail=f"{version} at {sys.executable}", advice=advice)


def _package(name: str, version: str | None, wanted: str) -> Check:
    if version is None:
        return Check(name=name, ok=False, detail="not installed", advice=f"pip install '{name}{wanted}'")
    if not _satisfies(version, wanted):
        return Check(
            name=name, ok=False, detail=f"{version}; {wanted} is wanted", advice=f"pip install '{name}{wanted}'"
        )
    return Check(name=name, ok=True, detail=version)


def _onnxruntime(versions: Mapping[str, str | None]) -> Check:
    """Both distributions at once overwrite each other's files, and removing one then takes the other's along."""
    cpu, gpu = versions["onnxruntime"], versions["onnxruntime-gpu"]
    if cpu and gpu:
        return Check(
            name="onnxruntime",
            ok=False,
            detail=f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed, and overwrite each other's files",
            advice="pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'edgeseq[cpu]' or 'edgeseq[gpu]'",
        )
    if not cpu and not gpu:
        return Check(
            name="onnxruntime",
            ok=False,
            detail="not installed: no model can run",
            advice="pip install 'edgeseq[cpu]', or 'edgeseq[gpu]' for NVIDIA",
        )
    name, version = ("onnxruntime", cpu) if cpu else ("onnxruntime-gpu", gpu)
    return Check(name="onnxruntime", ok=True, detail=f"{name} {version}")


def _extra(extra: str, versions: Mapping[str, str | None]) -> Check:
    missing, wrong = [], []
    for package, wanted in EXTRAS[extra].items():
        version = versions[package]
        if version is None:
            missing.append(package)
        elif not _satisfies(version, wanted):
            wrong.append(f"{package} is {version}, wanted {wanted}")
    name, command = f"extra {extra}", _install(extra)
    if wrong:
        return Check(name=name, ok=False, detail="; ".join(wrong), advice=command)
    if not missing:
        return Check(name=name, ok=True, detail=f"complete ({_OPENS[extra]})")
    other = {"cpu": "gpu", "gpu": "cpu"}.get(extra)
    if other and all(versions[package] for package in EXTRAS[other]):
        return Check(name=name, ok=None, detail=f"not installed, edgeseq[{other}] is in its place")
    return Check(
        name=name,
        ok=None,
        detail=f"missing {', '.join(missing)} ({_OPENS[extra]})",
        advice=command,
    )


def _processor(machine: Machine) -> Check:
    features = ", ".join(machine.cpu_features) or "features unknown"
    return Check(name="processor", ok=True, detail=f"{machine.cpu_model}, {machine.cores} usable cores, {features}")


def _driver(versions: Mapping[str, str | None]) -> Check:
    driver = read_driver()
    if driver.error is None and driver.cuda is not None:
        gpus = ", ".join(driver.devices)
        return Check(name="NVIDIA driver", ok=True, detail=f"runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}; {gpus}")
    # Only those who installed the build for NVIDIA expect a GPU.
    broken = False if versions["onnxruntime-gpu"] is not None else None
    return Check(name="NVIDIA driver", ok=broken, detail=driver.error or "its version is unknown")


def _libraries(versions: Mapping[str, str | None]) -> Check:
    name = "NVIDIA libraries"
    if versions["onnxruntime-gpu"] is None:
        return Check(name=name, ok=None, detail="not looked for: onnxruntime-gpu is not installed")
    try:
        libraries = nvidia_libraries()
    except MissingExtra as error:
        return Check(name=name, ok=None, detail=f"{error.package} is not installed")
    missing = [library for library, found in libraries.items() if not found]
    there = ", ".join(library for library, found in libraries.items() if found)
    if not missing:
        return Check(name=name, ok=True, detail=there or "none needed")
    # TensorRT is an extra of its own: who wants CUDA alone can do without.
    optional = all(library.startswith(("libnvinfer", "libnvonnxparser")) for library in missing)
    return Check(
        name=name,
        ok=None if optional else False,
        detail=f"missing {', '.join(missing)}" + (f"; found {there}" if there else ""),
        advice="TensorRT's, only for provider tensorrt" if optional else "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )


def _provider(name: str, versions: Mapping[str, str | None]) -> Check:
    """Open a session and run it: what was compiled in says nothing about what can start."""
    label = f"provider {name}"
    # Only those who installed the build for NVIDIA expect its providers to start.
    install = _install("cpu" if name == "cpu" else "gpu")
    expected = name == "cpu" or versions["onnxruntime-gpu"] is not None
    if name == "tensorrt":
        expected = expected and any(installed_version(package) for package in _TENSORRT)
    broken = False if expected else None
    try:
        session = open_session(tiny_model(), provider=name)
        answer = session.run(None, {"x": np.ones(2, np.float32)})[0].tolist()
    except MissingExtra as error:
        return Check(name=label, ok=broken, detail=f"{error.package} is not installed", advice=install)
    except ProviderUnavailable as error:
        return Check(name=label, ok=broken, detail=error.reason, advice=error.advice)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this provider's state, and the others are asked too
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name=label, ok=broken, detail=reason, advice=install)
    if answer != [2.0, 2.0]:
        return Check(
            name=label, ok=False, detail=f"it computes 1 + 1 = {answer}", advice="Do not use this provider here."
        )
    return Check(name=label, ok=True, detail="a session starts and computes")


def _install(extra: str) -> str:
    return f"pip install 'edgeseq[{extra}]'"


def _satisfies(version: str, wanted: str) -> bool:
    """Whether `version` lies within ``>=a,<b``; what follows its numbers, such as ``rc1``, is left out."""
    lower, upper = (_numbers(part.strip("<>=")) for part in wanted.split(","))
    return lower <= _numbers(version) < upper


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    return tuple(numbers + [0] * (4 - len(numbers)))
