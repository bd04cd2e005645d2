"""The server scenario: queries arrive at random (Poisson), wait for their turn, and are answered one after the other.

Latency counts from the moment a query was due, not from the moment it was begun, so that a slow answer is charged for
the queue behind it (MLPerf inference, server scenario; Tene's "coordinated omission"). `arrivals` has the worker and
its tries, `edge` the search for the highest rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeseq.bench import stats
from edgeseq.bench.arrivals import NEVER_NS, TRIES, Arrivals, Rate, lateness, service_times
from edgeseq.bench.edge import TRIES_OF_A_SEARCH, Search
from edgeseq.bench.sample import Clock
from edgeseq.bench.stats import Interval
from edgeseq.bench.units import rate
from edgeseq.errors import WrongUsage

_SERVICE_SHARE = 0.05


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
    tries: int = 1
    """How often it was tried, each time with other arrivals."""
    tries_kept: int | None = None
    """Tries that kept the deadline: the 99th percentile was within it, and the load at most 1. None without a deadline,
    or with fewer than 662 queries."""
    queries: int
    """Number of queries in all tries, those included that were due and still waited when the time was up: no other
    waited longer."""
    p50_ns: int | None
    """Median latency from arrival to answer, in nanoseconds, and of several tries the median one; None where there were
    too few queries, as below, or where it is that of a query that was not answered."""
    p50_interval_ns: Interval | None
    """95 % interval of it from try to try, as of the other percentiles; None with fewer than 6 tries. Long waits come
    together, so that the queries of a single try do not tell it."""
    p90_ns: int | None
    """90th percentile of the latency."""
    p90_interval_ns: Interval | None = None
    """95 % interval of it."""
    p99_ns: int | None
    """99th percentile of the latency."""
    p99_interval_ns: Interval | None = None
    """95 % interval of it."""
    within_deadline: float | None
    """Share of the queries answered within the deadline; None without one."""
    busy: float
    """Share of the time spent answering, in the median try."""
    load: float
    """Rate x mean time of an answer, in the median try: above 1 it is overloaded, the queue grows for as long as a try
    runs, and latencies tell only how long that was."""
    met: bool | None
    """Whether most tries kept the deadline; None without one, where as many kept it as missed it, or with fewer than
    662 queries."""

    @property
    def overloaded(self) -> bool:
        """Whether more arrived than can be answered."""
        return self.load > 1.0

    @property
    def disagrees(self) -> bool:
        """Whether some tries kept the deadline and others missed it."""
        return self.tries_kept is not None and 0 < self.tries_kept < self.tries


@dataclass(frozen=True, kw_only=True)
class Served:
    """The server scenario of one subject."""

    deadline_ns: int | None
    """The latency that the 99th percentile must keep, in nanoseconds; None when none was given."""
    at_rate: RateTrial | None
    """The rate that was asked for; None when none was."""
    highest_rate_per_s: float | None
    """The highest rate that is sure to keep the deadline: it was kept in 6 tries of 6, or in 8 of 9. None without a
    deadline, or when there is none."""
    lowest_missed_per_s: float | None = None
    """The lowest rate above it that is sure to miss the deadline, by the same count of tries; None when there is
    none."""
    trials: tuple[RateTrial, ...]
    """Every rate that was tried in the search for it, in that order."""
    service_ns: float
    """Median time of a call before the trials, one after the other."""
    searched: str
    """How the search ended: ``found`` (both rates above are known), ``limit`` (the time was up before), ``unsteady``
    (tries of one rate disagree, down to 1/64 of what can be answered), ``hopeless`` (a single call takes longer than
    the deadline, or no rate down to 1/64 of what can be answered kept it), or empty where there was none. Files of
    older versions, which tried each rate once, also have ``throughput``: the deadline was kept at all that can be
    answered."""

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

    One worker answers them by `call`, first come, first served. A try has 662 queries or more, what the 99th percentile
    needs, and the n-th try of every rate the same arrivals (from `seed`), closer together or further apart. A rate is
    sure to keep the deadline when 6 tries of 6 kept it, or 8 of 9, and sure to miss it alike: of a rate that keeps it
    in half of its tries that is to be expected 1 time in 20, the try that chose the rate left out. All ends after
    `settings.max_seconds`.
    """
    rate_per_s, deadline_ns = settings.rate_per_s, settings.deadline_ns
    max_ns = round(settings.max_seconds * 1e9)
    end_ns = clock() + max_ns
    service = service_times(call, clock, round(_SERVICE_SHARE * max_ns))
    # One call that was interrupted must not decide where the search begins.
    service_ns = statistics.median(service)
    arrivals = Arrivals(
        call=call,
        deadline_ns=deadline_ns,
        seed=seed,
        clock=clock,
        sleep=sleep,
        spin_ns=lateness(clock, sleep),
        # Without a search the tries have the time but for a rest, in which the calls above were timed.
        try_ns=max_ns // (TRIES + 1 if deadline_ns is None else TRIES_OF_A_SEARCH),
    )
    asked = None if rate_per_s is None else Rate(per_s=rate_per_s)
    if asked is not None:
        # Beside a search the rate that was asked for gets half of the time, or more where it needs it for 662 queries.
        left = end_ns - clock()
        half, most = (left, left) if deadline_ns is None else (left // 2, left * 4 // 5)
        arrivals.try_often(asked, clock() + half, clock() + most)
    search = Search(arrivals=arrivals, capacity_per_s=1e9 / service_ns, end_ns=end_ns)
    searched = ""
    if deadline_ns is not None:
        searched = "hopeless" if min(service) > deadline_ns else search.run()
    rates = [*search.rates.values(), *([asked] if asked else [])]
    highest = max((rate.per_s for rate in rates if rate.surely_kept), default=None)
    return Served(
        deadline_ns=deadline_ns,
        at_rate=_trial(asked) if asked else None,
        highest_rate_per_s=highest,
        lowest_missed_per_s=min(
            (rate.per_s for rate in rates if rate.surely_missed and rate.per_s > (highest or 0.0)), default=None
        ),
        trials=tuple(_trial(rate) for rate in search.rates.values()),
        service_ns=service_ns,
        searched=searched,
    )


def overload_note(served: Served) -> tuple[str, ...]:
    """What to say of a rate that was asked for and is more than can be answered; nothing of any other."""
    trial = served.at_rate
    if trial is None or not trial.overloaded:
        return ()
    return (
        f"queries at {rate(trial.rate_per_s)} are more than can be answered ({rate(trial.rate_per_s / trial.load)} by "
        "the time of a call, an estimate): the queue grew to the end, and latencies tell only how long the trial ran",
    )


def _trial(rate: Rate) -> RateTrial:
    (p50, p50_interval), (p90, p90_interval), (p99, p99_interval) = (
        _median([one.percentiles_ns[number] for one in rate.tries]) for number in range(3)
    )
    queries = sum(one.queries for one in rate.tries)
    in_time = [one.in_time for one in rate.tries if one.in_time is not None]
    judged = rate.kept + rate.missed
    return RateTrial(
        rate_per_s=rate.per_s,
        tries=len(rate.tries),
        tries_kept=rate.kept if judged else None,
        queries=queries,
        p50_ns=p50,
        p50_interval_ns=p50_interval,
        p90_ns=p90,
        p90_interval_ns=p90_interval,
        p99_ns=p99,
        p99_interval_ns=p99_interval,
        within_deadline=sum(in_time) / queries if in_time and queries else None,
        busy=statistics.median(one.busy for one in rate.tries),
        load=statistics.median(one.load for one in rate.tries),
        met=None if rate.kept == rate.missed else rate.kept > rate.missed,
    )


def _median(times_ns: Sequence[int | None]) -> tuple[int | None, Interval | None]:
    """The median of the tries that tell a percentile, and its interval; None where it was not answered."""
    told = [time_ns for time_ns in times_ns if time_ns is not None]
    if not told:
        return None, None
    value, found = stats.percentile(told, 0.5), stats.percentile_interval(told, 0.5)
    return (
        None if value == NEVER_NS else value,
        None if found is None or found.high >= NEVER_NS else found,
    )
