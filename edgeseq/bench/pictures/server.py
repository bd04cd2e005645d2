"""Queries that arrive at random: latency against their rate, and the rate that keeps the deadline."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench import tables
from edgeseq.bench.pictures.canvas import Theme, legend, new_figure, scale, short_duration, shortened
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.server import Served
from edgeseq.bench.units import duration, significant

_LINES = (("p50_ns", "p50", (0, (1, 1.5)), "s"), ("p90_ns", "p90", (0, (5, 2)), "^"), ("p99_ns", "p99", "-", "o"))


def _served(view: View) -> list[tuple[str, Served]]:
    return [
        (result.name, result.server)
        for result in view.run.results
        if result.server is not None and any(trial.p50_ns for trial in result.server.all_trials)
    ]


def _draw(view: View, theme: Theme) -> Figure:
    found = _served(view)
    looks = view.styles(theme)
    everything = [trial for _, served in found for trial in served.all_trials]
    rates = [trial.rate_per_s for trial in everything]
    times = [getattr(trial, field) for trial in everything for field, *_ in _LINES if getattr(trial, field)]
    times += [served.deadline_ns for _, served in found if served.deadline_ns]
    figure, plots = new_figure(theme, height=0.6 + 2.3 * len(found), rows=len(found))
    for axes, (name, served) in zip(plots, found, strict=True):
        colour = looks[name].colour
        for field, label, line, marker in _LINES:
            points = [(trial.rate_per_s, getattr(trial, field)) for trial in served.all_trials if getattr(trial, field)]
            axes.plot(
                [x for x, _ in points], [y for _, y in points], color=colour, linestyle=line, marker=marker,
                markersize=4.5, linewidth=1.6, label=label,
            )  # fmt: skip
        if served.deadline_ns is not None:
            axes.axhline(served.deadline_ns, color=theme.text, linewidth=1.2, linestyle="--", label="deadline")
        edge = [end for end in (served.highest_rate_per_s, served.lowest_missed_per_s) if end is not None]
        if served.highest_rate_per_s is not None:
            axes.axvspan(min(edge), max(edge), color=colour, linewidth=5, alpha=0.2)
        scale(axes.yaxis, times, short_duration, most=5)
        scale(axes.xaxis, rates, lambda value: f"{value:,.6g}", room=0.05)
        axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
        axes.set_title(
            f"{shortened(name, 30)}\n{_kept(served)}", loc="left", fontsize=9, color=theme.text, linespacing=1.4,
        )  # fmt: skip
    plots[-1].set_xlabel("queries a second", fontsize=9)
    legend(figure, theme, plots[0], columns=4)
    return figure


def _kept(served: Served) -> str:
    """Above the plot, whose axis has the unit."""
    if served.deadline_ns is None:
        return "latency from arrival to answer"
    deadline, missed = duration(served.deadline_ns), served.lowest_missed_per_s
    missed_from = "" if missed is None else f"missed at {significant(missed)}"
    if served.highest_rate_per_s is None:
        return ", ".join(filter(None, (f"{deadline} kept at no rate for sure", missed_from)))
    kept = f"{deadline} kept up to {significant(served.highest_rate_per_s)}"
    return f"{kept}, {missed_from or 'maybe at more'}"


def _finding(view: View) -> str:
    return " ".join(("Queries arriving at random.", *tables.server_findings(view.run)))


SERVER = Kind(
    title="Latency under load",
    caption="Median of the tries, from arrival to answer, waiting included; the band is from the highest rate "
    "that is sure to keep the deadline to the lowest that is sure to miss it.",
    shows=_served,
    lacking="no subject has the server scenario; measure with `edgeseq bench ... --scenario server --deadline-ms 10`",
    draw=_draw,
    finding=_finding,
)
