"""How a run was measured, for its report: conditions in a sentence, and everything in a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeseq.bench.lengths import LengthFacts
from edgeseq.bench.machine import Machine
from edgeseq.bench.noise import Disturbance
from edgeseq.bench.record import BenchmarkRun
from edgeseq.bench.sample import Settings
from edgeseq.bench.units import binary_size, duration, plural, significant, threads_text

_SCENARIOS = {
    "single": "one call after the other",
    "batch": "calls of several rows, one after the other",
    "offline": "all rows there at once",
    "server": "queries that arrive at random",
}
_UNDER_LOAD = (
    "a rate is sure to keep the deadline when p99 was within it, and the load at most 1, in 6 tries of 6 or 8 of 9, "
    "each with other arrivals, and sure to miss it alike (by chance 1 time in 20 where half of its tries keep it); "
    "percentiles are the median of the tries, and have their 95 % interval, from try to try, with 6 tries or more"
)
_STOPPED = {
    "precise": "every interval was narrow enough",
    "limit": "the time was up before every interval was narrow enough",
    "fixed": "as many rounds as were asked for",
}


def conditions(run: BenchmarkRun) -> str:
    """What the subjects have in common: scenario, batch, time steps, threads, lengths."""
    measured = [result for result in run.results if result.error is None] or list(run.results)
    batches = sorted({result.batch for result in measured})
    steps = sorted({result.time_steps for result in measured if result.time_steps is not None})
    said = [f"Batch {_and(batches)}"]
    if steps:
        said.append(f"{_and(steps)} time step" + ("" if steps == [1] else "s"))
    threads = {result.threads for result in measured}
    if len(threads) == 1 and threads != {None}:
        said.append(threads_text(*threads))
    if run.scenario != "single":
        said.append(_SCENARIOS.get(run.scenario, run.scenario))
    sources = {result.inputs for result in measured}
    if len(sources) == 1:
        said.append(f"inputs {sources.pop()}")
    else:
        said += [
            f"{result.name} {result.inputs}"
            + ("" if result.time_steps is None else f" with {plural(result.time_steps, 'time step')}")
            for result in measured
        ]
    lengths = dict.fromkeys(result.lengths for result in measured if result.lengths is not None)
    return ", ".join(said) + "." + "".join(" " + _lengths(facts) for facts in lengths)


def _and(values: Iterable[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _lengths(facts: LengthFacts) -> str:
    return (
        f"Lengths of {facts.source}: {facts.shortest} to {facts.longest} steps, median {facts.median}, "
        f"{plural(facts.inputs, 'input')} in turn, {facts.density:.1%} of their steps valid."
    )


def method(run: BenchmarkRun) -> list[tuple[str, str]]:
    """Names and texts of all that is needed to judge or repeat `run`."""
    settings, machine = run.settings, run.machine
    measured = [result for result in run.results if result.error is None]
    lengths = dict.fromkeys(result.lengths for result in measured if result.lengths is not None)
    rows = [
        ("Scenario", f"{run.scenario}: {_SCENARIOS.get(run.scenario, 'unknown to this edgeseq')}"),
        ("Order", f"rounds of all subjects in random order, at least {settings.rounds}, seed {settings.seed}"),
        ("Least", f"{settings.min_runs} calls and {settings.min_seconds:g} s of each, in {settings.max_seconds:g} s"),
        ("Precision", _precision(settings)),
        ("Ended", _STOPPED.get(run.stopped, run.stopped)),
        ("Timed calls", _each((result.name, f"{result.count:,}") for result in measured)),
        (
            "Warm-up",
            _each(
                (result.name, duration(result.warm_up.ns) + ("" if result.warm_up.stable else " (never stable)"))
                for result in run.results
                if result.warm_up is not None
            ),
        ),
        (
            "Steadiness",
            _each(
                (
                    result.name,
                    f"drift {result.stability.drift:+.1%}"
                    + ("" if result.stability.drift_is_certain else " (may be chance)")
                    + f", {plural(result.stability.outliers, 'outlier')}",
                )
                for result in measured
                if result.stability is not None
            ),
        ),
        ("Intervals", "95 %, from order statistics; speeds from the medians of the rounds, pair by pair"),
        ("Under load", _UNDER_LOAD if run.scenario == "server" else ""),
        ("Difference", "largest absolute difference from the answers of the first subject of the same batch"),
        ("Inputs", _each((result.name, result.inputs) for result in run.results)),
        ("Lengths", "; ".join(f"{facts.source}, SHA-256 {facts.sha256}, {facts.sequences:,}" for facts in lengths)),
        ("Files", _each((r.name, f"SHA-256 {r.file_sha256}") for r in run.results if r.file_sha256 is not None)),
        ("Provider options", _each((r.name, _options(r.provider_options)) for r in run.results if r.provider_options)),
        ("Clock", f"resolution {duration(run.clock.resolution_ns)}, {duration(run.clock.overhead_ns)} a reading"),
        ("Load before", "unknown" if run.load_average is None else significant(run.load_average, 2)),
        ("Disturbance", _disturbance(run.disturbance) if run.disturbance is not None else ""),
        *_machine(machine),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("Started", run.started),
    ]
    return [(name, text) for name, text in rows if text]


def _each(pairs: Iterable[tuple[str, str]]) -> str:
    """Texts of subjects; where all say the same, once."""
    found = list(pairs)
    if len(found) > 1 and len({text for _, text in found}) == 1:
        return f"{found[0][1]} (all)"
    return "; ".join(f"{name} {text}" for name, text in found)


def _options(options: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _precision(settings: Settings) -> str:
    if settings.precision is None:
        return ""
    return (
        f"until the 95 % interval of p{settings.percentile * 100:g} is at most {settings.precision * 100:g} % wide, "
        "for every subject"
    )


def _disturbance(found: Disturbance) -> str:
    said = []
    if found.probe_ns:
        low, high = min(found.probe_ns), max(found.probe_ns)
        said.append(f"the same arithmetic took {duration(low)} to {duration(high)}")
    if found.other_cores is not None:
        said.append(f"other processes kept {significant(found.other_cores, 2)} cores busy")
    if found.stolen_share is not None:
        said.append(f"the host took {found.stolen_share:.1%} of the time")
    if found.involuntary_switches is not None:
        said.append(f"interrupted {found.involuntary_switches:,} times")
    return "; ".join(said)


def _machine(machine: Machine) -> list[tuple[str, str]]:
    limit = "" if machine.cpu_limit is None else f", limited to the time of {significant(machine.cpu_limit)}"
    return [
        ("Processor", f"{machine.cpu_model}, {plural(machine.cores, 'core')}{limit}"),
        ("Features", ", ".join(machine.cpu_features) or "unknown"),
        ("Caches", ", ".join(f"{name} {binary_size(count)}" for name, count in machine.caches.items())),
        ("Clock rate", machine.cpu_governor or ""),
        ("Memory", "" if machine.memory_bytes is None else binary_size(machine.memory_bytes)),
        ("GPUs", "; ".join(machine.gpus)),
        ("System", machine.system),
    ]
