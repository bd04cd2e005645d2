"""The server scenario on a pretended clock: queues have an exact theory to be held against."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.bench import arrivals, edge, server, tables
from edgeseq.bench.report import write_report
from edgeseq.bench.server import ServerSettings, overload_note, serve
from edgeseq.bench.units import rate
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
def latencies(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The latencies of every try."""
    found: list[list[int]] = []
    real = arrivals.Arrivals._judged

    def kept(self: Any, rate: float, answered: Any) -> Any:
        found.append(sorted(answered.latencies_ns))
        return real(self, rate, answered)

    monkeypatch.setattr(arrivals.Arrivals, "_judged", kept)
    return found


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_queueing_theory(load: float, latencies: list[list[int]]) -> None:
    service = 1 * MS
    # Many: the mean of a queue's waits settles slowly, since neighbours wait together.
    found = FakeServer(service).serve(rate_per_s=load * 1e9 / service, max_seconds=25.0 / load)
    assert found.at_rate is not None
    assert found.at_rate.tries == 6
    assert 20_000 < found.at_rate.queries < 25_000
    waits = float(np.concatenate(latencies).mean()) - service
    # Pollaczek and Khinchine: service / 2 x load / (1 - load) for service times that are all the same.
    expected = service / 2 * load / (1 - load)
    # At a load of 0.8 the standard error of 20,000 waits is some 6 %: four of them.
    assert waits == pytest.approx(expected, rel=0.25 if load > 0.7 else 0.1)
    assert found.at_rate.busy == pytest.approx(load, rel=0.02)
    assert found.at_rate.load == pytest.approx(load, rel=0.01)
    assert overload_note(found) == ()
    assert found.at_rate.p50_ns == sorted(one[len(one) // 2] for one in latencies)[3]


def test_a_slow_answer_is_charged_for_the_queue_behind_it(latencies: list[list[int]]) -> None:
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
    found = FakeServer(service).serve(deadline_ns=deadline, max_seconds=300.0)
    assert found.searched == "found"
    assert found.at_rate is None
    assert found.highest_rate_per_s is not None
    assert found.lowest_missed_per_s is not None
    tried = {trial.rate_per_s: trial for trial in found.trials}
    kept, missed = tried[found.highest_rate_per_s], tried[found.lowest_missed_per_s]
    assert (kept.tries, kept.tries_kept) in ((6, 6), (9, 8))
    assert (missed.tries, missed.tries_kept) in ((6, 0), (9, 1))
    # 5 ms are a wait of 4 services and the service.
    expected = 1000 * load_with_waits_below(4.0, 0.99)
    assert kept.rate_per_s < expected < missed.rate_per_s
    # A step is 4 %; what a try of 6,000 queries leaves open moves either side by 3 steps at most.
    assert missed.rate_per_s < 1.3 * kept.rate_per_s
    for trial in found.trials:
        assert trial.queries >= 662 * trial.tries
        assert trial.p99_ns is not None
        if trial.met is not None:
            assert trial.met == (trial.p99_ns <= deadline)
    for trial in (kept, missed):
        assert trial.p99_interval_ns is not None
        assert trial.p99_ns is not None
        assert trial.p99_interval_ns.low <= trial.p99_ns <= trial.p99_interval_ns.high


class Disturbed(FakeServer):
    """A machine that answers in 1 ms, and stands still for `still_ns` every time `every_ns` have passed."""

    def __init__(self, still_ns: int, every_ns: int):
        super().__init__(MS)
        self.stood, self._still, self._every = 0, still_ns, every_ns

    def clock(self) -> int:
        if self.now // self._every > self.stood:
            self.stood = self.now // self._every
            self.now += self._still
        return super().clock()


def test_a_single_miss_is_tried_again_and_does_not_end_the_search() -> None:
    # Of tries that last 7.5 s one in thirteen meets a second of standing still.
    found = Disturbed(1000 * MS, 100_000 * MS).serve(deadline_ns=20 * MS, max_seconds=300.0)
    assert found.searched == "found"
    [kept] = [trial for trial in found.trials if trial.rate_per_s == found.highest_rate_per_s]
    assert (kept.tries, kept.tries_kept, kept.disagrees, kept.met) == (9, 8, True, True)
    assert kept.p99_ns is not None
    assert kept.p99_ns <= 20 * MS, "the median of the tries is one that kept it"


@pytest.mark.parametrize("disturbed", [3, 4, 5])
def test_a_disturbance_while_the_edge_is_looked_for_does_not_move_it(disturbed: int) -> None:
    class Scripted(arrivals.Arrivals):
        """Keeps every rate up to 700 a second, but for the try `disturbed`."""

        count = 0

        def try_once(self, rate: arrivals.Rate, end_ns: int) -> None:
            assert end_ns == 10**15
            self.count += 1
            met = rate.per_s <= 700 and self.count != disturbed
            rate.tries.append(
                arrivals.Try(queries=700, percentiles_ns=(1, 1, 1), in_time=1, busy=0.5, load=0.5, met=met)
            )

    machine = FakeServer(MS)
    scripted = Scripted(
        call=machine.call, deadline_ns=MS, seed=0, clock=machine.clock, sleep=machine.sleep, spin_ns=0, try_ns=0
    )
    search = edge.Search(arrivals=scripted, capacity_per_s=1000.0, end_ns=10**15)
    assert search.run() == "found"
    [kept] = [one.per_s for one in search.rates.values() if one.surely_kept]
    [missed] = [one.per_s for one in search.rates.values() if one.surely_missed]
    assert kept <= 700 < missed < 1.05 * kept


def test_where_tries_disagree_at_every_rate_there_is_no_highest() -> None:
    # Every other try or so is disturbed, whatever the rate.
    found = Disturbed(200 * MS, 11_000 * MS).serve(deadline_ns=20 * MS, max_seconds=300.0)
    assert (found.searched, found.highest_rate_per_s, found.kept) == ("unsteady", None, None)
    assert sum(trial.disagrees for trial in found.trials) > 3


def test_a_rate_is_sure_after_six_tries_alike_or_eight_of_nine() -> None:
    def sure(kept: int, missed: int) -> tuple[bool, bool]:
        def one(*, met: bool) -> Any:
            return arrivals.Try(queries=700, percentiles_ns=(1, 1, 1), in_time=1, busy=0.5, load=0.5, met=met)

        tried = arrivals.Rate(per_s=1.0, tries=[one(met=True)] * kept + [one(met=False)] * missed)
        return tried.surely_kept, tried.surely_missed

    assert sure(5, 0) == (False, False)
    assert sure(6, 0) == (True, False)
    assert sure(7, 1) == (False, False)
    assert sure(8, 1) == (True, False)
    assert sure(20, 2) == (False, False)
    assert sure(0, 6) == (False, True)
    assert sure(1, 8) == (False, True)


def test_too_little_time_gives_no_figure_rather_than_one_that_does_not_repeat() -> None:
    # Ten tries of 0.7 s or more: the edge is seen once, and nothing is sure.
    found = FakeServer(MS).serve(deadline_ns=5 * MS, max_seconds=7.0)
    assert (found.searched, found.highest_rate_per_s, found.lowest_missed_per_s) == ("limit", None, None)
    assert any(trial.met for trial in found.trials)
    assert found.kept is None


@pytest.mark.parametrize("deadline_ns", [100 * MS, 60_000 * MS])
def test_overload_is_never_kept(deadline_ns: int) -> None:
    found = FakeServer(MS).serve(rate_per_s=1e6, deadline_ns=deadline_ns, max_seconds=400.0)
    assert found.at_rate is not None
    assert found.at_rate.overloaded
    assert (found.at_rate.met, found.kept) == (False, False)
    tried = {trial.rate_per_s: trial for trial in found.trials}
    assert found.highest_rate_per_s in tried, "a rate that was tried, no estimate"
    assert found.lowest_missed_per_s in tried
    for trial in found.trials:
        assert trial.met is not True or trial.load <= 1.0
    assert 800 < found.highest_rate_per_s < 1000 < 1.1 * found.lowest_missed_per_s


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


def test_a_try_that_the_end_cut_short_says_nothing_beside_whole_ones() -> None:
    machine = FakeServer(MS)
    tries = arrivals.Arrivals(
        call=machine.call, deadline_ns=5 * MS, seed=0, clock=machine.clock, sleep=machine.sleep, spin_ns=0, try_ns=1
    )
    rate = arrivals.Rate(per_s=100.0)
    tries.try_once(rate, machine.now + 10**12)
    tries.try_once(rate, machine.now + 10**9)
    assert [one.met for one in rate.tries] == [True]


def test_every_rate_gets_the_same_arrivals_and_the_seed_decides() -> None:
    def p90(seed: int) -> Any:
        found = FakeServer(MS).serve(rate_per_s=500, seed=seed, max_seconds=10.0)
        return found.at_rate and found.at_rate.p90_ns

    assert p90(1) == p90(1)
    assert p90(1) != p90(2)
    bench = arrivals.Arrivals(
        call=lambda: None, deadline_ns=None, seed=3, clock=lambda: 0, sleep=lambda _: None, spin_ns=0, try_ns=0
    )
    assert bench.gaps(700) == bench.gaps(700)
    assert bench.gaps(700) != bench.gaps(700, 1), "a try again that gets the same arrivals tells nothing new"
    assert sum(bench.gaps(700)) == pytest.approx(700)
    # Exponential: the standard deviation is the mean, here 1, within three standard errors of 100,000 of them.
    assert statistics.stdev(bench.gaps(100_000)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("late_ns", [0, 60_000, 400_000])
def test_sleeping_too_long_is_not_charged(late_ns: int, latencies: list[list[int]]) -> None:
    machine = FakeServer(1000, late_ns=late_ns)
    machine.serve(rate_per_s=100, max_seconds=20.0)
    assert machine.slept > 662
    # The call and three looks at the clock.
    assert np.percentile(np.concatenate(latencies), 95) <= 1000 + 3 * 2000


def test_intervals_are_from_try_to_try(latencies: list[list[int]]) -> None:
    found = FakeServer(MS).serve(rate_per_s=800, max_seconds=10.0)
    assert found.at_rate is not None
    assert found.at_rate.tries == 6
    for p, value, interval in (
        (0.5, found.at_rate.p50_ns, found.at_rate.p50_interval_ns),
        (0.9, found.at_rate.p90_ns, found.at_rate.p90_interval_ns),
        (0.99, found.at_rate.p99_ns, found.at_rate.p99_interval_ns),
    ):
        percentiles = sorted(one[int(len(one) * p)] for one in latencies)
        assert interval is not None
        assert (interval.low, value, interval.high) == (percentiles[0], percentiles[3], percentiles[-1])
    # Two tries have no interval.
    few = FakeServer(MS).serve(rate_per_s=200, max_seconds=10.0).at_rate
    assert few is not None
    assert (few.tries, few.p99_interval_ns) == (2, None)
    assert few.p99_ns is not None


@pytest.mark.parametrize("times", [(*(MS,) * 100, 100 * MS, *(MS,) * 500_000), (*(4 * MS,) * 128, *(MS,) * 500_000)])
def test_where_the_search_begins_does_not_decide_where_it_ends(times: tuple[int, ...]) -> None:
    # One outlier among the first calls, or first calls that are all slower than those that follow.
    found = FakeServer(*times).serve(deadline_ns=5 * MS, max_seconds=300.0)
    assert found.searched == "found"
    assert found.highest_rate_per_s is not None
    assert found.lowest_missed_per_s is not None
    expected = 1000 * load_with_waits_below(4.0, 0.99)
    assert 0.8 * expected < found.highest_rate_per_s < expected < found.lowest_missed_per_s < 1.2 * expected


def test_queries_that_still_wait_at_the_end_count_as_late() -> None:
    # In 0.33 s come 662 queries; in the 0.77 s there are for them 385 are answered, and 35 in time.
    found = FakeServer(2 * MS).serve(rate_per_s=2000, deadline_ns=50 * MS, max_seconds=1.4)
    trial = found.at_rate
    assert trial is not None
    assert trial.load == pytest.approx(4.0, rel=0.01)
    assert trial.queries == 662
    assert trial.within_deadline is not None
    assert trial.within_deadline < 0.1
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


def served_run(make_run: Any, make_result: Any, found: server.Served) -> Any:
    return make_run(make_result("a.onnx", server=found), scenario="server")


def test_the_page_has_the_latencies_under_load_first(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    found = FakeServer(MS).serve(rate_per_s=100, deadline_ns=5 * MS, max_seconds=300.0)
    run = served_run(make_run, make_result, found)
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    order = ["<h3>Latency under load</h3>", "<h3>How evenly</h3>"]
    assert page.index(">Under load<") < page.index(">One call after the other<") < page.index(order[0])
    assert page.index(order[0]) < page.index(order[1])
    table, every = tables.server_table(run, every=False), tables.server_table(run)
    assert table is not None
    assert every is not None
    told = [rate(per_s) for per_s in (100, found.highest_rate_per_s, found.lowest_missed_per_s) if per_s]
    assert [row.name for row in table.rows] == [f"a.onnx, {one}" for one in told]
    assert len(every.rows) > 3
    assert all(row.cells[3].note for row in table.rows[1:]), "each p99 has its interval"
    assert "6 tries of 6 or 8 of 9" in page


def test_the_sentence_says_both_sides_and_what_speaks_against_it(make_run: Any, make_result: Any) -> None:
    def tried(per_s: float, kept: int, tries: int, load: float = 0.5) -> server.RateTrial:
        met = None if 2 * kept == tries else 2 * kept > tries
        return server.RateTrial(
            rate_per_s=per_s, tries=tries, tries_kept=kept, queries=700, p50_ns=1, p50_interval_ns=None, p90_ns=2,
            p99_ns=3, within_deadline=0.9, busy=0.5, load=load, met=met,
        )  # fmt: skip

    def said(*trials: server.RateTrial, searched: str = "found", **ends: float | None) -> str:
        found = server.Served(
            deadline_ns=5 * MS, at_rate=None, trials=trials, service_ns=1e6, searched=searched,
            highest_rate_per_s=ends.get("highest"), lowest_missed_per_s=ends.get("missed"),
        )  # fmt: skip
        [text] = tables.server_findings(served_run(make_run, make_result, found))
        return text

    every = (tried(2000, 0, 6), tried(34000, 6, 6), tried(40000, 2, 4), tried(50000, 0, 6, load=1.2))
    assert said(*every, highest=34000.0, missed=50000.0) == (
        "a.onnx keeps p99 within 5.00 ms up to 34,000 queries a second (kept in 6 of 6 tries). "
        "It misses that at 50,000 (kept in 0 of 6 tries), more than can be answered. "
        "Lower rates missed it, too: 2,000/s (kept in 0 of 6 tries). "
        "Tries of one rate disagree: 40,000/s (kept in 2 of 4 tries)."
    )
    assert said(tried(30000, 1, 1), searched="limit") == (
        "a.onnx kept p99 within 5.00 ms at no rate for sure. "
        "The time was up before both sides of the edge were sure: --max-seconds gives it more."
    )
    found = tables.server_table(served_run(make_run, make_result, server.Served(
        deadline_ns=5 * MS, at_rate=every[-1], trials=every[:3], service_ns=1e6, searched="found",
        highest_rate_per_s=34000.0, lowest_missed_per_s=50000.0,
    )))  # fmt: skip
    assert found is not None
    assert [(row.cells[-1].value, row.cells[-1].note) for row in found.rows] == [
        ("missed", "kept in 0 of 6 tries"), ("kept", "kept in 6 of 6 tries"),
        ("tries disagree", "kept in 2 of 4 tries"), ("overloaded", "kept in 0 of 6 tries"),
    ]  # fmt: skip
