"""The tables of a run as plain data: what was measured of each subject, throughput, layers, cold start, the server
scenario. The report writes them as HTML, the command line as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgeseq.bench.layers import OUTSIDE, LayerTime, outside_share
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.server import RateTrial, Served
from edgeseq.bench.standings import Standings, reference_groups, speed_in_group
from edgeseq.bench.stats import Interval, Ratio, least_count
from edgeseq.bench.sweeps import best_of, sweeps
from edgeseq.bench.units import duration, durations, energy, rate, significant, size, threads_text, times

_PERCENTILES = ("p50", "p90", "p99", "p99.9")


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
    for name in _PERCENTILES:
        if any(_percentile_of(result, name)[0] is not None for result in measured):
            columns.append((name, partial(_percentile, name=name)))
    for name, group in reference_groups(run, references).items():
        if any(speed_in_group(result, group) is not None for result in measured):
            columns.append((f"Speed against {name}", partial(_speed, group=group)))
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
    return Cell(value=result.answers if result.max_abs is None else significant(result.max_abs, 2))


def _percentile_of(result: BenchmarkResult, name: str) -> tuple[int | None, Interval | None]:
    return {
        "p50": (result.p50_ns, result.p50_interval_ns),
        "p90": (result.p90_ns, result.p90_interval_ns),
        "p99": (result.p99_ns, result.p99_interval_ns),
        "p99.9": (result.p999_ns, result.p999_interval_ns),
    }[name]


def _percentile(result: BenchmarkResult, name: str) -> Cell:
    value, interval = _percentile_of(result, name)
    if value is None:
        return Cell(value="–", note=f"needs {_least(name):,} calls, has {result.count:,}")
    return _time(value, interval)


def _time(value_ns: float, interval: Interval | None = None) -> Cell:
    return Cell(value=duration(value_ns), note=durations(interval.low, interval.high) if interval is not None else "")


def _least(name: str) -> int:
    return least_count(float(name.removeprefix("p")) / 100)


def _speed(result: BenchmarkResult, group: Sequence[BenchmarkResult]) -> Cell:
    ratio = speed_in_group(result, group)
    if ratio is not None:
        return _ratio(ratio)
    shape = (result.batch, result.time_steps)
    alike = any((other.batch, other.time_steps) == shape for other in group)
    return Cell(value="–", note="" if alike else "other input shape")


def _ratio(ratio: Ratio) -> Cell:
    if ratio.interval is None:
        note = "too few rounds"
    elif not ratio.differs:
        note = "no difference"
    else:
        note = f"{significant(ratio.interval.low)} to {significant(ratio.interval.high)}"
    return Cell(value=times(ratio.value), note=note)


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
        for name in _PERCENTILES
        if measured
        and all(_percentile_of(result, name)[0] is None for result in measured)
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
    return Table(heads=("Time", "Share", "Ops", "Provider"), rows=tuple(rows))


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


def server_table(run: BenchmarkRun) -> Table | None:
    """Every rate tried with every subject; None outside of the server scenario."""
    tried = [(result, trial) for result in run.results if result.server for trial in result.server.all_trials]
    if not tried:
        return None
    with_deadline = any(trial.within_deadline is not None for _, trial in tried)
    rows = [
        Row(name=f"{result.name}, {rate(trial.rate_per_s)}", cells=_trial(trial, with_deadline))
        for result, trial in tried
    ]
    heads = ("Queries", "p50", "p90", "p99", "Busy", *(("In time", "Deadline") if with_deadline else ()))
    return Table(heads=heads, rows=tuple(rows))


def server_findings(run: BenchmarkRun) -> tuple[str, ...]:
    """What the search for the highest rate came to, a sentence a subject."""
    return tuple(
        f"{result.name} {_finding(result.server, result.server.deadline_ns)}"
        for result in run.results
        if result.server is not None and result.server.deadline_ns is not None
    )


def _finding(served: Served, deadline_ns: int) -> str:
    deadline, highest = duration(deadline_ns), served.highest_rate_per_s
    if highest is not None:
        return f"keeps p99 within {deadline} up to {rate(highest)} queries."
    if served.service_ns > deadline_ns:
        return f"cannot keep p99 within {deadline}: a call alone takes {duration(served.service_ns)} in the median."
    return f"kept p99 within {deadline} at no rate that was tried."


def _trial(trial: RateTrial, with_deadline: bool) -> tuple[Cell, ...]:
    cells = [Cell(value=f"{trial.queries:,}")]
    for name, value in (("p50", trial.p50_ns), ("p90", trial.p90_ns), ("p99", trial.p99_ns)):
        if value is not None:
            cells.append(_time(value, trial.p50_interval_ns if name == "p50" else None))
        elif trial.queries < _least(name):
            cells.append(Cell(value="–", note=f"needs {_least(name):,} queries"))
        else:
            cells.append(Cell(value="–", note="not answered in time"))
    cells.append(Cell(value=_share(trial.busy)))
    if with_deadline:
        share = NOTHING if trial.within_deadline is None else Cell(value=f"{trial.within_deadline:.2%}")
        cells += [share, Cell(value={None: "not known", True: "kept", False: "missed"}[trial.met])]
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
