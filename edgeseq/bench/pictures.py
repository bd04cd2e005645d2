"""The pictures of a benchmark: latency bars and latency distributions, each in a light and a dark form."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration
from edgeseq.errors import MissingExtra

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ModuleNotFoundError as error:
    raise MissingExtra("matplotlib", "report", "drawing a report") from error


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one form of a picture, as CSS takes them."""

    background: str
    """Behind everything."""
    text: str
    """Names and values."""
    faint: str
    """Axis labels and grid."""
    subjects: tuple[str, ...]
    """What is being judged, in order; told apart also by those who do not see red and green alike."""
    rivals: tuple[str, ...]
    """What it is held against, in order."""


LIGHT = Theme(
    background="#ffffff",
    text="#1b2733",
    faint="#66727f",
    subjects=("#0b6bcb", "#c2410c", "#0d8a6a", "#8b3fc4", "#a16207", "#be185d"),
    rivals=("#8a949e", "#b4bcc4", "#5d6770", "#cdd3d9"),
)
DARK = Theme(
    background="#161b22",
    text="#e6edf3",
    faint="#9aa7b4",
    subjects=("#58a6ff", "#ff9b5e", "#3ddbb0", "#c792f5", "#e3b341", "#f778ba"),
    rivals=("#7d8896", "#566270", "#a3adb8", "#444f5b"),
)

# Narrow, so that the letters stay readable when a phone shrinks the picture to its width.
_WIDTH_INCHES = 5.2
_LOG_SCALE_FROM = 20.0


def latency_bars(results: Sequence[BenchmarkResult], rivals: Sequence[str], theme: Theme, kind: str) -> bytes:
    """Bars of the median with a line to the 90th percentile; `kind` is a format of matplotlib such as ``svg``."""
    measured = _measured(results)
    colours = _colours(measured, rivals, theme)
    figure, axes = _figure(theme, height=0.8 + 0.68 * len(measured))
    medians = [float(result.distribution_ns[50]) for result in measured]
    tops = [float(result.p90_ns or result.distribution_ns[50]) for result in measured]
    logarithmic = max(tops) / min(medians) > _LOG_SCALE_FROM
    rows = range(len(measured))
    low = min(medians) / 3 if logarithmic else 0.0
    axes.barh(
        rows, [median - low for median in medians], left=low, height=0.42, color=[colours[r.name] for r in measured]
    )
    for row, result, median, top in zip(rows, measured, medians, tops, strict=True):
        if result.p90_ns is not None:
            axes.plot([median, top], [row, row], color=theme.text, linewidth=1.2, solid_capstyle="butt")
            axes.plot([top], [row], marker="|", color=theme.text, markersize=7)
        axes.annotate(duration(median), (top, row), (7, 0), textcoords="offset points", va="center", color=theme.text)
        axes.annotate(
            result.name, (0, row), (0, 17), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            color=theme.text, weight="bold", fontsize=9.5,
        )  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(low, max(tops) * (max(tops) / low) ** 0.22)
    else:
        axes.set_xlim(0, max(tops) * 1.25)
    axes.set_ylim(len(measured) - 0.55, -0.75)
    axes.set_yticks([])
    _time_axis(axes, "median time of a call, line to the 90th percentile", logarithmic=logarithmic)
    return rendered(figure, kind)


def latency_distribution(results: Sequence[BenchmarkResult], rivals: Sequence[str], theme: Theme, kind: str) -> bytes:
    """For every subject the share of its calls that were done within a time; `kind` as in `latency_bars`."""
    measured = _measured(results)
    colours = _colours(measured, rivals, theme)
    figure, axes = _figure(theme, height=3.3 + 0.19 * len(measured))
    for result in measured:
        axes.plot(
            result.distribution_ns, range(101), drawstyle="steps-post", linewidth=2, color=colours[result.name],
            label=result.name, linestyle="--" if result.name in rivals[1:] else "-",
        )  # fmt: skip
    smallest = min(result.distribution_ns[0] for result in measured)
    largest = max(result.distribution_ns[98] for result in measured)
    logarithmic = largest / smallest > _LOG_SCALE_FROM
    # One stray call of a second would squeeze all curves to a wall: the axis ends a little after the last 98 %.
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.3, largest * 1.3)
    else:
        margin = max(largest - smallest, 1) * 0.08
        axes.set_xlim(smallest - margin, largest + margin)
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_title("share of calls done within this time", loc="left", fontsize=9, color=theme.faint)
    _time_axis(axes, "time of a call", logarithmic=logarithmic)
    figure.legend(loc="outside lower left", frameon=False, labelcolor=theme.text, fontsize=9, handlelength=1.4, ncols=1)
    return rendered(figure, kind)


def _measured(results: Sequence[BenchmarkResult]) -> list[BenchmarkResult]:
    measured = [result for result in results if result.distribution_ns]
    if not measured:
        raise ValueError("no result has a measured time, so there is nothing to draw")
    return measured


def _colours(results: Sequence[BenchmarkResult], rivals: Sequence[str], theme: Theme) -> dict[str, str]:
    """One colour a subject, the same in every picture; the palette starts again when it is used up."""
    chosen: dict[str, str] = {}
    counts = {"rivals": 0, "subjects": 0}
    for result in results:
        group = "rivals" if result.name in rivals else "subjects"
        palette = theme.rivals if group == "rivals" else theme.subjects
        chosen[result.name] = palette[counts[group] % len(palette)]
        counts[group] += 1
    return chosen


def _figure(theme: Theme, height: float) -> tuple[Figure, Axes]:
    figure, [axes] = new_figure(theme, height)
    return figure, axes


def new_figure(theme: Theme, height: float, *, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with plots side by side, `height` in inches, in the colours of the theme."""
    figure = Figure(figsize=(_WIDTH_INCHES * columns, height), facecolor=theme.background, layout="constrained")
    plots = [figure.add_subplot(1, columns, column + 1, facecolor=theme.background) for column in range(columns)]
    for axes in plots:
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(theme.faint)
        axes.grid(axis="x", color=theme.faint, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=theme.faint, labelsize=9, length=0)
        axes.xaxis.label.set_color(theme.faint)
    return figure, plots


def _time_axis(axes: Axes, label: str, *, logarithmic: bool) -> None:
    low, high = axes.get_xlim()
    if logarithmic:
        # Short spans get 1-2-5 marks, long ones whole decades: never so many that their labels touch.
        steps = (1.0, 2.0, 5.0) if high / low < 60 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: duration(value).replace(".00 ", " ").replace(".0 ", " "))
    )
    axes.set_xlabel(label + (" (logarithmic scale)" if logarithmic else ""), fontsize=9)


def rendered(figure: Figure, kind: str) -> bytes:
    """The picture in a format of matplotlib's; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    # No date and a fixed salt: the same results give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "edgeseq"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
