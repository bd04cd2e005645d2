"""Size, latency and error of files: what a smaller or faster one costs."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import (
    Theme,
    height_axis,
    legend,
    new_figure,
    scale,
    short_size,
    shortened,
    styles,
    time_axis,
)
from edgeseq.bench.pictures.kind import Kind, View, timed
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration, significant, size

# Differences from one to the other are drawn as areas, on a logarithmic scale.
_LEAST, _MOST = 1e-8, 1.0


def _points(view: View) -> list[BenchmarkResult]:
    """Files with a time of the same work: at the smallest batch there is, and as many steps. None of one size."""
    files = sorted((result for result in timed(view) if result.size_bytes), key=lambda result: result.batch)
    alike = [result for result in files if (result.batch, result.time_steps) == (files[0].batch, files[0].time_steps)]
    return alike if len({result.size_bytes for result in alike}) > 1 else []


def _draw(view: View, theme: Theme) -> Figure:
    found = _points(view)
    looks = styles([result.name for result in found], view.references, theme)
    figure, [axes] = new_figure(theme, height=3.4 + 0.19 * len(found))
    times = [float(result.distribution_ns[50]) for result in found]
    sizes = [float(result.size_bytes or 0) for result in found]
    for result, time_ns, size_bytes in zip(found, times, sizes, strict=True):
        look = looks[result.name]
        difference = _difference(result)
        label = f"{shortened(result.name, 44 - len(difference))}: {difference}"
        axes.scatter(
            [time_ns], [size_bytes], s=_area(result), marker=look.marker, facecolor=look.colour, alpha=0.85,
            edgecolor=theme.background, linewidth=0.8,
        )  # fmt: skip
        axes.plot([], [], marker=look.marker, color=look.colour, linestyle="", markersize=7, label=label)
    if missing := _missing(view):
        axes.plot([], [], linestyle="", label=missing)
    logarithmic = scale(axes.yaxis, sizes, short_size, room=0.15)
    height_axis(axes, theme, "size of the file", logarithmic=logarithmic)
    time_axis(axes, "median time of a call", times, room=0.15)
    legend(figure, theme, axes)
    return figure


def _missing(view: View) -> str:
    count = len(timed(view)) - len(_points(view))
    return f"{count} not shown: no file, or other input shapes" if count else ""


def _area(result: BenchmarkResult) -> float:
    """Of the symbol, in square points: the larger the difference, the larger; the reference has the smallest."""
    if not result.max_abs:
        return 45.0
    share = math.log(min(max(result.max_abs, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return 45.0 + 320.0 * share


def _difference(result: BenchmarkResult) -> str:
    return result.answers if result.max_abs is None else f"off by {significant(result.max_abs, 2)}"


def _finding(view: View) -> str:
    listed = "; ".join(
        f"{result.name} {size(result.size_bytes or 0)}, {duration(result.distribution_ns[50])}, {_difference(result)}"
        for result in sorted(_points(view), key=lambda result: result.size_bytes or 0)
    )
    missing = _missing(view)
    return f"Size, median time and difference from the reference: {listed}." + (f" {missing}." if missing else "")


TRADE_OFF = Kind(
    title="Size, time and difference",
    caption="Further down is smaller, further left faster; a larger symbol is further off the reference's answers.",
    shows=_points,
    lacking="it has no two files of the same input shapes that differ in size; give several, such as fp32 and int8",
    draw=_draw,
    finding=_finding,
)
