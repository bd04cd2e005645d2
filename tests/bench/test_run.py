"""A whole run: on a clock that counts for the figures, and on real sessions for the way there."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeseq
from edgeseq.bench import (
    ServerSettings,
    Settings,
    Subject,
    cold,
    extras,
    file_subjects,
    noise,
    read_run,
    run_benchmark,
    write_run,
)
from edgeseq.bench import run as running
from edgeseq.bench.energy import Meter
from edgeseq.bench.stats import Interval
from edgeseq.errors import EdgeseqError, InputMismatch, MissingInput, WrongUsage

MS = 1_000_000
SETTLE_NS = running.SETTLE_NS
QUICK = Settings(min_runs=11, min_seconds=0.0, rounds=11, warm_up_max_seconds=0.0, precision=None)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts passes too slowly for what does not say that it took time, such as the real probe."""
    monkeypatch.setattr(running, "SETTLE_NS", 0)


@pytest.mark.parametrize(("threads", "settles"), [((1, 1), False), ((1, 2), True), ((1, 0), True), ((1, None), True)])
def test_threads_of_other_subjects_come_to_rest_before_a_block(
    ticking_clock: Any, monkeypatch: pytest.MonkeyPatch, threads: tuple[int | None, ...], settles: bool
) -> None:
    monkeypatch.setattr(running, "SETTLE_NS", SETTLE_NS)
    monkeypatch.setattr(noise, "probe", lambda: ticking_clock.working(MS))
    asked = []
    real = running.sample

    def kept(*arguments: Any, **options: Any) -> Any:
        asked.append(options["settle_ns"])
        return real(*arguments, **options)

    monkeypatch.setattr(running, "sample", kept)
    subjects = [Subject(name=str(count), call=ticking_clock.working(MS), threads=count) for count in threads[:1]]
    subjects += [Subject(name="other", call=ticking_clock.working(MS), threads=threads[1])]
    run_benchmark(subjects, settings=QUICK, clock=ticking_clock)
    assert asked == [SETTLE_NS if settles else 0]


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

    settings = Settings(min_runs=100, min_seconds=0.0, rounds=1, warm_up_max_seconds=0.0, precision=None)
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
            subject("near", [np.array([1.0, 2.125], np.float32)]),
            subject("other", np.zeros((2, 2))),
        ],
        settings=QUICK,
        clock=ticking_clock,
    )
    assert [(result.max_abs, result.answers) for result in run.results] == [
        (None, "reference"),
        (0.125, "compared"),
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


def test_every_batch_has_a_reference_of_its_own(ticking_clock: Any) -> None:
    def subject(name: str, ms: int, answer: float, batch: int) -> Subject:
        call = ticking_clock.working(ms * MS, np.full((batch, 1), answer))
        return Subject(name=name, call=call, batch=batch, model=name.split(",")[0])

    run = run_benchmark(
        [
            subject("a", 4, 1.0, 1),
            subject("a, batch 8", 16, 2.0, 8),
            subject("b", 2, 1.0625, 1),
            subject("b, batch 8", 4, 2.125, 8),
        ],
        settings=QUICK,
        clock=ticking_clock,
    )
    assert [(ratio.name, ratio.reference) for ratio in run.ratios] == [("b", "a"), ("b, batch 8", "a, batch 8")]
    assert [ratio.speedup.value for ratio in run.ratios] == pytest.approx([2.0, 4.0], rel=1e-3)
    assert [(result.max_abs, result.answers) for result in run.results] == [
        (None, "reference"), (None, "reference"), (0.0625, "compared"), (0.125, "compared"),
    ]  # fmt: skip
    assert [result.model for result in run.results] == ["a", "a", "b", "b"]
    assert run.scenario == "offline"
    assert run["a, batch 8"].throughput_per_s == pytest.approx(500, rel=1e-3)


def test_percentiles_need_their_calls_and_intervals_their_rounds(ticking_clock: Any) -> None:
    def measured(runs: int, rounds: int) -> Any:
        settings = Settings(
            min_runs=runs, min_seconds=0.0, rounds=rounds, warm_up_max_seconds=0.0, precision=None, max_seconds=1e6
        )
        subject = Subject(name="a", call=ticking_clock.working(MS))
        return run_benchmark([subject], settings=settings, clock=ticking_clock)["a"]

    many = measured(6640, 8)
    assert (many.p99_ns, many.p999_ns) == (MS + 50, MS + 50)
    assert many.p999_interval_ns == Interval(low=MS + 50, high=MS + 50)
    assert many.stability is not None
    assert many.stability.design_effect == 1.0
    fewer = measured(6630, 6)
    assert fewer.p99_interval_ns is not None
    assert (fewer.p999_ns, fewer.p999_interval_ns) == (None, None)
    few_rounds = measured(700, 5)
    assert few_rounds.p99_ns == MS + 50
    assert (few_rounds.p50_interval_ns, few_rounds.p99_interval_ns, few_rounds.stability) == (None, None, None)


def test_a_run_says_why_it_stopped_and_what_it_lacks(ticking_clock: Any) -> None:
    costs = itertools.cycle([1] * 9 + [40] * 9)

    def uneven() -> object:
        ticking_clock.now += next(costs) * MS
        return 0.0

    settings = Settings(min_runs=12, min_seconds=0.0, rounds=12, warm_up_max_seconds=0.0, max_seconds=2.0)
    run = run_benchmark([Subject(name="uneven", call=uneven)], settings=settings, clock=ticking_clock)
    assert run.stopped == "limit"
    assert any("time was up" in warning for warning in run.warnings)
    assert any("interval of the median" in note for note in run["uneven"].notes)
    steady = [Subject(name="steady", call=ticking_clock.working(MS))]
    assert run_benchmark(steady, settings=settings, clock=ticking_clock).stopped == "precise"
    assert run_benchmark(steady, settings=QUICK, clock=ticking_clock).stopped == "fixed"


def test_a_run_knows_what_the_machine_did_besides(ticking_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = itertools.cycle([1, 1, 1, 3, 3, 3])

    def probe() -> Any:
        # Six calls a round, the first of them untimed.
        return lambda: ticking_clock.working(levels_of_round())()

    calls = itertools.count()
    level = [1]

    def levels_of_round() -> int:
        if next(calls) % 6 == 0:
            level[0] = next(levels)
        return level[0] * MS

    monkeypatch.setattr(noise, "probe", probe)
    run = run_benchmark([Subject(name="a", call=ticking_clock.working(MS))], settings=QUICK, clock=ticking_clock)
    assert run.disturbance is not None
    assert [time_ns // MS for time_ns in run.disturbance.probe_ns] == [1, 1, 1, 3, 3, 3, 1, 1, 1, 3, 3]
    assert any("own speed varied by 200%" in warning for warning in run.warnings)


def test_energy_is_told_for_each_subject(ticking_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two microjoules a microsecond.
    meter = Meter(name="package-0", read=lambda: ticking_clock.now // 500)
    monkeypatch.setattr(running, "find_meters", lambda providers: ((meter,) if providers == ["cpu"] * 2 else (), ""))
    subjects = [Subject(name=name, call=ticking_clock.working(ms * MS)) for name, ms in (("a", 10), ("b", 30))]
    run = run_benchmark(subjects, settings=QUICK, clock=ticking_clock)
    for result, millijoules in zip(run.results, (20, 60), strict=True):
        [energy] = result.energy
        assert energy.counter == "package-0"
        assert energy.microjoules_per_call == pytest.approx(millijoules * 1000, rel=1e-3)
        assert energy.watts == pytest.approx(2.0, rel=1e-3)


def test_a_gpus_energy_that_was_not_counted_is_told(ticking_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_meters", lambda _: ((), "not counted"))
    subjects = [Subject(name=name, call=ticking_clock.working(MS), provider=name) for name in ("cpu", "cuda")]
    run = run_benchmark(subjects, settings=QUICK, clock=ticking_clock)
    assert [("not counted" in result.notes) for result in run.results] == [False, True]


@pytest.mark.parametrize(
    ("ways", "scenario"),
    [
        ([("a", 1, 1), ("b", 1, 1)], "single"),
        ([("a", 8, 1), ("b", 8, 1)], "batch"),
        ([("a", 1, 1), ("a", 8, 1)], "offline"),
        ([("a", 1, 1), ("a", 1, 0)], "offline"),
        ([("a", 1, 1), ("b", 8, None)], "batch"),
    ],
)
def test_the_scenario_is_told_from_the_subjects(
    ticking_clock: Any, ways: list[tuple[str, int, int]], scenario: str
) -> None:
    subjects = [
        Subject(name=str(way), call=ticking_clock.working(MS), model=way[0], batch=way[1], threads=way[2])
        for way in ways
    ]
    assert run_benchmark(subjects, settings=QUICK, clock=ticking_clock).scenario == scenario
    assert run_benchmark(subjects, settings=QUICK, clock=ticking_clock, scenario="batch").scenario == "batch"


def test_a_scenario_that_is_none_is_refused(ticking_clock: Any) -> None:
    subjects = [Subject(name="a", call=ticking_clock.working(MS))]
    with pytest.raises(WrongUsage, match="no scenario 'multi'; there are: single"):
        run_benchmark(subjects, scenario="multi")
    with pytest.raises(WrongUsage, match="given together"):
        run_benchmark(subjects, scenario="server")
    with pytest.raises(WrongUsage, match="given together"):
        run_benchmark(subjects, scenario="single", server=ServerSettings(rate_per_s=1.0))


def test_everything_at_once_of_a_real_file(make_lstm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(extras.measure_cold_starts, processes=1, calls=2)
    monkeypatch.setattr(extras, "measure_cold_starts", quick)
    asked = ServerSettings(rate_per_s=5000.0, max_seconds=0.3)
    run = run_benchmark(
        [*file_subjects([make_lstm()], batch=(1, 2), time_steps=3), Subject(name="no file", call=lambda: 0.0)],
        settings=QUICK,
        cold_start=True,
        layers=True,
        server=asked,
    )
    assert run.scenario == "server"
    for result in run.results[:2]:
        assert result.error is None
        assert result.cold_start is not None
        assert result.cold_start.total_ns > 0
        assert any("LSTM" in layer.op_types for layer in result.layers)
        assert result.server is not None
        assert result.server.at_rate is not None
    other = run["no file"]
    assert (other.cold_start, other.layers) == (None, ())
    assert other.server is not None
    write_run(run, tmp_path / "results.json")
    assert read_run(tmp_path / "results.json") == run


@pytest.mark.parametrize(
    ("error", "text"), [(EdgeseqError("no room left"), "no room left"), (OSError("gone"), "OSError: gone")]
)
def test_what_fails_besides_becomes_a_note_and_the_times_stand(
    make_lstm: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(cold, "_start", broken)
    monkeypatch.setattr(extras, "time_layers", broken)
    monkeypatch.setattr(extras, "serve", broken)
    asked = ServerSettings(rate_per_s=10.0)
    result = edgeseq.benchmark(make_lstm(), settings=QUICK, cold_start=True, layers=True, server=asked)
    assert result.count == 11
    assert [note for note in result.notes if text in note] == [
        f"a fresh process could not run it: {text}",
        f"it could not be profiled: {text}",
        f"the server scenario failed: {text}",
    ]


@pytest.mark.parametrize(("options", "kind"), [({"settings": {}}, "Settings"), ({"server": 5}, "ServerSettings")])
def test_settings_of_another_kind_are_refused(make_lstm: Any, options: dict[str, Any], kind: str) -> None:
    with pytest.raises(WrongUsage, match=rf"expected an edgeseq\.bench\.{kind}; got"):
        edgeseq.benchmark(make_lstm(), **options)


def test_rounds_of_a_subject_with_several_inputs_are_whole_cycles(ticking_clock: Any) -> None:
    costs = itertools.cycle([1, 2, 9])

    def call() -> object:
        ticking_clock.now += next(costs) * MS
        return 0.0

    run = run_benchmark([Subject(name="a", call=call, cycle=3)], settings=QUICK, save_samples=True, clock=ticking_clock)
    samples = run["a"].samples_ns
    assert samples is not None
    assert [sorted(block) for block in samples] == [[MS + 50, 2 * MS + 50, 9 * MS + 50]] * 11
