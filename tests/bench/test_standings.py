"""Who stands where over several systems, and models over several batches."""

from __future__ import annotations

from typing import Any

import pytest

from edgeseq.bench.standings import fair_speedup, geometric_means, reference_groups, speeds, standings
from edgeseq.bench.sweeps import best_of, sweeps
from edgeseq.errors import WrongUsage

OURS = ("edgeseq fp32",)
FAILED = {"error": "RuntimeError: no", "round_p50_ns": (), "distribution_ns": (), "throughput_per_s": None}


def test_the_best_rival_is_the_fastest_of_each_system(make_run: Any, make_result: Any) -> None:
    runs = {
        "one": make_run(make_result("A", 4.0), make_result("B", 2.0), make_result("edgeseq fp32", 1.0)),
        "two": make_run(make_result("A", 1.0), make_result("B", **FAILED), make_result("edgeseq fp32", 2.0)),
    }
    one, two = standings(runs, ours=OURS).systems
    assert (one.reference, two.reference) == ("B", "A")
    assert one.speeds["edgeseq fp32"].value == pytest.approx(2.0)
    assert one.speeds["A"].value == pytest.approx(0.5)
    assert (two.speeds["A"].value, two.speeds["A"].interval) == (1.0, None)
    assert two.failures == {"B": "RuntimeError: no"}
    # B is not measured everywhere, so it has no mean.
    assert geometric_means((one, two)) == pytest.approx({"A": 0.5**0.5, "edgeseq fp32": 1.0})


def test_rivals_may_be_chosen(make_run: Any, make_result: Any) -> None:
    run = make_run(make_result("A", 4.0), make_result("A int8", 1.0), make_result("edgeseq fp32", 2.0))
    [standing] = standings({"one": run}, ours=OURS, rivals=["A"]).systems
    assert standing.reference == "A"
    assert list(standing.speeds) == ["A", "edgeseq fp32"]
    with pytest.raises(WrongUsage, match="no subject is named 'C'"):
        standings({"one": run}, rivals=["C"])
    with pytest.raises(WrongUsage, match="the runs have: A, A int8, edgeseq fp32"):
        standings({"one": run}, against="C")


def test_the_best_rival_is_told_by_the_rounds_that_it_shares_with_ours(make_run: Any, make_result: Any) -> None:
    # In most rounds A is behind and B ahead, although A has the smaller median: the rounds were not alike.
    slow = tuple(1e6 if number % 5 < 3 else 4e6 for number in range(20))
    a = tuple(1.1 * ns for ns in slow)
    b = tuple((1.2 if number < 9 else 0.9) * ns for number, ns in enumerate(slow))
    assert sorted(a)[10] < sorted(b)[10]
    runs = {"one": make_run(*(make_result(n, round_p50_ns=r) for n, r in (("A", a), ("B", b), (OURS[0], slow))))}
    [standing] = standings(runs, ours=OURS).systems
    assert standing.reference == "B"
    assert min(
        standings(runs, ours=OURS, against=name).systems[0].speeds[OURS[0]].value for name in "AB"
    ) == pytest.approx(standing.speeds[OURS[0]].value)


def test_subjects_with_other_answers_stand_nowhere_and_hide_nobody(make_run: Any, make_result: Any) -> None:
    other = {"answers": "other answers: output 0 differs by 40% (relative RMS)"}
    run = make_run(
        make_result("A", 4.0), make_result("B", 1.0, **other), make_result("first", 0.5, **other), make_result("o", 2.0)
    )
    [standing] = standings({"one": run}, ours=("first", "o")).systems
    assert (standing.reference, standing.speeds["o"].value) == ("A", pytest.approx(2.0))
    assert standing.failures == {"B": other["answers"], "first": other["answers"]}
    assert standings({"one": run}, ours=("o",), against="B").systems[0].reference is None


def test_rivals_are_held_against_each_other_where_ours_failed(make_run: Any, make_result: Any) -> None:
    run = make_run(make_result("A", 4.0), make_result("B", 2.0), make_result("edgeseq fp32", **FAILED))
    [standing] = standings({"one": run}, ours=OURS).systems
    assert (standing.reference, standing.speeds["A"].value) == ("B", pytest.approx(0.5))
    assert list(standing.failures) == ["edgeseq fp32"]


def test_without_a_wish_all_but_the_references_are_judged(make_run: Any, make_result: Any) -> None:
    runs = {"one": make_run(*(make_result(name) for name in ("a.onnx", "edgeseq.onnx", "b.onnx")))}
    assert standings(runs).ours == ("edgeseq.onnx", "b.onnx")
    assert standings(runs, rivals=["b.onnx"]).ours == ("a.onnx", "edgeseq.onnx")


def test_other_shapes_are_other_work(make_result: Any) -> None:
    one = make_result("a", 1.0)
    assert fair_speedup(one, make_result("b", 2.0)).value == pytest.approx(2.0)
    assert fair_speedup(one, make_result("b", 2.0, batch=8)) is None
    assert fair_speedup(one, make_result("b", 2.0, time_steps=7)) is None
    assert fair_speedup(one, one) is None


def test_another_models_answers_are_other_work(make_run: Any, make_result: Any) -> None:
    one, other = make_result("a"), make_result("b", answers="other answers: output 0 differs by 93%")
    assert fair_speedup(one, other) is None
    assert fair_speedup(other, one) is None
    [standing] = standings({"one": make_run(one, other, make_result("c", 0.5))}, ours=["c"]).systems
    assert standing.reference == "a"


def test_references_are_held_against_those_before_them(make_run: Any, make_result: Any) -> None:
    run = make_run(make_result("a", 4.0), make_result("b", 2.0), make_result("c"))
    assert {name: list(group) for name, group in speeds(run, ("a", "b")).items()} == {"a": ["b", "c"], "b": ["c"]}


def test_a_reference_in_several_batches_is_one(make_run: Any, make_result: Any) -> None:
    results = [make_result(f"{model}, batch {n}", model=model, batch=n) for model in "ab" for n in (1, 8)]
    run = make_run(*results)
    groups = reference_groups(run, run.references)
    assert {name: [result.name for result in group] for name, group in groups.items()} == {
        "a": ["a, batch 1", "a, batch 8"]
    }


def test_sweeps_are_lines_of_one_model_and_threads(make_run: Any, make_result: Any) -> None:
    run = make_run(
        make_result("a, batch 8, 1 thread", model="a", batch=8, throughput_per_s=300.0),
        make_result("a, batch 1, 1 thread", model="a", throughput_per_s=100.0),
        make_result("a, batch 8, all threads", model="a", batch=8, threads=0, throughput_per_s=500.0),
        make_result("b", model="b", **FAILED),
    )
    found = sweeps(run)
    assert [(sweep.name, sweep.points) for sweep in found] == [
        ("a, 1 thread", ((1, 100.0), (8, 300.0))),
        ("a, all threads", ((8, 500.0),)),
    ]
    best, point = best_of(found)
    assert (best.name, point) == ("a, all threads", (8, 500.0))
    assert sweeps(make_run(make_result("a"), make_result("b"))) == ()
