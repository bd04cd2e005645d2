"""The server scenario: queries arrive at random (Poisson), wait for their turn, and are answered one after the other.

Latency counts from the moment a query was due, not from the moment it was begun, so that a slow answer is charged for
the queue behind it (MLPerf inference, server scenario; Tene's "coordinated omission"). Nothing but the model's own time
and the queue is in it: no network, and no waking of a thread that sleeps. A sleep ends late, by 0.1 ms on a quiet
Linux; so the last part of each wait is not slept but spent looking at the clock.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseq.bench import stats
from edgeseq.bench.sample import Clock
from edgeseq.bench.stats import Interval, least_count
from edgeseq.errors import WrongUsage

_PERCENTILE = 0.99
_LEAST_QUERIES = least_count(_PERCENTILE)
# More tell little: a trial is over when the next one is the better use of the time.
_MOST_QUERIES = 20_000

_SERVICE_CALLS = 64
_SERVICE_SHARE = 0.05
_NEAR_ENOUGH = 1.05
_LOWEST_LOAD = 1 / 64
_LIKELY_TRIALS = 8

# Neighbours in a queue wait for the same slow answer, so that an interval is taken over stretches, not over queries.
_STRETCHES = 20

_SLEEP_NS = 1_000_000
_SLEEPS = 20
_LEAST_SPIN_NS, _MOST_SPIN_NS = 100_000, 2_000_000


@dataclass(frozen=True, kw_only=True)
class RateTrial:
    """One rate, tried."""

    rate_per_s: float
    """Queries a second that arrived on average."""
    queries: int
    """Number of them."""
    p50_ns: int | None
    """Median latency from arrival to answer, in nanoseconds; None where there were too few queries, as below."""
    p50_interval_ns: Interval | None
    """95 % interval of it."""
    p90_ns: int | None
    """90th percentile of the latency."""
    p90_interval_ns: Interval | None
    """95 % interval of it."""
    p99_ns: int | None
    """99th percentile of the latency."""
    p99_interval_ns: Interval | None
    """95 % interval of it."""
    within_deadline: float | None
    """Share of the queries answered within the deadline; None without one."""
    busy: float
    """Share of the time spent answering."""
    met: bool | None
    """Whether the 99th percentile kept the deadline; None without one, or with fewer than 662 queries."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The server scenario of one subject."""

    deadline_ns: int | None
    """The latency that the 99th percentile must keep, in nanoseconds; None when none was given."""
    at_rate: RateTrial | None
    """The rate that was asked for; None when none was."""
    highest_rate_per_s: float | None
    """The highest rate tried that kept the deadline; None without a deadline, or when none did."""
    trials: tuple[RateTrial, ...]
    """Every rate that was tried in the search for it, in that order."""
    service_ns: float
    """Mean time of a call before the trials, one after the other: a rate above 1 / this cannot be kept."""
    searched: str
    """How the search ended: ``found`` (a rate some 5 % above the highest did not keep the deadline), ``limit`` (the
    time was up), ``hopeless`` (a single call takes longer than the deadline, or no rate down to 1/64 of what can be
    answered kept it), or empty where there was none."""


def serve(
    call: Callable[[], object],
    *,
    rate_per_s: float | None = None,
    deadline_ns: int | None = None,
    seed: int = 0,
    max_seconds: float = 60.0,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Let queries arrive at `rate_per_s`, or search for the highest rate at which 99 % of them keep `deadline_ns`.

    Both may be given. One worker answers them by `call`, first come, first served. Every rate gets the same arrivals
    (from `seed`), closer together or further apart. A rate is tried with 662 queries or more, what the 99th percentile
    needs; all ends after `max_seconds`, and a trial that had fewer by then does not tell that percentile.

    Raises WrongUsage when neither is given, and for numbers that are not above 0.
    """
    _check(rate_per_s, deadline_ns, max_seconds)
    end_ns = clock() + round(max_seconds * 1e9)
    service = _service_times(call, clock, round(_SERVICE_SHARE * max_seconds * 1e9))
    service_ns = statistics.fmean(service)
    bench = _Bench(
        call=call,
        deadline_ns=deadline_ns,
        seed=seed,
        clock=clock,
        sleep=sleep,
        spin_ns=_lateness(clock, sleep),
    )
    at_rate = None
    if rate_per_s is not None:
        # Beside a search the rate that was asked for gets half of the time, or more where it needs it for 662 queries.
        left = end_ns - clock()
        half, most = (left, left) if deadline_ns is None else (left // 2, left * 4 // 5)
        at_rate = bench.try_rate(rate_per_s, clock() + half, clock() + most)
    trials: tuple[RateTrial, ...] = ()
    searched = ""
    if deadline_ns is not None and min(service) > deadline_ns:
        searched = "hopeless"
    elif deadline_ns is not None:
        trials, searched = _search(bench, 1e9 / service_ns, end_ns)
    kept = [trial.rate_per_s for trial in trials if trial.met]
    return Served(
        deadline_ns=deadline_ns,
        at_rate=at_rate,
        highest_rate_per_s=max(kept, default=None),
        trials=trials,
        service_ns=service_ns,
        searched=searched,
    )


def _check(rate_per_s: float | None, deadline_ns: int | None, max_seconds: float) -> None:
    if rate_per_s is None and deadline_ns is None:
        raise WrongUsage("the server scenario needs a rate of queries, a deadline, or both")
    for name, value in (("rate_per_s", rate_per_s), ("deadline_ns", deadline_ns), ("max_seconds", max_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise WrongUsage(f"{name} must be a number above 0, not {value}")


def _service_times(call: Callable[[], object], clock: Clock, most_ns: int) -> Sequence[int]:
    """Times of calls one after the other; the first few, which warm up, are left out."""
    times: list[int] = []
    started = clock()
    while len(times) < 2 * _SERVICE_CALLS and (len(times) < 2 or clock() - started < most_ns):
        begun = clock()
        call()
        times.append(clock() - begun)
    return times[len(times) // 2 :]


def _lateness(clock: Clock, sleep: Callable[[float], None]) -> int:
    """By how much a sleep ends late at most, in nanoseconds: so long before a query is due, sleeping ends."""
    late = []
    for _ in range(_SLEEPS):
        due = clock() + _SLEEP_NS
        sleep(_SLEEP_NS * 1e-9)
        late.append(clock() - due)
    return min(max(_LEAST_SPIN_NS, *late), _MOST_SPIN_NS)


def _search(bench: _Bench, capacity_per_s: float, end_ns: int) -> tuple[tuple[RateTrial, ...], str]:
    """Halve the rate until one keeps the deadline, then bisect between it and the lowest that did not."""
    trials: list[RateTrial] = []
    kept, failed = 0.0, capacity_per_s
    while kept * _NEAR_ENOUGH < failed:
        if not kept and failed < _LOWEST_LOAD * capacity_per_s:
            return tuple(trials), "hopeless"
        rate = (kept + failed) / 2
        now = bench.clock()
        trial_ns = max((end_ns - now) // max(2, _LIKELY_TRIALS - len(trials)), 0)
        # A rate that cannot be judged in the time that is left is not begun.
        if _LEAST_QUERIES / rate * 1e9 > end_ns - now:
            return tuple(trials), "limit"
        trial = bench.try_rate(rate, now + trial_ns, end_ns)
        trials.append(trial)
        if trial.met is None:
            return tuple(trials), "limit"
        kept, failed = (rate, failed) if trial.met else (kept, rate)
    return tuple(trials), "found"


@dataclass(kw_only=True)
class _Bench:
    """One worker, its clock, and the arrivals that every rate gets."""

    call: Callable[[], object]
    deadline_ns: int | None
    seed: int
    clock: Clock
    sleep: Callable[[float], None]
    spin_ns: int

    def gaps(self, queries: int) -> list[float]:
        """Exponential gaps between arrivals, in units of their mean, which is exactly 1."""
        drawn = np.random.default_rng(self.seed).exponential(size=queries)
        return list((drawn / drawn.mean()).tolist())

    def try_rate(self, rate_per_s: float, until_ns: int, end_ns: int) -> RateTrial:
        """As many queries as come until `until_ns`, or as the percentile needs; none that is due after `end_ns`."""
        mean_gap_ns = 1e9 / rate_per_s
        queries = int((until_ns - self.clock()) / mean_gap_ns)
        gaps = self.gaps(min(max(queries, _LEAST_QUERIES), _MOST_QUERIES))
        latencies, busy_ns, all_ns = self._answer([gap * mean_gap_ns for gap in gaps], end_ns)
        return self._judged(rate_per_s, latencies, busy_ns / all_ns if all_ns else 0.0)

    def _answer(self, gaps_ns: Sequence[float], end_ns: int) -> tuple[list[int], int, int]:
        """Latency of each query, the time spent answering, and all the time that passed, in nanoseconds."""
        clock, call = self.clock, self.call
        latencies: list[int] = []
        busy_ns = 0
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            started = now = clock()
            due = float(started)
            for gap in gaps_ns:
                due += gap
                if max(due, now) > end_ns:
                    break
                if due - now > self.spin_ns:
                    self.sleep((due - now - self.spin_ns) * 1e-9)
                while (begun := clock()) < due:
                    pass
                call()
                now = clock()
                latencies.append(round(now - due))
                busy_ns += now - begun
        finally:
            if collecting:
                gc.enable()
        return latencies, busy_ns, now - started

    def _judged(self, rate_per_s: float, latencies: Sequence[int], busy: float) -> RateTrial:
        p50, p90, p99 = (stats.percentile_if_enough(latencies, p) for p in (0.50, 0.90, _PERCENTILE))
        within = met = None
        if self.deadline_ns is not None:
            if latencies:
                within = sum(latency <= self.deadline_ns for latency in latencies) / len(latencies)
            met = None if p99 is None else p99 <= self.deadline_ns
        return RateTrial(
            rate_per_s=rate_per_s,
            queries=len(latencies),
            p50_ns=p50,
            p50_interval_ns=_interval(latencies, 0.50),
            p90_ns=p90,
            p90_interval_ns=_interval(latencies, 0.90),
            p99_ns=p99,
            p99_interval_ns=_interval(latencies, _PERCENTILE),
            within_deadline=within,
            busy=busy,
            met=met,
        )


def _interval(latencies: Sequence[int], p: float) -> Interval | None:
    """The interval of percentile `p`, over stretches of consecutive queries; None with too few queries."""
    if len(latencies) < least_count(p):
        return None
    clustered = stats.clustered_interval(np.array_split(np.asarray(latencies), min(_STRETCHES, len(latencies))), p)
    return clustered.interval if clustered else None
