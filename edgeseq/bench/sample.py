"""Sampling: call subjects again and again and keep how long each call took, in nanoseconds.

Subjects are interleaved round by round in a random order, so that a drift of the machine hits all of them. In its turn
a subject first gets a call that is not timed (the caches hold the last subject's data), or as many as fit into the time
that the last subject's threads need to come to rest (`SETTLE_NS`), then its block of timed calls. Blocks are sized so
that after the least number of rounds every subject has both its least number of calls and its least time; more rounds
follow until every subject is known as precisely as asked for. The clock is a parameter: tests count instead of waiting.
"""

from __future__ import annotations

import contextlib
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgeseq.bench.energy import Meter
from edgeseq.bench.stats import least_count, relative_width
from edgeseq.errors import WrongUsage

Clock = Callable[[], int]
"""A monotonic clock in nanoseconds."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much is done and how much there is."""

PRECISE, LIMIT, FIXED = "precise", "limit", "fixed"
"""Why sampling ended: every interval is narrow enough; the time was up; there was nothing to go on for."""

SETTLE_NS = 50_000_000
"""How long the threads of a call may keep a core busy after it: those of onnxruntime spin for some 33 ms, waiting for
more work, and OpenMP's similarly, which would slow down the next subject's block."""

T = TypeVar("T")

_PROBE_RUNS = 5
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
    """Into how many rounds the least number of calls is divided; ratios between subjects are taken round by round."""
    percentile: float = 0.5
    """The percentile that `precision` is about, as a fraction."""
    precision: float | None = 0.05
    """Rounds go on until the 95 % interval of the percentile is at most this wide, as a share of it, for every subject;
    None measures `rounds` rounds and no more."""
    warm_up_max_seconds: float = 2.0
    """A warm-up ends here even when the times have not become stable, in seconds."""
    seed: int = 0
    """Seed of the order of the subjects and of made inputs."""

    def __post_init__(self) -> None:
        for name in ("min_runs", "rounds"):
            if getattr(self, name) < 1:
                raise WrongUsage(f"{_said(name)} must be at least 1, not {getattr(self, name)}")
        for name in ("min_seconds", "max_seconds", "warm_up_max_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise WrongUsage(f"{_said(name)} must be a number from 0 on, not {getattr(self, name)}")
        if self.max_seconds == 0:
            raise WrongUsage("max seconds must be above 0: no round fits into no time")
        if not 0 < self.percentile < 1:
            raise WrongUsage(f"percentile must be a fraction between 0 and 1, such as 0.99, not {self.percentile}")
        if self.precision is not None and not 0 < self.precision < 1:
            raise WrongUsage(f"precision must be a share between 0 and 1, such as 0.05 or 5%, not {self.precision:g}")


def _said(name: str) -> str:
    """The name of a setting, for who gave it in Python and for who gave it as an option."""
    return name.replace("_", " ")


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
    microjoules: tuple[int | None, ...] = ()
    """What each energy counter counted during the timed calls, in the order of the meters; None for one that could not
    be read every time."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What was sampled of several subjects, interleaved."""

    subjects: tuple[Samples, ...]
    """One a call, in the order given."""
    probe: tuple[tuple[int, ...], ...]
    """For each round, the times of the probe in nanoseconds; empty without one."""
    stopped: str
    """`PRECISE`, `LIMIT` or `FIXED`."""


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


def warm_up(call: Callable[[], object], *, max_ns: int, cycle: int = 1, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the median of a window of calls moves by at most 5 % twice in a row, or until `max_ns`.

    A window is at least 5 calls and 20 ms, and whole cycles of `cycle` calls.
    """
    started = clock()
    runs, agreeing, previous = 0, 0, None
    while True:
        with _no_garbage_collection():
            times = _block(call, _WARM_UP_WINDOW_CALLS, _WARM_UP_WINDOW_NS, cycle, started + max_ns, clock)
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
    cycles: Sequence[int] | None = None,
    settle_ns: int = 0,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> tuple[Samples, ...]:
    """`sample`, for those who want the times alone."""
    return sample(calls, settings, cycles=cycles, settle_ns=settle_ns, clock=clock, progress=progress).subjects


def sample(
    calls: Sequence[Callable[[], object]],
    settings: Settings,
    *,
    cycles: Sequence[int] | None = None,
    probe: Callable[[], object] | None = None,
    meters: Sequence[Meter] = (),
    settle_ns: int = 0,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> Sampled:
    """Warm up every call, then time them round by round in random order.

    `cycles` says of each call after how many the work is the same again (1 by default): a block is whole cycles, so
    that rounds can be compared. `probe` gets a turn like a subject's, five calls long. `meters` are read before and
    after each block. Each turn begins with untimed calls for `settle_ns`, one at least: give `SETTLE_NS` where any of
    `calls` uses several threads.

    Whoever looks again and again whether an interval is narrow enough catches it at a lucky moment now and then: looks
    become rarer as rounds become many. In simulations of rounds some 10 % apart the
    interval then held the true median in 95 % of runs, as with a number of rounds that is fixed before; to ask for two
    narrow ones in a row made no difference.
    """
    turns = _Turns(calls, cycles or [1] * len(calls), meters, settle_ns, clock)
    max_ns = round(settings.warm_up_max_seconds * 1e9)
    for index in range(len(calls)):
        if progress:
            progress("warm-up", index, len(calls))
        turns.warm_up(index, max_ns)
    order = random.Random(settings.seed)
    least_runs = -(-settings.min_runs // settings.rounds)
    least_ns = -(-round(settings.min_seconds * 1e9) // settings.rounds)
    probed: list[tuple[int, ...]] = []
    started = clock()
    deadline = started + round(settings.max_seconds * 1e9)
    number, next_look = 0, settings.rounds
    while True:
        stopped = None
        running = [rounds for index, rounds in enumerate(turns.rounds) if index not in turns.errors]
        if not running or (settings.precision is None and number >= settings.rounds):
            stopped = FIXED
        elif settings.precision is not None and (
            number >= next_look or (number >= settings.rounds and clock() >= deadline)
        ):
            next_look = number + max(1, number // 10)
            if all(_is_precise(rounds, settings.percentile, settings.precision) for rounds in running):
                stopped = PRECISE
        if stopped is None and number and clock() >= deadline:
            stopped = LIMIT
        if stopped is not None:
            break
        if progress:
            progress("measure", number, _total(number, settings.rounds, clock() - started, deadline - started))
        places = [*range(len(calls)), *([len(calls)] if probe is not None else [])]
        for index in order.sample(places, len(places)):
            if index < len(calls):
                turns.take(index, least_runs, least_ns, deadline)
            elif probe is not None:
                _settle(probe, settle_ns, clock)
                with _no_garbage_collection():
                    probed.append(_block(probe, _PROBE_RUNS, 0, _PROBE_RUNS, deadline, clock))
        number += 1
    if progress:
        progress("measure", number, number)
    return Sampled(subjects=turns.samples(), probe=tuple(probed), stopped=stopped)


class _Turns:
    """What each subject did in its turns so far."""

    def __init__(
        self,
        calls: Sequence[Callable[[], object]],
        cycles: Sequence[int],
        meters: Sequence[Meter],
        settle_ns: int,
        clock: Clock,
    ):
        self._calls, self._cycles, self._meters, self._clock = calls, cycles, meters, clock
        self._settle_ns = settle_ns
        self._warm_ups: dict[int, WarmUp] = {}
        self._microjoules: list[list[int | None]] = [[0] * len(meters) for _ in calls]
        self.errors: dict[int, Exception] = {}
        self.rounds: list[list[tuple[int, ...]]] = [[] for _ in calls]

    def warm_up(self, index: int, max_ns: int) -> None:
        call, cycle = self._calls[index], self._cycles[index]
        done = self._attempt(index, lambda: warm_up(call, max_ns=max_ns, cycle=cycle, clock=self._clock))
        if done is not None:
            self._warm_ups[index] = done

    def take(self, index: int, least_runs: int, least_ns: int, deadline: int) -> None:
        call, cycle = self._calls[index], self._cycles[index]
        if index not in self.errors:
            self._attempt(index, lambda: _settle(call, self._settle_ns, self._clock))
        if index in self.errors:
            return
        with _no_garbage_collection():
            before = self._readings()
            block = self._attempt(index, lambda: _block(call, least_runs, least_ns, cycle, deadline, self._clock))
            after = self._readings()
        if block is None:
            return
        self.rounds[index].append(block)
        spent = self._microjoules[index]
        for place, (meter, first, last) in enumerate(zip(self._meters, before, after, strict=True)):
            total = spent[place]
            if total is None or first is None or last is None:
                spent[place] = None
            else:
                spent[place] = total + meter.spent(first, last)

    def _attempt(self, index: int, work: Callable[[], T]) -> T | None:
        """What `work` gives, or None where the subject raised."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - a subject that fails gets its error as its result
            self.errors[index] = error
            return None

    def _readings(self) -> list[int | None]:
        return [_reading(meter) for meter in self._meters]

    def samples(self) -> tuple[Samples, ...]:
        return tuple(
            Samples(
                warm_up=self._warm_ups.get(index),
                rounds=tuple(self.rounds[index]),
                error=self.errors.get(index),
                microjoules=tuple(self._microjoules[index]),
            )
            for index in range(len(self._calls))
        )


def _reading(meter: Meter) -> int | None:
    try:
        return meter.read()
    except (OSError, ValueError):
        return None


def _settle(call: Callable[[], object], settle_ns: int, clock: Clock) -> None:
    """Call once, and again until `settle_ns` have passed."""
    call()
    if settle_ns:
        end = clock() + settle_ns
        while clock() < end:
            call()


def _is_precise(rounds: Sequence[Sequence[int]], percentile: float, precision: float) -> bool:
    width = relative_width(rounds, percentile)
    return width is not None and width <= precision


def _total(done: int, least: int, elapsed_ns: int, limit_ns: int) -> int:
    """How many rounds there will be, for a progress bar: the least, then as many as the limit allows at this pace."""
    return least if done < least else max(done + 1, round(done * limit_ns / max(elapsed_ns, 1)))


def _block(
    call: Callable[[], object], least_runs: int, least_ns: int, cycle: int, deadline: int, clock: Clock
) -> tuple[int, ...]:
    """Times of consecutive calls until there are `least_runs` and they took `least_ns`, or `deadline` has passed.

    Always whole cycles, past the deadline if need be.
    """
    times: list[int] = []
    total = end = 0
    while (len(times) < least_runs or total < least_ns) and not (times and end >= deadline):
        for _ in range(cycle):
            start = clock()
            call()
            end = clock()
            times.append(end - start)
            total += end - start
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
