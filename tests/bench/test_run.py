"""A whole run: on a clock that counts for the figures, and on real sessions for the way there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeseq
from edgeseq.bench import Settings, Subject, file_subjects, run_benchmark
from edgeseq.errors import InputMismatch, MissingInput, WrongUsage

MS = 1_000_000
QUICK = Settings(min_runs=11, min_seconds=0.0, rounds=11, warm_up_max_seconds=0.0)


def test_figures_of_a_run(ticking_clock: Any) -> None:
    settings = Settings(min_runs=64, min_seconds=0.0, rounds=8, warm_up_max_seconds=0.1)
    slow = Subject(name="slow", call=ticking_clock.working(30 * MS), batch=4, size_bytes=10, time_steps=7)
    fast = Subject(name="fast", call=ticking_clock.working(10 * MS), batch=4)
    run = run_benchmark([slow, fast], settings=settings, clock=ticking_clock)
    result = run["slow"]
    took = 30 * MS + 50  # and one reading of the clock
    assert result.count == 64
    assert (result.p50_ns, result.p90_ns, result.p99_ns, result.p99_interval_ns) == (took, took, None, None)
    assert result.p50_interval_ns is not None
    assert result.p50_interval_ns.low == took
    assert result.throughput_per_s == pytest.approx(4 / 0.03, rel=1e-4)  # the clock's own share is 2e-6
    assert result.round_p50_ns == (took,) * 8
    assert result.distribution_ns == (took,) * 101
    assert (result.size_bytes, result.batch, result.time_steps) == (10, 4, 7)
    assert result.warm_up is not None
    assert result.warm_up.ns > 100 * MS
    assert result.samples_ns is None
    [ratio] = run.ratios
    assert (ratio.name, ratio.reference) == ("fast", "slow")
    assert ratio.speedup.value == pytest.approx(3.0, rel=1e-4)
    assert run.clock.resolution_ns == 50
    assert run.settings == settings
    assert run.versions["edgeseq"] == edgeseq.__version__
    assert {"python", "numpy", "onnxruntime"} <= set(run.versions)
    assert run.machine.cores >= 1


def test_samples_are_kept_when_asked_for(ticking_clock: Any) -> None:
    run = run_benchmark(
        [Subject(name="a", call=ticking_clock.working(MS))], settings=QUICK, save_samples=True, clock=ticking_clock
    )
    assert run["a"].samples_ns == ((MS + 50,),) * 11


def test_percentiles_are_mlperfs_and_the_distribution_agrees(ticking_clock: Any) -> None:
    costs = iter([0] * 2 + [number * MS for number in range(1, 101)] * 2)

    def call() -> None:
        ticking_clock.now += next(costs)

    settings = Settings(min_runs=100, min_seconds=0.0, rounds=1, warm_up_max_seconds=0.0)
    result = run_benchmark([Subject(name="a", call=call)], settings=settings, clock=ticking_clock)["a"]
    # One call for the answer, one to warm up, one untimed: the timed ones are 2..100 and 1 ms.
    assert result.p50_ns == 51 * MS + 50
    assert result.p90_ns == 91 * MS + 50
    assert result.distribution_ns[50] == result.p50_ns
    assert result.distribution_ns[90] == result.p90_ns
    assert result.distribution_ns[0] == MS + 50
    assert result.distribution_ns[100] == 100 * MS + 50


def test_answers_are_compared_with_the_first_subjects(ticking_clock: Any) -> None:
    def subject(name: str, answer: object) -> Subject:
        return Subject(name=name, call=ticking_clock.working(MS, answer))

    run = run_benchmark(
        [
            subject("reference", np.array([1.0, 2.0])),
            subject("near", [np.array([1.0, 2.5], np.float32)]),
            subject("other", np.zeros((2, 2))),
        ],
        settings=QUICK,
        clock=ticking_clock,
    )
    assert [(result.max_abs, result.answers) for result in run.results] == [
        (None, "reference"),
        (0.5, "compared"),
        (None, "not comparable: output 0 has shape (2, 2), the reference's (2,)"),
    ]


def test_a_subject_that_fails_has_its_error_as_its_result(ticking_clock: Any) -> None:
    def broken() -> object:
        raise RuntimeError("no such op:\n  Erfc")

    run = run_benchmark(
        [
            Subject(name="broken", call=broken),
            Subject(name="never converted", call=None, error="Keras refuses it"),
            Subject(name="good", call=ticking_clock.working(MS)),
        ],
        settings=QUICK,
        clock=ticking_clock,
    )
    assert run["broken"].error == "RuntimeError: no such op: Erfc"
    assert run["never converted"].error == "Keras refuses it"
    assert run["broken"].p50_ns is None
    assert run["good"].error is None
    assert run["good"].p50_ns == MS + 50
    assert run["good"].answers == "the reference has no answers"
    assert run.ratios == ()


def test_a_subject_that_fails_half_way_keeps_no_times(ticking_clock: Any) -> None:
    left = [20]

    def fragile() -> object:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError("too much")
        ticking_clock.now += MS
        return 0.0

    run = run_benchmark([Subject(name="fragile", call=fragile)], settings=QUICK, clock=ticking_clock)
    result = run["fragile"]
    assert result.error == "MemoryError: too much"
    assert (result.count, result.round_p50_ns, result.p50_ns, result.throughput_per_s) == (0, (), None, None)


def test_a_run_is_json(ticking_clock: Any) -> None:
    run = run_benchmark([Subject(name="a", call=ticking_clock.working(MS))], settings=QUICK, clock=ticking_clock)
    assert json.loads(run.to_json())["results"][0]["p50_ns"] == MS + 50
    assert json.loads(json.dumps(dataclasses.asdict(run))) == json.loads(run.to_json())


def test_subjects_need_names_of_their_own(ticking_clock: Any) -> None:
    twice = [Subject(name="a", call=ticking_clock.working(1))] * 2
    with pytest.raises(WrongUsage, match="got twice: a"):
        run_benchmark(twice)
    with pytest.raises(WrongUsage, match="nothing to measure"):
        run_benchmark([])


def test_benchmark_measures_a_file(make_lstm: Any) -> None:
    result = edgeseq.benchmark(make_lstm(), batch=2, time_steps=3, settings=QUICK)
    assert (result.name, result.provider, result.threads, result.batch, result.time_steps) == (
        "lstm.onnx", "cpu", 1, 2, 3,
    )  # fmt: skip
    assert result.error is None
    assert result.count >= 11
    assert result.p50_ns is not None
    assert result.p50_ns > 0
    assert result.p90_ns is None
    assert result.throughput_per_s is not None


def test_benchmark_raises_what_the_user_must_know(make_lstm: Any, make_embedding: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        edgeseq.benchmark(tmp_path / "none.onnx")
    with pytest.raises(WrongUsage, match="exactly 4"):
        edgeseq.benchmark(make_lstm(batch=4))
    with pytest.raises(InputMismatch):
        # Made ids go up to 9: this table ends at 3.
        edgeseq.benchmark(make_embedding(rows=3), settings=QUICK)


def test_answers_to_other_inputs_are_not_compared(ticking_clock: Any) -> None:
    def subject(name: str, fed: Any, time_steps: int = 2) -> Subject:
        call = ticking_clock.working(MS, np.array([1.0]))
        return Subject(name=name, call=call, fed=fed, time_steps=time_steps)

    run = run_benchmark(
        [
            subject("reference", np.array([[1.0, 2.0]])),
            subject("same", {"series": np.array([[1.0, 2.0]])}),
            subject("other values", np.array([[1.0, 3.0]])),
            subject("longer", np.array([[1.0, 2.0, 3.0]]), 3),
            subject("one more", [np.array([[1.0, 2.0]]), np.array([1])]),
            subject("untold", None),
            subject("untold and longer", None, 3),
        ],
        settings=QUICK,
        clock=ticking_clock,
    )
    other = (None, "not comparable: other inputs")
    assert [(result.max_abs, result.answers) for result in run.results] == [
        (None, "reference"), (0.0, "compared"), other, other, other, (0.0, "compared"), other,
    ]  # fmt: skip


def test_given_inputs_that_do_not_fit_are_the_callers_error(make_lstm: Any) -> None:
    fits, other = make_lstm("fits.onnx"), make_lstm("other.onnx", time=5)
    subjects = file_subjects([fits, other], inputs={"x": np.zeros((1, 4, 3), np.float32)})
    with pytest.raises(InputMismatch, match="5, 3") as caught:
        run_benchmark(subjects, settings=QUICK)
    assert caught.value.__notes__ == ["while running other.onnx on the given inputs"]


def test_inputs_of_our_choice_that_do_not_fit_are_a_result(make_embedding: Any) -> None:
    # Made ids go up to 9: this table ends at 3.
    run = run_benchmark(file_subjects([make_embedding(rows=3)]), settings=QUICK)
    assert run.results[0].error is not None
