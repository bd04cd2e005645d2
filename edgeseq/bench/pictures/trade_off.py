"""Size, latency and error of files: what a smaller or faster one costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeseq.bench.pictures.canvas import (
    Theme,
    legend,
    new_figure,
    rendered,
    shortened,
    spans_much,
    styles,
    ticks,
    time_axis,
)
from edgeseq.bench.pictures.kind import Kind, timed
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.units import duration, significant, size

# Differences from one to the other are drawn as areas, on a logarithmic scale.
_LEAST, _MOST = 1e-8, 1.0


def _points(run: BenchmarkRun) -> list[BenchmarkResult]:
    """Files with a time, at the smallest batch there is: times of other batches are other work."""
    files = [result for result in timed(run) if result.size_bytes]
    least = min((result.batch for result in files), default=0)
    return [result for result in files if result.batch == least]


def _lacks(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    if len({result.size_bytes for result in _points(run)}) > 1:
        return None
    return "it has fewer than two files that differ in size; give `edgeseq bench` several, such as fp32 and int8"


def _draw(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    found = _points(run)
    looks = styles([result.name for result in found], references, theme)
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
    logarithmic_time, logarithmic_size = spans_much(times), spans_much(sizes)
    if logarithmic_time:
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 1.6, max(times) * 1.6)
    else:
        axes.set_xlim(0, max(times) * 1.15)
    if logarithmic_size:
        axes.set_yscale("log")
        axes.set_ylim(min(sizes) / 1.8, max(sizes) * 1.8)
    else:
        axes.set_ylim(0, max(sizes) * 1.15)
    axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
    ticks(axes.yaxis, axes.get_ylim(), _short_size, logarithmic=logarithmic_size)
    axes.set_title(
        "size of the file" + (" (logarithmic scale)" if logarithmic_size else ""), loc="left", fontsize=9,
        color=theme.faint,
    )  # fmt: skip
    time_axis(axes, "median time of a call", logarithmic=logarithmic_time)
    legend(figure, theme, axes)
    return rendered(figure, suffix)


def _area(result: BenchmarkResult) -> float:
    """Of the symbol, in square points: the larger the difference, the larger; the reference has the smallest."""
    if not result.max_abs:
        return 45.0
    share = math.log(min(max(result.max_abs, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return 45.0 + 320.0 * share


def _difference(result: BenchmarkResult) -> str:
    return result.answers if result.max_abs is None else f"off by {significant(result.max_abs, 2)}"


def _short_size(size_bytes: float) -> str:
    if size_bytes <= 0:
        return "0"
    number, unit = size(size_bytes).split()
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    listed = "; ".join(
        f"{result.name} {size(result.size_bytes or 0)}, {duration(result.distribution_ns[50])}, {_difference(result)}"
        for result in sorted(_points(run), key=lambda result: result.size_bytes or 0)
    )
    return f"Size, median time and difference from the reference: {listed}."


TRADE_OFF = Kind(
    title="Size, time and difference",
    caption="Further down is smaller, further left faster; a larger symbol is further off the reference's answers.",
    lacks=_lacks,
    draw=_draw,
    finding=_finding,
)
