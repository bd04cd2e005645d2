"""Drift, outliers and a busy machine: found where they are planted, and not told where they are trifling."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.bench import noise
from edgeseq.bench.noise import Disturbance, Stability, result_notes, run_warnings, speed_range, stability

Rounds = list[list[int]]


def rounds(seed: int = 0, count: int = 20, calls: int = 40, drift: float = 0.0, spread: float = 0.01) -> Rounds:
    random = np.random.default_rng(seed)
    levels = 1e6 * (1 + drift * np.arange(count) / (count - 1))
    return [[int(value) for value in random.normal(level, spread * 1e6, calls)] for level in levels]


def found(times: Rounds) -> Stability:
    stable = stability(times)
    assert stable is not None
    return stable


def quiet(**changes: Any) -> Disturbance:
    return Disturbance(
        **{
            "probe_ns": (1e6, 1.01e6) * 10,
            "other_cores": 0.02,
            "stolen_share": 0.0,
            "involuntary_switches": 3,
            **changes,
        }
    )


def test_a_planted_drift_is_found_and_told() -> None:
    stable = found(rounds(drift=0.06))
    assert stable.drift == pytest.approx(0.06, abs=0.005)
    assert stable.drift_is_certain
    assert result_notes(rounds(drift=0.06), stable, percentile=0.5, precision=None) == (
        "it became 6% slower from the first round to the last",
    )
    faster = rounds(drift=-0.06)
    assert "6% faster" in result_notes(faster, found(faster), percentile=0.5, precision=None)[0]


def test_no_drift_is_certain_about_as_rarely_as_the_test_says() -> None:
    certain = sum(found(rounds(seed)).drift_is_certain for seed in range(300))
    # 1 % of 300, and three standard deviations.
    assert certain <= 8


def test_rounds_that_resemble_their_neighbours_are_not_taken_for_a_drift() -> None:
    random = np.random.default_rng(3)

    def certain() -> bool:
        level, times = random.normal(), []
        for _ in range(60):
            times.append([round(1e6 * (1 + 0.01 * level))] * 3)
            level = 0.6 * level + 0.8 * random.normal()
        return found(times).drift_is_certain

    # 2 % of 200, and three standard deviations; taken as independent they give 17 %.
    assert sum(certain() for _ in range(200)) <= 10


def test_a_certain_drift_that_is_trifling_is_not_told() -> None:
    times = rounds(drift=0.01, spread=0.001)
    assert found(times).drift_is_certain
    assert result_notes(times, found(times), percentile=0.5, precision=None) == ()


def test_one_wild_round_is_no_drift() -> None:
    times = rounds()
    times[-1] = [9 * value for value in times[-1]]
    assert abs(found(times).drift) < 0.02
    assert not found(times).drift_is_certain


def test_rounds_that_are_all_alike_do_not_drift() -> None:
    stable = found([[1000] * 10] * 20)
    assert (stable.drift, stable.drift_is_certain, stable.outliers) == (0.0, False, 0)
    assert stable.design_effect == 1.0


def test_mann_kendalls_variance_is_corrected_for_ties() -> None:
    # Of the 27 unequal pairs of nine rounds all but one rise, so the score is 25. Without ties the variance is
    # 9 x 8 x 23 / 18 = 92, and (25 - 1) / 9.59 = 2.50 is below 2.576; with three times three ties it is
    # (9 x 8 x 23 - 3 x 3 x 2 x 11) / 18 = 81, and (25 - 1) / 9 = 2.67.
    assert found([[level] * 9 for level in (1, 1, 2, 1, 2, 2, 3, 3, 3)]).drift_is_certain
    # Two pairs that fall: (23 - 1) / 9 = 2.44.
    assert not found([[level] * 9 for level in (1, 2, 1, 1, 2, 2, 3, 3, 3)]).drift_is_certain


def test_very_many_rounds_are_put_together() -> None:
    stable = found(rounds(count=5000, calls=3, drift=0.2))
    assert stable.drift == pytest.approx(0.2, abs=0.01)
    assert stable.drift_is_certain


def test_outliers_are_those_of_tukeys_far_fence() -> None:
    # Quartiles 100 and 200: the fence is at 200 + 3 x 100.
    block = [100] * 5 + [200] * 5
    stable = found([block] * 9 + [[*block, 500, 501, 9000]])
    assert (stable.outliers, stable.longest_ns) == (2, 9000)


def test_an_outlier_is_at_least_five_percent_longer() -> None:
    # All alike, so that any other would lie beyond the fence: a clock's step is no outlier.
    stable = found([[1000] * 10] * 9 + [[1000] * 8 + [1049, 1051]])
    assert stable.outliers == 1


def test_many_outliers_are_told_and_few_are_not() -> None:
    times = rounds()
    times[0][0] = 9_000_000
    assert result_notes(times, found(times), percentile=0.5, precision=None) == ()
    times[0][:27] = [9_000_000] * 27
    assert result_notes(times, found(times), percentile=0.5, precision=None) == (
        "27 of 800 calls were outliers; the longest took 9.00 ms",
    )


def test_how_much_rounds_differ() -> None:
    stable = found([[level] * 9 for level in (100, 100, 104, 104, 108, 108, 112, 112, 116)])
    assert stable.design_effect > 5


def test_few_rounds_tell_nothing() -> None:
    assert stability(rounds(count=5)) is None
    assert stability([]) is None


def test_a_precision_that_was_not_reached_is_told_with_the_one_that_was() -> None:
    times = rounds(spread=0.2)
    [said] = result_notes(times, None, percentile=0.9, precision=0.001)
    assert said.startswith("the interval of p90 is ")
    assert said.endswith(" % wide, not the 0.10 % asked for")
    assert result_notes(times, None, percentile=0.9, precision=0.5) == ()
    assert result_notes(times, None, percentile=0.999, precision=0.5) == (
        "800 calls are too few for p99.9, which needs 6,636",
    )


def test_why_there_is_no_interval_is_the_true_reason() -> None:
    def told(times: list[tuple[int, ...]]) -> str:
        [said] = result_notes(times, None, percentile=0.5, precision=0.05)
        return said

    assert told([(100,)]) == "1 call is too few for the median, which needs 11"
    assert told([(100,) * 20] * 5) == "5 rounds of 6 that an interval of the median needs"
    # One long drift: however many calls, they are worth no more than a round or two.
    drifting = [tuple(range(1000 * number, 1000 * number + 900)) for number in range(1, 11)]
    assert told(drifting).startswith("its 10 rounds differ so much that 9,000 calls are worth ")
    assert told(drifting).endswith(": too few for an interval of the median")


def test_a_warm_up_that_did_not_become_stable_is_told() -> None:
    [said] = result_notes(rounds(), None, percentile=0.5, precision=None, warm_up_stable=False)
    assert "had not become stable" in said


def test_a_quiet_machine_is_not_talked_about() -> None:
    assert run_warnings(quiet(), load_before=0.4, cores=2, stopped="precise") == ()


@pytest.mark.parametrize(
    ("changes", "load", "said"),
    [
        ({"other_cores": 0.8}, 0.0, "other processes used 0.80 of the machine's 2 cores while this ran"),
        ({"probe_ns": (1e6, 1.12e6) * 10}, 0.0, "the machine's own speed varied by 11% between rounds"),
        ({"stolen_share": 0.03}, 0.0, "gave 3% of its time to others"),
        ({"other_cores": None}, 1.7, "at work before this ran (load average 1.7 on 2 cores)"),
    ],
)
def test_a_disturbed_machine_is_told(changes: dict[str, Any], load: float, said: str) -> None:
    [warning] = run_warnings(quiet(**changes), load_before=load, cores=2)
    assert said in warning


def test_a_load_before_is_not_told_where_the_work_of_others_is_known() -> None:
    # Most often it is what the user just did: exporting the file that is measured now.
    assert run_warnings(quiet(), load_before=2.0, cores=2) == ()


def test_many_cores_have_room_for_others() -> None:
    assert run_warnings(quiet(other_cores=0.8), load_before=None, cores=64) == ()


def test_a_limit_that_was_hit_is_told() -> None:
    assert "the time was up" in run_warnings(quiet(), load_before=None, cores=2, stopped="limit")[0]


def test_the_range_of_the_speed_leaves_single_rounds_out() -> None:
    assert speed_range([1.0] * 19 + [50.0]) == 0.0
    assert speed_range([1.0] * 5) is None
    assert speed_range([0.0] * 6) is None


def test_the_probe_does_the_same_each_time_on_one_thread() -> None:
    work = noise.probe()
    before = os.times()
    started = time.perf_counter()
    for _ in range(20):
        assert work() is None
    elapsed = time.perf_counter() - started
    spent = os.times()
    # Ticks of 10 ms, at both ends.
    assert spent.user + spent.system - before.user - before.system <= elapsed + 0.02


STAT = "cpu  {user} 20 30 {idle} 5 1 2 {stolen} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"


def test_the_work_of_others_is_the_machines_less_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(noise, "_PROC_STAT", stat)
    now, own = [100.0], [3.0]
    monkeypatch.setattr(noise.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(noise, "_own_seconds", lambda: own[0])
    second = os.sysconf("SC_CLK_TCK")
    stat.write_text(STAT.format(user=0, idle=0, stolen=0))
    watch = noise.Watch()
    now[0], own[0] = 110.0, 9.0
    # Twenty seconds on two cores: 14 busy, of which 6 were ours, 1 stolen.
    stat.write_text(STAT.format(user=14 * second, idle=5 * second, stolen=1 * second))
    disturbance = watch.disturbance([1.0, 2.0])
    assert disturbance.other_cores == pytest.approx(0.8)
    assert disturbance.stolen_share == pytest.approx(0.05)
    assert disturbance.probe_ns == (1.0, 2.0)


@pytest.mark.parametrize("text", [None, "cpu  0 0 0 0 0 0 0 0 0 0\n", "cpu  1 2 3\n", "intr 5\n"])
def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(noise, "_PROC_STAT", tmp_path / "stat")
    monkeypatch.setattr(noise, "_resource", None)
    disturbance = noise.Watch().disturbance([])
    assert (disturbance.other_cores, disturbance.stolen_share, disturbance.involuntary_switches) == (
        None, None, None,
    )  # fmt: skip
