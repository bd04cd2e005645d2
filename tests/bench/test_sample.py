"""Sampling on a clock that counts: how long, how often, in which order."""

from __future__ import annotations

import functools
import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest

from edgeseq.bench.energy import Meter
from edgeseq.bench.sample import SETTLE_NS, Settings, interleave, measure_clock, sample, warm_up
from edgeseq.bench.stats import clustered_interval, relative_width
from edgeseq.errors import WrongUsage

MS = 1_000_000
fixed = functools.partial(Settings, precision=None)


def test_samples_are_what_the_calls_took(clock: Any) -> None:
    settings = fixed(min_runs=4, min_seconds=0, rounds=2, warm_up_max_seconds=0)
    fast, slow = interleave([clock.working(3), clock.working(700)], settings, clock=clock)
    assert fast.rounds == ((3, 3), (3, 3))
    assert slow.rounds == ((700, 700), (700, 700))
    assert fast.error is None


def test_every_subject_gets_both_the_least_time_and_the_least_number_of_calls(clock: Any) -> None:
    settings = fixed(min_runs=50, min_seconds=1.0, rounds=10, max_seconds=1000)
    fast, slow = interleave([clock.working(1 * MS), clock.working(300 * MS)], settings, clock=clock)
    assert [len(block) for block in fast.rounds] == [100] * 10  # 1 s / 1 ms
    assert [len(block) for block in slow.rounds] == [5] * 10  # 50 calls, 15 s


def test_every_round_holds_every_subject_once_in_an_order_that_the_seed_chooses(clock: Any) -> None:
    def turns(seed: int) -> list[tuple[str, ...]]:
        log: list[str] = []

        def subject(name: str) -> Any:
            return lambda: (log.append(name), clock.working(30 * MS)())

        settings = fixed(min_runs=12, min_seconds=0, rounds=12, warm_up_max_seconds=0, seed=seed)
        interleave([subject(name) for name in "abc"], settings, clock=clock)
        # The warm-up is one call each; then a turn is one untimed and one timed call.
        assert log[:3] == ["a", "b", "c"]
        untimed, timed = log[3::2], log[4::2]
        assert untimed == timed
        return [tuple(timed[start : start + 3]) for start in range(0, len(timed), 3)]

    rounds = turns(seed=0)
    assert len(rounds) == 12
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 2
    assert turns(seed=0) == rounds
    assert turns(seed=1) != rounds


def test_the_first_call_of_a_turn_is_not_timed(clock: Any) -> None:
    costs = itertools.cycle([1000, 1, 1])  # each first call after the other subject finds cold caches

    def cold() -> None:
        clock.now += next(costs)

    settings = fixed(min_runs=8, min_seconds=0, rounds=4, warm_up_max_seconds=0)
    next(costs), next(costs)  # the warm-up call is then the third of a turn
    samples, _ = interleave([cold, clock.working(1)], settings, clock=clock)
    assert samples.rounds == ((1, 1),) * 4


def test_the_limit_ends_the_run_after_a_whole_round(clock: Any) -> None:
    settings = fixed(min_runs=100, min_seconds=0, rounds=10, max_seconds=1.0, warm_up_max_seconds=0)
    first, second = interleave([clock.working(200 * MS), clock.working(300 * MS)], settings, clock=clock)
    # One block of ten calls is past the limit already: the other subject still gets one, and no round follows.
    assert len(first.rounds) == len(second.rounds) == 1
    assert {1} < {len(first.rounds[0]), len(second.rounds[0])}


def test_a_subject_that_fails_in_the_warm_up_is_left_out(clock: Any) -> None:
    def broken() -> None:
        raise RuntimeError("no such op")

    settings = fixed(min_runs=6, min_seconds=0, rounds=3)
    bad, good = interleave([broken, clock.working(5 * MS)], settings, clock=clock)
    assert str(bad.error) == "no such op"
    assert (bad.warm_up, bad.rounds) == (None, ())
    assert good.rounds == ((5 * MS, 5 * MS),) * 3


def test_a_subject_that_fails_later_is_not_called_again(clock: Any) -> None:
    calls = itertools.count()
    failed_at = []

    def fragile() -> None:
        clock.now += 10
        if (number := next(calls)) >= 30:
            failed_at.append(number)
            raise MemoryError("out of memory")

    settings = fixed(min_runs=100, min_seconds=0, rounds=10, warm_up_max_seconds=0)
    bad, good = interleave([fragile, clock.working(5)], settings, clock=clock)
    assert isinstance(bad.error, MemoryError)
    assert failed_at == [30]
    assert len(good.rounds) == 10


def test_ctrl_c_is_not_a_result(clock: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave([interrupted], Settings(), clock=clock)


def test_a_warm_up_ends_when_the_times_are_stable(clock: Any) -> None:
    costs = itertools.chain([500 * MS, 90 * MS, 40 * MS, 20 * MS, 10 * MS], itertools.repeat(4 * MS))
    calls = []

    def call() -> None:
        calls.append(1)
        clock.now += next(costs)

    done = warm_up(call, max_ns=10_000 * MS, clock=clock)
    # A window of five slow calls, then one of 20 ms whose median differs, then two that agree with it.
    assert done.stable
    assert done.runs == len(calls) == 20
    assert done.ns == (500 + 90 + 40 + 20 + 10 + 15 * 4) * MS


def test_a_warm_up_that_never_becomes_stable_ends_at_its_limit_and_says_so(clock: Any) -> None:
    costs = (MS * 2**number for number in itertools.count())

    def slower_and_slower() -> None:
        clock.now += next(costs)

    done = warm_up(slower_and_slower, max_ns=1000 * MS, clock=clock)
    assert not done.stable
    assert done.ns == 1023 * MS  # the call during which the limit passed is the last


def test_garbage_is_not_collected_while_a_call_is_timed(clock: Any) -> None:
    states = []

    def call() -> None:
        states.append(gc.isenabled())
        clock.now += 25 * MS

    assert gc.isenabled()
    interleave([call], fixed(min_runs=6, min_seconds=0, rounds=3), clock=clock)
    # Timed calls have it off; the one untimed call of each of three turns has it on.
    assert states.count(True) == 3
    assert states.count(False) > 6
    assert gc.isenabled()


def test_garbage_is_collected_before_the_next_subjects_turn(clock: Any) -> None:
    class Cycle:
        pass

    left: list[weakref.ref[Cycle]] = []
    seen: list[int] = []

    def littering() -> None:
        cycle = Cycle()
        cycle.itself = cycle  # type: ignore[attr-defined]
        left.append(weakref.ref(cycle))
        clock.now += MS

    def other() -> None:
        seen.append(sum(reference() is not None for reference in left))
        clock.now += MS

    interleave([littering, other], fixed(min_runs=9, min_seconds=0, rounds=3, warm_up_max_seconds=0), clock=clock)
    assert len(left) > 9
    assert set(seen) == {0}


def test_garbage_collection_that_was_off_stays_off(clock: Any) -> None:
    gc.disable()
    try:
        interleave([clock.working(MS)], fixed(min_runs=6, min_seconds=0, rounds=3), clock=clock)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_progress_tells_stage_done_and_total(clock: Any) -> None:
    told: list[tuple[str, int, int]] = []
    settings = fixed(min_runs=2, min_seconds=0, rounds=2)
    interleave([clock.working(9 * MS)] * 2, settings, clock=clock, progress=lambda *said: told.append(said))
    assert told == [("warm-up", 0, 2), ("warm-up", 1, 2), ("measure", 0, 2), ("measure", 1, 2), ("measure", 2, 2)]


def test_the_clock_is_measured() -> None:
    readings = itertools.accumulate(itertools.cycle([0, 0, 15, 40]))
    facts = measure_clock(lambda: next(readings), readings=100)
    assert facts.resolution_ns == 15
    assert facts.overhead_ns == 0
    steady = itertools.count(step=25)
    assert measure_clock(lambda: next(steady)).overhead_ns == 25


def test_a_coarse_clock_is_waited_for() -> None:
    readings = itertools.count()
    assert measure_clock(lambda: next(readings) // 5000 * 1_000_000, readings=100).resolution_ns == 1_000_000


def jumping(clock: Any, *costs_ms: float) -> Any:
    """A call whose time is the next of `costs_ms` each time, over and over."""
    costs = itertools.cycle(costs_ms)

    def call() -> None:
        clock.now += round(next(costs) * MS)

    return call


def test_rounds_go_on_until_the_interval_is_narrow_enough(clock: Any) -> None:
    random = np.random.default_rng(0)
    uneven = [float(cost) for cost in random.uniform(8, 12, 5000)]

    def rounds(precision: float | None) -> tuple[int, str]:
        settings = Settings(min_runs=20, min_seconds=0, rounds=20, warm_up_max_seconds=0, precision=precision)
        sampled = sample([jumping(clock, *uneven), clock.working(MS)], settings, clock=clock)
        # Rounds are paired: the steady subject goes on as long as the uneven one.
        assert len(sampled.subjects[0].rounds) == len(sampled.subjects[1].rounds)
        found = sampled.subjects[0].rounds
        if precision is not None:
            width = relative_width(found, 0.5)
            assert width is not None
            assert width <= precision
        return len(found), sampled.stopped

    assert rounds(None) == (20, "fixed")
    few, many = rounds(0.1), rounds(0.02)
    assert few[1] == many[1] == "precise"
    # The width falls with the root of the number: a fifth of it takes about 25 times as many calls.
    assert 20 <= few[0] < 100 < many[0]


def test_enough_calls_for_the_percentile_are_waited_for(clock: Any) -> None:
    settings = Settings(min_runs=20, min_seconds=0, rounds=20, warm_up_max_seconds=0, percentile=0.99)
    sampled = sample([clock.working(MS)], settings, clock=clock)
    count = sum(len(block) for block in sampled.subjects[0].rounds)
    # p99 needs 662 calls; one call a round, and a look at every tenth part more.
    assert 662 <= count <= 662 * 1.1
    assert sampled.stopped == "precise"


def test_rounds_too_few_to_tell_are_not_enough(clock: Any) -> None:
    settings = Settings(min_runs=40, min_seconds=0, rounds=2, warm_up_max_seconds=0)
    assert len(sample([clock.working(MS)], settings, clock=clock).subjects[0].rounds) == 6


def test_the_limit_ends_what_never_becomes_precise(clock: Any) -> None:
    settings = Settings(min_runs=10, min_seconds=0, rounds=10, max_seconds=1.0, warm_up_max_seconds=0, precision=0.01)
    sampled = sample([jumping(clock, *[1] * 7, *[30] * 7)], settings, clock=clock)
    assert sampled.stopped == "limit"
    assert len(sampled.subjects[0].rounds) > 10
    assert clock.now <= 1100 * MS


def test_a_subject_that_failed_is_not_waited_for(clock: Any) -> None:
    def broken() -> None:
        raise RuntimeError("no such op")

    settings = Settings(min_runs=20, min_seconds=0, rounds=20)
    assert sample([broken, clock.working(MS)], settings, clock=clock).stopped == "precise"
    assert sample([broken], settings, clock=clock).stopped == "fixed"


def test_a_block_is_whole_cycles(clock: Any) -> None:
    settings = fixed(min_runs=40, min_seconds=0, rounds=8, warm_up_max_seconds=0)
    cycling, plain = interleave([jumping(clock, 1, 2, 3), clock.working(MS)], settings, cycles=[3, 1], clock=clock)
    # Five calls a block at least: six are two cycles, whatever input the untimed call left off at.
    assert [sorted(block) for block in cycling.rounds] == [[MS, MS, 2 * MS, 2 * MS, 3 * MS, 3 * MS]] * 8
    assert [len(block) for block in plain.rounds] == [5] * 8


def test_a_block_past_the_limit_is_one_whole_cycle(clock: Any) -> None:
    settings = fixed(min_runs=100, min_seconds=0, rounds=2, max_seconds=0.001, warm_up_max_seconds=0)
    [cycling] = interleave([jumping(clock, 1, 2, 3)], settings, cycles=[3], clock=clock)
    assert [len(block) for block in cycling.rounds] == [3]


def test_the_probe_has_a_turn_in_every_round(clock: Any) -> None:
    settings = fixed(min_runs=12, min_seconds=0, rounds=6, warm_up_max_seconds=0)
    sampled = sample([clock.working(MS)], settings, probe=jumping(clock, 9, 1, 2, 3, 4, 5), clock=clock)
    # Its first call, which finds the subject's data in the caches, is not timed.
    assert sampled.probe == ((MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS),) * 6
    assert len(sampled.subjects[0].rounds) == 6
    assert sample([clock.working(MS)], settings, clock=clock).probe == ()


def test_turns_begin_with_untimed_calls_until_threads_have_come_to_rest(clock: Any) -> None:
    # After a call of the first, 33 ms of the next calls' time are twice as long, whoever makes them.
    busy_until = [0]

    def first() -> None:
        clock.now += MS
        busy_until[0] = clock.now + 33 * MS

    def second() -> None:
        clock.now += 2 * MS if clock.now < busy_until[0] else MS

    def times(settle_ns: int) -> set[int]:
        settings = fixed(min_runs=66, min_seconds=0, rounds=6, warm_up_max_seconds=0)
        _, found = interleave([first, second], settings, settle_ns=settle_ns, clock=clock)
        return {time for block in found.rounds for time in block}

    assert times(0) == {MS, 2 * MS}
    assert times(SETTLE_NS) == {MS}
    probed = sample([first], fixed(min_runs=6, min_seconds=0, rounds=6), probe=second, settle_ns=SETTLE_NS, clock=clock)
    assert {time for block in probed.probe for time in block} == {MS}


def test_a_meter_that_cannot_be_read_is_not_the_subjects_error(clock: Any) -> None:
    def unreadable() -> int:
        if clock.now > 5 * MS:
            raise OSError("gone")
        return 0

    meters = [Meter(name="gone", read=unreadable), Meter(name="there", read=lambda: clock.now)]
    settings = fixed(min_runs=12, min_seconds=0, rounds=6, warm_up_max_seconds=0)
    [found] = sample([clock.working(MS)], settings, meters=meters, clock=clock).subjects
    assert found.error is None
    assert found.microjoules == (None, 12 * MS)


def test_stopping_when_precise_keeps_the_confidence(clock: Any) -> None:
    random = np.random.default_rng(1)
    settings = Settings(min_runs=20, min_seconds=0, rounds=20, warm_up_max_seconds=0, max_seconds=1e6)

    def held() -> bool:
        # Each round has a level of its own, 10 % apart; its call times do not matter beside that.
        [found] = sample([jumping(clock, *random.normal(10, 1, 2000))], settings, clock=clock).subjects
        clustered = clustered_interval(found.rounds, 0.5)
        assert clustered is not None
        assert clustered.interval is not None
        return clustered.interval.low <= 10 * MS <= clustered.interval.high

    # 95 % of 150, and three standard deviations.
    assert sum(held() for _ in range(150)) >= 135


def test_meters_count_what_the_timed_calls_of_each_subject_took(clock: Any) -> None:
    meter = Meter(name="package-0", read=lambda: clock.now // 1000 % 50_000, wraps_at=50_000)
    settings = fixed(min_runs=12, min_seconds=0, rounds=6, warm_up_max_seconds=0)
    sampled = sample([clock.working(MS), clock.working(7 * MS)], settings, meters=[meter], clock=clock)
    # A microjoule a microsecond, which is a watt; the counter starts again three times.
    assert [samples.microjoules for samples in sampled.subjects] == [(12 * 1000,), (12 * 7000,)]


def test_what_is_precise_when_the_time_is_up_ended_precise(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # After 20 rounds every second is looked at; the limit is after the 21st, an untimed and a timed call each.
    monkeypatch.setattr("edgeseq.bench.sample._is_precise", lambda rounds, *_: len(rounds) == 21)
    settings = Settings(min_runs=20, min_seconds=0, rounds=20, max_seconds=0.0415, warm_up_max_seconds=0)
    sampled = sample([clock.working(MS)], settings, clock=clock)
    assert (len(sampled.subjects[0].rounds), sampled.stopped) == (21, "precise")


def test_progress_goes_on_when_the_number_of_rounds_is_not_known(clock: Any) -> None:
    told: list[tuple[str, int, int]] = []
    settings = Settings(min_runs=2, min_seconds=0, rounds=2, max_seconds=1.0, warm_up_max_seconds=0)
    sample([clock.working(10 * MS)], settings, clock=clock, progress=lambda *said: told.append(said))
    measured = [said[1:] for said in told if said[0] == "measure"]
    # Two rounds are certain; then as many as the limit allows, each of 20 ms; eleven calls are what a median needs.
    assert measured[:3] == [(0, 2), (1, 2), (2, 50)]
    assert measured[-1] == (11, 11)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_runs": 0},
        {"rounds": 0},
        {"min_seconds": -1.0},
        {"min_seconds": float("nan")},
        {"max_seconds": 0.0},
        {"max_seconds": -1.0},
        {"max_seconds": float("nan")},
        {"max_seconds": float("inf")},
        {"percentile": 0.0},
        {"percentile": 99},
        {"percentile": float("nan")},
        {"precision": 0.0},
        {"precision": -0.1},
        {"precision": float("nan")},
        {"precision": float("inf")},
        {"precision": 5.0},
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage, match=next(iter(wrong)).replace("_", " ")):
        Settings(**wrong)
