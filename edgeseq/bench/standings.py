"""Several systems, the same subjects: how fast each is against one of them, or against each system's best rival."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, alike, speedup
from edgeseq.bench.stats import Ratio
from edgeseq.errors import WrongUsage


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One system: everything measured on it against its reference."""

    system: str
    """Name of the system."""
    reference: str | None
    """What the others are held against; None where it was not measured."""
    speeds: Mapping[str, Ratio]
    """Time of the reference / time of each measured subject, by its name in the run's order: above 1, the subject is
    faster. The reference is one of them, with 1."""
    failures: Mapping[str, str]
    """Why subjects, by their names, have no time."""


@dataclass(frozen=True, kw_only=True)
class Standings:
    """Several systems, and who is held against whom."""

    systems: tuple[Standing, ...]
    """One a system."""
    ours: tuple[str, ...]
    """The subjects to be judged."""
    against: str | None
    """What all are held against; None where that is the best rival of each system."""


def fair_speedup(subject: BenchmarkResult, reference: BenchmarkResult) -> Ratio | None:
    """How many times faster `subject` is than `reference` at the same work.

    None when they are one, were fed other shapes, answer otherwise, or either was not measured.
    """
    if subject.name == reference.name or not (alike(subject) and alike(reference)):
        return None
    if (subject.batch, subject.time_steps) != (reference.batch, reference.time_steps):
        return None
    return speedup(subject, reference)


def reference_groups(run: BenchmarkRun, references: Sequence[str]) -> Mapping[str, tuple[BenchmarkResult, ...]]:
    """References by what to call them: one model in several batches is one, and the same batch is held against it."""
    by_model: dict[str, list[BenchmarkResult]] = {}
    for name in references:
        by_model.setdefault(run[name].model or name, []).append(run[name])
    return {model if len(group) > 1 else group[0].name: tuple(group) for model, group in by_model.items()}


def speeds(run: BenchmarkRun, references: Sequence[str]) -> Mapping[str, Mapping[str, Ratio]]:
    """`fair_speedup` against each of `reference_groups`, by the subject's name; groups without any are left out.

    References are held against those before them alone: the other way round says the same.
    """
    found: dict[str, dict[str, Ratio]] = {}
    earlier: set[str] = set()
    for name, group in reference_groups(run, references).items():
        for result in run.results:
            ratio = next((ratio for other in group if (ratio := fair_speedup(result, other)) is not None), None)
            if ratio is not None and result.name not in earlier:
                found.setdefault(name, {})[result.name] = ratio
        earlier.update(result.name for result in group)
    return found


def standings(
    runs: Mapping[str, BenchmarkRun],
    *,
    against: str | None = None,
    ours: Sequence[str] | None = None,
    rivals: Sequence[str] | None = None,
) -> Standings:
    """How the subjects of each run (by the name of its system) stand.

    `against` is the subject that all are held against; None takes the best rival of each system, the one that the first
    of `ours` is ahead of by the least, or behind by the most, in the same rounds. `ours` are the subjects to be judged
    (None: all but the rivals), `rivals` those they are held against (None: all others, or without `ours` the runs'
    references).

    Raises WrongUsage when `against` or one of `ours` or `rivals` is in no run.
    """
    names = dict.fromkeys(result.name for run in runs.values() for result in run.results)
    for name in (*(ours or ()), *(rivals or ()), *([against] if against else ())):
        if name not in names:
            raise WrongUsage(f"no subject is named {name!r}; the runs have: {', '.join(names)}")
    if ours is None:
        held_against = {name for run in runs.values() for name in run.references} if rivals is None else rivals
        ours = [name for name in names if name not in held_against]
    if rivals is None:
        rivals = [name for name in names if name not in ours]
    systems = tuple(_standing(system, run, against, ours, rivals) for system, run in runs.items())
    return Standings(systems=systems, ours=tuple(ours), against=against)


def geometric_means(found: Sequence[Standing]) -> Mapping[str, float]:
    """The geometric mean of the speeds of those subjects that every system has a speed of."""
    everywhere = [name for name in found[0].speeds if all(name in other.speeds for other in found)] if found else []
    return {
        name: math.exp(math.fsum(math.log(standing.speeds[name].value) for standing in found) / len(found))
        for name in everywhere
    }


def _standing(
    system: str, run: BenchmarkRun, against: str | None, ours: Sequence[str], rivals: Sequence[str]
) -> Standing:
    wanted = [result for result in run.results if result.name in (*ours, *rivals, against)]
    failures = {result.name: result.error or "it was not measured" for result in wanted if not result.round_p50_ns}
    failures |= {result.name: str(result.answers) for result in wanted if result.round_p50_ns and not alike(result)}
    measured = [result for result in wanted if result.name not in failures]
    candidates = [result for result in measured if (result.name == against if against else result.name in rivals)]
    # Where none of ours was measured, the rivals are held against each other.
    judged = [result for name in ours for result in measured if result.name == name] or candidates
    leads = {rival.name: lead.value for rival in candidates if (lead := _lead(judged[0], rival)) is not None}
    if not leads:
        return Standing(system=system, reference=None, speeds={}, failures=failures)
    best = run[min(leads, key=leads.__getitem__)]
    speeds = {result.name: lead for result in measured if (lead := _lead(result, best)) is not None}
    return Standing(system=system, reference=best.name, speeds=speeds, failures=failures)


def _lead(subject: BenchmarkResult, reference: BenchmarkResult) -> Ratio | None:
    return Ratio(value=1.0, interval=None) if subject is reference else fair_speedup(subject, reference)
