"""How many streams of one model keep a deadline.

All streams of a pool take one step in a bulk call, again and again, and 99 % of these calls must end within the
deadline.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.bench import stats
from edgeseq.bench.inputs import made_inputs
from edgeseq.bench.sample import Clock, Progress, Settings, sample
from edgeseq.bench.stats import Interval, least_count
from edgeseq.runtime import Model, structure
from edgeseq.runtime.pool import Pool

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


def bulk_steps(model: Model, pool: Pool, *, chunk: int, seed: int = 0) -> Callable[[], object]:
    """A call in which each stream of a `pool` of `model` takes one step; they are opened here, as many as it holds."""
    random = np.random.default_rng(seed)
    chunks = {}
    for _ in range(pool.max_streams):
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
    max_batch = 0

    def try_streams(count: int, seconds: float) -> StreamsTrial:
        nonlocal max_batch
        if progress:
            progress("streams", count, most)
        with model.pool(max_streams=count) as pool:
            max_batch = pool.max_batch
            return _trial(bulk_steps(model, pool, chunk=chunk, seed=seed), count, deadline_ns, seconds, clock)

    trials, searched = search(try_streams, most=most, max_seconds=max_seconds)
    kept = max((trial.streams for trial in trials if trial.met), default=0)
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
