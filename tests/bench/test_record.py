"""The record: there and back through JSON, and files that are not one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench.baseline import compare_to_baseline
from edgeseq.bench.energy import Energy
from edgeseq.bench.noise import Disturbance, Stability
from edgeseq.bench.record import (
    BenchmarkRun,
    SubjectRatio,
    check_run_output,
    read_run,
    run_from_dict,
    speedup,
    write_run,
)
from edgeseq.bench.stats import Interval, Ratio
from edgeseq.cli.documents import ComparedRun
from edgeseq.errors import InvalidFile, MissingInput, OutputExists, WrongUsage


@pytest.fixture
def run(make_run: Any, make_result: Any) -> BenchmarkRun:
    nothing: dict[str, Any] = {"p50_ns": None, "p50_interval_ns": None, "round_p50_ns": (), "distribution_ns": ()}
    return make_run(
        make_result("Keras predict", 45.0, max_abs=None, answers="reference", size_bytes=None, threads=None),
        make_result("model.onnx", samples_ns=((1, 2), (3,))),
        make_result("rival", error="Fail: no such op", warm_up=None, count=0, throughput_per_s=None, **nothing),
        ratios=(
            SubjectRatio(
                name="model.onnx",
                reference="Keras predict",
                speedup=Ratio(value=45.0, interval=Interval(low=44.0, high=46.0)),
            ),
        ),
    )


def test_a_run_survives_its_file(run: BenchmarkRun, tmp_path: Path) -> None:
    write_run(run, tmp_path / "results.json")
    assert read_run(tmp_path / "results.json") == run


def test_the_keys_are_the_field_names(run: BenchmarkRun) -> None:
    document = json.loads(run.to_json())
    assert document["schema"] == "edgeseq.benchmark"
    assert document["schema_version"] == 1
    assert set(document) == {field.name for field in dataclasses.fields(run)}
    assert document["results"][1]["p50_interval_ns"] == {"low": 990_000.0, "high": 1_010_000.0}


def test_results_are_found_by_name(run: BenchmarkRun) -> None:
    assert run["rival"].error == "Fail: no such op"
    with pytest.raises(KeyError):
        run["other"]


def test_an_existing_file_is_not_overwritten_unasked(run: BenchmarkRun, tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    target.write_text("mine")
    with pytest.raises(OutputExists):
        write_run(run, target)
    assert target.read_text() == "mine"
    write_run(run, target, overwrite=True)
    assert read_run(target) == run


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 2}, "schema version is 2; this edgeseq reads up to 1"),
        ({"schema_version": None}, "damaged: a schema version is 1 or more, not None"),
        ({"schema": "other"}, "holds no benchmark results"),
        ({"results": 3}, "damaged: results must be a list; got 3"),
        ({"results": [{"name": "x"}]}, r"damaged: results\[0\]\.provider is missing"),
        ({"load_average": "abc"}, "load_average must be a finite number; got 'abc'"),
        ({"settings": {"rounds": 0}}, "rounds must be at least 1"),
    ],
)
def test_a_file_that_is_no_record_is_refused_with_the_reason(
    run: BenchmarkRun, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(run.to_json()) | change))
    with pytest.raises(InvalidFile, match=reason):
        read_run(path)


def test_what_a_newer_edgeseq_adds_is_left_out(run: BenchmarkRun, tmp_path: Path) -> None:
    document = json.loads(run.to_json())
    document["surprise"] = 1
    document["results"][0]["surprise"] = 1
    document["machine"]["surprise"] = 1
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    assert read_run(path) == run


def test_a_run_printed_with_its_comparison_is_read_as_the_run(run: BenchmarkRun, tmp_path: Path) -> None:
    printed = ComparedRun.of(run, compare_to_baseline(run, run))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(dataclasses.asdict(printed)))
    assert read_run(path) == run


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"\xff\xfe\x00"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InvalidFile):
        read_run(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"results\.json"):
        read_run(tmp_path / "results.json")
    with pytest.raises(InvalidFile):
        read_run(tmp_path)


def test_speedup_is_reference_over_subject_round_by_round(make_result: Any) -> None:
    slow, fast = make_result("slow", 45.0), make_result("fast", 1.0)
    ratio = speedup(fast, slow)
    assert ratio is not None
    assert ratio.value == pytest.approx(45.0)
    assert speedup(make_result(round_p50_ns=()), slow) is None
    assert speedup(slow, make_result(round_p50_ns=(0.0,) * 20)) is None


def test_results_are_written_as_json_and_never_over_what_is_read(
    make_run: Any, make_result: Any, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match=r"as \.json; got results\.txt"):
        write_run(make_run(make_result()), tmp_path / "results.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("mine")
    with pytest.raises(WrongUsage, match="also what is read"):
        check_run_output(tmp_path / "old.json", overwrite=True, sources=[tmp_path / "old.json"])


def test_a_file_of_before_there_was_a_precision_is_read_as_one_without(run: BenchmarkRun, tmp_path: Path) -> None:
    document = json.loads(run.to_json())
    for name in ("percentile", "precision"):
        del document["settings"][name]
    for name in ("scenario", "stopped", "disturbance", "warnings"):
        del document[name]
    for name in ("memory_bytes", "caches", "cpu_governor", "cpu_limit", "gpus"):
        del document["machine"][name]
    for result in document["results"]:
        for name in (
            *("model", "p999_ns", "p999_interval_ns", "lengths", "stability", "energy"),
            *("cold_start", "layers", "server"),
        ):
            del result[name]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    old = read_run(path)
    assert old.settings.precision is None
    assert (old.stopped, old.disturbance, old.warnings) == ("", None, ())
    assert old["model.onnx"].p50_ns == run["model.onnx"].p50_ns
    assert old["model.onnx"].stability is None


def test_what_is_new_survives_its_file(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    result = make_result(
        model="model.onnx",
        p999_ns=9,
        stability=Stability(drift=0.01, drift_is_certain=False, outliers=3, longest_ns=7, design_effect=4.0),
        energy=(Energy(counter="package-0", microjoules_per_call=1.5, watts=2.0),),
    )
    disturbance = Disturbance(probe_ns=(1.0, 2.0), other_cores=0.1, stolen_share=None, involuntary_switches=4)
    run = make_run(result, scenario="offline", stopped="precise", disturbance=disturbance, warnings=("busy",))
    write_run(run, tmp_path / "results.json")
    assert read_run(tmp_path / "results.json") == run


def test_calls_of_different_batches_are_not_held_against_each_other(make_run: Any, make_result: Any) -> None:
    single, rival = make_result("single"), make_result("rival", 2.0)
    many, rival_many, lone = (make_result(name, 9.0, batch=32) for name in ("many", "rival many", "lone"))
    assert speedup(many, single) is None
    run = make_run(single, many, rival, rival_many, dataclasses.replace(lone, batch=8))
    assert run.references == ("single", "many")
    assert [run.reference_of(result).name for result in run.results] == ["single", "many", "single", "many", "lone"]


def test_kerass_subjects_are_the_references_of_their_batch(make_run: Any, make_result: Any) -> None:
    run = make_run(
        make_result("Keras predict"),
        make_result("model.onnx"),
        make_result("Keras export"),
        make_result("a", batch=8),
        make_result("b", batch=8),
    )
    assert run.references == ("Keras predict", "Keras export", "a")


def test_a_sweep_of_one_model_has_its_first_result_as_its_reference(make_run: Any, make_result: Any) -> None:
    assert make_run(make_result("a"), make_result("a, batch 8", batch=8)).references == ("a",)


@pytest.mark.parametrize(
    "change",
    [
        {"round_p50_ns": []},
        {"round_p50_ns": [-1.0] * 20},
        {"p50_ns": -5},
        {"count": 0},
    ],
)
def test_times_that_cannot_be_are_damage(
    make_run: Any, make_result: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    content = json.loads(make_run(make_result()).to_json())
    content["results"][0] |= change
    with pytest.raises(InvalidFile, match=r"damaged: the times of model\.onnx cannot be"):
        run_from_dict(content)
    with pytest.raises(InvalidFile, match="no results"):
        run_from_dict(content | {"results": []})
