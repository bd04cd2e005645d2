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
from edgeseq.bench.units import rate
from edgeseq.errors import WrongUsage

_PERCENTILE = 0.99
_LEAST_QUERIES = least_count(_PERCENTILE)
# More tell little: a trial is over when the next one is the better use of the time.
_MOST_QUERIES = 20_000

# The latency of a query that was due and not answered when the time was up: longer than any.
_NEVER_NS = 2**62

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
class ServerSettings:
    """The server scenario: at what rate queries arrive, or within what time they must be answered. One is needed."""

    rate_per_s: float | None = None
    """Queries a second, on average; None only searches the highest rate that keeps the deadline."""
    deadline_ns: int | None = None
    """The latency that the 99th percentile must keep, in nanoseconds; None searches for no rate."""
    max_seconds: float = 60.0
    """Most seconds for each subject."""

    def __post_init__(self) -> None:
        if self.rate_per_s is None and self.deadline_ns is None:
            raise WrongUsage("the server scenario needs a rate of queries, a deadline, or both")
        for name in ("rate_per_s", "deadline_ns", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                said = name.removesuffix("_per_s").removesuffix("_ns").replace("_", " ")
                raise WrongUsage(f"the {said} of the server scenario must be a number above 0, not {value}")


@dataclass(frozen=True, kw_only=True)
class RateTrial:
    """One rate, tried."""

    rate_per_s: float
    """Queries a second that arrived on average."""
    queries: int
    """Number of them, those included that were due and still waited when the time was up: no other waited longer."""
    p50_ns: int | None
    """Median latency from arrival to answer, in nanoseconds; None where there were too few queries, as below, or where
    it is that of a query that was not answered."""
    p50_interval_ns: Interval | None
    """95 % interval of it. The other percentiles have none: under load long waits come together, so rarely that a trial
    does not tell how they vary."""
    p90_ns: int | None
    """90th percentile of the latency."""
    p99_ns: int | None
    """99th percentile of the latency."""
    within_deadline: float | None
    """Share of the queries answered within the deadline; None without one."""
    busy: float
    """Share of the time spent answering."""
    load: float
    """Rate x mean time of an answer: above 1 the queue grows for as long as the trial runs, and latencies tell only how
    long that was."""
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
    """The highest rate tried that kept the deadline, or where that is more than can be answered, what can; None without
    a deadline, or when none did."""
    trials: tuple[RateTrial, ...]
    """Every rate that was tried in the search for it, in that order."""
    service_ns: float
    """Median time of a call before the trials, one after the other."""
    searched: str
    """How the search ended: ``found`` (a rate some 5 % above the highest did not keep the deadline), ``throughput``
    (the deadline was kept within 5 % of what can be answered at all, which is the limit then), ``limit`` (the time was
    up), ``hopeless`` (a single call takes longer than the deadline, or no rate down to 1/64 of what can be answered
    kept it), or empty where there was none."""

    @property
    def kept(self) -> bool | None:
        """Whether the deadline was kept at the rate asked for, or at any; None without a deadline, or undecided."""
        if self.deadline_ns is None:
            return None
        if self.at_rate is not None:
            return self.at_rate.met
        return True if self.highest_rate_per_s is not None else False if self.searched == "hopeless" else None

    @property
    def all_trials(self) -> tuple[RateTrial, ...]:
        """Every rate, the lowest first, each once: the trial with the most queries."""
        best: dict[float, RateTrial] = {}
        for trial in (*self.trials, *([self.at_rate] if self.at_rate else [])):
            known = best.get(trial.rate_per_s)
            if known is None or trial.queries > known.queries:
                best[trial.rate_per_s] = trial
        return tuple(best[key] for key in sorted(best))


def serve(
    call: Callable[[], object],
    settings: ServerSettings,
    *,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Let queries arrive at a rate, search for the highest rate at which 99 % of them keep a deadline, or do both.

    One worker answers them by `call`, first come, first served. Every rate gets the same arrivals
    (from `seed`), closer together or further apart. A rate is tried with 662 queries or more, what the 99th percentile
    needs; all ends after `settings.max_seconds`, and a trial that had fewer by then does not tell that percentile.
    """
    rate_per_s, deadline_ns = settings.rate_per_s, settings.deadline_ns
    max_ns = round(settings.max_seconds * 1e9)
    end_ns = clock() + max_ns
    service = _service_times(call, clock, round(_SERVICE_SHARE * max_ns))
    # One call that was interrupted must not decide where the search begins.
    service_ns = statistics.median(service)
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
    kept = [trial.rate_per_s / max(trial.load, 1.0) for trial in trials if trial.met]
    return Served(
        deadline_ns=deadline_ns,
        at_rate=at_rate,
        highest_rate_per_s=max(kept, default=None),
        trials=trials,
        service_ns=service_ns,
        searched=searched,
    )


def overload_note(served: Served) -> tuple[str, ...]:
    """What to say of a rate that was asked for and is more than can be answered; nothing of any other."""
    trial = served.at_rate
    if trial is None or trial.load <= 1.0:
        return ()
    return (
        f"queries at {rate(trial.rate_per_s)} are more than can be answered ({rate(trial.rate_per_s / trial.load)}): "
        "the queue grew to the end, and latencies tell only how long the trial ran",
    )


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
    """From what can be answered at most, by a guess, double the rate while the deadline is kept, or halve it until it
    is; then bisect between the highest that kept it and the lowest that did not."""
    trials: list[RateTrial] = []
    kept, failed, tried = 0.0, math.inf, capacity_per_s
    while kept * _NEAR_ENOUGH < failed:
        now = bench.clock()
        trial_ns = max((end_ns - now) // max(2, _LIKELY_TRIALS - len(trials)), 0)
        # A rate that cannot be judged in the time that is left is not begun.
        if _LEAST_QUERIES / tried * 1e9 > end_ns - now:
            return tuple(trials), "limit"
        trial = bench.try_rate(tried, now + trial_ns, end_ns)
        trials.append(trial)
        if trial.met is None:
            return tuple(trials), "limit"
        if trial.met:
            # Queries that come faster wait in a longer queue, and are answered no faster.
            if trial.load * _NEAR_ENOUGH >= 1.0:
                return tuple(trials), "throughput"
            kept = tried
        else:
            if not kept and trial.load <= _LOWEST_LOAD:
                return tuple(trials), "hopeless"
            failed = tried
        tried = 2 * kept if failed == math.inf else (kept + failed) / 2
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
        return self._judged(rate_per_s, self._answer([gap * mean_gap_ns for gap in gaps], end_ns))

    def _answer(self, gaps_ns: Sequence[float], end_ns: int) -> _Answered:
        clock, call = self.clock, self.call
        latencies: list[int] = []
        busy_ns = waiting = 0
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            started = now = clock()
            due = float(started)
            for gap in gaps_ns:
                due += gap
                if due > end_ns:
                    break
                if now > end_ns:
                    waiting += 1
                    continue
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
        return _Answered(latencies_ns=latencies, waiting=waiting, busy_ns=busy_ns, all_ns=now - started)

    def _judged(self, rate_per_s: float, answered: _Answered) -> RateTrial:
        latencies = [*answered.latencies_ns, *[_NEVER_NS] * answered.waiting]
        p50, p90, p99 = (stats.percentile_if_enough(latencies, p) for p in (0.50, 0.90, _PERCENTILE))
        within = met = None
        if self.deadline_ns is not None:
            if latencies:
                within = sum(latency <= self.deadline_ns for latency in latencies) / len(latencies)
            met = None if p99 is None else p99 <= self.deadline_ns
        service_ns = answered.busy_ns / max(len(answered.latencies_ns), 1)
        return RateTrial(
            rate_per_s=rate_per_s,
            queries=len(latencies),
            p50_ns=_told(p50),
            p50_interval_ns=_interval(latencies, 0.50),
            p90_ns=_told(p90),
            p99_ns=_told(p99),
            within_deadline=within,
            busy=answered.busy_ns / answered.all_ns if answered.all_ns else 0.0,
            load=rate_per_s * service_ns * 1e-9,
            met=met,
        )


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What one worker did with the queries that were due in the time it had."""

    latencies_ns: Sequence[int]
    """Of each answered query, in the order of arrival."""
    waiting: int
    """Queries that were due and not begun when the time was up."""
    busy_ns: int
    """Time spent answering."""
    all_ns: int
    """All the time that passed."""


def _told(latency_ns: int | None) -> int | None:
    return None if latency_ns == _NEVER_NS else latency_ns


def _interval(latencies: Sequence[int], p: float) -> Interval | None:
    """The interval of percentile `p`, over stretches of consecutive queries; None with too few queries."""
    if len(latencies) < least_count(p):
        return None
    clustered = stats.clustered_interval(np.array_split(np.asarray(latencies), min(_STRETCHES, len(latencies))), p)
    found = clustered.interval if clustered else None
    return None if found is None or found.high >= _NEVER_NS else found
