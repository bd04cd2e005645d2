"""The run as it went: rounds' medians of each subject, and the machine's own speed beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import Style, Theme, height_axis, legend, new_figure, styles
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import significant

_MOST_NAMED = 6


def _percent(values: Sequence[float]) -> list[float]:
    """Values relative to their median, in per cent above or below it."""
    middle = statistics.median(values)
    return [(value / middle - 1) * 100 for value in values]


def _drawable(view: View) -> list[BenchmarkResult]:
    return [result for result in view.run.results if len(result.round_p50_ns) > 1 and min(result.round_p50_ns) > 0]


def _probe(view: View) -> list[float]:
    probe = view.run.disturbance.probe_ns if view.run.disturbance is not None else ()
    return _percent(probe) if len(probe) > 1 and min(probe) > 0 else []


def _draw(view: View, theme: Theme) -> Figure:
    found, probe = _drawable(view), _probe(view)
    # Where there are too many lines to name, those that moved most are.
    named = sorted(found, key=_spread, reverse=True)[:_MOST_NAMED]
    unnamed = [result for result in found if result not in named]
    looks = styles([r.name for r in found if r in named], (), theme) if unnamed else view.styles(theme)
    figure, [axes] = new_figure(theme, height=2.9 + 0.19 * (len(named) + bool(unnamed) + bool(probe)))
    # Later ones lie above.
    lines = [("", _percent(result.round_p50_ns), Style(colour=theme.rivals[0], line="-"), 0.7) for result in unnamed]
    lines += [(r.name, _percent(r.round_p50_ns), looks[r.name], 1.3) for r in found if r in named]
    if probe:
        lines.append(("the machine: the same arithmetic each round", probe, Style(colour=theme.text, line="--"), 1.6))
    limit = _limit([values for _, values, *_ in lines])
    axes.axhline(0, color=theme.faint, linewidth=0.8)
    if unnamed:
        axes.plot([], [], color=theme.rivals[0], linewidth=0.8, label=f"{len(unnamed)} that moved less")
    for height, (label, values, look, width) in enumerate(lines, 2):
        kept = [min(max(value, -limit), limit) for value in values]
        axes.plot(
            range(1, len(kept) + 1), kept, color=look.colour, linewidth=width, linestyle=look.line, label=label or None,
            zorder=height,
        )  # fmt: skip
        for number, (value, end) in enumerate(zip(values, kept, strict=True), 1):
            if value != end:
                axes.plot(
                    [number], [end], marker="^" if end > 0 else "v", color=look.colour, markersize=6, clip_on=False,
                    zorder=height,
                )  # fmt: skip
    axes.set_ylim(-limit * 1.05, limit * 1.05)
    axes.set_xlim(1, max(len(values) for _, values, *_ in lines))
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.3g} %" if value else "0")
    height_axis(axes, theme, "median of the round against the median of all")
    axes.set_xlabel("round", fontsize=9)
    legend(figure, theme, axes)
    return figure


def _limit(lines: Sequence[Sequence[float]]) -> float:
    """How far the axis reaches: past nearly everything, not past a stray round, for which a triangle stands."""
    far = sorted(abs(value) for line in lines for value in line)
    return max(2.0, min(far[-1] * 1.05, far[int(len(far) * 0.9)] * 2.5))


def _spread(result: BenchmarkResult) -> float:
    line = _percent(result.round_p50_ns)
    return max(line) - min(line)


def _finding(view: View) -> str:
    found, probe = _drawable(view), _probe(view)
    drifting = [
        f"{result.name} by {significant(result.stability.drift * 100, 2)} %"
        for result in found
        if result.stability is not None and result.stability.drift_is_certain
    ]
    widest = max(found, key=_spread)
    said = f"Drift beyond chance: {', '.join(drifting)}." if drifting else ""
    if not drifting and any(result.stability is not None for result in found):
        said = "No drift beyond chance."
    line = _percent(widest.round_p50_ns)
    said += (
        f" The rounds' medians moved most for {widest.name}: from {significant(min(line), 2)} % to "
        f"{significant(max(line), 2)} % of their median."
    )
    if probe:
        said += f" The machine's own: from {significant(min(probe), 2)} % to {significant(max(probe), 2)} %."
    return said.strip()


DRIFT = Kind(
    title="How steady the run was",
    caption="Level lines are a quiet run; what moves all lines at once is the machine, not a subject.",
    shows=_drawable,
    lacking="no subject was timed in two rounds or more",
    draw=_draw,
    finding=_finding,
)
