"""The run as it went: rounds' medians of each subject, and the machine's own speed beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgeseq.bench.pictures.canvas import Theme, legend, new_figure, rendered, result_styles, styles
from edgeseq.bench.pictures.kind import Kind
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.units import significant

_MOST_NAMED = 6
_PROBE = "the machine: the same arithmetic each round"


def _percent(values: Sequence[float]) -> list[float]:
    """Values relative to their median, in per cent above or below it."""
    middle = statistics.median(values)
    return [(value / middle - 1) * 100 for value in values]


def _drawable(run: BenchmarkRun) -> list[BenchmarkResult]:
    return [result for result in run.results if len(result.round_p50_ns) > 1 and min(result.round_p50_ns) > 0]


def _probe(run: BenchmarkRun) -> list[float]:
    probe = run.disturbance.probe_ns if run.disturbance is not None else ()
    return _percent(probe) if len(probe) > 1 and min(probe) > 0 else []


def _lacks(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    return None if _drawable(run) else "no subject was timed in two rounds or more"


def _draw(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    found, probe = _drawable(run), _probe(run)
    # Where there are too many lines to name, those that moved most are.
    named = sorted(found, key=_spread, reverse=True)[:_MOST_NAMED]
    shown_names = [result.name for result in found if result in named]
    looks = result_styles(found, references, theme) if len(named) == len(found) else styles(shown_names, (), theme)
    figure, [axes] = new_figure(theme, height=2.9 + 0.19 * (min(len(found), _MOST_NAMED + 1) + bool(probe)))
    lines = [_percent(result.round_p50_ns) for result in found]
    limit = _limit([*lines, probe])
    axes.axhline(0, color=theme.faint, linewidth=0.8)
    if len(found) > len(named):
        axes.plot([], [], color=theme.rivals[0], linewidth=0.8, label=f"{len(found) - len(named)} that moved less")
    for result, line in zip(found, lines, strict=True):
        shown = result.name in looks
        colour = looks[result.name].colour if shown else theme.rivals[0]
        rounds = range(1, len(line) + 1)
        kept = [min(max(value, -limit), limit) for value in line]
        axes.plot(
            rounds, kept, color=colour, linewidth=1.3 if shown else 0.7,
            linestyle=looks[result.name].line if shown else "-", label=result.name if shown else None,
            zorder=3 if shown else 2,
        )  # fmt: skip
        beyond = [(number, end) for number, value, end in zip(rounds, line, kept, strict=True) if value != end]
        for number, end in beyond:
            axes.plot([number], [end], marker="^" if end > 0 else "v", color=colour, markersize=6, clip_on=False)
    if probe:
        for number, value in enumerate(probe, 1):
            if abs(value) > limit:
                end = limit if value > 0 else -limit
                axes.plot([number], [end], marker="^" if value > 0 else "v", color=theme.text, markersize=6,
                          clip_on=False, zorder=5)  # fmt: skip
        axes.plot(
            range(1, len(probe) + 1), [min(max(value, -limit), limit) for value in probe], color=theme.text,
            linewidth=1.6, linestyle="--", label=_PROBE, zorder=4,
        )  # fmt: skip
    axes.set_ylim(-limit * 1.05, limit * 1.05)
    axes.set_xlim(1, max([len(line) for line in lines] + [len(probe)]))
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.3g} %" if value else "0")
    axes.grid(axis="y", color=theme.faint, alpha=0.25, linewidth=0.6)
    axes.set_title("median of the round against the median of all", loc="left", fontsize=9, color=theme.faint)
    axes.set_xlabel("round", fontsize=9)
    legend(figure, theme, axes)
    return rendered(figure, suffix)


def _limit(lines: Sequence[Sequence[float]]) -> float:
    """How far the axis reaches: past nearly everything, not past a stray round, for which a triangle stands."""
    far = sorted(abs(value) for line in lines for value in line)
    usual = far[int(len(far) * 0.9)] if far else 0.0
    return max(2.0, min(far[-1] * 1.05, usual * 2.5))


def _spread(result: BenchmarkResult) -> float:
    line = _percent(result.round_p50_ns)
    return max(line) - min(line)


def _finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    found, probe = _drawable(run), _probe(run)
    drifting = [
        f"{result.name} by {significant(result.stability.drift * 100, 2)} %"
        for result in found
        if result.stability is not None and result.stability.drift_is_certain
    ]
    widest = max(found, key=_spread)
    said = f"Drift beyond chance: {', '.join(drifting)}." if drifting else ""
    if not drifting and any(result.stability is not None for result in found):
        said = "No drift beyond chance."
    line = _percent(widest.round_p50_ns)
    said += (
        f" The rounds' medians moved most for {widest.name}: from {significant(min(line), 2)} % to "
        f"{significant(max(line), 2)} % of their median."
    )
    if probe:
        said += f" The machine's own: from {significant(min(probe), 2)} % to {significant(max(probe), 2)} %."
    return said.strip()


DRIFT = Kind(
    title="How steady the run was",
    caption="Level lines are a quiet run; what moves with the dashed line is the machine, not the subject.",
    lacks=_lacks,
    draw=_draw,
    finding=_finding,
)
