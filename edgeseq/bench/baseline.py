"""Comparing a run with an older one: what became slower, beyond what the measurement itself leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.stats import Ratio, independent_ratio

DEFAULT_MARGIN = 0.05
"""A change below this is not called one: two processes running the same file differ by as much."""

_MUST_MATCH = ("provider", "threads", "batch", "time_steps")


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """One subject, now and then."""

    name: str
    """Name of the subject."""
    ratio: Ratio | None
    """Time now / time in the baseline: above 1, it became slower. None when the two cannot be compared."""
    verdict: str
    """``slower``, ``faster``, ``no difference``, ``failed`` (it ran in the baseline) or ``not comparable``."""
    regression: bool
    """Whether it is slower beyond interval and margin, or fails now."""
    reason: str
    """What the verdict rests on."""


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """A run against its baseline; truthy when nothing became worse and something could be compared."""

    rows: tuple[BaselineRow, ...]
    """One a subject of the new run, then those that only the baseline has."""
    regressions: tuple[str, ...]
    """Names of the subjects that became worse."""
    margin: float
    """Smallest relative change that counts."""
    warnings: tuple[str, ...]
    """What differs between the two runs apart from the subjects: machine, versions."""

    def __bool__(self) -> bool:
        return not self.regressions and any(row.ratio is not None for row in self.rows)


def compare_to_baseline(
    new: BenchmarkRun, baseline: BenchmarkRun, *, margin: float = DEFAULT_MARGIN
) -> BaselineComparison:
    """Hold every subject of `new` against the subject of the same name in `baseline`.

    A subject is slower when the whole 95 % interval of time now / time then lies above 1 + `margin`, and faster when
    it lies below 1 / (1 + `margin`).
    """
    then = {result.name: result for result in baseline.results}
    rows = [_row(result, then.get(result.name), margin) for result in new.results]
    names = {result.name for result in new.results}
    rows += [
        BaselineRow(
            name=name, ratio=None, verdict="not comparable", regression=False, reason="it is in the baseline only"
        )
        for name in then
        if name not in names
    ]
    return BaselineComparison(
        rows=tuple(rows),
        regressions=tuple(row.name for row in rows if row.regression),
        margin=margin,
        warnings=_differences(new, baseline),
    )


def _row(now: BenchmarkResult, then: BenchmarkResult | None, margin: float) -> BaselineRow:
    def row(verdict: str, reason: str, *, ratio: Ratio | None = None, regression: bool = False) -> BaselineRow:
        return BaselineRow(name=now.name, ratio=ratio, verdict=verdict, regression=regression, reason=reason)

    if then is None:
        return row("not comparable", "it is not in the baseline")
    if then.error is not None:
        return row("not comparable", f"it failed in the baseline: {then.error}")
    if now.error is not None:
        return row("failed", f"it ran in the baseline and fails now: {now.error}", regression=True)
    for field in _MUST_MATCH:
        was, is_now = getattr(then, field), getattr(now, field)
        if was != is_now:
            return row("not comparable", f"{field} was {was} in the baseline and is {is_now} now")
    ratio = independent_ratio(now.round_p50_ns, then.round_p50_ns)
    if ratio.interval is None:
        rounds = min(len(now.round_p50_ns), len(then.round_p50_ns))
        return row("not comparable", f"{rounds} rounds are too few for an interval; 6 are needed")
    said = (
        f"{ratio.value:.3f} x the baseline's time, 95 % interval {ratio.interval.low:.3f} to {ratio.interval.high:.3f}"
    )
    if ratio.interval.low > 1 + margin:
        return row("slower", said, ratio=ratio, regression=True)
    if ratio.interval.high < 1 / (1 + margin):
        return row("faster", said, ratio=ratio)
    return row("no difference", f"{said}: no change above {margin:.0%} is certain", ratio=ratio)


def _differences(new: BenchmarkRun, baseline: BenchmarkRun) -> tuple[str, ...]:
    found = []
    if new.machine != baseline.machine:
        found.append(
            f"the machines differ ({new.machine.cpu_model}, {new.machine.cores} cores, {new.machine.system} now; "
            f"{baseline.machine.cpu_model}, {baseline.machine.cores} cores, {baseline.machine.system} in the baseline):"
            " a ratio between them says nothing about the model"
        )
    for name in sorted({*new.versions, *baseline.versions}):
        was, is_now = baseline.versions.get(name, "absent"), new.versions.get(name, "absent")
        if was != is_now:
            found.append(f"{name} was {was} in the baseline and is {is_now} now")
    return tuple(found)
