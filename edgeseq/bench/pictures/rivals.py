"""All systems in one picture: a row a system, a symbol a subject, what is judged large and in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from edgeseq.bench.pictures.canvas import MARKERS, Style, Theme, legend, named_rows, ratio_axis, rendered, row_name
from edgeseq.bench.standings import Standings, geometric_means
from edgeseq.bench.stats import Ratio
from edgeseq.bench.units import times
from edgeseq.errors import WrongUsage


def rivals_picture(found: Standings, theme: Theme, suffix: str) -> bytes:
    """Speeds on several systems in a format of matplotlib's such as ``svg``; ours are drawn large, with intervals.

    Raises WrongUsage when nothing can be drawn.
    """
    systems = [standing for standing in found.systems if standing.speeds]
    if not systems:
        raise WrongUsage("no system has both the reference and another subject measured, so there is nothing to draw")
    means = {name: Ratio(value=mean, interval=None) for name, mean in geometric_means(systems).items()}
    means = means if len(systems) > 1 else {}
    names = list(dict.fromkeys(name for standing in systems for name in standing.speeds))
    judged = [name for name in names if name in found.ours]
    looks = _looks(judged, [name for name in names if name not in judged], theme)
    count = len(systems) + bool(means)
    figure, axes = named_rows(theme, count, row_inches=0.5, extra_inches=0.75 + 0.19 * -(-len(names) // 2))
    for row, standing in enumerate(systems):
        _row(axes, theme, row, standing.speeds, looks, judged)
        best = f" · best rival: {standing.reference}" if found.against is None else ""
        row_name(axes, theme, row, standing.system + best, bold=False, letters=48)
    if means:
        axes.axhline(count - 1.68, color=theme.faint, linewidth=1.2)
        _row(axes, theme, count - 1, means, looks, judged)
        row_name(axes, theme, count - 1, f"geometric mean of all {len(systems)}")
    values = [1.0, *(speed.value for standing in systems for speed in standing.speeds.values())]
    other = found.against or "the best rival of the system"
    ratio_axis(axes, theme, min(values) / 1.15, max(values) * 1.15, f"times as fast as {other}")
    for name, look in looks.items():
        axes.plot(
            [], [], linestyle="", marker=look.marker, color=look.colour, label=name,
            markersize=8 if name in judged else 5,
        )  # fmt: skip
    legend(figure, theme, axes, columns=2)
    return rendered(figure, suffix)


def rivals_finding(found: Standings) -> tuple[str, ...]:
    """The same in words, a sentence for each of ours: its geometric mean and its best and worst system."""
    other = found.against or "the best rival of each system"
    sentences = []
    for name in found.ours:
        measured = [standing for standing in found.systems if name in standing.speeds]
        if not measured:
            continue
        speeds = {standing.system: standing.speeds[name].value for standing in measured}
        worst, best = min(speeds, key=speeds.__getitem__), max(speeds, key=speeds.__getitem__)
        sentences.append(
            f"{name} is {times(geometric_means(measured)[name])} as fast as {other} in the geometric mean of "
            f"{len(speeds)}, from {times(speeds[worst])} on {worst} to {times(speeds[best])} on {best}."
        )
    return tuple(sentences)


def _looks(judged: Sequence[str], others: Sequence[str], theme: Theme) -> dict[str, Style]:
    """Ours in the strongest colours; rivals by family (the first word of a name) in a colour, members by symbol."""
    looks = {
        name: Style(colour=theme.subjects[number % 2], marker=MARKERS[(number // 2) % 3], line="-")
        for number, name in enumerate(judged)
    }
    palette = (*theme.rivals[:2], *theme.subjects[2:], theme.rivals[3])
    families = list(dict.fromkeys(_family(name) for name in others))
    for number, name in enumerate(others):
        family = families.index(_family(name))
        looks[name] = Style(
            colour=palette[family % len(palette)], marker=MARKERS[(number + 2) % len(MARKERS)], line="-"
        )
    return looks


def _family(name: str) -> str:
    return name.split()[0].rstrip(",")


def _row(
    axes: Axes,
    theme: Theme,
    row: int,
    speeds: Mapping[str, Ratio],
    looks: Mapping[str, Style],
    judged: Sequence[str],
) -> None:
    axes.axhline(row, color=theme.faint, alpha=0.3, linewidth=0.8, zorder=1)
    for name, speed in speeds.items():
        look, own = looks[name], name in judged
        # Neighbours in the list stand a little apart, so that equal speeds do not hide each other.
        shift = 0.11 * (tuple(looks).index(name) % 3 - 1)
        if own and speed.interval is not None:
            axes.plot([speed.interval.low, speed.interval.high], [row, row], color=theme.text, linewidth=1.6, zorder=5)
        axes.plot(
            [speed.value], [row if own else row + shift], linestyle="", marker=look.marker, color=look.colour,
            markersize=9 if own else 6.2, markeredgecolor=theme.background, markeredgewidth=0.5 if own else 0.2,
            zorder=4 if own else 3,
        )  # fmt: skip
