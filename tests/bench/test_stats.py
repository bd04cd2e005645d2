"""Statistics against counting by hand, exact sums and textbook tables."""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.bench import stats
from edgeseq.bench.stats import Clustered, Interval, Ratio

PERCENTILES = st.sampled_from([0.05, 0.25, 0.5, 0.9, 0.95, 0.99])


def binomial_cdf(n: int, p: float) -> list[Fraction]:
    """P(B <= k) for k = 0..n, exactly."""
    q = Fraction(str(p))
    return list(itertools.accumulate(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.floats(0.001, 0.999))
def test_a_percentile_is_mlperfs(samples: list[int], p: float) -> None:
    assert stats.percentile(samples, p) == sorted(samples)[int(len(samples) * p)]


def test_a_percentile_of_known_numbers() -> None:
    samples = list(range(100, 0, -1))
    assert [stats.percentile(samples, p) for p in (0.5, 0.9, 0.99)] == [51, 91, 100]


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        stats.percentile([], 0.5)


@pytest.mark.parametrize(("p", "least"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_least_counts_are_those_of_mlperf(p: float, least: int) -> None:
    assert stats.least_count(p) == least


@pytest.mark.parametrize("p", [0.5, 0.9, 0.95])
def test_least_count_leaves_two_samples_beyond_with_99_percent(p: float) -> None:
    def enough(n: int) -> bool:
        return binomial_cdf(n, p)[n - 2] >= Fraction(99, 100)

    least = stats.least_count(p)
    assert enough(least)
    assert not enough(least - 1)


@pytest.mark.parametrize("p", [0.0, 1.0, 90, float("nan")])
def test_least_count_wants_a_fraction(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.least_count(p)


def test_a_percentile_without_enough_samples_is_none() -> None:
    samples = list(range(63))
    assert stats.percentile_if_enough(samples, 0.9) is None
    assert stats.percentile_if_enough([*samples, 63], 0.9) == 57


# Distribution-free 95 % intervals of the median (Conover, Practical Nonparametric Statistics, section 3.2, table A3).
@pytest.mark.parametrize(("n", "ranks"), [(5, None), (6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (25, (8, 18))])
def test_median_ranks_are_those_of_the_tables(n: int, ranks: tuple[int, int] | None) -> None:
    assert stats.interval_ranks(n, 0.5) == ranks


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 80), PERCENTILES, st.sampled_from([0.8, 0.95, 0.99]))
def test_ranks_are_the_tightest_that_keep_each_tail(n: int, p: float, confidence: float) -> None:
    tail = (1 - Fraction(str(confidence))) / 2
    below = binomial_cdf(n, p)
    # The chance that fewer than r samples, or at least r, are below the true percentile.
    low = [r for r in range(1, n + 1) if below[r - 1] <= tail]
    high = [r for r in range(1, n + 1) if 1 - below[r - 1] <= tail]
    expected = (max(low), min(high)) if low and high else None
    assert stats.interval_ranks(n, p, confidence) == expected


def test_ranks_of_very_many_samples_do_not_underflow() -> None:
    low, high = stats.interval_ranks(1_000_000, 0.5) or (0, 0)
    # The binomial is normal there: 500,000 -+ 1.96 x 500.
    assert low == pytest.approx(500_000 - 980, abs=2)
    assert high == pytest.approx(500_000 + 980, abs=2)


def test_an_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    found = [stats.percentile_interval(random.exponential(size=101), 0.5) for _ in range(1000)]
    held = sum(interval is not None and interval.low <= math.log(2) <= interval.high for interval in found)
    # 95 % at least; 1,000 draws stray by less than 2.5 points (3.6 standard deviations) from the exact 96.1 %.
    assert 936 <= held <= 986


def test_what_disturbs_a_whole_round_cancels_in_a_paired_ratio() -> None:
    drift = [1.0, 5.0, 1.0, 9.0, 2.0, 3.0, 1.0, 4.0]
    ratio = stats.paired_ratio([2.0 * d for d in drift], [1.0 * d for d in drift])
    assert ratio == Ratio(value=2.0, interval=Interval(low=2.0, high=2.0))
    assert ratio.differs


def test_a_paired_ratio_has_the_interval_of_the_median_of_ratios() -> None:
    ratios = [0.9, 1.3, 1.0, 1.1, 1.2, 0.8, 1.05, 0.95, 1.15, 1.25]
    ratio = stats.paired_ratio(ratios, [1.0] * 10)
    assert ratio.value == pytest.approx(1.075)
    # Ranks 2 and 9 of ten.
    assert ratio.interval == Interval(low=0.9, high=1.25)
    assert not ratio.differs


def test_too_few_rounds_give_a_ratio_without_an_interval() -> None:
    ratio = stats.paired_ratio([2.0] * 5, [1.0] * 5)
    assert ratio == Ratio(value=2.0, interval=None)
    assert not ratio.differs


@pytest.mark.parametrize("rounds", [([1.0], [1.0, 2.0]), ([], [])])
def test_rounds_that_do_not_pair_are_an_error(rounds: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="paired rounds"):
        stats.paired_ratio(*rounds)


def test_an_independent_ratio_of_equal_runs_holds_one_and_of_twice_as_slow_ones_two() -> None:
    random = np.random.default_rng(2)
    first, second = (list(random.normal(100, 2, 20)) for _ in range(2))
    same = stats.independent_ratio(first, second)
    twice = stats.independent_ratio([2 * value for value in first], second)
    assert same.interval is not None
    assert twice.interval is not None
    assert same.interval.low < 1 < same.interval.high
    assert twice.interval.low < 2 < twice.interval.high
    assert twice.differs
    assert same.value == np.median(first) / np.median(second)
    assert same == stats.independent_ratio(first, second)


def test_an_independent_ratio_of_few_rounds_has_no_interval() -> None:
    assert stats.independent_ratio([3.0] * 20, [1.0] * 5) == Ratio(value=3.0, interval=None)
    with pytest.raises(ValueError, match="rounds on both sides"):
        stats.independent_ratio([], [1.0])


def test_a_ratio_to_a_time_of_zero_is_refused() -> None:
    # A coarse clock: neither inf nor nan can be written as JSON.
    for ratio in (stats.paired_ratio, stats.independent_ratio):
        with pytest.raises(ValueError, match="too coarse"):
            ratio([1.0] * 6, [0.0, *[1.0] * 5])


def test_rounds_like_their_neighbours_are_worth_fewer() -> None:
    random = np.random.default_rng(7)

    def held(likeness: float, runs: int = 200) -> float:
        found = []
        for _ in range(runs):
            levels = np.concatenate(like_the_last(random, 60, 1, likeness))
            clustered = stats.clustered_interval([level + 0.3 * random.normal(size=10) for level in levels], 0.5)
            found.append(clustered is not None and clustered.interval is not None and (
                clustered.interval.low <= 0 <= clustered.interval.high
            ))  # fmt: skip
        return statistics.mean(found)

    # 97, 94 and 92 %, less three standard deviations of 200 runs; without the factor 0.6 gives 75 %.
    assert held(0.0) >= 0.93
    assert held(0.3) >= 0.88
    assert held(0.6) >= 0.86


def test_the_effect_of_likeness_is_bounded() -> None:
    assert stats.correlation_effect(np.array([1.0, -1.0] * 5)) == 1.0
    assert stats.correlation_effect(np.zeros(5)) == 1.0
    assert stats.correlation_effect(np.ones(1000)) == pytest.approx(19.0)
    # Two alike, then two of the other kind: neighbours agree twice in a period of four and disagree twice, 1 / 40 more.
    assert stats.correlation_effect(np.array([1.0, 1.0, -1.0, -1.0] * 10)) == pytest.approx((1 + 1 / 40) / (1 - 1 / 40))


def normal_rounds(random: np.random.Generator, rounds: int, calls: int, shift: float) -> list[np.ndarray]:
    """Normal times whose rounds lie `shift` standard deviations apart."""
    return list(random.normal(size=(rounds, calls)) + shift * random.normal(size=(rounds, 1)))


def like_the_last(random: np.random.Generator, rounds: int, calls: int, likeness: float) -> list[np.ndarray]:
    """An autoregressive series of order 1 with variance 1, cut into rounds."""
    noise = random.normal(size=rounds * calls) * math.sqrt(1 - likeness**2)
    times = np.array(list(itertools.accumulate(noise, lambda last, new: likeness * last + new)))
    return list(times.reshape(rounds, calls))


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["independent", "shifted", "autoregressive"])
def test_a_clustered_interval_holds_the_true_percentile_about_as_often_as_it_says(kind: str, p: float) -> None:
    random = np.random.default_rng(3)
    make = {"autoregressive": lambda: like_the_last(random, 30, 40, 0.8)}.get(
        kind, lambda: normal_rounds(random, 30, 40, 0.5 if kind == "shifted" else 0.0)
    )
    truth = statistics.NormalDist(0, math.sqrt(1.25) if kind == "shifted" else 1.0).inv_cdf(p)

    def held(intervals: list[Interval | None]) -> float:
        return statistics.mean(found is not None and found.low <= truth <= found.high for found in intervals)

    drawn = [make() for _ in range(300)]
    clustered = [stats.clustered_interval(rounds, p) for rounds in drawn]
    # 95 %; 300 draws stray by 3.8 points (three standard deviations); what is unlike is never taken for more alike
    # than chance, so that independent samples get a little more.
    assert 0.91 <= held([found.interval for found in clustered if found is not None]) <= 0.995
    as_independent = held([stats.percentile_interval(np.concatenate(rounds), p) for rounds in drawn])
    effect = statistics.median(found.design_effect for found in clustered if found is not None)
    if kind == "independent":
        assert effect < 1.3
    else:
        assert as_independent < 0.85
        assert effect > 2


def test_samples_as_even_as_chance_have_the_interval_of_independent_ones() -> None:
    # Every round holds the same hundred times: shares differ by less than chance.
    rounds = [list(range(100))] * 8
    found = stats.clustered_interval(rounds, 0.5)
    assert found is not None
    assert found.design_effect == 1.0
    assert found.interval == stats.percentile_interval(list(range(100)) * 8, 0.5)


def test_rounds_of_one_value_each_are_worth_a_call_each() -> None:
    # Twenty levels, forty equal calls of each: the median is as well known as from twenty calls, or a little worse,
    # since their variance is an estimate: Student's t for 19 degrees of freedom is 2.093, so 20 x (1.96 / 2.093)^2 = 17
    # independent calls, less the factor 20 / 19; their ranks are 4 and 13 (binomial, n = 16).
    # Neighbours lie far apart, so that none is like the one before.
    rounds = [[9 * number % 20] * 40 for number in range(20)]
    found = stats.clustered_interval(rounds, 0.5)
    assert found is not None
    assert 800 / found.design_effect == pytest.approx(20 * 19 / 20 * (1.96 / 2.093) ** 2, rel=0.01)
    assert stats.interval_ranks(16, 0.5) == (4, 13)
    assert found.interval == Interval(low=4.0, high=15.0)


def test_ties_of_a_coarse_clock_are_not_taken_for_likeness() -> None:
    random = np.random.default_rng(5)
    drawn = [[np.floor(random.normal(12, 0.7, 50)) for _ in range(20)] for _ in range(50)]
    found = [stats.clustered_interval(rounds, 0.5) for rounds in drawn]
    assert statistics.mean(one.design_effect for one in found if one is not None) < 1.3
    same = stats.clustered_interval([[7] * 10] * 20, 0.5)
    assert same == Clustered(interval=Interval(low=7.0, high=7.0), design_effect=1.0)


def test_few_rounds_tell_no_clustered_interval() -> None:
    assert stats.clustered_interval([list(range(100))] * 5, 0.5) is None
    assert stats.clustered_interval([], 0.5) is None


def test_calls_worth_too_few_have_no_interval_but_say_how_few() -> None:
    found = stats.clustered_interval([[level] * 40 for level in range(20)], 0.99)
    assert found is not None
    assert found.interval is None
    assert found.design_effect > 9


def test_the_relative_width_is_that_of_the_interval() -> None:
    rounds = [list(range(100, 200))] * 8
    found = stats.clustered_interval(rounds, 0.5)
    assert found is not None
    assert found.interval is not None
    assert stats.relative_width(rounds, 0.5) == (found.interval.high - found.interval.low) / 150
    assert stats.relative_width(rounds, 0.999) is None
    assert stats.relative_width(rounds[:5], 0.5) is None
    assert stats.relative_width([[0] * 10] * 8, 0.5) == 0.0


# Student's t at 97.5 % (any table).
@pytest.mark.parametrize(("degrees", "t"), [(5, 2.571), (7, 2.365), (19, 2.093), (59, 2.001)])
def test_students_t(degrees: int, t: float) -> None:
    assert stats._student_quantile(degrees, 0.95) == pytest.approx(t, rel=2e-3)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.01, 1.4), "difference"),
        ((0.5, 0.99), "difference"),
        ((0.96, 1.05), "no difference"),
        ((0.95, 1.05), "undecided"),
        ((0.39, 1.10), "undecided"),
        (None, "undecided"),
    ],
)
def test_a_wide_interval_around_1_decides_nothing(interval: tuple[float, float] | None, verdict: str) -> None:
    found = None if interval is None else Interval(low=interval[0], high=interval[1])
    assert Ratio(value=1.0, interval=found).verdict == verdict
