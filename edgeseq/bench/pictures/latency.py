"""How long calls take: medians side by side, and whole distributions."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import (
    Theme,
    height_axis,
    legend,
    named_rows,
    new_figure,
    row_name,
    time_axis,
    value_label,
)
from edgeseq.bench.pictures.kind import Kind, View, timed
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration

_MOST_CURVES = 8
_NOTHING_TIMED = "nothing in this run has a measured time"


def _bars(view: View, theme: Theme) -> Figure:
    measured, looks = timed(view), view.styles(theme)
    figure, axes = named_rows(theme, len(measured), row_inches=0.62 if len(measured) <= _MOST_CURVES else 0.46)
    medians = [float(result.distribution_ns[50]) for result in measured]
    tops = [float(result.p90_ns or result.distribution_ns[50]) for result in measured]
    logarithmic = time_axis(axes, "time of a call", [*medians, *tops], room=0.55)
    low, _ = axes.get_xlim()
    for row, (result, median, top) in enumerate(zip(measured, medians, tops, strict=True)):
        colour = looks[result.name].colour
        if logarithmic:
            # The length of a bar would mean nothing where the axis has no zero.
            axes.plot([low, median], [row, row], color=colour, linewidth=1.2, alpha=0.5, solid_capstyle="butt")
            axes.plot([median], [row], marker="o", color=colour, markersize=9)
        else:
            axes.barh(row, median, height=0.36, color=colour)
        if result.p90_ns is not None:
            axes.plot([top], [row], marker="D", markerfacecolor="none", color=theme.text, markersize=5)
        # Beside the diamond a median alone would read as its value.
        beyond = "" if result.p90_ns is None else f", p90 {duration(top)}"
        value_label(axes, theme, top, row, duration(median) + beyond)
        row_name(axes, theme, row, result.name)
    return figure


def _distribution(view: View, theme: Theme) -> Figure:
    return (_curves if len(timed(view)) <= _MOST_CURVES else _strips)(view, theme)


def _curves(view: View, theme: Theme) -> Figure:
    measured, looks = timed(view), view.styles(theme)
    figure, [axes] = new_figure(theme, height=3.1 + 0.19 * len(measured))
    for result in measured:
        look = looks[result.name]
        axes.plot(
            result.distribution_ns, range(101), drawstyle="steps-post", linewidth=2, color=look.colour,
            label=result.name, linestyle=look.line,
        )  # fmt: skip
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    height_axis(axes, theme, "share of calls done within this time")
    time_axis(axes, "time of a call", _shown(measured), room=0.08, from_zero=False)
    legend(figure, theme, axes)
    return figure


def _strips(view: View, theme: Theme) -> Figure:
    """A row a subject, where curves would be too many to follow."""
    measured, looks = timed(view), view.styles(theme)
    figure, axes = named_rows(theme, len(measured), row_inches=0.46)
    for row, result in enumerate(measured):
        times, colour = result.distribution_ns, looks[result.name].colour
        for low, high, width in ((1, 98, 1.2), (10, 90, 4.0), (25, 75, 9.0)):
            axes.plot([times[low], times[high]], [row, row], color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot([times[50]], [row], marker="|", color=theme.text, markersize=11, markeredgewidth=2)
        row_name(axes, theme, row, result.name, bold=False)
    label = "time of a call: middle 50 %, 80 % and 97 %"
    time_axis(axes, label, _shown(measured), room=0.08, from_zero=False)
    return figure


def _shown(measured: list[BenchmarkResult]) -> tuple[float, float]:
    """What the axis shows: one stray call of a second would squeeze everything to a wall, so the first 98 %."""
    return min(result.distribution_ns[0] for result in measured), max(result.distribution_ns[98] for result in measured)


def _bars_finding(view: View) -> str:
    ordered = sorted(timed(view), key=lambda result: result.distribution_ns[50])
    listed = "; ".join(f"{result.name} {duration(result.distribution_ns[50])}" for result in ordered)
    return f"Median time of a call, fastest first: {listed}."


def _distribution_finding(view: View) -> str:
    listed = "; ".join(
        f"{result.name} from {duration(result.distribution_ns[0])}, half within "
        f"{duration(result.distribution_ns[50])}, 98 % within {duration(result.distribution_ns[98])}"
        for result in timed(view)
    )
    return f"Times of the calls: {listed}."


BARS = Kind(
    title="How long a call takes",
    caption="Shorter is better. Medians; the diamond is p90, where nine calls of ten are done.",
    shows=timed,
    lacking=_NOTHING_TIMED,
    draw=_bars,
    finding=_bars_finding,
)
DISTRIBUTION = Kind(
    title="How evenly",
    caption="Further left is faster; the steeper or narrower, the more even.",
    shows=timed,
    lacking=_NOTHING_TIMED,
    draw=_distribution,
    finding=_distribution_finding,
)
