"""All systems in one picture: a row a system, a symbol a subject, what is judged large and in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from edgeseq.bench.pictures.canvas import (
    MARKERS,
    Style,
    Theme,
    legend,
    named_rows,
    rendered,
    row_name,
    short_times,
    ticks,
)
from edgeseq.bench.record import BenchmarkRun
from edgeseq.bench.standings import Standing, geometric_means, our_names, standings
from edgeseq.bench.stats import Interval
from edgeseq.bench.units import times
from edgeseq.errors import WrongUsage


def rivals_picture(
    runs: Mapping[str, BenchmarkRun],
    theme: Theme,
    suffix: str,
    *,
    against: str | None = None,
    ours: Sequence[str] | None = None,
    rivals: Sequence[str] | None = None,
) -> bytes:
    """Speeds on several systems, `runs` by the system's name; in a format of matplotlib's such as ``svg``.

    `against` is the subject at 1; None puts the fastest rival of each system there. `ours` are drawn large, with
    intervals; None takes those whose names begin with ``edgeseq``. `rivals` are the others to draw; None takes all.

    Raises WrongUsage when a name is in no run, or nothing can be drawn.
    """
    judged = our_names(runs) if ours is None else tuple(ours)
    found = [standing for standing in _found(runs, against, judged, rivals) if standing.speeds]
    if not found:
        raise WrongUsage("no system has both the reference and another subject measured, so there is nothing to draw")
    means = geometric_means(found) if len(found) > 1 else {}
    names = list(dict.fromkeys(speed.name for standing in found for speed in standing.speeds))
    looks = _looks([name for name in names if name in judged], [name for name in names if name not in judged], theme)
    count = len(found) + bool(means)
    figure, axes = named_rows(theme, count, row_inches=0.5, extra_inches=0.75 + 0.19 * -(-len(names) // 2))
    for row, standing in enumerate(found):
        _row(axes, theme, row, [(s.name, s.speedup.value, s.speedup.interval) for s in standing.speeds], looks, judged)
        best = f" · best rival: {standing.reference}" if against is None else ""
        row_name(axes, theme, row, standing.system + best, bold=False, letters=48)
    if means:
        axes.axhline(count - 1.68, color=theme.faint, linewidth=1.2)
        _row(axes, theme, count - 1, [(name, value, None) for name, value in means.items()], looks, judged)
        row_name(axes, theme, count - 1, f"geometric mean of all {len(found)}")
    values = [1.0, *(s.speedup.value for standing in found for s in standing.speeds)]
    low, high = min(values) / 1.15, max(values) * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvline(1.0, color=theme.text, linewidth=1.2, zorder=1)
    ticks(axes.xaxis, (low, high), short_times, logarithmic=True)
    label = "times as fast as " + (against or "the best rival of the system")
    axes.set_xlabel(label + " (logarithmic scale)", fontsize=9)
    for name in looks:
        look = looks[name]
        axes.plot(
            [], [], linestyle="", marker=look.marker, color=look.colour, label=name,
            markersize=8 if name in judged else 5,
        )  # fmt: skip
    legend(figure, theme, axes, columns=2)
    return rendered(figure, suffix)


def rivals_finding(
    runs: Mapping[str, BenchmarkRun],
    *,
    against: str | None = None,
    ours: Sequence[str] | None = None,
    rivals: Sequence[str] | None = None,
) -> str:
    """The same in words, a line for each of `ours`: its geometric mean and its best and worst system."""
    judged = our_names(runs) if ours is None else tuple(ours)
    found = [standing for standing in _found(runs, against, judged, rivals) if standing.speeds]
    other = against or "the best rival of each system"
    sentences = []
    for name in judged:
        speeds = {
            standing.system: standing[name].value
            for standing in found
            if name in [speed.name for speed in standing.speeds]
        }
        if not speeds:
            continue
        worst, best = min(speeds, key=speeds.__getitem__), max(speeds, key=speeds.__getitem__)
        mean = geometric_means([standing for standing in found if standing.system in speeds])[name]
        sentences.append(
            f"{name} is {times(mean)} as fast as {other} in the geometric mean of {len(speeds)}, "
            f"from {times(speeds[worst])} on {worst} to {times(speeds[best])} on {best}."
        )
    return "\n".join(sentences)


def _found(
    runs: Mapping[str, BenchmarkRun], against: str | None, judged: Sequence[str], rivals: Sequence[str] | None
) -> tuple[Standing, ...]:
    return standings(runs, against=against, ours=judged, rivals=rivals)


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
    speeds: Sequence[tuple[str, float, Interval | None]],
    looks: Mapping[str, Style],
    judged: Sequence[str],
) -> None:
    axes.axhline(row, color=theme.faint, alpha=0.3, linewidth=0.8, zorder=1)
    for name, value, interval in speeds:
        look, own = looks[name], name in judged
        # Neighbours in the list stand a little apart, so that equal speeds do not hide each other.
        shift = 0.11 * (tuple(looks).index(name) % 3 - 1)
        if own and interval is not None:
            axes.plot([interval.low, interval.high], [row, row], color=theme.text, linewidth=1.6, zorder=5)
        axes.plot(
            [value], [row if own else row + shift], linestyle="", marker=look.marker, color=look.colour,
            markersize=9 if own else 6.2, markeredgecolor=theme.background, markeredgewidth=0.5 if own else 0.2,
            zorder=4 if own else 3,
        )  # fmt: skip
