"""The record of a benchmark, in memory and as JSON.

`results.json` is `BenchmarkRun` with every field under its own name; `SCHEMA_VERSION` grows when a field changes its
meaning or goes away, and readers leave out fields that they do not know. Times are nanoseconds. Nothing is rounded, and
no percentile is given that has too few samples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseq import files
from edgeseq.bench.answers import COMPARED, NO_REFERENCE, REFERENCE
from edgeseq.bench.cold import ColdStart
from edgeseq.bench.energy import Energy
from edgeseq.bench.layers import LayerTime
from edgeseq.bench.lengths import LengthFacts
from edgeseq.bench.machine import Machine
from edgeseq.bench.noise import Disturbance, Stability
from edgeseq.bench.sample import ClockFacts, Settings, WarmUp
from edgeseq.bench.server import Served
from edgeseq.bench.stats import Interval, Ratio, paired_ratio
from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.runtime import document

SCHEMA = "edgeseq.benchmark"
SCHEMA_VERSION = 1

KERAS_PREDICT = "Keras predict"
"""Name of the subject that calls ``model.predict``."""
KERAS_EXPORT = "Keras export"
"""Name of the subject that runs what Keras itself exports."""
KERAS_SUBJECTS = (KERAS_PREDICT, KERAS_EXPORT)


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """One subject, measured."""

    name: str
    """Name of the subject, unique in its run."""
    provider: str
    """Where it ran: ``cpu``, ``cuda``, ``tensorrt``, or a rival's own name for it."""
    threads: int | None
    """Threads within an op; 0 means all cores, None that the subject's library decides."""
    batch: int
    """Rows of a call."""
    time_steps: int | None
    """Length of the time axis; None where the inputs have none."""
    inputs: str
    """Where the inputs came from: ``golden`` (samples beside the file), ``made`` (from the seed) or ``given``."""
    size_bytes: int | None
    """Size of the model on disk; None where it has no file."""
    file_sha256: str | None
    """SHA-256 of the file in hexadecimal; None where it has no file."""
    count: int
    """Number of timed calls."""
    p50_ns: int | None
    """Median time of a call; None with fewer than 11 calls."""
    p50_interval_ns: Interval | None
    """95 % interval of the median within this run; None with fewer than 6 rounds, or when rounds differ so much that
    there are too few to say. Files of before edgeseq told why timing ended have intervals that take calls as
    independent, and so are too narrow."""
    p90_ns: int | None
    """90th percentile; None with fewer than 64 calls."""
    p90_interval_ns: Interval | None
    """95 % interval of the 90th percentile."""
    p99_ns: int | None
    """99th percentile; None with fewer than 662 calls."""
    p99_interval_ns: Interval | None
    """95 % interval of the 99th percentile."""
    throughput_per_s: float | None
    """Rows a second, calls one after the other; None when nothing was timed."""
    warm_up: WarmUp | None
    """The calls before timing; None when the subject failed in them."""
    round_p50_ns: tuple[float, ...]
    """Median time of each round's calls: ratios and comparisons are taken from these."""
    distribution_ns: tuple[int, ...]
    """Percentiles 0 (the minimum) to 100 (the maximum), for drawing: its far ends may rest on a single call."""
    samples_ns: tuple[tuple[int, ...], ...] | None
    """Every timed call, round by round, in the order it happened; None unless asked for."""
    max_abs: float | None
    """Largest absolute difference of its answers from those of the run's first subject with its batch; None where
    `answers` says why."""
    answers: str
    """``reference``, ``compared``, or why they were not compared or are those of another model."""
    error: str | None
    """Why there is no measurement; None when there is one."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """What the provider was told."""
    ran_on: tuple[str, ...] = ()
    """onnxruntime's names of the providers that ran floating-point nodes, most nodes first; empty for rivals."""
    notes: tuple[str, ...] = ()
    """What a reader should know of it: what ran elsewhere, drift, outliers."""
    model: str = ""
    """What was measured, without batch and threads: results that share it are one model in several settings."""
    p999_ns: int | None = None
    """Percentile 99.9; None with fewer than 6,636 calls."""
    p999_interval_ns: Interval | None = None
    """95 % interval of percentile 99.9."""
    asked_ns: int | None = None
    """The percentile that the run's settings name; None with too few calls for it."""
    asked_interval_ns: Interval | None = None
    """Its 95 % interval."""
    lengths: LengthFacts | None = None
    """The lengths it was fed with, where they came from a file."""
    stability: Stability | None = None
    """Drift and outliers; None with fewer than 6 rounds."""
    energy: tuple[Energy, ...] = ()
    """One a counter; empty where the machine has none that may be read."""
    cold_start: ColdStart | None = None
    """Start and memory of fresh processes; None unless asked for."""
    layers: tuple[LayerTime, ...] = ()
    """Time by layer, the largest first; empty unless asked for."""
    server: Served | None = None
    """The server scenario; None in the others."""


@dataclass(frozen=True, kw_only=True)
class SubjectRatio:
    """How much faster one subject is than another, from the rounds they were both measured in."""

    name: str
    """The subject."""
    reference: str
    """The subject it is held against."""
    speedup: Ratio
    """Time of the reference / time of the subject: above 1, the subject is faster."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """Everything one run measured, and all that is needed to judge or repeat it."""

    results: tuple[BenchmarkResult, ...]
    """One a subject, in the order they were given."""
    ratios: tuple[SubjectRatio, ...]
    """Every other measured subject against the first of its batch; none where that has no measurement."""
    machine: Machine
    """The machine."""
    versions: Mapping[str, str]
    """Versions of Python and the packages that matter."""
    settings: Settings
    """How long was measured, and the seed."""
    clock: ClockFacts
    """Resolution and cost of the clock."""
    load_average: float | None
    """Processes running on the machine in the minute before, this one included; None where unknown."""
    started: str
    """When it began: date and time in UTC, ISO 8601."""
    scenario: str = "single"
    """``single`` (one call after the other, one row), ``batch`` (more rows), ``offline`` (all rows there at once:
    several batches and numbers of threads) or ``server`` (queries that arrive at random)."""
    stopped: str = ""
    """Why timing ended: ``precise`` (every interval narrow enough), ``limit`` (the time was up) or ``fixed`` (no
    precision was asked for); empty in files of before edgeseq told."""
    disturbance: Disturbance | None = None
    """What the machine did besides; None in files of before edgeseq told."""
    warnings: tuple[str, ...] = ()
    """What makes this run say less than it seems to, for people."""
    schema: str = SCHEMA
    """What kind of document this is."""
    schema_version: int = SCHEMA_VERSION
    """Version of its format."""

    @property
    def references(self) -> tuple[str, ...]:
        """What the others are held against, for each batch that several results have: Keras's own subjects where they
        were measured, else the first one. The first of all where every batch has one result."""
        names: list[str] = []
        for batch in dict.fromkeys(result.batch for result in self.results):
            alike = [result for result in self.results if result.batch == batch]
            if len(alike) > 1:
                names += [result.name for result in alike if is_keras(result)] or [alike[0].name]
        return tuple(names) or (self.results[0].name,)

    def reference_of(self, result: BenchmarkResult) -> BenchmarkResult:
        """The first result with the same batch, which answers and `ratios` are held against; it may be `result`."""
        return next(other for other in self.results if other.batch == result.batch)

    def __getitem__(self, name: str) -> BenchmarkResult:
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_json(self) -> str:
        """The run as one JSON document."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


def is_keras(result: BenchmarkResult) -> bool:
    """Whether it is one of Keras's own subjects, in any batch, rather than a file."""
    return (result.model or result.name) in KERAS_SUBJECTS


def alike(result: BenchmarkResult) -> bool:
    """Whether it may compute what the first subject of its batch computes: it was fed the same, and answered alike."""
    return result.answers in (REFERENCE, COMPARED, NO_REFERENCE)


def speedup(subject: BenchmarkResult, reference: BenchmarkResult) -> Ratio | None:
    """How many times faster `subject` is than `reference`, both of the same run.

    None when either was not measured, or is too short for the clock, and for calls of different batches, which do not
    do the same work.
    """
    if (
        subject.batch != reference.batch
        or not subject.round_p50_ns
        or not reference.round_p50_ns
        or 0.0 in (*subject.round_p50_ns, *reference.round_p50_ns)
    ):
        return None
    return paired_ratio(reference.round_p50_ns, subject.round_p50_ns)


def check_run_output(path: files.StrPath, *, overwrite: bool = False, sources: Iterable[files.StrPath] = ()) -> Path:
    """`path` as a place for `write_run`: as `files.check_output`, and WrongUsage unless it ends in .json."""
    target = files.check_output(path, overwrite=overwrite, sources=sources)
    if target.suffix != ".json":
        raise WrongUsage(f"results are written as .json; got {target.name}")
    return target


def write_run(run: BenchmarkRun, path: files.StrPath, *, overwrite: bool = False) -> None:
    """Write `run` to `path`, which ends in .json. Raises OutputExists, WrongUsage."""
    target = check_run_output(path, overwrite=overwrite)
    files.write_bytes(target, (run.to_json() + "\n").encode())


def read_run(path: files.StrPath) -> BenchmarkRun:
    """Read a run written by `write_run` or printed by `edgeseq bench --json`, whose comparison is left out.

    Raises MissingInput, or InvalidFile when it is something else or newer.
    """
    found = files.check_input(path, "benchmark results")
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (ValueError, IsADirectoryError) as error:
        raise InvalidFile(path, f"it is not JSON ({error})") from error
    return run_from_dict(content, path)


def run_from_dict(content: Any, path: files.StrPath = "results") -> BenchmarkRun:
    """The run that a JSON document (already parsed) holds; `path` is named in errors. Raises InvalidFile."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InvalidFile(path, "it holds no benchmark results of edgeseq; `edgeseq bench --output` writes them")
    version = content.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise InvalidFile(path, f"its results are damaged: a schema version is 1 or more, not {version!r}")
    if version > SCHEMA_VERSION:
        raise InvalidFile(
            path,
            f"its schema version is {version}; this edgeseq reads up to {SCHEMA_VERSION}. "
            "Upgrade with: pip install --upgrade edgeseq",
        )
    settings = content.get("settings")
    if isinstance(settings, dict) and "percentile" not in settings:
        # Before there was a precision, every run was as long as its settings said.
        content = content | {"settings": settings | {"precision": None}}
    try:
        run = document.read(BenchmarkRun, content)
    except ValueError as error:
        raise InvalidFile(path, f"its results are damaged: {error}") from error
    if not run.results:
        raise InvalidFile(path, "it holds no results")
    for result in run.results:
        times = (*result.round_p50_ns, *result.distribution_ns, result.p50_ns or 0, result.p90_ns or 0)
        if any(time < 0 for time in times) or (result.count > 0) != bool(result.round_p50_ns):
            raise InvalidFile(path, f"its results are damaged: the times of {result.name} cannot be")
    return run
