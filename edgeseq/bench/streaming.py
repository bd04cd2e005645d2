"""Streams, measured: the latency of a step, how many streams a core keeps within a deadline, and the real-time factor.

A step of `Stream`, with its state carried, is held against the plain way to do the same: `session.run` with a dict of
inputs and states. How many streams fit is found with a pool: all of them take one step in a bulk call, again and again,
and 99 % of these calls must end within the deadline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq.bench import stats
from edgeseq.bench.inputs import Arrays, made_inputs
from edgeseq.bench.record import BenchmarkRun, speedup
from edgeseq.bench.run import run_benchmark
from edgeseq.bench.sample import Clock, Progress, Settings, sample
from edgeseq.bench.stats import Interval, Ratio, least_count
from edgeseq.bench.subjects import Subject, file_sha256, model_size_bytes
from edgeseq.errors import WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import time_axes
from edgeseq.runtime.ranges import GivenRanges

PLAIN = "session.run"
"""How the reference's name ends."""
MOST_STREAMS = 16_384

_PERCENTILE = 0.99
_LEAST_CALLS = least_count(_PERCENTILE)
_NEAR_ENOUGH = 1.05
_LOOK_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class StreamsTrial:
    """One number of streams, tried."""

    streams: int
    """How many took a step in each bulk call."""
    calls: int
    """Timed bulk calls."""
    p50_ns: int
    """Median time of a bulk call, in nanoseconds."""
    p99_ns: int | None
    """99th percentile; None with fewer than 662 calls: the first few were too slow, or the time was up."""
    p99_interval_ns: Interval | None
    """95 % interval of it."""
    met: bool | None
    """Whether 99 % of the calls kept the deadline; None where the time was up before enough of them."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many streams keep a deadline."""

    deadline_ns: int
    """Time within which all streams must be answered, in nanoseconds."""
    max_batch: int
    """Most rows of a run of the model."""
    streams: int
    """The most streams tried that kept it; 0 when a single one did not."""
    per_core: float
    """`streams` over the threads they were computed with."""
    trials: tuple[StreamsTrial, ...]
    """Every number tried, in that order."""
    searched: str
    """How the search ended: ``found`` (some 5 % more streams did not keep it), ``most`` (more were not tried), or
    ``limit`` (the time was up)."""


@dataclass(frozen=True, kw_only=True)
class StreamFigures:
    """What a file does as a stream, beside the latency of a step."""

    name: str
    """Name of its result in the run, whose p50 and p99 are those of one step."""
    chunk: int
    """Time steps of one call."""
    speedup: Ratio | None
    """Time of the same step by `session.run` with a dict / time of this one: above 1, the stream is faster."""
    step_ns: int | None
    """The time that one time step stands for in the world, in nanoseconds; None when it was not told."""
    real_time_factor: float | None
    """Median time of a call over the time that its chunk stands for: below 1, one stream keeps up; None without
    `step_ns`."""
    capacity: Capacity | None
    """Streams within the deadline; None without one."""


@dataclass(frozen=True, kw_only=True)
class StreamRun(BenchmarkRun):
    """A run of streams: what `edgeseq bench --stream` prints and writes."""

    streams: tuple[StreamFigures, ...]
    """One a file, in the order given; none for a file that failed."""


def benchmark_streams(
    models: Sequence[StrPath],
    *,
    chunk: int | None = None,
    batch: int = 1,
    deadline_ns: int | None = None,
    step_ns: int | None = None,
    max_streams: int = MOST_STREAMS,
    max_seconds: float = 60.0,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int = 1,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> StreamRun:
    """Measure the streaming files `models`: steps of `chunk` (None: the fewest that the file takes) and `batch` rows.

    With `deadline_ns` the most streams are searched, up to `max_streams` and for `max_seconds` a file, that keep it;
    with `step_ns`, which one time step stands for, the deadline is at most what a chunk stands for, and that where none
    is given: streams that take longer fall behind. Inputs are made from the settings' seed.

    Raises WrongUsage for files without states and numbers that mean nothing, DependentRows, and what opening raises.
    """
    for name, value in (("chunk", chunk), ("deadline_ns", deadline_ns), ("step_ns", step_ns), ("streams", max_streams)):
        if value is not None and value < 1:
            raise WrongUsage(f"{name} must be at least 1, not {value}")
    if not models:
        raise WrongUsage("there is nothing to measure: give at least one ONNX file")
    settings = settings or Settings()
    paths = [Path(model) for model in models]
    opened = [
        Model(path, provider=provider, provider_options=provider_options, ranges=ranges, threads=threads, batch=batch)
        for path in paths
    ]
    names = [path.name for path in paths]
    names = [name if names.count(name) == 1 else os.fspath(path) for name, path in zip(names, paths, strict=True)]
    steps = [chunk or _fewest(model) for model in opened]
    random = np.random.default_rng(settings.seed)
    subjects = []
    for name, model, length in zip(names, opened, steps, strict=True):
        arrays = made_inputs(model.manifest, batch=batch, time_steps=length, random=random).arrays
        subjects += _subjects(name, model, arrays, batch, length, provider_options)
    run = run_benchmark(subjects, settings=settings, progress=progress)
    figures = []
    for name, model, length in zip(names, opened, steps, strict=True):
        result = run[name]
        if result.error is not None:
            continue
        stands_for = None if step_ns is None else length * step_ns
        within = min((value for value in (deadline_ns, stands_for) if value is not None), default=None)
        figures.append(
            StreamFigures(
                name=name,
                chunk=length,
                speedup=speedup(result, run[f"{name}, {PLAIN}"]),
                step_ns=step_ns,
                real_time_factor=None if stands_for is None or result.p50_ns is None else result.p50_ns / stands_for,
                capacity=None
                if within is None
                else find_capacity(
                    model,
                    within,
                    chunk=length,
                    most=max_streams,
                    max_seconds=max_seconds,
                    seed=settings.seed,
                    progress=progress,
                ),
            )
        )
    return StreamRun(**{item.name: getattr(run, item.name) for item in fields(run)}, streams=tuple(figures))


def _fewest(model: Model) -> int:
    """Fewest steps of a chunk."""
    along = time_axes(model.inputs)
    lengths = [spec.axes[along[spec.name]] for spec in model.inputs if spec.name in along]
    return next((length for length in lengths if isinstance(length, int)), model.manifest.chunk_multiple)


def _subjects(
    name: str, model: Model, arrays: Arrays, batch: int, chunk: int, options: Mapping[str, str] | None
) -> list[Subject]:
    """The plain way, which is the reference, and a stream, both with the state carried from call to call."""
    fed = structure.nest(arrays, model.manifest.input_structure)
    stream = model.stream(batch=batch)

    def subject(called: str, call: Callable[[], object]) -> Subject:
        return Subject(
            name=called,
            call=call,
            fed=fed,
            path=model.path,
            provider=model.provider,
            provider_options=dict(options or {}),
            threads=model.threads,
            batch=batch,
            time_steps=chunk,
            inputs="made",
            size_bytes=model_size_bytes(model.path),
            file_sha256=file_sha256(model.path),
            ran_on=lambda: model.placement.ran_on if model.placement else (),
        )

    return [subject(f"{name}, {PLAIN}", plain_steps(model, arrays)), subject(name, lambda: stream.step(fed))]


def plain_steps(model: Model, arrays: Arrays) -> Callable[[], list[Any]]:
    """A call that runs onnxruntime's session on a dict of `arrays` and states, and keeps the states for the next."""
    specs = model.manifest.states
    names = [spec.name for spec in model.outputs] + [spec.output for spec in specs]
    count = len(model.outputs)
    lengths = {
        axis: arrays[spec.name].shape[place]
        for spec in model.inputs
        for place, axis in enumerate(spec.axes)
        if isinstance(axis, str)
    }
    states = model.initial_states(lengths)
    session = model.session

    def step() -> list[Any]:
        nonlocal states
        results: list[Any] = session.run(names, {**arrays, **states})
        states = {spec.input: result for spec, result in zip(specs, results[count:], strict=True)}
        return results[:count]

    return step


def bulk_steps(model: Model, count: int, *, chunk: int, seed: int = 0) -> Callable[[], object]:
    """A call in which each of `count` streams of a pool takes one step."""
    pool = model.pool(max_streams=count)
    random = np.random.default_rng(seed)
    chunks = {}
    for _ in range(count):
        arrays = made_inputs(model.manifest, batch=1, time_steps=chunk, random=random).arrays
        chunks[pool.open()] = structure.nest(arrays, model.manifest.input_structure)
    return lambda: pool.step(chunks)


def find_capacity(
    model: Model,
    deadline_ns: int,
    *,
    chunk: int = 1,
    most: int = MOST_STREAMS,
    max_seconds: float = 60.0,
    seed: int = 0,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """The most streams of a pool whose bulk step stays within `deadline_ns` in 99 % of calls: doubled, then bisected.

    `clock` None is the sampling's own. Raises DependentRows and WrongUsage as `Model.pool` does.
    """

    def try_streams(count: int, seconds: float) -> StreamsTrial:
        if progress:
            progress("streams", count, most)
        return _trial(bulk_steps(model, count, chunk=chunk, seed=seed), count, deadline_ns, seconds, clock)

    trials, searched = search(try_streams, most=most, max_seconds=max_seconds)
    kept = max((trial.streams for trial in trials if trial.met), default=0)
    with model.pool() as pool:
        max_batch = pool.max_batch
    return Capacity(
        deadline_ns=deadline_ns,
        max_batch=max_batch,
        streams=kept,
        per_core=kept / (model.threads or os.cpu_count() or 1),
        trials=trials,
        searched=searched,
    )


def search(
    try_streams: Callable[[int, float], StreamsTrial], *, most: int, max_seconds: float
) -> tuple[tuple[StreamsTrial, ...], str]:
    """The trials of the search for the highest number that meets, and how it ended, as in `Capacity`.

    `try_streams` gets the number and the seconds left. Time is counted by what the trials measured.
    """
    trials: list[StreamsTrial] = []
    low, high = 0, most + 1
    left_ns = max_seconds * 1e9
    while high - low > 1 and (low == 0 or high > low * _NEAR_ENOUGH):
        # Doubled up to the first that does not meet, then between the two.
        count = min(max(1, 2 * low), most) if high > most else (low + high) // 2
        trial = try_streams(count, left_ns / 1e9)
        trials.append(trial)
        left_ns -= trial.calls * trial.p50_ns
        if trial.met is None or left_ns <= 0:
            return tuple(trials), "limit"
        if trial.met:
            low = count
        else:
            high = count
    return tuple(trials), "most" if low == most else "found"


def _trial(
    call: Callable[[], object], count: int, deadline_ns: int, seconds: float, clock: Clock | None
) -> StreamsTrial:
    clocks: dict[str, Any] = {} if clock is None else {"clock": clock}
    call()
    look = Settings(min_runs=_LOOK_CALLS, min_seconds=0, rounds=1, precision=None, warm_up_max_seconds=0)
    full = Settings(
        min_runs=_LEAST_CALLS,
        min_seconds=0,
        max_seconds=max(seconds, 1e-3),
        precision=None,
        warm_up_max_seconds=min(0.2, seconds),
    )
    rounds = _rounds(call, look, clocks)
    # When even the quickest of a few is too slow, no 99 % of many are quick enough.
    hopeless = min(rounds[0]) > deadline_ns
    rounds = rounds if hopeless else _rounds(call, full, clocks)
    times = [time_ns for block in rounds for time_ns in block]
    p99 = stats.percentile_if_enough(times, _PERCENTILE)
    found = None if p99 is None else stats.clustered_interval(rounds, _PERCENTILE)
    return StreamsTrial(
        streams=count,
        calls=len(times),
        p50_ns=stats.percentile(times, 0.5),
        p99_ns=p99,
        p99_interval_ns=None if found is None else found.interval,
        met=False if hopeless else None if p99 is None else p99 <= deadline_ns,
    )


def _rounds(call: Callable[[], object], settings: Settings, clocks: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    [found] = sample([call], settings, **clocks).subjects
    if found.error is not None:
        raise found.error
    return found.rounds
