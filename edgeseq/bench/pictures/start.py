"""From nothing to the first answer, part by part."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench.cold import ColdStart
from edgeseq.bench.pictures.canvas import Theme, interval, legend, named_rows, row_name, time_axis, value_label
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration

PARTS = ("interpreter", "imports", "open the model", "first call")
"""What a start is made of, in its order."""


def parts_ns(cold: ColdStart) -> tuple[float, float, float, float]:
    """Time of each of `PARTS`. They are medians of their own, so the first, what is left of the whole, is about."""
    rest = cold.total_ns - cold.import_ns - cold.open_ns - cold.first_run_ns
    return max(0.0, float(rest)), float(cold.import_ns), float(cold.open_ns), float(cold.first_run_ns)


def _started(view: View) -> list[tuple[BenchmarkResult, ColdStart]]:
    return [(result, result.cold_start) for result in view.run.results if result.cold_start is not None]


def _draw(view: View, theme: Theme) -> Figure:
    found = _started(view)
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
            interval(axes, theme, row, cold.total_interval_ns.low, cold.total_interval_ns.high)
            end = max(end, cold.total_interval_ns.high)
        longest = max(longest, end)
        value_label(axes, theme, end, row, duration(cold.total_ns))
        row_name(axes, theme, row, result.name)
    time_axis(axes, "from the start of the process to its first answer", [longest], room=0.24)
    legend(figure, theme, axes, columns=2)
    return figure


def _finding(view: View) -> str:
    listed = []
    for result, cold in _started(view):
        parts = ", ".join(f"{part} {duration(time_ns)}" for part, time_ns in zip(PARTS, parts_ns(cold), strict=True))
        listed.append(f"{result.name} {duration(cold.total_ns)} ({parts})")
    return f"From the start of a process to its first answer: {'; '.join(listed)}."


COLD = Kind(
    title="Cold start",
    caption="Medians of fresh processes; the line is the 95 % interval of the whole.",
    shows=_started,
    lacking="no subject has its cold start; measure with `edgeseq bench ... --cold-start`",
    draw=_draw,
    finding=_finding,
)
