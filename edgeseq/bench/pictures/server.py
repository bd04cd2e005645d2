"""Queries that arrive at random: latency against their rate, and the rate that keeps the deadline."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.bench.pictures.canvas import (
    Theme,
    legend,
    new_figure,
    rendered,
    result_styles,
    short_duration,
    shortened,
    spans_much,
    ticks,
)
from edgeseq.bench.pictures.kind import Kind
from edgeseq.bench.record import BenchmarkRun
from edgeseq.bench.server import Served
from edgeseq.bench.sweeps import rate, trials
from edgeseq.bench.units import duration

_LINES = (("p50_ns", "p50", (0, (1, 1.5)), "s"), ("p90_ns", "p90", (0, (5, 2)), "^"), ("p99_ns", "p99", "-", "o"))


def _served(run: BenchmarkRun) -> list[tuple[str, Served]]:
    return [
        (result.name, result.server)
        for result in run.results
        if result.server is not None and any(trial.p50_ns for trial in trials(result.server))
    ]


def _lacks(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    if _served(run):
        return None
    return "no subject has the server scenario; measure with `edgeseq bench ... --scenario server --deadline-ms 10`"


def _draw(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    found = _served(run)
    looks = result_styles(run.results, references, theme)
    everything = [trial for _, served in found for trial in trials(served)]
    rates = [trial.rate_per_s for trial in everything]
    times = [getattr(trial, field) for trial in everything for field, *_ in _LINES if getattr(trial, field)]
    times += [served.deadline_ns for _, served in found if served.deadline_ns]
    figure, plots = new_figure(theme, height=0.6 + 2.3 * len(found), rows=len(found))
    for axes, (name, served) in zip(plots, found, strict=True):
        colour = looks[name].colour
        for field, label, line, marker in _LINES:
            points = [(trial.rate_per_s, getattr(trial, field)) for trial in trials(served) if getattr(trial, field)]
            axes.plot(
                [x for x, _ in points], [y for _, y in points], color=colour, linestyle=line, marker=marker,
                markersize=4.5, linewidth=1.6, label=label,
            )  # fmt: skip
        if served.deadline_ns is not None:
            axes.axhline(served.deadline_ns, color=theme.text, linewidth=1.2, linestyle="--", label="deadline")
        if served.highest_rate_per_s is not None:
            axes.axvline(served.highest_rate_per_s, color=colour, linewidth=5, alpha=0.25)
        if spans_much(times):
            axes.set_yscale("log")
        axes.set_ylim(*((min(times) / 1.5, max(times) * 1.5) if spans_much(times) else (0, max(times) * 1.1)))
        if spans_much(rates):
            axes.set_xscale("log")
        axes.set_xlim(*((min(rates) / 1.2, max(rates) * 1.2) if spans_much(rates) else (0, max(rates) * 1.05)))
        ticks(axes.yaxis, axes.get_ylim(), short_duration, logarithmic=spans_much(times), most=5)
        ticks(axes.xaxis, axes.get_xlim(), lambda value: f"{value:,.6g}", logarithmic=spans_much(rates))
        axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
        axes.set_title(
            f"{shortened(name, 30)}\n{_kept(served)}", loc="left", fontsize=9, color=theme.text, linespacing=1.4,
        )  # fmt: skip
    plots[-1].set_xlabel("queries a second", fontsize=9)
    legend(figure, theme, plots[0], columns=4)
    return rendered(figure, suffix)


def _kept(served: Served) -> str:
    if served.deadline_ns is None:
        return "latency from arrival to answer"
    if served.highest_rate_per_s is None:
        return f"no rate tried kept p99 within {duration(served.deadline_ns)}"
    if served.searched == "limit":
        return f"p99 within {duration(served.deadline_ns)} at {rate(served.highest_rate_per_s)}, maybe at more"
    return f"p99 within {duration(served.deadline_ns)} up to {rate(served.highest_rate_per_s)}"


def _finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    return "Queries arriving at random: " + "; ".join(f"{name}, {_kept(served)}" for name, served in _served(run)) + "."


SERVER = Kind(
    title="Latency under load",
    caption="From arrival to answer, waiting included; the broad line is the highest rate that kept the deadline.",
    lacks=_lacks,
    draw=_draw,
    finding=_finding,
)
