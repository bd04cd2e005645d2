"""The tables of a run as plain data: what was measured of each subject, throughput, layers, cold start, the server
scenario. The report writes them as HTML, the command line as text."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgeseq.bench.layers import OUTSIDE, PROFILED, LayerTime, outside_share
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, alike
from edgeseq.bench.server import RateTrial, Served
from edgeseq.bench.standings import Standings, speeds
from edgeseq.bench.stats import LEAST_ROUNDS, Interval, Ratio, least_count
from edgeseq.bench.sweeps import best_of, sweeps
from edgeseq.bench.units import duration, durations, energy, rate, ratios, significant, size, threads_text, times

_Percentiles = Mapping[str, tuple[int | None, Interval | None]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of a table."""

    value: str
    """As people read it; a dash where there is none."""
    note: str = ""
    """What belongs under it, such as its interval."""
    best: bool = False
    """Whether it is the one to look at."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    """What it is about."""
    cells: tuple[Cell, ...]
    """One a head; empty where `error` says why."""
    error: str = ""
    """Why there are no figures."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, its first column the names of the rows."""

    heads: tuple[str, ...]
    """Of the columns after the first."""
    rows: tuple[Row, ...]
    """In the order of the run."""
    notes: tuple[str, ...] = ()
    """Remarks under it."""


NOTHING = Cell(value="–")
_Column = tuple[str, Callable[[BenchmarkResult], Cell]]


def results_table(run: BenchmarkRun, references: Sequence[str]) -> Table:
    """Every subject; columns in which all are alike, or nothing was measured, are left out."""
    columns = _columns(run, references)
    rows = [
        Row(name=result.name, cells=tuple(write(result) for _, write in columns))
        if result.error is None
        else Row(name=result.name, cells=(), error=result.error)
        for result in run.results
    ]
    return Table(heads=tuple(head for head, _ in columns), rows=tuple(rows), notes=tuple(_remarks(run)))


def _columns(run: BenchmarkRun, references: Sequence[str]) -> list[_Column]:
    measured = [result for result in run.results if result.error is None]
    columns: list[_Column] = []
    if any(result.size_bytes is not None for result in measured):
        columns.append(("Size", lambda result: _size(result.size_bytes)))
    if len(run.results) > 1:
        columns.append(("Difference", _difference))
    found = {result.name: _percentiles(run, result) for result in measured}
    for name in _percentiles(run, run.results[0]):
        if any(percentiles[name][0] is not None for percentiles in found.values()):
            columns.append((name, partial(_percentile, name=name, found=found)))
    for name, group in speeds(run, references).items():
        shapes = {(run[other].batch, run[other].time_steps) for other in references}
        columns.append((f"Speed against {name}", partial(_speed, group=group, shapes=shapes)))
    if len({result.batch for result in measured}) > 1:
        if not all(f"batch {result.batch}" in result.name for result in measured):
            columns.append(("Batch", lambda result: Cell(value=str(result.batch))))
        columns.append(("Rows a second", lambda result: _rate(result.throughput_per_s)))
    if len({result.threads for result in measured}) > 1 and not all("thread" in result.name for result in measured):
        columns.append(("Threads", lambda result: Cell(value=threads_text(result.threads))))
    for counter in dict.fromkeys(read.counter for result in measured for read in result.energy):
        columns.append((f"Energy, {counter}", partial(_energy, counter=counter)))
    return columns


def _size(size_bytes: int | None) -> Cell:
    return NOTHING if size_bytes is None else Cell(value=size(size_bytes))


def _rate(per_s: float | None) -> Cell:
    return NOTHING if per_s is None else Cell(value=rate(per_s))


def _difference(result: BenchmarkResult) -> Cell:
    if result.max_abs is None:
        return Cell(value=result.answers)
    return Cell(value=significant(result.max_abs, 2), note="" if alike(result) else _unlike(result))


def _unlike(result: BenchmarkResult) -> str:
    return result.answers.split(":")[0]


def cautions(run: BenchmarkRun) -> tuple[str, ...]:
    """What a reader must know before the figures: the run's warnings, and whose speed is not that of the same model."""
    unlike = [result for result in run.results if result.error is None and not alike(result)]
    return (
        *run.warnings,
        *(f"{result.name}: {result.answers}; its speed is held against no other's" for result in unlike),
    )


def _percentiles(run: BenchmarkRun, result: BenchmarkResult) -> _Percentiles:
    """Percentiles and their intervals by name, the smallest first, the one that was asked for among them."""
    asked = run.settings.percentile
    found = {
        0.5: (result.p50_ns, result.p50_interval_ns),
        0.9: (result.p90_ns, result.p90_interval_ns),
        0.99: (result.p99_ns, result.p99_interval_ns),
        0.999: (result.p999_ns, result.p999_interval_ns),
    }
    found.setdefault(asked, (result.asked_ns, result.asked_interval_ns))
    return {f"p{p * 100:.6g}": found[p] for p in sorted(found)}


def _percentile(result: BenchmarkResult, name: str, found: Mapping[str, _Percentiles]) -> Cell:
    value, interval = found[result.name][name]
    if value is None:
        return Cell(value="–", note=f"needs {_least(name):,} calls, has {result.count:,}")
    if interval is None:
        few = len(result.round_p50_ns) < LEAST_ROUNDS
        return Cell(value=duration(value), note="too few rounds" if few else "rounds differ too much")
    return _time(value, interval)


def _time(value_ns: float, interval: Interval | None = None) -> Cell:
    return Cell(value=duration(value_ns), note=durations(interval.low, interval.high) if interval is not None else "")


def _least(name: str) -> int:
    return least_count(float(name.removeprefix("p")) / 100)


def _speed(result: BenchmarkResult, group: Mapping[str, Ratio], shapes: Container[tuple[int, int | None]]) -> Cell:
    if result.name in group:
        return _ratio(group[result.name])
    if not alike(result):
        return Cell(value="–", note=_unlike(result))
    return NOTHING if (result.batch, result.time_steps) in shapes else Cell(value="–", note="other input shape")


def _ratio(ratio: Ratio) -> Cell:
    if ratio.interval is None:
        return Cell(value=times(ratio.value), note="too few rounds")
    between = ratios(ratio.interval.low, ratio.interval.high)
    return Cell(value=times(ratio.value), note=between if ratio.differs else f"{between}, {ratio.verdict}")


def _energy(result: BenchmarkResult, counter: str) -> Cell:
    for read in result.energy:
        if read.counter == counter:
            return Cell(value=energy(read.microjoules_per_call), note=f"a call, at {significant(read.watts)} W")
    return NOTHING


def _remarks(run: BenchmarkRun) -> list[str]:
    """What no column says: which percentiles nobody had the calls for, and the subjects' own notes."""
    measured = [result for result in run.results if result.error is None and result.count]
    lacking = [
        f"{name} needs {_least(name):,} calls"
        for name in _percentiles(run, run.results[0])
        if measured
        and all(_percentiles(run, result)[name][0] is None for result in measured)
        # Of files from before the field there is nothing to say.
        and max(result.count for result in measured) < _least(name)
    ]
    said = []
    if lacking:
        most = max(result.count for result in measured)
        said.append(f"Not given: {', '.join(lacking)} of a subject; the most here is {most:,}.")
    return said + [f"{result.name}: {note}" for result in run.results for note in result.notes]


def throughput_table(run: BenchmarkRun) -> Table | None:
    """Rows a second of each model and number of threads, a column a batch; None where no batch varies."""
    found = sweeps(run)
    if not found:
        return None
    best = best_of(found)
    batches = sorted({batch for sweep in found for batch, _ in sweep.points})
    rows = []
    for sweep in found:
        rates = dict(sweep.points)
        cells = [
            NOTHING
            if batch not in rates
            else Cell(value=rate(rates[batch]), best=best == (sweep, (batch, rates[batch])))
            for batch in batches
        ]
        rows.append(Row(name=sweep.name, cells=tuple(cells)))
    return Table(heads=tuple(f"Batch {batch}" for batch in batches), rows=tuple(rows))


def layers_tables(run: BenchmarkRun) -> dict[str, Table]:
    """Time of every layer, a table for each profiled subject by its name."""
    return {result.name: _layers(result.layers) for result in run.results if result.layers}


def _layers(layers: Sequence[LayerTime]) -> Table:
    rows = [
        Row(
            name=layer.title,
            cells=(
                _time(layer.mean_ns),
                Cell(value=_share(layer.share)),
                Cell(value=", ".join(layer.op_types)),
                Cell(value=layer.provider.removesuffix("ExecutionProvider")),
            ),
        )
        for layer in layers
    ]
    outside = outside_share(layers)
    if outside > 0:
        rows.append(Row(name=OUTSIDE, cells=(NOTHING, Cell(value=_share(outside)), NOTHING, NOTHING)))
    return Table(heads=("Time", "Share", "Ops", "Provider"), rows=tuple(rows), notes=(PROFILED,))


def _share(share: float) -> str:
    return f"{significant(share * 100, 3)} %"


def cold_table(run: BenchmarkRun) -> Table | None:
    """Cold start and memory; None where it was not measured."""
    started = [(result, result.cold_start) for result in run.results if result.cold_start is not None]
    if not started:
        return None
    rows = [
        Row(
            name=result.name,
            cells=(
                _time(cold.total_ns, cold.total_interval_ns),
                *(_time(value) for value in (cold.import_ns, cold.open_ns, cold.first_run_ns)),
                *map(_size, (cold.imported_bytes, cold.opened_bytes, cold.steady_bytes, cold.peak_bytes)),
            ),
        )
        for result, cold in started
    ]
    calls = " or ".join(f"{number:,}" for number in sorted({cold.calls for _, cold in started}))
    counts = sorted({cold.processes for _, cold in started})
    said = f"Medians of {' or '.join(map(str, counts))} fresh processes of each; memory is steady after {calls} calls."
    memory = ("imported", "opened", "steady", "peak")
    heads = ("Whole", "Imports", "Open", "First call", *(f"Memory, {when}" for when in memory))
    return Table(heads=heads, rows=tuple(rows), notes=(said,))


def server_table(run: BenchmarkRun, *, every: bool = True) -> Table | None:
    """Every rate tried with every subject, or only those that answer what was asked; None outside of the scenario."""
    tried = [
        (result, trial)
        for result in run.results
        if result.server
        for trial in (result.server.all_trials if every else _answers(result.server))
    ]
    if not tried:
        return None
    with_deadline = any(trial.within_deadline is not None for _, trial in tried)
    rows = [
        Row(name=f"{result.name}, {rate(trial.rate_per_s)}", cells=_trial(trial, with_deadline))
        for result, trial in tried
    ]
    heads = ("Queries", "p50", "p90", "p99", "Busy", *(("In time", "Deadline") if with_deadline else ()))
    return Table(heads=heads, rows=tuple(rows))


def _answers(served: Served) -> tuple[RateTrial, ...]:
    """The rate that was asked for and the two sides of the edge; all rates where that was not found."""
    edge = (served.highest_rate_per_s, served.lowest_missed_per_s)
    if edge == (None, None):
        return served.all_trials
    return tuple(trial for trial in served.all_trials if trial == served.at_rate or trial.rate_per_s in edge)


def server_findings(run: BenchmarkRun) -> tuple[str, ...]:
    """What the search for the highest rate came to, a sentence or two a subject."""
    return tuple(
        f"{result.name} {' '.join(_finding(result.server, result.server.deadline_ns))}"
        for result in run.results
        if result.server is not None and result.server.deadline_ns is not None
    )


def _finding(served: Served, deadline_ns: int) -> list[str]:
    deadline, highest, missed = duration(deadline_ns), served.highest_rate_per_s, served.lowest_missed_per_s
    tried = {trial.rate_per_s: trial for trial in served.all_trials}
    if highest is None and served.searched == "hopeless" and not served.trials:
        alone = duration(served.service_ns)
        return [f"cannot keep p99 within {deadline}: a call alone takes {alone} in the median."]
    if highest is None:
        said = [f"kept p99 within {deadline} at no rate for sure."]
    else:
        said = [f"keeps p99 within {deadline} up to {significant(highest)} queries a second{_counted(tried, highest)}."]
    if missed is not None:
        overloaded = ", more than can be answered" if tried[missed].overloaded else ""
        said.append(f"It misses that at {significant(missed)}{_counted(tried, missed)}{overloaded}.")
    if served.searched == "limit":
        said.append("The time was up before both sides of the edge were sure: --max-seconds gives it more.")
    below = [trial for trial in served.all_trials if trial.met is False and trial.rate_per_s < (highest or 0.0)]
    if below:
        said.append("Lower rates missed it, too: " + _listed(below) + ".")
    disagreeing = [trial for trial in served.all_trials if trial.disagrees and trial not in below]
    if disagreeing:
        said.append("Tries of one rate disagree: " + _listed(disagreeing) + ".")
    return said


def _counted(tried: Mapping[float, RateTrial], per_s: float) -> str:
    """In how many tries a rate kept the deadline; nothing of files that do not tell."""
    return f" (kept in {_tries(tried[per_s])})" if per_s in tried and tried[per_s].tries_kept is not None else ""


def _listed(trials: Sequence[RateTrial]) -> str:
    return ", ".join(f"{rate(trial.rate_per_s)} (kept in {_tries(trial)})" for trial in trials)


def _tries(trial: RateTrial) -> str:
    return f"{trial.tries_kept} of {trial.tries} " + ("try" if trial.tries == 1 else "tries")


def _trial(trial: RateTrial, with_deadline: bool) -> tuple[Cell, ...]:
    cells = [Cell(value=f"{trial.queries:,}")]
    for name, value, between in (
        ("p50", trial.p50_ns, trial.p50_interval_ns),
        ("p90", trial.p90_ns, trial.p90_interval_ns),
        ("p99", trial.p99_ns, trial.p99_interval_ns),
    ):
        if value is not None:
            cells.append(_time(value, between))
        elif trial.queries < _least(name):
            cells.append(Cell(value="–", note=f"needs {_least(name):,} queries"))
        else:
            cells.append(Cell(value="–", note="not answered in time"))
    cells.append(Cell(value=_share(trial.busy), note="overloaded" if trial.overloaded and not with_deadline else ""))
    if with_deadline:
        share = NOTHING if trial.within_deadline is None else Cell(value=f"{trial.within_deadline:.2%}")
        unknown = "not known" if trial.tries_kept is None else "tries disagree"
        missed = "overloaded" if trial.overloaded else "missed"
        met = {None: unknown, True: "kept", False: missed}[trial.met]
        cells += [share, Cell(value=met, note="" if trial.tries_kept is None else f"kept in {_tries(trial)}")]
    return tuple(cells)


def standings_table(found: Standings) -> Table:
    """The best rival of each system, and those that are judged against it."""
    rows = []
    for standing in found.systems:
        against = [_ratio(standing.speeds[name]) if name in standing.speeds else NOTHING for name in found.ours]
        rows.append(Row(name=standing.system, cells=(Cell(value=standing.reference or "none was measured"), *against)))
    return Table(heads=("Held against" if found.against else "Best rival", *found.ours), rows=tuple(rows))


def failures(found: Standings) -> tuple[tuple[str, str, str], ...]:
    """Who could not be measured, where, and why."""
    where: dict[tuple[str, str], list[str]] = {}
    for standing in found.systems:
        for failure in standing.failures.items():
            where.setdefault(failure, []).append(standing.system)
    return tuple((name, ", ".join(systems), reason) for (name, reason), systems in sorted(where.items()))
