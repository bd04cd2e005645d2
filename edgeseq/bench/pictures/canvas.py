"""What all pictures share: colours, a figure, names above their rows, axes of times, and the finished file."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration, size
from edgeseq.errors import MissingExtra

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
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
    faint="#5b6672",
    subjects=("#0b6bcb", "#c2410c", "#0d8a6a", "#8b3fc4", "#a16207", "#be185d"),
    rivals=("#8a949e", "#5d6770", "#39434d", "#7c6f5e"),
)
DARK = Theme(
    background="#161b22",
    text="#e6edf3",
    faint="#9aa7b4",
    subjects=("#58a6ff", "#ff9b5e", "#3ddbb0", "#c792f5", "#e3b341", "#f778ba"),
    rivals=("#7d8896", "#a9b4bf", "#d5dbe1", "#9c8e7b"),
)

MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<", ">", "p", "h", "*")
"""One a subject, so that no picture is told by colour alone."""
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

# Narrow, so that the letters stay readable when a phone shrinks the picture to its width.
_WIDTH_INCHES = 4.3
_NAME_LETTERS = 42
_LOG_SCALE_FROM = 20.0


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one subject is drawn."""

    colour: str
    """Its colour."""
    line: str | tuple[int, tuple[float, ...]]
    """Its dashes, as matplotlib takes them."""
    marker: str = ""
    """Its symbol, in matplotlib's letters; empty for none."""


def styles(names: Iterable[str], rivals: Container[str], theme: Theme) -> dict[str, Style]:
    """One style a name, the same in every picture; where the colours begin again, dashes and symbols differ."""
    chosen: dict[str, Style] = {}
    counts = {False: 0, True: 0}
    for name in names:
        palette = theme.rivals if name in rivals else theme.subjects
        number = counts[name in rivals]
        turn = number // len(palette) + (name in rivals and number > 0)
        chosen[name] = Style(
            colour=palette[number % len(palette)],
            marker=MARKERS[len(chosen) % len(MARKERS)],
            line=_LINES[turn % len(_LINES)],
        )
        counts[name in rivals] += 1
    return chosen


def result_styles(results: Iterable[BenchmarkResult], references: Sequence[str], theme: Theme) -> dict[str, Style]:
    """One style a result by its name: a model in several settings keeps its colour and symbol, its dashes differ.

    Of one model alone, each batch has its colour.
    """
    found = list(results)
    models = {result.name: result.model or result.name for result in found}
    if len(set(models.values())) == 1:
        models = {result.name: f"batch {result.batch}" for result in found}
    rivals = {models[name] for name in references if name in models}
    # Where nothing is held against a reference, the reference is what is judged.
    chosen = styles(dict.fromkeys(models.values()), rivals if rivals < set(models.values()) else (), theme)
    settings: dict[str, list[str]] = {}
    for name, model in models.items():
        settings.setdefault(model, []).append(name)
    return {
        name: chosen[model]
        if len(settings[model]) == 1
        else replace(chosen[model], line=_LINES[settings[model].index(name) % len(_LINES)])
        for name, model in models.items()
    }


def new_figure(theme: Theme, height: float, *, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with plots side by side or below each other, `height` in inches, in the colours of the theme."""
    figure = Figure(figsize=(_WIDTH_INCHES * columns, height), facecolor=theme.background, layout="constrained")
    plots = [
        figure.add_subplot(rows, columns, number + 1, facecolor=theme.background) for number in range(rows * columns)
    ]
    for axes in plots:
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(theme.faint)
        axes.grid(axis="x", color=theme.faint, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=theme.faint, labelsize=9, length=0)
        axes.xaxis.label.set_color(theme.faint)
    return figure, plots


def named_rows(theme: Theme, count: int, *, row_inches: float = 0.62, extra_inches: float = 0.7) -> tuple[Figure, Axes]:
    """A figure of `count` rows, the first on top, with room for a name above each."""
    figure, [axes] = new_figure(theme, extra_inches + row_inches * count)
    axes.set_ylim(count - 0.5, -0.85)
    axes.set_yticks([])
    return figure, axes


def row_name(axes: Axes, theme: Theme, row: float, name: str, *, bold: bool = True, letters: int = 0) -> None:
    """`name` above what is drawn at `row`, from the left edge."""
    axes.annotate(
        shortened(name, letters or _NAME_LETTERS), (0, row), (0, 14), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="center", color=theme.text, weight="bold" if bold else "normal", fontsize=9,
        bbox={"facecolor": theme.background, "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def row_band(axes: Axes, theme: Theme, row: float, height: float, text: str) -> None:
    """A heading between rows: `text` on a band that hides the grid, its middle at `row`."""
    for colour, alpha in ((theme.background, 1.0), (theme.faint, 0.14)):
        axes.axhspan(row - height / 2, row + height / 2, color=colour, alpha=alpha, linewidth=0, zorder=2)
    axes.annotate(
        shortened(text), (0.01, row), xycoords=("axes fraction", "data"), va="center", color=theme.text, fontsize=9,
        weight="bold", zorder=3,
    )  # fmt: skip


def value_label(axes: Axes, theme: Theme, x: float, row: float, text: str) -> None:
    """`text` to the right of what ends at `x`."""
    axes.annotate(
        text, (x, row), (7, 0), textcoords="offset points", va="center", color=theme.text, fontsize=9
    )  # fmt: skip


def shortened(name: str, letters: int = _NAME_LETTERS) -> str:
    """`name`, its middle left out where it is too long for a picture: ends are what tells names apart."""
    if len(name) <= letters:
        return name
    tail = letters // 2
    return name[: letters - tail - 1] + "…" + name[-tail:]


def interval(axes: Axes, theme: Theme, row: float, low: float, high: float) -> None:
    """A line from `low` to `high` at `row`, with a mark at either end."""
    axes.plot([low, high], [row, row], color=theme.text, linewidth=1.4)
    axes.plot([low, high], [row, row], color=theme.text, linestyle="", marker="|", markersize=6)


def scale(
    axis: Axis,
    values: Sequence[float],
    written: Callable[[float], str],
    *,
    room: float = 0.1,
    from_zero: bool = True,
    most: int = 6,
) -> bool:
    """Limits and marks of an axis that shows all of `values`; whether it is logarithmic, which shows them far apart.

    `room` is the share of the axis that is left free beyond the largest; without `from_zero` the axis begins a little
    before the smallest. `written` makes the text of a value, `most` is the number of marks that have room.
    """
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > _LOG_SCALE_FROM
    if logarithmic:
        low /= 1.5
        high *= (high / low) ** room
    elif from_zero:
        low, high = 0.0, high * (1 + room)
    else:
        margin = max(high - low, 1.0) * room
        low, high = low - margin, high + margin
    side = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{side}scale": "log" if logarithmic else "linear", f"{side}lim": (low, high)})
    ticks(axis, written, logarithmic=logarithmic, most=most)
    return logarithmic


def time_axis(axes: Axes, label: str, times: Sequence[float], *, room: float = 0.1, from_zero: bool = True) -> bool:
    """`scale` of the bottom for times in nanoseconds, and its label."""
    logarithmic = scale(axes.xaxis, times, short_duration, room=room, from_zero=from_zero)
    axes.set_xlabel(_scale_named(label, logarithmic), fontsize=9)
    return logarithmic


def height_axis(axes: Axes, theme: Theme, label: str, *, logarithmic: bool = False) -> None:
    """Lines across the plot, and above them what its height means."""
    axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
    axes.set_title(_scale_named(label, logarithmic), loc="left", fontsize=9, color=theme.faint)


def ratio_axis(axes: Axes, theme: Theme, low: float, high: float, label: str) -> None:
    """Ratios along the bottom, with a line at 1; equal factors to either side look alike on a logarithmic axis only."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvline(1.0, color=theme.text, linewidth=1.2, zorder=1)
    ticks(axes.xaxis, _short_times, logarithmic=True)
    axes.set_xlabel(_scale_named(label, True), fontsize=9)


def _scale_named(label: str, logarithmic: bool) -> str:
    return f"{label} (logarithmic scale)" if logarithmic else label


def ticks(axis: Axis, written: Callable[[float], str], *, logarithmic: bool, most: int = 6) -> None:
    """Marks of an axis whose limits are set, never so many that their labels touch; `written` makes their text."""
    if logarithmic:
        axis.set_major_locator(FixedLocator(_log_marks(*axis.get_view_interval(), most)))
        axis.set_minor_locator(LogLocator(subs=(1.0,)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(min(most, 4)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))


def _log_marks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two positive limits: as many as fit, whole decades left out evenly where they do not."""
    low, high = min(low, high), max(low, high)
    for steps, every in (((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        marks = [step * 10.0**power for power in range(-12, 19, every) for step in steps]
        found = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
        if len(found) <= most:
            # A narrow range has one round number or none: then evenly.
            return found if len(found) > 2 else list(MaxNLocator(3).tick_values(low, high))
    return found[:: -(-len(found) // most)]


def short_duration(ns: float) -> str:
    """A time for an axis: without zeros after the point."""
    return _short(duration(ns))


def short_size(size_bytes: float) -> str:
    """A size for an axis: without zeros after the point."""
    return _short(size(size_bytes))


def _short(text: str) -> str:
    number, unit = text.split()
    return "0" if number == "0" else f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _short_times(ratio: float) -> str:
    return f"{ratio:,.3g} ×" if ratio < 1000 else f"{ratio:,.0f} ×"


def legend(figure: Figure, theme: Theme, axes: Axes, *, columns: int = 1) -> None:
    """Names and symbols under the plot."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, [shortened(label, 46 // columns) for label in labels], loc="outside lower left", frameon=False,
        labelcolor=theme.text, fontsize=9, handlelength=1.8, ncols=columns, columnspacing=1.2,
    )  # fmt: skip


def rendered(figure: Figure, kind: str) -> bytes:
    """The picture in a format of matplotlib's; the same picture gives the same bytes. Letters in an SVG are text."""
    buffer = io.BytesIO()
    # No date and a fixed salt: the same results give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "edgeseq", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
