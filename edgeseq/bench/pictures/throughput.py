"""Rows a second against the rows of a call: one line a model and number of threads."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import Theme, height_axis, legend, new_figure, scale, styles
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.sweeps import Sweep, best_of, sweeps
from edgeseq.bench.units import rate


def _draw(view: View, theme: Theme) -> Figure:
    found = sweeps(view.run)
    held = [sweep.name for sweep in found if any(result.name in view.references for result in sweep.results)]
    # Where the reference is one point of a line that is judged, the line is not what others are held against.
    looks = styles([sweep.name for sweep in found], held if len(held) < len(found) else (), theme)
    figure, [axes] = new_figure(theme, height=3.2 + 0.19 * len(found))
    batches = sorted({batch for sweep in found for batch, _ in sweep.points})
    rates = [value for sweep in found for _, value in sweep.points]
    for sweep in found:
        look = looks[sweep.name]
        axes.plot(
            [batch for batch, _ in sweep.points], [value for _, value in sweep.points], color=look.colour,
            marker=look.marker, linestyle=look.line, linewidth=2, markersize=6, label=sweep.name,
        )  # fmt: skip
    _, (batch, value) = best_of(found)
    axes.plot([batch], [value], marker="o", markersize=13, markerfacecolor="none", color=theme.text)
    axes.annotate(
        rate(value), (batch, value), (0, 11), textcoords="offset points", ha="right", va="bottom", color=theme.text,
        fontsize=9, weight="bold",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(batches if len(batches) <= 8 else batches[:: -(-len(batches) // 8)])
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")
    logarithmic = scale(axes.yaxis, rates, lambda tick: f"{tick:,.0f}" if tick >= 10 else f"{tick:g}", room=0.18)
    height_axis(axes, theme, "rows a second", logarithmic=logarithmic)
    axes.set_xlabel("batch: rows of a call", fontsize=9)
    legend(figure, theme, axes)
    return figure


def _finding(view: View) -> str:
    found = sweeps(view.run)
    best, (batch, value) = best_of(found)
    return f"Most rows a second: {rate(value)} by {best.name} at batch {batch}. " + "; ".join(map(_said, found)) + "."


def _said(sweep: Sweep) -> str:
    if len(sweep.points) == 1:
        return f"{sweep.name} {rate(sweep.points[0][1])} at batch {sweep.points[0][0]}"
    (first, slow), (last, fast) = sweep.points[0], sweep.points[-1]
    return f"{sweep.name} from {rate(slow)} at batch {first} to {rate(fast)} at batch {last}"


THROUGHPUT = Kind(
    title="Throughput against batch",
    caption="Higher is better; the ring marks the best.",
    shows=lambda view: sweeps(view.run),
    lacking="no model was measured with two batches; measure with `edgeseq bench ... --batch 1 --batch 8 --batch 32`",
    draw=_draw,
    finding=_finding,
)
