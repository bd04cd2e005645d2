"""What onnxruntime really does here: which providers start and compute, and how many threads it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeseq.bench.machine import installed_version
from edgeseq.diagnosis.checks import Check
from edgeseq.diagnosis.packages import install_command
from edgeseq.errors import EdgeseqError, MissingExtra, PlacementRefused, ProviderUnavailable
from edgeseq.runtime.placement import Proof
from edgeseq.runtime.providers import SHORT_NAMES, nvidia_libraries, open_session
from edgeseq.runtime.tiny import tiny_model

_TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
"""The packages that bring TensorRT, by the CUDA they are for; no extra of ours does."""


def default_threads() -> int | None:
    """Threads within an op that a session starts when none are told, the caller's included; counted, on Linux."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return None
    try:
        # Kept alive, so that what the first session of a process starts is counted before.
        sessions = [open_session(tiny_model(), provider="cpu", threads=1)]
        before = len(list(tasks.iterdir()))
        sessions.append(open_session(tiny_model(), provider="cpu", threads=0))
        return len(list(tasks.iterdir())) - before + 1
    except (EdgeseqError, ImportError):
        # Why there is none is the provider's check to tell.
        return None


def find_libraries() -> dict[str, bool]:
    """The libraries that the installed onnxruntime needs for NVIDIA, and whether each loads; empty where none."""
    try:
        return nvidia_libraries()
    except (MissingExtra, ImportError):
        # Without an onnxruntime that can be imported nothing needs any; its own check tells why.
        return {}


def other_providers() -> tuple[str, ...]:
    """onnxruntime's names of what its build has beyond ours."""
    try:
        available = importlib.import_module("onnxruntime").get_available_providers()
    except (ImportError, AttributeError):
        return ()
    return tuple(name for name in available if name not in SHORT_NAMES.values())


def check_provider(name: str, versions: Mapping[str, str | None]) -> Check:
    """Open a session and run it: what was compiled in need not start, and what starts need not take a node."""
    label = f"provider {name}"
    # Only those who installed the build for NVIDIA expect its providers to start.
    install = install_command("cpu" if name == "cpu" else "gpu") if name in SHORT_NAMES else ""
    expected = name == "cpu" or (name in SHORT_NAMES and versions["onnxruntime-gpu"] is not None)
    if name == "tensorrt":
        expected = expected and any(installed_version(package) for package in _TENSORRT)
    broken = False if expected else None
    try:
        answer = _compute(name)
    except MissingExtra as error:
        return Check(name=label, ok=broken, detail=f"{error.package} is not installed", advice=install)
    except ProviderUnavailable as error:
        return Check(name=label, ok=broken, detail=error.reason, advice=error.advice)
    except PlacementRefused:
        return Check(name=label, ok=broken, detail="a session starts, but leaves 1 + 1 to another provider")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this provider's state, and the others are asked too
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name=label, ok=broken, detail=reason, advice=install)
    if answer != [2.0, 2.0]:
        return Check(
            name=label, ok=False, detail=f"it computes 1 + 1 = {answer}", advice="Do not use this provider here."
        )
    return Check(name=label, ok=True, detail="a session starts and computes")


def _compute(name: str) -> list[float]:
    """1 + 1, twice, on the provider alone. Raises PlacementRefused where another one did it."""
    feed = {"x": np.ones(2, np.float32)}
    if name == "cpu":
        # Whatever it is, it ran here.
        [found] = open_session(tiny_model(), provider=name).run(None, feed)
    else:
        proof = Proof((SHORT_NAMES.get(name, name),), {})
        session = open_session(tiny_model(), provider=name, profile=proof.prefix)
        [found] = proof.run(session, lambda: session.run(None, feed))
    answer: list[float] = found.tolist()
    return answer
