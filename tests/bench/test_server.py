"""The server scenario on a pretended clock: queues have an exact theory to be held against."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest

from edgeseq.bench import server
from edgeseq.bench.server import ServerSettings, overload_note, serve
from edgeseq.errors import WrongUsage

MS = 1_000_000


class FakeServer:
    """A machine whose calls take as long as told, and whose sleeps end `late_ns` late. Its clock ticks when read."""

    def __init__(self, *times_ns: int, tick: int = 2_000, late_ns: int = 0):
        self.now, self.calls, self.slept = 0, 0, 0
        self._times, self._tick, self._late = times_ns, tick, late_ns

    def clock(self) -> int:
        self.now += self._tick
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "time.sleep refuses to go back"
        self.slept += 1
        self.now += round(seconds * 1e9) + self._late

    def call(self) -> None:
        self.now += self._times[self.calls % len(self._times)]
        self.calls += 1

    def serve(self, *, seed: int = 0, **settings: Any) -> server.Served:
        return serve(self.call, ServerSettings(**settings), seed=seed, clock=self.clock, sleep=self.sleep)


@pytest.fixture
def latencies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The latencies of the last trial."""
    found: list[int] = []
    real = server._Bench._judged

    def kept(self: Any, rate: float, answered: Any) -> Any:
        found[:] = answered.latencies_ns
        return real(self, rate, answered)

    monkeypatch.setattr(server._Bench, "_judged", kept)
    return found


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_queueing_theory(load: float, latencies: list[int]) -> None:
    service = 1 * MS
    # As many as a trial has at most: the mean of a queue's waits settles slowly, since neighbours wait together.
    found = FakeServer(service).serve(rate_per_s=load * 1e9 / service, max_seconds=1000.0)
    assert found.at_rate is not None
    assert found.at_rate.queries == 20_000
    waits = statistics.fmean(latencies) - service
    # Pollaczek and Khinchine: service / 2 x load / (1 - load) for service times that are all the same.
    expected = service / 2 * load / (1 - load)
    # At a load of 0.8 the standard error of 20,000 waits is some 6 %: four of them.
    assert waits == pytest.approx(expected, rel=0.25 if load > 0.7 else 0.1)
    assert found.at_rate.busy == pytest.approx(load, rel=0.02)
    assert found.at_rate.load == pytest.approx(load, rel=0.01)
    assert overload_note(found) == ()
    assert found.at_rate.p50_ns == sorted(latencies)[10_000]


def test_a_slow_answer_is_charged_for_the_queue_behind_it(latencies: list[int]) -> None:
    # 1 of 100 calls takes 200 ms, in which 20 queries arrive: some 20 % are late, not 1 %.
    found = FakeServer(*[MS] * 99, 200 * MS).serve(rate_per_s=100, deadline_ns=10 * MS, max_seconds=100.0)
    assert found.at_rate is not None
    assert found.at_rate.within_deadline is not None
    assert 0.70 < found.at_rate.within_deadline < 0.88
    assert found.at_rate.met is False


def load_with_waits_below(services: float, share: float) -> float:
    """The load of an M/D/1 queue at which `share` of the queries wait for less than `services` service times.

    Erlang's distribution of waits, 1909, with the service time as the unit.
    """

    def below(load: float) -> float:
        terms = (
            (-load * (services - k)) ** k / math.factorial(k) * math.exp(load * (services - k))
            for k in range(math.floor(services) + 1)
        )
        return (1 - load) * sum(terms)

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) >= share else (low, middle)
    return low


def test_the_highest_rate_within_a_deadline_is_found() -> None:
    service, deadline = 1 * MS, 5 * MS
    found = FakeServer(service).serve(deadline_ns=deadline, max_seconds=100.0)
    assert found.searched == "found"
    assert found.at_rate is None
    assert found.highest_rate_per_s is not None
    kept = [trial.rate_per_s for trial in found.trials if trial.met]
    failed = [trial.rate_per_s for trial in found.trials if not trial.met]
    assert found.highest_rate_per_s == max(kept)
    assert max(kept) < min(failed) <= 1.05 * max(kept)
    # 5 ms are a wait of 4 services and the service. 5 % are the search's own step, 5 % what 6,000 queries leave open.
    assert found.highest_rate_per_s == pytest.approx(1000 * load_with_waits_below(4.0, 0.99), rel=0.1)
    for trial in found.trials:
        assert trial.queries >= 662
        assert trial.p99_ns is not None
        assert trial.met == (trial.p99_ns <= deadline)


def test_a_deadline_that_a_single_call_misses_is_hopeless() -> None:
    found = FakeServer(6 * MS).serve(deadline_ns=5 * MS, max_seconds=10.0)
    assert (found.searched, found.highest_rate_per_s, found.trials) == ("hopeless", None, ())
    # 1 of 50 calls misses it at any rate.
    found = FakeServer(*[MS] * 49, 6 * MS).serve(deadline_ns=5 * MS, max_seconds=1000.0)
    assert (found.searched, found.highest_rate_per_s) == ("hopeless", None)
    assert found.trials
    assert not any(trial.met for trial in found.trials)


def test_too_few_queries_tell_no_99th_percentile() -> None:
    found = FakeServer(1 * MS).serve(rate_per_s=10, deadline_ns=5 * MS, max_seconds=10.0)
    assert found.at_rate is not None
    assert 64 <= found.at_rate.queries < 662
    assert found.at_rate.p90_ns is not None
    assert found.at_rate.p99_ns is None
    assert found.at_rate.met is None


def test_nothing_goes_on_after_the_time_is_up() -> None:
    machine = FakeServer(100 * MS)
    found = machine.serve(deadline_ns=150 * MS, max_seconds=20.0)
    assert (found.searched, found.highest_rate_per_s) == ("limit", None)
    assert machine.now < 20.5e9
    machine = FakeServer(20 * MS)
    found = machine.serve(rate_per_s=1000, max_seconds=5.0)
    assert found.at_rate is not None
    assert 0.95 < found.at_rate.busy <= 1.0
    assert machine.now < 5.1e9


def test_every_rate_gets_the_same_arrivals_and_the_seed_decides() -> None:
    def p90(seed: int) -> Any:
        found = FakeServer(MS).serve(rate_per_s=500, seed=seed, max_seconds=10.0)
        return found.at_rate and found.at_rate.p90_ns

    assert p90(1) == p90(1)
    assert p90(1) != p90(2)
    bench = server._Bench(call=lambda: None, deadline_ns=None, seed=3, clock=lambda: 0, sleep=lambda _: None, spin_ns=0)
    assert sum(bench.gaps(700)) == pytest.approx(700)
    # Exponential: the standard deviation is the mean, here 1, within three standard errors of 100,000 of them.
    assert statistics.stdev(bench.gaps(100_000)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("late_ns", [0, 60_000, 400_000])
def test_sleeping_too_long_is_not_charged(late_ns: int, latencies: list[int]) -> None:
    machine = FakeServer(1000, late_ns=late_ns)
    machine.serve(rate_per_s=100, max_seconds=20.0)
    assert machine.slept > 662
    # The call and three looks at the clock.
    assert np.percentile(latencies, 95) <= 1000 + 3 * 2000


def test_intervals_are_those_of_stretches_not_of_queries(latencies: list[int]) -> None:
    found = FakeServer(MS).serve(rate_per_s=800, max_seconds=10.0)
    assert found.at_rate is not None
    wide = found.at_rate.p50_interval_ns
    narrow = server.stats.percentile_interval(latencies, 0.5)
    assert wide is not None
    assert narrow is not None
    assert wide.low <= found.at_rate.p50_ns <= wide.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("times", [(*(MS,) * 100, 100 * MS, *(MS,) * 500_000), (*(4 * MS,) * 128, *(MS,) * 500_000)])
def test_where_the_search_begins_does_not_decide_where_it_ends(times: tuple[int, ...]) -> None:
    # One outlier among the first calls, or first calls that are all slower than those that follow.
    found = FakeServer(*times).serve(deadline_ns=5 * MS, max_seconds=100.0)
    assert found.searched == "found"
    assert found.highest_rate_per_s == pytest.approx(1000 * load_with_waits_below(4.0, 0.99), rel=0.1)
    assert min(trial.rate_per_s for trial in found.trials if not trial.met) <= 1.05 * found.highest_rate_per_s


def test_a_deadline_that_every_rate_keeps_leaves_the_throughput_as_the_limit() -> None:
    # 20,000 queries wait for 20 s at most, however fast they come.
    found = FakeServer(MS).serve(deadline_ns=60_000 * MS, max_seconds=1000.0)
    assert found.searched == "throughput"
    # A call and the looks at the clock around it.
    assert found.highest_rate_per_s == pytest.approx(1000, rel=0.06)
    assert all(trial.met for trial in found.trials)


def test_queries_that_still_wait_at_the_end_count_as_late() -> None:
    # In 10 s come 20,000 queries, and 5,000 are answered: a quarter, and of those the first few in time.
    found = FakeServer(2 * MS).serve(rate_per_s=2000, deadline_ns=50 * MS, max_seconds=10.0)
    trial = found.at_rate
    assert trial is not None
    assert trial.load == pytest.approx(4.0, rel=0.01)
    assert trial.queries > 9000
    assert trial.within_deadline is not None
    assert trial.within_deadline < 0.02
    assert (trial.p90_ns, trial.p99_ns, trial.met) == (None, None, False)
    [said] = overload_note(found)
    assert said.startswith("queries at 2,000/s are more than can be answered (")
    assert "how long the trial ran" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a rate of queries, a deadline, or both"),
        ({"rate_per_s": 0}, "the rate of the server scenario must be a number above 0, not 0"),
        ({"rate_per_s": float("nan")}, "the rate"),
        ({"deadline_ns": -1}, "the deadline of the server scenario must be a number above 0"),
        (
            {"rate_per_s": 1.0, "max_seconds": float("inf")},
            "the max seconds of the server scenario must be a number above 0, not inf",
        ),
        ({"rate_per_s": 1.0, "max_seconds": 0.0}, "the max seconds of the server scenario must be a number above 0"),
    ],
)
def test_what_means_nothing_is_refused(options: Any, message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        ServerSettings(**options)
