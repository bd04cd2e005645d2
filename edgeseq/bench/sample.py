"""Sampling: call subjects again and again and keep how long each call took, in nanoseconds.

Subjects are interleaved round by round in a random order, so that a drift of the machine hits all of them. In its turn
a subject first gets one call that is not timed (the caches hold the last subject's data), then its block of timed
calls. Blocks are sized so that after all rounds every subject has both its least number of calls and its least time.
The clock is a parameter: tests count instead of waiting.
"""

from __future__ import annotations

import contextlib
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeseq.bench.stats import least_count
from edgeseq.errors import WrongUsage

Clock = Callable[[], int]
"""A monotonic clock in nanoseconds."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much is done and how much there is."""

_WARM_UP_WINDOW_NS = 20_000_000
_WARM_UP_WINDOW_CALLS = 5
_WARM_UP_TOLERANCE = 0.05
_WARM_UP_AGREEING = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to measure. Recorded with every run."""

    min_runs: int = least_count(0.9)
    """Least number of timed calls of each subject; the default is what p90 needs."""
    min_seconds: float = 1.0
    """Least time of all timed calls of each subject, in seconds."""
    max_seconds: float = 120.0
    """No new round begins after this time, warm-up apart, in seconds; turns that are due then are one call long."""
    rounds: int = 20
    """Into how many rounds the calls are divided; ratios between subjects are taken round by round."""
    warm_up_max_seconds: float = 2.0
    """A warm-up ends here even when the times have not become stable, in seconds."""
    seed: int = 0
    """Seed of the order of the subjects and of made inputs."""

    def __post_init__(self) -> None:
        for name in ("min_runs", "rounds"):
            if getattr(self, name) < 1:
                raise WrongUsage(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_seconds", "max_seconds", "warm_up_max_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise WrongUsage(f"{name} must be a number of seconds from 0 on, not {getattr(self, name)}")
        if self.max_seconds == 0:
            raise WrongUsage("max_seconds must be above 0: no round fits into no time")


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """What the clock itself can tell."""

    resolution_ns: int
    """Smallest step between two readings, in nanoseconds."""
    overhead_ns: int
    """Median time between two readings one after the other: part of every sample, in nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The untimed calls before the first sample."""

    ns: int
    """How long they took, in nanoseconds."""
    runs: int
    """How many they were."""
    stable: bool
    """Whether the median of a window of calls stopped moving; False when the limit came first."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was sampled of one subject."""

    warm_up: WarmUp | None
    """None when the subject failed in it."""
    rounds: tuple[tuple[int, ...], ...]
    """For each round, the time of each of its calls in nanoseconds."""
    error: Exception | None
    """What the subject raised, if it did; it was not called again after that."""


def measure_clock(clock: Clock = time.perf_counter_ns, *, readings: int = 1000) -> ClockFacts:
    """Measure the clock's resolution and the cost of reading it."""
    steps: list[int] = []
    last = clock()
    # A coarse clock shows no step for a while: go on until one was seen.
    while len(steps) < readings or not any(steps):
        if len(steps) > 10_000_000:
            raise WrongUsage("the clock does not advance")
        now = clock()
        steps.append(now - last)
        last = now
    return ClockFacts(
        resolution_ns=min(step for step in steps if step > 0), overhead_ns=int(statistics.median_low(steps))
    )


def warm_up(call: Callable[[], object], *, max_ns: int, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the median of a window of calls moves by at most 5 % twice in a row, or until `max_ns`.

    A window is at least 5 calls and 20 ms.
    """
    started = clock()
    runs, agreeing, previous = 0, 0, None
    while True:
        times = _block(call, _WARM_UP_WINDOW_CALLS, _WARM_UP_WINDOW_NS, started + max_ns, clock)
        runs += len(times)
        median = statistics.median(times)
        moved_little = previous is not None and abs(median - previous) <= _WARM_UP_TOLERANCE * previous
        agreeing = agreeing + 1 if moved_little else 0
        elapsed = clock() - started
        if agreeing >= _WARM_UP_AGREEING or elapsed >= max_ns:
            return WarmUp(ns=elapsed, runs=runs, stable=agreeing >= _WARM_UP_AGREEING)
        previous = median


def interleave(
    calls: Sequence[Callable[[], object]],
    settings: Settings,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> tuple[Samples, ...]:
    """Warm up every call, then time them round by round in random order. One result a call, in the order given."""
    errors: dict[int, Exception] = {}
    warm_ups: dict[int, WarmUp] = {}
    rounds: list[list[tuple[int, ...]]] = [[] for _ in calls]
    for index, call in enumerate(calls):
        if progress:
            progress("warm-up", index, len(calls))
        try:
            warm_ups[index] = warm_up(call, max_ns=round(settings.warm_up_max_seconds * 1e9), clock=clock)
        except Exception as error:  # noqa: BLE001 - a subject that fails gets its error as its result
            errors[index] = error

    order = random.Random(settings.seed)
    block_runs = -(-settings.min_runs // settings.rounds)
    block_ns = -(-round(settings.min_seconds * 1e9) // settings.rounds)
    deadline = clock() + round(settings.max_seconds * 1e9)
    for number in range(settings.rounds):
        if number and clock() >= deadline:
            break
        if progress:
            progress("measure", number, settings.rounds)
        for index in order.sample(range(len(calls)), len(calls)):
            if index in errors:
                continue
            try:
                calls[index]()
                rounds[index].append(_block(calls[index], block_runs, block_ns, deadline, clock))
            except Exception as error:  # noqa: BLE001 - as above; the other subjects go on
                errors[index] = error
    if progress:
        progress("measure", settings.rounds, settings.rounds)
    return tuple(
        Samples(warm_up=warm_ups.get(index), rounds=tuple(rounds[index]), error=errors.get(index))
        for index in range(len(calls))
    )


def _block(call: Callable[[], object], least_runs: int, least_ns: int, deadline: int, clock: Clock) -> tuple[int, ...]:
    """Times of consecutive calls until there are `least_runs` and they took `least_ns`, or `deadline` has passed."""
    times: list[int] = []
    total = 0
    with _no_garbage_collection():
        while len(times) < least_runs or total < least_ns:
            start = clock()
            call()
            end = clock()
            times.append(end - start)
            total += end - start
            if end >= deadline:
                break
    return tuple(times)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep one subject's garbage from being collected in another's time; what it left is collected here, after it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect(1)
