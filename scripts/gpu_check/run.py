"""A whole check: every model on every provider, within a time, and what is written of it."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeseq import __version__
from edgeseq.bench.gpu import driver_version, library_versions
from edgeseq.bench.machine import installed_versions, this_machine
from edgeseq.errors import MissingExtra, WrongUsage
from edgeseq.runtime.nvidia import read_driver
from edgeseq.runtime.providers import nvidia_libraries
from gpu_check.alone import check_alone, find_unavailable
from gpu_check.artifacts import Artifact, read_set
from gpu_check.check import BATCHES, Plan, blank
from gpu_check.judge import judge
from gpu_check.results import ArtifactResult, GpuCheck, GpuFacts

SECONDS = 540.0
"""What fits into ten minutes together with what is begun when it ends."""

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tensorrt-cu12", "tensorrt-cu13")

Progress = Callable[[str, int, int], None]


def run(
    folder: Path,
    providers: Sequence[str],
    *,
    options: Mapping[str, str] | None = None,
    batches: tuple[int, ...] = BATCHES,
    only: Sequence[str] = (),
    seconds: float = SECONDS,
    keep: Callable[[GpuCheck], None] | None = None,
    progress: Progress | None = None,
) -> GpuCheck:
    """Check the set in `folder` on each of `providers`, alone, in about `seconds`.

    `only` names the models to check. `keep` is given what there is after every model: a machine may be taken away.
    Raises MissingInput and InvalidFile for the set itself, WrongUsage for unknown names; one broken model, or a
    provider that cannot start, is a result.
    """
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    options = dict(options or {})
    chosen = _chosen(read_set(folder).artifacts, only)
    if len(set(providers)) < len(providers) or any("," in name for name in providers):
        raise WrongUsage(f"providers are different names, each alone; got {', '.join(providers)}")
    plan = Plan(folder=folder, options=options, batches=batches, deadline=began + seconds)
    machine, gpu, versions = this_machine(), gpu_facts(), _versions()
    unavailable: dict[str, str] = {}
    results: list[ArtifactResult] = []

    def found(*, complete: bool) -> GpuCheck:
        return GpuCheck(
            results=tuple(results),
            expectations=judge(results),
            unavailable=dict(unavailable),
            machine=machine,
            gpu=gpu,
            versions=versions,
            providers=tuple(providers),
            provider_options=options,
            budget_seconds=seconds,
            seconds=time.monotonic() - began,
            started=started,
            complete=complete,
        )

    left = len(providers) * len(chosen)
    for provider in providers:
        failure = find_unavailable(provider, {} if provider == "cpu" else options)
        if failure is not None:
            unavailable[provider] = failure.message
        for artifact in chosen:
            if progress:
                progress(f"{artifact.name} on {provider}", len(results), len(providers) * len(chosen))
            share = max(0.0, plan.deadline - time.monotonic()) / left
            results.append(
                blank(artifact, provider, failure) if failure else check_alone(artifact, provider, plan, share)
            )
            left -= 1
            if keep:
                keep(found(complete=False))
    return found(complete=True)


def gpu_facts() -> GpuFacts:
    """The GPU, its driver and the libraries that onnxruntime loads."""
    driver = read_driver()
    try:
        names = [name for name, there in nvidia_libraries().items() if there]
    except MissingExtra:
        names = []
    return GpuFacts(
        devices=driver.devices,
        driver=driver_version(),
        driver_cuda=".".join(map(str, driver.cuda)) if driver.cuda else None,
        libraries=library_versions(names),
        error=driver.error,
    )


def _chosen(artifacts: Sequence[Artifact], only: Sequence[str]) -> tuple[Artifact, ...]:
    names = [artifact.name for artifact in artifacts]
    for name in only:
        if name not in names:
            raise WrongUsage(f"the set has no model '{name}'; it has {', '.join(names)}")
    return tuple(artifact for artifact in artifacts if not only or artifact.name in only)


def _versions() -> dict[str, str]:
    return {"edgeseq": __version__, "python": platform.python_version(), **installed_versions(_PACKAGES)}
