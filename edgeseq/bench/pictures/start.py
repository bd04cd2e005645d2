"""From nothing to the first answer, part by part."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.bench.cold import ColdStart
from edgeseq.bench.pictures.canvas import Theme, legend, named_rows, rendered, row_name, time_axis, value_label
from edgeseq.bench.pictures.kind import Kind
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.units import duration

PARTS = ("interpreter", "imports", "open the model", "first call")
"""What a start is made of, in its order."""


def parts_ns(cold: ColdStart) -> tuple[float, float, float, float]:
    """Time of each of `PARTS`. They are medians of their own, so the first, what is left of the whole, is about."""
    rest = cold.total_ns - cold.import_ns - cold.open_ns - cold.first_run_ns
    return max(0.0, float(rest)), float(cold.import_ns), float(cold.open_ns), float(cold.first_run_ns)


def _started(run: BenchmarkRun) -> list[tuple[BenchmarkResult, ColdStart]]:
    return [(result, result.cold_start) for result in run.results if result.cold_start is not None]


def _lacks(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    return None if _started(run) else "no subject has its cold start; measure with `edgeseq bench ... --cold-start`"


def _draw(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:  # noqa: ARG001 - as above
    found = _started(run)
    figure, axes = named_rows(theme, len(found), extra_inches=1.15)
    # Grey is what no model can change; neighbours differ in lightness, and an edge divides them.
    colours = (theme.rivals[0], theme.rivals[1], theme.subjects[0], theme.subjects[1])
    longest = 0.0
    for row, (result, cold) in enumerate(found):
        left = 0.0
        for number, (part, colour) in enumerate(zip(PARTS, colours, strict=True)):
            width = parts_ns(cold)[number]
            axes.barh(
                row, width, left=left, height=0.36, color=colour, edgecolor=theme.background, linewidth=0.8,
                label=part if row == 0 else None,
            )  # fmt: skip
            left += width
        end = max(left, cold.total_ns)
        if cold.total_interval_ns is not None:
            low, high = cold.total_interval_ns.low, cold.total_interval_ns.high
            axes.plot([low, high], [row, row], color=theme.text, linewidth=1.4)
            axes.plot([low, high], [row, row], color=theme.text, linestyle="", marker="|", markersize=6)
            end = max(end, high)
        longest = max(longest, end)
        value_label(axes, theme, end, row, duration(cold.total_ns))
        row_name(axes, theme, row, result.name)
    axes.set_xlim(0, longest * 1.24)
    time_axis(axes, "from the start of the process to its first answer", logarithmic=False)
    legend(figure, theme, axes, columns=2)
    return rendered(figure, suffix)


def _finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    listed = []
    for result, cold in _started(run):
        parts = ", ".join(f"{part} {duration(time_ns)}" for part, time_ns in zip(PARTS, parts_ns(cold), strict=True))
        listed.append(f"{result.name} {duration(cold.total_ns)} ({parts})")
    return f"From the start of a process to its first answer: {'; '.join(listed)}."


COLD = Kind(
    title="Cold start",
    caption="Medians of fresh processes; the line is the 95 % interval of the whole.",
    lacks=_lacks,
    draw=_draw,
    finding=_finding,
)
