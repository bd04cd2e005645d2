"""Python, numpy, onnxruntime and edgeseq's extras: which versions are installed, and which are wanted."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping

from edgeseq.diagnosis.checks import Check
from edgeseq.runtime.providers import DISTRIBUTIONS

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
    "parquet": {"pyarrow": ">=17,<26"},
    "report": {"matplotlib": ">=3.9,<4", "pillow": ">=11,<14"},
    "app": {"starlette": ">=0.46,<2", "uvicorn": ">=0.34,<1"},
}
"""What each extra brings. Kept here because a checkout that is not installed has no metadata to ask."""

PYTHON = ">=3.11,<3.14"
NUMPY = ">=1.26,<3"

_OPENS = {
    "cpu": "embedding: edgeseq.runtime, edgeseq run and check",
    "gpu": "embedding on NVIDIA: cuda and tensorrt",
    "quantize": "edgeseq quantize",
    "export": "edgeseq train and export",
    "cli": "the edgeseq command",
    "parquet": "samples from .parquet files",
    "report": "learning curves, edgeseq report and pictures",
    "app": "scripts/app, the example service",
}


def check_python() -> Check:
    """The Python that runs."""
    version = platform.python_version()
    ok = _satisfies(version, PYTHON)
    advice = "" if ok else f"edgeseq is made for Python {PYTHON}: make an environment with one of these."
    return Check(name="python", ok=ok, detail=f"{version} at {sys.executable}", advice=advice)


def check_package(name: str, version: str | None, wanted: str) -> Check:
    """One package against the versions wanted, as ``>=a,<b``."""
    if version is None:
        return Check(name=name, ok=False, detail="not installed", advice=f"pip install '{name}{wanted}'")
    if not _satisfies(version, wanted):
        return Check(
            name=name, ok=False, detail=f"{version}; {wanted} is wanted", advice=f"pip install '{name}{wanted}'"
        )
    return Check(name=name, ok=True, detail=version)


def check_onnxruntime(versions: Mapping[str, str | None]) -> Check:
    """Two distributions at once overwrite each other's files, and removing one then takes the other's along."""
    found = [name for name in DISTRIBUTIONS if versions.get(name)]
    if len(found) > 1:
        told = " and ".join(f"{name} {versions[name]}" for name in found)
        return Check(
            name="onnxruntime",
            ok=False,
            detail=f"{told} are {'both' if len(found) == 2 else 'all'} installed, and overwrite each other's files",
            advice=f"pip uninstall -y {' '.join(found)}, then pip install 'edgeseq[cpu]' or 'edgeseq[gpu]'",
        )
    if not found:
        return Check(
            name="onnxruntime",
            ok=False,
            detail="not installed: no model can run",
            advice="pip install 'edgeseq[cpu]', or 'edgeseq[gpu]' for NVIDIA",
        )
    return Check(name="onnxruntime", ok=True, detail=f"{found[0]} {versions[found[0]]}")


def check_extra(extra: str, versions: Mapping[str, str | None]) -> Check:
    """One of edgeseq's extras: complete, not installed, or of wrong versions."""
    missing, wrong = [], []
    for package, wanted in EXTRAS[extra].items():
        version = versions[package]
        if version is None:
            missing.append(package)
        elif not _satisfies(version, wanted):
            wrong.append(f"{package} is {version}, wanted {wanted}")
    name, command = f"extra {extra}", install_command(extra)
    if wrong:
        return Check(name=name, ok=False, detail="; ".join(wrong), advice=command)
    if not missing:
        return Check(name=name, ok=True, detail=f"complete ({_OPENS[extra]})")
    others = [package for package in DISTRIBUTIONS if versions.get(package)] if extra in ("cpu", "gpu") else []
    if others:
        other = {"onnxruntime": "edgeseq[cpu]", "onnxruntime-gpu": "edgeseq[gpu]"}.get(others[0], others[0])
        return Check(name=name, ok=None, detail=f"not installed, {other} is in its place")
    return Check(
        name=name,
        ok=None,
        detail=f"missing {', '.join(missing)} ({_OPENS[extra]})",
        advice=command,
    )


def install_command(extra: str) -> str:
    """What installs an extra."""
    return f"pip install 'edgeseq[{extra}]'"


def _satisfies(version: str, wanted: str) -> bool:
    """Whether `version` lies within ``>=a,<b``; what follows its numbers, such as ``rc1``, is left out."""
    lower, upper = (_numbers(part.strip("<>=")) for part in wanted.split(","))
    return lower <= _numbers(version) < upper


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    return tuple(numbers + [0] * (4 - len(numbers)))
