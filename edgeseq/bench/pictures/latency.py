"""How long calls take: medians side by side, and whole distributions."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from edgeseq.bench.pictures.canvas import (
    Theme,
    legend,
    named_rows,
    new_figure,
    rendered,
    result_styles,
    row_name,
    spans_much,
    time_axis,
    value_label,
)
from edgeseq.bench.pictures.kind import Kind, nothing_timed, timed
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.units import duration

_MOST_CURVES = 8


def _bars(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    measured = timed(run)
    looks = result_styles(measured, references, theme)
    figure, axes = named_rows(theme, len(measured), row_inches=0.62 if len(measured) <= _MOST_CURVES else 0.46)
    medians = [float(result.distribution_ns[50]) for result in measured]
    tops = [float(result.p90_ns or result.distribution_ns[50]) for result in measured]
    logarithmic = spans_much([*medians, *tops])
    low = min(medians) / 1.6 if logarithmic else 0.0
    for row, (result, median, top) in enumerate(zip(measured, medians, tops, strict=True)):
        colour = looks[result.name].colour
        if logarithmic:
            # The length of a bar would mean nothing where the axis has no zero.
            axes.plot([low, median], [row, row], color=colour, linewidth=1.2, alpha=0.5, solid_capstyle="butt")
            axes.plot([median], [row], marker="o", color=colour, markersize=9)
        else:
            axes.barh(row, median, height=0.36, color=colour)
        if result.p90_ns is not None:
            axes.plot([median, top], [row, row], color=theme.text, linewidth=1.2, solid_capstyle="butt")
            axes.plot([top], [row], marker="|", color=theme.text, markersize=7)
        value_label(axes, theme, top, row, duration(median))
        row_name(axes, theme, row, result.name)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(low, max(tops) * (max(tops) / low) ** 0.3)
    else:
        axes.set_xlim(0, max(tops) * 1.28)
    time_axis(axes, "median time of a call, line to p90", logarithmic=logarithmic)
    return rendered(figure, suffix)


def _distribution(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    measured = timed(run)
    return (_curves if len(measured) <= _MOST_CURVES else _strips)(measured, references, theme, suffix)


def _curves(measured: list[BenchmarkResult], references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    looks = result_styles(measured, references, theme)
    figure, [axes] = new_figure(theme, height=3.1 + 0.19 * len(measured))
    for result in measured:
        look = looks[result.name]
        axes.plot(
            result.distribution_ns, range(101), drawstyle="steps-post", linewidth=2, color=look.colour,
            label=result.name, linestyle=look.line,
        )  # fmt: skip
    logarithmic = _limit(axes, measured)
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_title("share of calls done within this time", loc="left", fontsize=9, color=theme.faint)
    time_axis(axes, "time of a call", logarithmic=logarithmic)
    legend(figure, theme, axes)
    return rendered(figure, suffix)


def _strips(measured: list[BenchmarkResult], references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    """A row a subject, where curves would be too many to follow."""
    looks = result_styles(measured, references, theme)
    figure, axes = named_rows(theme, len(measured), row_inches=0.46)
    for row, result in enumerate(measured):
        times, colour = result.distribution_ns, looks[result.name].colour
        for low, high, width in ((1, 98, 1.2), (10, 90, 4.0), (25, 75, 9.0)):
            axes.plot([times[low], times[high]], [row, row], color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot([times[50]], [row], marker="|", color=theme.text, markersize=11, markeredgewidth=2)
        row_name(axes, theme, row, result.name, bold=False)
    logarithmic = _limit(axes, measured)
    label = "time of a call: middle 50 %, 80 % and 97 %"
    time_axis(axes, label, logarithmic=logarithmic)
    return rendered(figure, suffix)


def _limit(axes: Axes, measured: list[BenchmarkResult]) -> bool:
    """Set the limits of the time axis; whether it is logarithmic.

    One stray call of a second would squeeze everything to a wall: the axis ends a little after the first 98 %.
    """
    smallest = min(result.distribution_ns[0] for result in measured)
    largest = max(result.distribution_ns[98] for result in measured)
    logarithmic = spans_much([smallest, largest])
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.3, largest * 1.3)
    else:
        margin = max(largest - smallest, 1) * 0.08
        axes.set_xlim(smallest - margin, largest + margin)
    return logarithmic


def _bars_finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    ordered = sorted(timed(run), key=lambda result: result.distribution_ns[50])
    listed = "; ".join(f"{result.name} {duration(result.distribution_ns[50])}" for result in ordered)
    return f"Median time of a call, fastest first: {listed}."


def _distribution_finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    listed = "; ".join(
        f"{result.name} from {duration(result.distribution_ns[0])}, half within "
        f"{duration(result.distribution_ns[50])}, 98 % within {duration(result.distribution_ns[98])}"
        for result in timed(run)
    )
    return f"Times of the calls: {listed}."


BARS = Kind(
    title="How long a call takes",
    caption="Shorter is better. Medians, with lines that reach to p90.",
    lacks=nothing_timed,
    draw=_bars,
    finding=_bars_finding,
)
DISTRIBUTION = Kind(
    title="How evenly",
    caption="Further left is faster; the steeper or narrower, the more even.",
    lacks=nothing_timed,
    draw=_distribution,
    finding=_distribution_finding,
)
