"""Who stands where over several systems, and models over several batches."""

from __future__ import annotations

from typing import Any

import pytest

from edgeseq.bench.standings import fair_speedup, geometric_means, our_names, reference_groups, standings
from edgeseq.bench.sweeps import best_of, sweeps
from edgeseq.errors import WrongUsage

FAILED = {"error": "RuntimeError: no", "round_p50_ns": (), "distribution_ns": (), "throughput_per_s": None}


def test_the_best_rival_is_the_fastest_of_each_system(make_run: Any, make_result: Any) -> None:
    runs = {
        "one": make_run(make_result("A", 4.0), make_result("B", 2.0), make_result("edgeseq fp32", 1.0)),
        "two": make_run(make_result("A", 1.0), make_result("B", **FAILED), make_result("edgeseq fp32", 2.0)),
    }
    one, two = standings(runs)
    assert (one.reference, two.reference) == ("B", "A")
    assert one["edgeseq fp32"].value == pytest.approx(2.0)
    assert one["A"].value == pytest.approx(0.5)
    assert (two["A"].value, two["A"].interval) == (1.0, None)
    assert [(failure.name, failure.reason) for failure in two.failures] == [("B", "RuntimeError: no")]
    # B is not measured everywhere, so it has no mean.
    assert geometric_means((one, two)) == pytest.approx({"A": 0.5**0.5, "edgeseq fp32": 1.0})


def test_rivals_may_be_chosen(make_run: Any, make_result: Any) -> None:
    run = make_run(make_result("A", 4.0), make_result("A int8", 1.0), make_result("edgeseq fp32", 2.0))
    [standing] = standings({"one": run}, rivals=["A"])
    assert standing.reference == "A"
    assert [speed.name for speed in standing.speeds] == ["A", "edgeseq fp32"]
    with pytest.raises(WrongUsage, match="no subject is named 'C'"):
        standings({"one": run}, rivals=["C"])


def test_ours_are_named_so_or_are_what_is_not_a_reference(make_run: Any, make_result: Any) -> None:
    named = make_run(make_result("A"), make_result("edgeseq fp32"), make_result("A on edgeseq's file"))
    assert our_names({"one": named}) == ("edgeseq fp32",)
    assert our_names({"one": make_run(make_result("a.onnx"), make_result("b.onnx"))}) == ("b.onnx",)


def test_other_shapes_are_other_work(make_result: Any) -> None:
    one = make_result("a", 1.0)
    assert fair_speedup(one, make_result("b", 2.0)).value == pytest.approx(2.0)
    assert fair_speedup(one, make_result("b", 2.0, batch=8)) is None
    assert fair_speedup(one, make_result("b", 2.0, time_steps=7)) is None
    assert fair_speedup(one, one) is None


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
