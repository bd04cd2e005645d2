"""Now against then: a planted slow-down is found, noise is not, and what cannot be compared is said."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from edgeseq.bench.baseline import compare_to_baseline
from edgeseq.bench.lengths import LengthFacts
from edgeseq.bench.machine import Machine
from edgeseq.bench.noise import Disturbance

LENGTHS = LengthFacts(
    source="reviews.npy", sha256="ab" * 32, sequences=9, shortest=1, median=2, longest=3, inputs=9, density=1.0
)


OTHER_MACHINE = Machine(cpu_model="Another", cores=2, cpu_features=(), architecture="x86_64", system="Linux")


def probed(*levels: float) -> Disturbance:
    return Disturbance(probe_ns=levels, other_cores=None, stolen_share=None, involuntary_switches=None)


def rounds(p50_ms: float, seed: int, spread: float = 0.01) -> tuple[float, ...]:
    return tuple(float(value) for value in np.random.default_rng(seed).normal(p50_ms * 1e6, p50_ms * 1e6 * spread, 20))


def test_a_slow_down_of_ten_percent_is_found(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)))
    now = make_run(make_result(round_p50_ns=rounds(1.1, 2)))
    comparison = compare_to_baseline(now, then)
    assert not comparison
    assert comparison.regressions == ("model.onnx",)
    [row] = comparison.rows
    assert row.verdict == "slower"
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(1.1, abs=0.015)  # 1 % noise a round, 20 rounds on each side
    assert "x the baseline's time" in row.reason


def test_a_speed_up_is_told_and_is_no_regression(make_run: Any, make_result: Any) -> None:
    comparison = compare_to_baseline(
        make_run(make_result(round_p50_ns=rounds(0.8, 1))), make_run(make_result(round_p50_ns=rounds(1.0, 2)))
    )
    assert comparison
    assert comparison.rows[0].verdict == "faster"


def test_the_same_file_again_raises_no_alarm(make_run: Any, make_result: Any) -> None:
    # Each run has a level of its own, 2 % apart at most, and 3 % noise between rounds.
    runs = [
        make_run(make_result(round_p50_ns=rounds(1.0 + 0.001 * (seed % 20), seed, spread=0.03))) for seed in range(20)
    ]
    alarms = [not compare_to_baseline(now, runs[0]) for now in runs]
    assert sum(alarms) == 0


def test_a_change_within_the_noise_is_no_difference_however_large_its_estimate(make_run: Any, make_result: Any) -> None:
    noisy = tuple(1e6 * factor for factor in (1, 3) * 10)
    comparison = compare_to_baseline(
        make_run(make_result(round_p50_ns=(*noisy[1:], 3e6))), make_run(make_result(round_p50_ns=noisy))
    )
    assert comparison.rows[0].verdict == "no difference"
    assert comparison


def test_a_subject_that_fails_now_is_a_regression(make_run: Any, make_result: Any) -> None:
    now = make_result(error="Fail: no such op", round_p50_ns=())
    [row] = compare_to_baseline(make_run(now), make_run(make_result())).rows
    assert (row.verdict, row.regression, row.ratio) == ("failed", True, None)
    assert "no such op" in row.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch": 8}, "batch was 1 in the baseline and is 8 now"),
        ({"threads": 2}, "threads was 1"),
        ({"provider": "cuda"}, "provider was cpu"),
        ({"time_steps": 10}, "time_steps was 250"),
        ({"provider_options": {"device_id": "1"}}, "provider_options was {} in the baseline and is {'device_id': '1'}"),
        ({"inputs": "made"}, "inputs was golden in the baseline and is made now"),
        ({"round_p50_ns": (0.0,) * 20}, "too short for the clock"),
        ({"round_p50_ns": (1.0, 2.0)}, "2 rounds are too few"),
        ({"name": "other"}, "not in the baseline"),
        ({"lengths": LENGTHS}, "the file of lengths was none in the baseline and is reviews.npy abababab now"),
    ],
)
def test_what_cannot_be_compared_is_said_and_is_no_pass(
    make_run: Any, make_result: Any, change: dict[str, Any], reason: str
) -> None:
    comparison = compare_to_baseline(make_run(make_result(**change)), make_run(make_result()))
    assert comparison.rows[0].verdict == "not comparable"
    assert reason in comparison.rows[0].reason
    assert comparison.regressions == ()
    assert not comparison


def test_lengths_put_together_otherwise_cannot_be_compared(make_run: Any, make_result: Any) -> None:
    def against(density: float) -> Any:
        mixed = make_run(make_result(lengths=dataclasses.replace(LENGTHS, density=0.52)))
        now = make_run(make_result(lengths=dataclasses.replace(LENGTHS, density=density)))
        return compare_to_baseline(now, mixed).rows[0]

    assert against(0.522).verdict == "no difference"
    assert "the share of valid steps was 52% in the baseline and is 95% now" in against(0.95).reason


def test_lengths_drawn_otherwise_from_one_file_cannot_be_compared(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(lengths=LENGTHS))
    now = make_run(make_result(lengths=dataclasses.replace(LENGTHS, longest=163)))
    reason = compare_to_baseline(now, then).rows[0].reason
    assert "what was fed of it was 1 to 3 steps, median 2 in the baseline and is 1 to 163 steps, median 2 now" in reason


def test_subjects_of_the_baseline_only_are_listed(make_run: Any, make_result: Any) -> None:
    comparison = compare_to_baseline(make_run(make_result("a")), make_run(make_result("a"), make_result("gone")))
    assert [(row.name, row.verdict) for row in comparison.rows] == [("a", "no difference"), ("gone", "not comparable")]


def test_other_machines_and_versions_are_told(make_run: Any, make_result: Any) -> None:
    now, then = make_run(make_result()), make_run(make_result())
    assert compare_to_baseline(now, then).warnings == ()
    moved = dataclasses.replace(
        now,
        machine=dataclasses.replace(now.machine, cpu_model="Another"),
        versions={"edgeseq": "0.2.0", "numpy": "2.0", "onnxruntime": "1.31.1"},
    )
    comparison = compare_to_baseline(moved, then)
    assert not comparison
    assert comparison.rows[0].reason == "the baseline was measured on another processor"
    warnings = comparison.warnings
    assert "cpu_model Another now, Some Processor then" in warnings[0]
    assert warnings[1:] == (
        "edgeseq was 0.1.0 in the baseline and is 0.2.0 now",
        "numpy was absent in the baseline and is 2.0 now",
    )


def test_a_comparison_is_json(make_run: Any, make_result: Any) -> None:
    comparison = compare_to_baseline(make_run(make_result()), make_run(make_result()))
    assert json.loads(json.dumps(dataclasses.asdict(comparison)))["margin"] == 0.05


def test_a_machine_that_is_slower_makes_no_model_slower(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.2, 2)), disturbance=probed(*rounds(2.4, 4)))
    [row] = compare_to_baseline(now, then).rows
    assert (row.verdict, row.regression) == ("no difference", False)
    assert "in units of the machine's own speed" in row.reason
    assert row.reason.endswith("it is the machine that was slower now")
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(1.2, abs=0.02)  # the times' own ratio is still told
    [row] = compare_to_baseline(then, now).rows
    assert row.verdict == "no difference"
    assert row.reason.endswith("it is the machine that was faster now")


def test_a_model_that_is_slower_on_a_machine_that_is_not_is_found(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.1, 2)), disturbance=probed(*rounds(2.0, 4)))
    [row] = compare_to_baseline(now, then).rows
    assert (row.verdict, row.regression) == ("slower", True)
    assert "1.10" in row.reason.split(";")[1]


@pytest.mark.parametrize(
    "change",
    [
        {"disturbance": None},
        {"disturbance": probed(2.4e6)},
        {"versions": {"edgeseq": "0.1.0", "onnxruntime": "1.31.1", "numpy": "3.0"}},
    ],
)
def test_a_probe_that_cannot_be_compared_decides_nothing(
    make_run: Any, make_result: Any, change: dict[str, Any]
) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.2, 2)), **{"disturbance": probed(*rounds(2.4, 4)), **change})
    [row] = compare_to_baseline(now, then).rows
    assert row.verdict == "slower"
    assert "own speed" not in row.reason


def test_whether_it_is_the_same_file_is_said(make_run: Any, make_result: Any) -> None:
    [same] = compare_to_baseline(make_run(make_result()), make_run(make_result())).rows
    assert "by the same file" in same.reason
    [other] = compare_to_baseline(make_run(make_result(file_sha256="cd" * 32)), make_run(make_result())).rows
    assert other.verdict == "no difference"
    assert "same file" not in other.reason
    assert "; the file has changed since" in other.reason
    [unknown] = compare_to_baseline(make_run(make_result(file_sha256=None)), make_run(make_result())).rows
    assert "file" not in unknown.reason


def test_what_remains_after_the_machines_share_is_not_the_machines(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.088, 2)), disturbance=probed(*rounds(2.11, 4)))
    [row] = compare_to_baseline(now, then).rows
    assert (row.verdict, row.regression) == ("no difference", False)
    assert row.reason.endswith("it is slower also beyond what the machine was, but not certainly by 2.5%")
    [row] = compare_to_baseline(then, now).rows
    assert (row.verdict, row.regression) == ("no difference", False)
    assert row.reason.endswith("it is faster also beyond what the machine was, but not certainly by 2.5%")


def test_runs_on_a_noisy_machine_and_other_scenarios_are_told(make_run: Any, make_result: Any) -> None:
    noisy = make_run(make_result(), disturbance=probed(*(1e6, 1.1e6) * 10), stopped="precise", scenario="offline")
    calm = make_run(make_result(), disturbance=probed(*(1e6,) * 20), stopped="precise")
    scenario, speed = compare_to_baseline(noisy, calm).warnings
    assert "the scenario was single in the baseline and is offline now" in scenario
    assert speed == "the machine's own speed varied by 10% between rounds now"
    assert compare_to_baseline(calm, dataclasses.replace(noisy, scenario="single")).warnings == (
        "the machine's own speed varied by 10% between rounds in the baseline",
    )


def test_what_an_older_file_does_not_tell_of_its_machine_is_no_difference(make_run: Any, make_result: Any) -> None:
    now, then = make_run(make_result()), make_run(make_result())
    told = dataclasses.replace(now, machine=dataclasses.replace(now.machine, caches={"L2": 1}, cpu_limit=1.5))
    assert compare_to_baseline(told, then).warnings == ()
    assert compare_to_baseline(then, told).warnings == ()


def test_a_machine_of_another_speed_is_another_machine(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.1, 2)), disturbance=probed(*rounds(3.2, 4)))
    comparison = compare_to_baseline(now, then)
    [row] = comparison.rows
    assert (row.verdict, row.ratio, bool(comparison)) == ("not comparable", None, False)
    assert "x as long now" in row.reason
    assert row.reason.endswith("measure the baseline again")


def test_a_tenth_is_found_on_a_machine_that_is_a_little_slower(make_run: Any, make_result: Any) -> None:
    then = make_run(make_result(round_p50_ns=rounds(1.0, 1)), disturbance=probed(*rounds(2.0, 3)))
    now = make_run(make_result(round_p50_ns=rounds(1.13, 2)), disturbance=probed(*rounds(2.13, 4)))
    [row] = compare_to_baseline(now, then).rows
    assert (row.verdict, row.regression) == ("slower", True)
