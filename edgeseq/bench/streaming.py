"""Streams, measured: the latency of a step, how many streams a core keeps within a deadline, and the real-time factor.

A step of `Stream`, with its state carried, is held against the plain way to do the same: `session.run` with a dict of
inputs and states.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq.bench.capacity import MOST_STREAMS, Capacity, find_capacity
from edgeseq.bench.inputs import Arrays, made_inputs
from edgeseq.bench.record import BenchmarkRun, speedup
from edgeseq.bench.run import run_benchmark
from edgeseq.bench.sample import Progress, Settings
from edgeseq.bench.stats import Ratio
from edgeseq.bench.subjects import Subject, check_threads, file_sha256, model_size_bytes
from edgeseq.errors import WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import fewest_steps
from edgeseq.runtime.ranges import GivenRanges

PLAIN = "session.run"
"""How the reference's name ends."""


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

    Raises WrongUsage for files without states and numbers that mean nothing, DependentRows, InputMismatch for a chunk
    that a file does not take, and what opening raises.
    """
    for name, value in (("chunk", chunk), ("deadline_ns", deadline_ns), ("step_ns", step_ns), ("streams", max_streams)):
        if value is not None and value < 1:
            raise WrongUsage(f"{name} must be at least 1, not {value}")
    if not models:
        raise WrongUsage("there is nothing to measure: give at least one ONNX file")
    check_threads([threads])
    settings = settings or Settings()
    paths = [Path(model) for model in models]
    opened = [
        Model(path, provider=provider, provider_options=provider_options, ranges=ranges, threads=threads, batch=batch)
        for path in paths
    ]
    names = [path.name for path in paths]
    names = [name if names.count(name) == 1 else os.fspath(path) for name, path in zip(names, paths, strict=True)]
    steps = [chunk or fewest_steps(model.manifest) for model in opened]
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


def _subjects(
    name: str, model: Model, arrays: Arrays, batch: int, chunk: int, options: Mapping[str, str] | None
) -> list[Subject]:
    """The plain way, which is the reference, and a stream, both with the state carried from call to call."""
    fed = structure.nest(arrays, model.manifest.input_structure)
    stream = model.stream(batch=batch)
    # A chunk that the file does not take is an error before anything is measured.
    stream.step(fed)
    stream.reset()

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
