"""What is measured beside the times when it is asked for: cold starts, layers, the server scenario.

Each adds to results of subjects that were measured, and leaves the others as they are. What fails becomes a note: the
times, which were measured before, stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeseq.bench.cold import measure_cold_starts
from edgeseq.bench.layers import LayerTime, time_layers
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.sample import Progress
from edgeseq.bench.server import Served, serve
from edgeseq.bench.subjects import Subject, error_text
from edgeseq.errors import EdgeseqError, WrongUsage

Results = tuple[BenchmarkResult, ...]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The server scenario: at what rate queries arrive, or within what time they must be answered. One is needed."""

    rate_per_s: float | None = None
    """Queries a second, on average; None only searches the highest rate that keeps the deadline."""
    deadline_ns: int | None = None
    """The latency that the 99th percentile must keep, in nanoseconds; None searches for no rate."""
    max_seconds: float = 60.0
    """Most seconds for each subject."""

    def __post_init__(self) -> None:
        if self.rate_per_s is None and self.deadline_ns is None:
            raise WrongUsage("the server scenario needs a rate of queries, a deadline, or both")
        for name in ("rate_per_s", "deadline_ns", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise WrongUsage(f"{name} must be above 0, not {value}")


def add_cold_starts(
    results: Results, subjects: Sequence[Subject], *, seed: int = 0, progress: Progress | None = None
) -> Results:
    """Starts and memory of fresh processes, for subjects that are files."""
    failed: dict[str, str] = {}

    def note(subject: Subject, error: EdgeseqError) -> None:
        failed[subject.name] = f"a fresh process could not run it: {error_text(error)}"

    starts = measure_cold_starts(_measured(results, subjects), seed=seed, progress=progress, failed=note)
    return tuple(
        _noted(replace(result, cold_start=starts.get(result.name)), failed.get(result.name)) for result in results
    )


def add_layers(results: Results, subjects: Sequence[Subject], *, progress: Progress | None = None) -> Results:
    """Time by layer, for subjects that are files."""
    found: dict[str, tuple[LayerTime, ...]] = {}
    failed: dict[str, str] = {}
    files = [subject for subject in _measured(results, subjects) if subject.path is not None and subject.feeds]
    for number, subject in enumerate(files):
        if progress:
            progress("layers", number, len(files))
        try:
            found[subject.name] = time_layers(subject)
        except EdgeseqError as error:
            failed[subject.name] = f"it could not be profiled: {error_text(error)}"
    return tuple(
        _noted(replace(result, layers=found.get(result.name, ())), failed.get(result.name)) for result in results
    )


def add_served(
    results: Results,
    subjects: Sequence[Subject],
    settings: ServerSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results:
    """The server scenario, one subject after the other: two that answer at once would share the machine."""
    found: dict[str, Served] = {}
    failed: dict[str, str] = {}
    measured = _measured(results, subjects)
    for number, subject in enumerate(measured):
        if progress:
            progress("server", number, len(measured))
        if subject.call is None:
            continue
        try:
            found[subject.name] = serve(
                subject.call,
                rate_per_s=settings.rate_per_s,
                deadline_ns=settings.deadline_ns,
                seed=seed,
                max_seconds=settings.max_seconds,
            )
        except Exception as error:  # noqa: BLE001 - a subject that fails says so, and the others go on
            failed[subject.name] = f"the server scenario failed: {error_text(error)}"
    return tuple(_noted(replace(result, server=found.get(result.name)), failed.get(result.name)) for result in results)


def _measured(results: Results, subjects: Sequence[Subject]) -> list[Subject]:
    errors: Mapping[str, str | None] = {result.name: result.error for result in results}
    return [subject for subject in subjects if errors[subject.name] is None]


def _noted(result: BenchmarkResult, note: str | None) -> BenchmarkResult:
    return result if note is None else replace(result, notes=(*result.notes, note))
