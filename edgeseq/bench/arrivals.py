"""Queries that arrive at random, one worker that answers them, and what a try of a rate came to.

Nothing but the model's own time and the queue is in a latency: no network, and no waking of a thread that sleeps. A
sleep ends late, by 0.1 ms on a quiet Linux; so the last part of each wait is not slept but spent looking at the clock.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeseq.bench import stats
from edgeseq.bench.sample import Clock

TRIES = stats.LEAST_ROUNDS
"""As few tries as have a 95 % interval of their median; with one that differs it takes two more that do not."""
NEVER_NS = 2**62
"""The latency of a query that was due and not answered when the time was up: longer than any."""

_PERCENTILE = 0.99
_LEAST_QUERIES = stats.least_count(_PERCENTILE)
# More tell little: a try is over when the next one is the better use of the time.
_MOST_QUERIES = 20_000

_SERVICE_CALLS = 64
_SLEEP_NS = 1_000_000
_SLEEPS = 20
_LEAST_SPIN_NS, _MOST_SPIN_NS = 100_000, 2_000_000


@dataclass(frozen=True, kw_only=True)
class Try:
    """A rate, tried once; the fields are those of `RateTrial`, with `NEVER_NS` for what was not answered."""

    queries: int
    percentiles_ns: Sequence[int | None]
    in_time: int | None
    busy: float
    load: float
    met: bool | None


@dataclass(kw_only=True)
class Rate:
    """A rate and its tries."""

    per_s: float
    tries: list[Try] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Tries that kept the deadline."""
        return sum(one.met is True for one in self.tries)

    @property
    def missed(self) -> int:
        """Tries that missed it."""
        return sum(one.met is False for one in self.tries)

    @property
    def surely_kept(self) -> bool:
        """Whether 6 tries of 6 kept it, or 8 of 9."""
        return _sure(self.kept, self.missed)

    @property
    def surely_missed(self) -> bool:
        """Whether as many missed it."""
        return _sure(self.missed, self.kept)

    @property
    def decided(self) -> bool:
        """Whether more tries would tell no more: it is sure, or two differ from the others."""
        enough = len(self.tries) >= TRIES
        return enough and (self.surely_kept or self.surely_missed or min(self.kept, self.missed) != 1)


def _sure(alike: int, others: int) -> bool:
    return others <= 1 and alike >= TRIES + 2 * others


@dataclass(kw_only=True)
class Arrivals:
    """One worker, its clock, and the arrivals that every rate gets."""

    call: Callable[[], object]
    deadline_ns: int | None
    seed: int
    clock: Clock
    sleep: Callable[[float], None]
    spin_ns: int
    try_ns: int

    def gaps(self, queries: int, number: int = 0) -> list[float]:
        """Exponential gaps between arrivals of the try `number`, in units of their mean, which is exactly 1."""
        drawn = np.random.default_rng((self.seed, number)).exponential(size=queries)
        return list((drawn / drawn.mean()).tolist())

    def fits(self, rate: Rate, end_ns: int) -> bool:
        """Whether the queries of a try are due before `end_ns`."""
        return self.clock() + self._queries(rate) / rate.per_s * 1e9 <= end_ns

    def try_often(self, rate: Rate, until_ns: int, end_ns: int) -> None:
        """Try a rate until it is sure whether it keeps the deadline, or that it is not, as long as `until_ns` allows.

        The first try may take as long as `end_ns`."""
        self.try_once(rate, end_ns)
        while self.fits(rate, until_ns) and not rate.decided:
            self.try_once(rate, until_ns)

    def try_once(self, rate: Rate, end_ns: int) -> None:
        """Try a rate once more, with as many queries as the percentile needs; none that is due after `end_ns`."""
        mean_gap_ns = 1e9 / rate.per_s
        gaps = self.gaps(self._queries(rate), len(rate.tries))
        tried = self._judged(rate.per_s, self._answer([gap * mean_gap_ns for gap in gaps], end_ns))
        # One that the end of the time cut short says nothing beside whole ones.
        if tried.met is not None or self.deadline_ns is None or not rate.tries:
            rate.tries.append(tried)

    def _queries(self, rate: Rate) -> int:
        return min(max(int(self.try_ns * rate.per_s * 1e-9), _LEAST_QUERIES), _MOST_QUERIES)

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

    def _judged(self, rate_per_s: float, answered: _Answered) -> Try:
        latencies = [*answered.latencies_ns, *[NEVER_NS] * answered.waiting]
        percentiles = [stats.percentile_if_enough(latencies, p) for p in (0.50, 0.90, _PERCENTILE)]
        load = rate_per_s * answered.busy_ns / max(len(answered.latencies_ns), 1) * 1e-9
        in_time = met = None
        if self.deadline_ns is not None:
            in_time = sum(latency <= self.deadline_ns for latency in latencies)
            p99 = percentiles[-1]
            # A queue that grows for ever misses every deadline, whatever the try had time to see.
            met = None if p99 is None else p99 <= self.deadline_ns and load <= 1.0
        return Try(
            queries=len(latencies),
            percentiles_ns=percentiles,
            in_time=in_time,
            busy=answered.busy_ns / answered.all_ns if answered.all_ns else 0.0,
            load=load,
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


def service_times(call: Callable[[], object], clock: Clock, most_ns: int) -> Sequence[int]:
    """Times of calls one after the other; the first few, which warm up, are left out."""
    times: list[int] = []
    started = clock()
    while len(times) < 2 * _SERVICE_CALLS and (len(times) < 2 or clock() - started < most_ns):
        begun = clock()
        call()
        times.append(clock() - begun)
    return times[len(times) // 2 :]


def lateness(clock: Clock, sleep: Callable[[float], None]) -> int:
    """By how much a sleep ends late at most, in nanoseconds: so long before a query is due, sleeping ends."""
    late = []
    for _ in range(_SLEEPS):
        due = clock() + _SLEEP_NS
        sleep(_SLEEP_NS * 1e-9)
        late.append(clock() - due)
    return min(max(_LEAST_SPIN_NS, *late), _MOST_SPIN_NS)
