"""How many times as fast each subject is as those it is held against, with intervals."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import Theme, interval, named_rows, ratio_axis, row_band, row_name, value_label
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.standings import speeds
from edgeseq.bench.stats import Ratio
from edgeseq.bench.units import times

_Group = tuple[str, list[tuple[BenchmarkResult, Ratio]]]


def _groups(view: View) -> list[_Group]:
    """For each reference, everything that can be held against it."""
    return [
        (name, [(view.run[subject], ratio) for subject, ratio in group.items()])
        for name, group in speeds(view.run, view.references).items()
    ]


def _draw(view: View, theme: Theme) -> Figure:
    groups = _groups(view)
    looks = view.styles(theme)
    ratios = [ratio for _, group in groups for _, ratio in group]
    ends = [end for ratio in ratios for end in _ends(ratio)]
    low, high = min(ends), max([*ends, 1.0])
    # Where nothing is slower, 1 is the edge, and no name lies across it.
    low = low / 1.12 if low < 1 else 1.0
    high *= max((high / low) ** 0.3, 1.12)
    count = sum(len(group) for _, group in groups)
    figure, axes = named_rows(
        theme, count, row_inches=0.58 if count <= 8 else 0.46, extra_inches=0.55 + 0.45 * len(groups)
    )
    ratio_axis(axes, theme, low, high, "speed, line is the 95 % interval")
    row = 0.0
    for name, group in groups:
        row_band(axes, theme, row - 0.28, 0.44, f"times as fast as {name}")
        row += 0.75
        for result, ratio in group:
            axes.barh(row, ratio.value - 1, left=1.0, height=0.34, color=looks[result.name].colour)
            start, end = _ends(ratio)
            interval(axes, theme, row, start, end)
            label = times(ratio.value) + ("" if ratio.differs else f", {ratio.verdict}")
            value_label(axes, theme, max(end, 1.0), row, label)
            row_name(axes, theme, row, result.name)
            row += 1
    axes.set_ylim(row - 0.5, -0.6)
    return figure


def _ends(ratio: Ratio) -> tuple[float, float]:
    if ratio.interval is None:
        return ratio.value, ratio.value
    return ratio.interval.low, ratio.interval.high


def _finding(view: View) -> str:
    sentences = []
    for name, group in _groups(view):
        ordered = sorted(group, key=lambda pair: pair[1].value, reverse=True)
        listed = "; ".join(
            f"{result.name} {times(ratio.value)}" + ("" if ratio.differs else f" ({ratio.verdict})")
            for result, ratio in ordered
        )
        sentences.append(f"Times as fast as {name}: {listed}.")
    return " ".join(sentences)


SPEED = Kind(
    title="How many times as fast",
    caption="To the right of 1 is faster than what it is held against, to the left slower.",
    shows=_groups,
    lacking="no two subjects were measured on the same input shapes; give `edgeseq bench` two files, or --keras",
    draw=_draw,
    finding=_finding,
)
