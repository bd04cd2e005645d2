"""What is measured beside the times when it is asked for: cold starts, layers, the server scenario.

Each adds to results of subjects that were measured, and leaves the others as they are. What fails becomes a note: the
times, which were measured before, stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeseq.bench.cold import measure_cold_starts
from edgeseq.bench.layers import time_layers
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.sample import Progress
from edgeseq.bench.server import ServerSettings, overload_note, serve
from edgeseq.bench.subjects import Subject, error_text

Results = tuple[BenchmarkResult, ...]


def add_cold_starts(
    results: Results, subjects: Sequence[Subject], *, seed: int = 0, progress: Progress | None = None
) -> Results:
    """Starts and memory of fresh processes, for subjects that are files."""
    failed: dict[str, Exception] = {}

    def keep(subject: Subject, error: Exception) -> None:
        failed[subject.name] = error

    measured = {result.name for result in results if result.error is None}
    starts = measure_cold_starts(
        [subject for subject in subjects if subject.name in measured], seed=seed, progress=progress, failed=keep
    )

    def told(subject: Subject) -> Mapping[str, Any]:
        if subject.name in failed:
            raise failed[subject.name]
        return {"cold_start": starts.get(subject.name)}

    return _each(results, subjects, told, "a fresh process could not run it")


def add_layers(results: Results, subjects: Sequence[Subject], *, progress: Progress | None = None) -> Results:
    """Time by layer, for subjects that are files."""

    def profiled(subject: Subject) -> Mapping[str, Any]:
        return {"layers": time_layers(subject)} if subject.path is not None and subject.feeds else {}

    return _each(results, subjects, profiled, "it could not be profiled", "layers", progress)


def add_served(
    results: Results,
    subjects: Sequence[Subject],
    settings: ServerSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results:
    """The server scenario, one subject after the other: two that answer at once would share the machine."""

    def served(subject: Subject) -> Mapping[str, Any]:
        return {} if subject.call is None else {"server": serve(subject.call, settings, seed=seed)}

    found = _each(results, subjects, served, "the server scenario failed", "server", progress)
    return tuple(
        replace(result, notes=(*result.notes, *overload_note(result.server))) if result.server else result
        for result in found
    )


def _each(
    results: Results,
    subjects: Sequence[Subject],
    work: Callable[[Subject], Mapping[str, Any]],
    why: str,
    stage: str = "",
    progress: Progress | None = None,
) -> Results:
    """`results`, those that were measured with the changes that `work` gives, or with a note that begins with `why`."""
    by_name = {subject.name: subject for subject in subjects}
    found = []
    for number, result in enumerate(results):
        if progress:
            progress(stage, number, len(results))
        if result.error is None:
            try:
                result = replace(result, **work(by_name[result.name]))
            except Exception as error:  # noqa: BLE001 - what fails is told, and the times stand
                result = replace(result, notes=(*result.notes, f"{why}: {error_text(error)}"))
        found.append(result)
    return tuple(found)
