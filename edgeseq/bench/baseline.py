"""Comparing a run with an older one: what became slower, beyond what the measurement itself leaves open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseq.bench.machine import Machine
from edgeseq.bench.noise import NOTABLE_SPEED_RANGE, speed_range
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.stats import Interval, Ratio, independent_ratio

DEFAULT_MARGIN = 0.05
"""A change below this is not called one: two processes running the same file differ by as much."""

_IN_PROBES = 0.5
"""Share of the margin that must be left in units of the probe: what slows a machine down does not slow all of its work
by as much, so that a change of a tenth would often be taken for the machine's; two runs of one file differ by less."""

_OTHER_SPEED = 1.25
"""Beyond this the machine is as good as another: its clock or its neighbours changed, and no ratio tells a tenth."""

_MUST_MATCH = ("provider", "provider_options", "threads", "batch", "time_steps", "inputs")
# What decides how fast the probe is on one machine: numpy's own code runs it.
_PROBE_VERSIONS = ("numpy", "python")
# It differs by what the kernel keeps for itself.
_MACHINE_MAY_DIFFER = ("memory_bytes",)


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
    it lies below 1 / (1 + `margin`). Where both runs timed the probe, half of the margin must be left in units of the
    probe: a machine that is slower as a whole today makes no model slower. The file may be another, which is what a
    baseline is for; whether it is, is said.
    """
    then = {result.name: result for result in baseline.results}
    probes = _probes(new, baseline)
    elsewhere = new.machine.cpu_model != baseline.machine.cpu_model
    rows = [_row(result, then.get(result.name), margin, probes, elsewhere=elsewhere) for result in new.results]
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


def _row(
    now: BenchmarkResult,
    then: BenchmarkResult | None,
    margin: float,
    probes: tuple[tuple[float, ...], tuple[float, ...]] | None,
    *,
    elsewhere: bool,
) -> BaselineRow:
    def row(verdict: str, reason: str, *, ratio: Ratio | None = None, regression: bool = False) -> BaselineRow:
        return BaselineRow(name=now.name, ratio=ratio, verdict=verdict, regression=regression, reason=reason)

    if then is None:
        return row("not comparable", "it is not in the baseline")
    if then.error is not None:
        return row("not comparable", f"it failed in the baseline: {then.error}")
    if now.error is not None:
        return row("failed", f"it ran in the baseline and fails now: {now.error}", regression=True)
    if elsewhere:
        return row("not comparable", "the baseline was measured on another processor")
    was, is_now = _conditions(then), _conditions(now)
    for condition, value in is_now.items():
        if was[condition] != value:
            return row("not comparable", f"{condition} was {was[condition]} in the baseline and is {value} now")
    if not all((*now.round_p50_ns, *then.round_p50_ns)):
        return row("not comparable", "a call is too short for the clock: rounds have a median of 0")
    speed = 1.0 if probes is None else independent_ratio(*probes).value
    if max(speed, 1 / speed) > _OTHER_SPEED:
        change = f"{speed:.2f} x as long" if speed > 1 else f"{speed:.2f} of the time"
        return row(
            "not comparable",
            f"the machine takes {change} now for work that is always the same: measure the baseline again",
        )
    ratio = independent_ratio(now.round_p50_ns, then.round_p50_ns)
    if ratio.interval is None:
        rounds = min(len(now.round_p50_ns), len(then.round_p50_ns))
        return row("not comparable", f"{rounds} rounds are too few for an interval; 6 are needed")
    said = f"{ratio.value:.3f} x the baseline's time, {_between(ratio.interval)}"
    if now.file_sha256 is not None and then.file_sha256 is not None:
        said += ", by the same file" if now.file_sha256 == then.file_sha256 else "; the file has changed since"
    slower, faster = _is_slower(ratio.interval, margin), _is_faster(ratio.interval, margin)
    if (slower or faster) and probes is not None:
        against = _in_probes(now, then, probes)
        if against is not None and against.interval is not None:
            said += f"; {against.value:.3f} x in units of the machine's own speed, {_between(against.interval)}"
            least = margin * _IN_PROBES
            is_changed, change = (_is_slower, "slower") if slower else (_is_faster, "faster")
            if not is_changed(against.interval, least):
                why = f"it is the machine that was {change} now"
                if is_changed(against.interval, 0):
                    why = f"it is {change} also beyond what the machine was, but not certainly by {least:.1%}"
                return row("no difference", f"{said}: {why}", ratio=ratio)
    if slower:
        return row("slower", said, ratio=ratio, regression=True)
    if faster:
        return row("faster", said, ratio=ratio)
    return row("no difference", f"{said}: no change above {margin:.0%} is certain", ratio=ratio)


def _conditions(result: BenchmarkResult) -> Mapping[str, Any]:
    """What must be the same for times to be comparable, by its name for people."""
    conditions = {name: getattr(result, name) for name in _MUST_MATCH}
    lengths = result.lengths
    return conditions | {
        "the file of lengths": "none" if lengths is None else f"{lengths.source} {lengths.sha256[:8]}",
        "what was fed of it": "none"
        if lengths is None
        else f"{lengths.shortest} to {lengths.longest} steps, median {lengths.median}",
        # As how rows are put together decides it: padding is work, too. A percent of it is below what counts as change.
        "the share of valid steps": "none" if lengths is None else f"{lengths.density:.0%}",
    }


def _is_slower(interval: Interval, margin: float) -> bool:
    return interval.low > 1 + margin


def _is_faster(interval: Interval, margin: float) -> bool:
    return interval.high < 1 / (1 + margin)


def _between(interval: Interval) -> str:
    return f"95 % interval {interval.low:.3f} to {interval.high:.3f}"


def _probes(new: BenchmarkRun, baseline: BenchmarkRun) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The probe's times in both runs, round by round; None unless both have them from the same numpy and machine."""
    if new.disturbance is None or baseline.disturbance is None or _changed(new.machine, baseline.machine):
        return None
    if any(new.versions.get(name) != baseline.versions.get(name) for name in _PROBE_VERSIONS):
        return None
    probes = new.disturbance.probe_ns, baseline.disturbance.probe_ns
    return probes if all(map(all, probes)) and all(probes) else None


def _in_probes(
    now: BenchmarkResult, then: BenchmarkResult, probes: tuple[tuple[float, ...], tuple[float, ...]]
) -> Ratio | None:
    """Time now / time then, each round's in units of the same round's probe; None where rounds have none."""
    rounds = (now.round_p50_ns, then.round_p50_ns)
    if any(len(mine) != len(probe) or not all(probe) for mine, probe in zip(rounds, probes, strict=True)):
        return None
    above, under = (
        [time / unit for time, unit in zip(mine, probe, strict=True)]
        for mine, probe in zip(rounds, probes, strict=True)
    )
    return independent_ratio(above, under)


def _differences(new: BenchmarkRun, baseline: BenchmarkRun) -> tuple[str, ...]:
    found = []
    changed = _changed(new.machine, baseline.machine)
    if changed:
        told = (f"{name} {getattr(new.machine, name)} now, {getattr(baseline.machine, name)} then" for name in changed)
        found.append(f"the machines differ ({'; '.join(told)}): a ratio between them says nothing about the model")
    # Runs of before edgeseq told why timing ended tell no scenario either.
    if new.stopped and baseline.stopped and new.scenario != baseline.scenario:
        found.append(
            f"the scenario was {baseline.scenario} in the baseline and is {new.scenario} now: what is compared is the "
            "time of calls one after the other, which all scenarios measure alike"
        )
    for run, when in ((new, "now"), (baseline, "in the baseline")):
        ranged = speed_range(run.disturbance.probe_ns) if run.disturbance is not None else None
        if ranged is not None and ranged >= NOTABLE_SPEED_RANGE:
            found.append(f"the machine's own speed varied by {ranged:.0%} between rounds {when}")
    for name in sorted({*new.versions, *baseline.versions}):
        was, is_now = baseline.versions.get(name, "absent"), new.versions.get(name, "absent")
        if was != is_now:
            found.append(f"{name} was {was} in the baseline and is {is_now} now")
    return tuple(found)


def _changed(new: Machine, baseline: Machine) -> tuple[str, ...]:
    """What differs between two machines, of what both tell: older files tell less."""
    return tuple(
        field.name
        for field in dataclasses.fields(Machine)
        if field.name not in _MACHINE_MAY_DIFFER
        and (was := getattr(baseline, field.name))
        and (is_now := getattr(new, field.name))
        and was != is_now
    )
