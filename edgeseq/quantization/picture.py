"""The picture of a search: size and time of everything that was measured as a whole file, against its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from edgeseq.bench.pictures import Theme, new_figure, rendered
from edgeseq.bench.units import significant
from edgeseq.quantization.report import QuantizationReport

RESULT, FP32 = "the written file", "fp32"
_HEIGHT_INCHES = 4.0
# An error of nothing has no place on a logarithmic axis.
_LEAST_ERROR = 1e-7


@dataclass(frozen=True, kw_only=True)
class Point:
    """One whole file."""

    name: str
    """The layer and its form, `RESULT` or `FP32`."""
    error: float
    """Relative RMS error against fp32."""
    size_bytes: int
    """Size of the file."""
    latency_ms: float | None
    """Time of one call; None where it was not measured, because its error is over the budget."""
    on_front: bool
    """Whether no other file is better in size, time and error at once."""


def points(report: QuantizationReport) -> tuple[Point, ...]:
    """Every file that was measured: fp32, each candidate alone in it, and what was written."""
    fp32_ms = report.source_latency_ms
    found = [_point(FP32, 0.0, report.source_size_bytes, fp32_ms)]
    for layer in report.layers:
        for candidate in layer.candidates:
            if candidate.error is None or candidate.size_bytes is None:
                continue
            latency_ms = fp32_ms / candidate.speed.value if candidate.speed and fp32_ms else None
            found.append(_point(f"{layer.name} {candidate.name}", candidate.error, candidate.size_bytes, latency_ms))
    if report.quantized and report.error is not None:
        found.append(_point(RESULT, report.error, report.size_bytes, report.latency_ms))
    return tuple(
        Point(
            name=point.name,
            error=point.error,
            size_bytes=point.size_bytes,
            latency_ms=point.latency_ms,
            on_front=not any(_dominates(other, point) for other in found),
        )
        for point in found
    )


def trade_off(report: QuantizationReport, theme: Theme, kind: str, panels: Sequence[str] = ("size", "time")) -> bytes:
    """Size against error, time against error, or both side by side; `kind` is a format of matplotlib."""
    found = points(report)
    timed = [point for point in found if point.latency_ms is not None]
    figure, plots = new_figure(theme, _HEIGHT_INCHES, columns=len(panels))
    for axes, panel in zip(plots, panels, strict=True):
        if panel == "size":
            _panel(axes, theme, found, [point.size_bytes / 1e6 for point in found], report.max_error)
            title = "size of the file, MB"
        else:
            _panel(axes, theme, timed, [point.latency_ms or 0.0 for point in timed], report.max_error)
            title = f"time of a call of {report.batch} row(s), ms"
        axes.set_title(title, loc="left", fontsize=9, color=theme.faint)
    figure.legend(
        *plots[0].get_legend_handles_labels(), loc="outside lower left", frameon=False, labelcolor=theme.text,
        fontsize=9, ncols=1 if len(panels) == 1 else 3,
    )  # fmt: skip
    return rendered(figure, kind)


def _point(name: str, error: float, size_bytes: int, latency_ms: float | None) -> Point:
    return Point(name=name, error=error, size_bytes=size_bytes, latency_ms=latency_ms, on_front=False)


def _dominates(other: Point, point: Point) -> bool:
    """Whether `other` is nowhere worse and somewhere better; a time that was not measured is worse than any."""
    theirs = (other.error, float(other.size_bytes), math.inf if other.latency_ms is None else other.latency_ms)
    ours = (point.error, float(point.size_bytes), math.inf if point.latency_ms is None else point.latency_ms)
    return theirs != ours and all(their <= our for their, our in zip(theirs, ours, strict=True))


def _panel(axes: Axes, theme: Theme, found: Sequence[Point], values: Sequence[float], max_error: float | None) -> None:
    errors = [max(point.error, _LEAST_ERROR) for point in found]
    kinds = (
        ("each form alone", theme.rivals[0], "o", 26, lambda point: not point.on_front),
        (
            "each form alone, better than all others in something",
            theme.subjects[0],
            "o",
            42,
            lambda point: point.on_front,
        ),
    )
    for label, colour, marker, area, belongs in kinds:
        chosen = [
            (error, value)
            for point, error, value in zip(found, errors, values, strict=True)
            if belongs(point) and point.name not in (FP32, RESULT)
        ]
        if chosen:
            axes.scatter(
                [error for error, _ in chosen],
                [value for _, value in chosen],
                s=area,
                color=colour,
                marker=marker,
                label=label,
                zorder=2,
            )
    for point, error, value in zip(found, errors, values, strict=True):
        if point.name == FP32:
            axes.axhline(value, color=theme.faint, linewidth=1.2, linestyle="--", label=FP32, zorder=1)
        elif point.name == RESULT:
            axes.scatter([error], [value], s=150, color=theme.subjects[1], marker="*", label=RESULT, zorder=3)
    _front(axes, theme, [(error, value) for error, value in zip(errors, values, strict=True)])
    if max_error is not None:
        axes.axvline(max_error, color=theme.subjects[1], linewidth=1.2, linestyle=":", label="budget", zorder=1)
    axes.set_xscale("log")
    axes.set_ylim(0, max(values, default=1.0) * 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{significant(value * 100, 1)} %"))
    axes.set_xlabel("relative error against fp32", fontsize=9)


def _front(axes: Axes, theme: Theme, placed: Sequence[tuple[float, float]]) -> None:
    """A line under which nothing was found: the least value for each error."""
    steps: list[tuple[float, float]] = []
    for error, value in sorted(placed):
        if not steps or value < steps[-1][1]:
            steps.append((error, value))
    if len(steps) > 1:
        axes.plot(
            *zip(*steps, strict=True), drawstyle="steps-post", color=theme.subjects[0], linewidth=1, alpha=0.6, zorder=1
        )
