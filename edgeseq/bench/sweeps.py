"""One model in several settings: rows a second against the rows of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.units import threads_text


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One model on one provider with one number of threads, over batches."""

    name: str
    """Model, provider where there are several, and threads."""
    results: tuple[BenchmarkResult, ...]
    """Its results, the smallest batch first."""

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Batch and rows a second."""
        return tuple((result.batch, result.throughput_per_s or 0.0) for result in self.results)


def sweeps(run: BenchmarkRun) -> tuple[Sweep, ...]:
    """The lines of `run`; empty when no model was measured with two batches. Models with one batch are points."""
    measured = [result for result in run.results if result.throughput_per_s]
    providers = {result.provider for result in measured}
    thread_numbers = {result.threads for result in measured}
    lines: dict[str, list[BenchmarkResult]] = {}
    for result in measured:
        parts = [result.model or result.name]
        if len(providers) > 1:
            parts.append(result.provider)
        if len(thread_numbers) > 1:
            parts.append(threads_text(result.threads))
        lines.setdefault(", ".join(parts), []).append(result)
    found = tuple(
        Sweep(name=name, results=tuple(sorted(results, key=lambda result: result.batch)))
        for name, results in lines.items()
    )
    return found if any(len({batch for batch, _ in sweep.points}) > 1 for sweep in found) else ()


def best_of(found: Sequence[Sweep]) -> tuple[Sweep, tuple[int, float]]:
    """The line with the most rows a second anywhere, and that point."""
    return max(
        ((sweep, point) for sweep in found for point in sweep.points), key=lambda pair: (pair[1][1], -pair[1][0])
    )
