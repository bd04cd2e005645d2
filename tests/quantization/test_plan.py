"""Plans, limits, threads, interrupted searches and reports: `edgeseq.quantize` from file to file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeseq
from edgeseq.bench.machine import this_machine
from edgeseq.bench.stats import Interval, Ratio
from edgeseq.errors import BudgetNotMet, InvalidFile, MissingInput, OutputExists, WrongUsage
from edgeseq.quantization import threads
from edgeseq.quantization.budget import size_limit
from edgeseq.quantization.candidates import CANDIDATES, Calibration
from edgeseq.quantization.journal import journal_path
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.picture import FP32, RESULT, points
from edgeseq.quantization.runs import run_all
from edgeseq.runtime import load_manifest
from edgeseq.runtime.golden import Golden
from edgeseq.runtime.manifest import ThreadAdvice

Make = Callable[..., onnx.ModelProto]
Save = Callable[..., Path]


def ids(rows: int = 40, time: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, (rows, time)).astype(np.int32)


@pytest.fixture
def classifier(make_classifier: Make, save_with_manifest: Save, tmp_path: Path) -> Path:
    model = make_classifier()
    inputs = ids(3, seed=9)
    answers = run_all(model.SerializeToString(), [{"ids": inputs}])[0][0]
    golden = Golden(inputs={"ids": inputs}, outputs={"probability": answers})
    return save_with_manifest(model, tmp_path / "model.onnx", golden)


@pytest.fixture
def planned(classifier: Path, tmp_path: Path, same_times: None) -> Path:
    """A plan for the classifier, and the file it was made with: small.onnx."""
    report = edgeseq.quantize(
        classifier, tmp_path / "small.onnx", samples=ids(), save_plan=tmp_path / "plan.json", max_size="60%"
    )
    assert report.saved_plan == os.fspath(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def edited(path: Path, **changes: Any) -> Path:
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))
    return path


class TestPlans:
    def test_a_plan_makes_the_same_bytes_without_measuring(
        self, classifier: Path, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SampledTrial, "__init__", lambda *_, **__: pytest.fail("it was measured"))
        report = edgeseq.quantize(classifier, tmp_path / "again.onnx", plan=planned)
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
        golden = "test_data_set_0/own_output_0.pb"
        assert (tmp_path / "again.golden" / golden).read_bytes() == (tmp_path / "small.golden" / golden).read_bytes()
        assert (report.quantized, report.error, report.speed, report.rows) == (True, None, None, 0)
        assert report.plan == os.fspath(planned)
        assert any(note.startswith("The plan was checked on the golden samples") for note in report.notes)
        assert any(note.startswith("Where the plan was made: error ") for note in report.notes)

    def test_what_the_plan_holds(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        plan = json.loads(planned.read_text())
        after = load_manifest(tmp_path / "small.onnx")
        assert after is not None
        assert after.quantization is not None
        assert {form["layer"]: form["candidate"] for form in plan["forms"]} == after.quantization.layers
        assert plan["tolerance"] == after.tolerance
        assert plan["budget"]["max_error"] == 0.02
        assert plan["budget"]["max_size_bytes"] == classifier.stat().st_size * 60 // 100
        assert plan["result"]["size_bytes"] == (tmp_path / "small.onnx").stat().st_size
        assert 0 < plan["result"]["error"] <= 0.02
        assert plan["machine"]["cpu_model"] == this_machine().cpu_model
        assert plan["versions"]["edgeseq"] == edgeseq.__version__

    def test_a_replayed_plan_is_saved_as_it_is(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        edgeseq.quantize(classifier, tmp_path / "again.onnx", plan=planned, save_plan=tmp_path / "copy.json")
        assert (tmp_path / "copy.json").read_bytes() == planned.read_bytes()

    def test_samples_check_the_budget(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "a.onnx", plan=planned, samples=ids())
        assert report.error is not None
        assert 0 < report.error <= 0.02
        assert (report.rows, report.held_out_rows) == (40, 10)
        with pytest.raises(BudgetNotMet, match=r"breaks the budget here, .* over the budget of 0\.00%"):
            edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=planned, samples=ids(), max_error=1e-9)
        with pytest.raises(BudgetNotMet, match="1 B"):
            edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=planned, max_size=1)
        assert not (tmp_path / "b.onnx").exists()
        assert not (tmp_path / "b.golden").exists()

    def test_an_error_that_cannot_be_checked_is_refused(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        with pytest.raises(WrongUsage, match="max_error= needs samples="):
            edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=planned, max_error=0.01)

    def test_the_report_tells_the_budget_that_was_checked(
        self, classifier: Path, planned: Path, tmp_path: Path
    ) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "a.onnx", plan=planned, samples=ids(), max_error=0.5)
        assert report.max_error == 0.5

    @pytest.mark.parametrize(
        ("field", "value"), [("max_error", -3), ("max_error", None), ("max_size_bytes", -5), ("max_latency_ms", 0)]
    )
    def test_a_budget_that_no_search_writes_is_damage(
        self, classifier: Path, planned: Path, tmp_path: Path, field: str, value: object
    ) -> None:
        budget = json.loads(planned.read_text())["budget"]
        edited(planned, budget={**budget, field: value})
        with pytest.raises(InvalidFile, match="its budget has"):
            edgeseq.quantize(classifier, tmp_path / "a.onnx", plan=planned)

    @pytest.mark.usefixtures("same_times")
    def test_a_plan_for_a_fixed_batch_is_checked_with_that(self, make_model: Make, tmp_path: Path) -> None:
        kernel = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        nodes = [onnx.helper.make_node("MatMul", ["x", "B"], ["y"], "dense")]
        onnx.save(make_model(nodes, {"x": (1, [4, 64])}, {"y": None}, {"B": kernel}), tmp_path / "model.onnx")
        samples = np.random.default_rng(1).standard_normal((32, 64))
        plan = tmp_path / "plan.json"
        edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "a.onnx", samples=samples, save_plan=plan)
        report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "b.onnx", samples=samples, plan=plan)
        assert report.batch == 4
        assert report.error is not None

    @pytest.mark.usefixtures("same_times")
    def test_labels_are_judged_by_the_metric_of_the_plan(self, classifier: Path, tmp_path: Path) -> None:
        plan, labels = tmp_path / "plan.json", np.full((40, 1), 0.5)
        edgeseq.quantize(
            classifier, tmp_path / "a.onnx", samples=ids(), labels=labels, metric="mae", max_drop=0.1, save_plan=plan
        )
        report = edgeseq.quantize(classifier, tmp_path / "b.onnx", samples=ids(), labels=labels, plan=plan)
        assert report.metric == "mae"
        with pytest.raises(WrongUsage, match="of the metric 'mae', and metric is 'accuracy'"):
            edgeseq.quantize(
                classifier, tmp_path / "c.onnx", samples=ids(), labels=labels, metric="accuracy", plan=plan
            )

    @pytest.mark.usefixtures("same_times")
    def test_a_page_that_somebody_put_there_meanwhile_leaves_no_file(self, classifier: Path, tmp_path: Path) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if stage == "write":
                (tmp_path / "plan.json").write_text("theirs")

        with pytest.raises(OutputExists):
            edgeseq.quantize(
                classifier, tmp_path / "a.onnx", samples=ids(), save_plan=tmp_path / "plan.json", progress=progress
            )
        assert not (tmp_path / "a.onnx").exists()
        assert (tmp_path / "plan.json").read_text() == "theirs"

    def test_golden_samples_check_the_tolerance(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        edited(planned, tolerance=1e-12)
        with pytest.raises(BudgetNotMet, match=r"output 'probability' is off by .* the plan says 1e-12"):
            edgeseq.quantize(classifier, tmp_path / "again.onnx", plan=planned)
        assert not (tmp_path / "again.onnx").exists()

    @pytest.mark.usefixtures("same_times")
    def test_a_plan_of_a_metric_says_that_labels_were_missing(self, classifier: Path, tmp_path: Path) -> None:
        plan, labels = tmp_path / "plan.json", np.arange(40) % 2
        edgeseq.quantize(classifier, tmp_path / "a.onnx", samples=ids(), labels=labels, max_drop=0.5, save_plan=plan)
        report = edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=plan, samples=ids())
        assert "The budget of the metric 'accuracy' was not checked: that needs labels." in report.notes
        report = edgeseq.quantize(classifier, tmp_path / "c.onnx", plan=plan, samples=ids(), labels=labels)
        assert report.metric_after is not None
        wrong = labels.copy()
        with pytest.raises(BudgetNotMet, match="the metric drops"):
            edgeseq.quantize(
                classifier,
                tmp_path / "d.onnx",
                plan=plan,
                samples=ids(),
                labels=wrong,
                metric=lambda _, answers: -float(np.abs(answers - exact(classifier)[: len(answers)]).sum()),
                greater_is_better=True,
                max_drop=0,
            )

    @pytest.mark.usefixtures("same_times")
    def test_nothing_to_check_with_is_said(self, make_classifier: Make, tmp_path: Path) -> None:
        onnx.save(make_classifier(), tmp_path / "plain.onnx")
        plan = tmp_path / "plan.json"
        edgeseq.quantize(tmp_path / "plain.onnx", tmp_path / "a.onnx", samples=ids(), save_plan=plan)
        report = edgeseq.quantize(tmp_path / "plain.onnx", tmp_path / "b.onnx", plan=plan)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        assert any(note.startswith("The plan was not checked here") for note in report.notes)

    @pytest.mark.usefixtures("same_times")
    def test_a_plan_that_keeps_fp32(self, classifier: Path, tmp_path: Path) -> None:
        plan = tmp_path / "plan.json"
        edgeseq.quantize(classifier, tmp_path / "a.onnx", samples=ids(), max_error=1e-9, save_plan=plan)
        report = edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=plan)
        assert not report.quantized
        assert (tmp_path / "b.onnx").read_bytes() == classifier.read_bytes()

    def test_another_machine_is_said(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        machine = {**dataclasses.asdict(this_machine()), "cpu_model": "Other", "cores": 64}
        edited(planned, machine=machine)
        report = edgeseq.quantize(classifier, tmp_path / "again.onnx", plan=planned)
        assert any("made on another machine (Other, 64 cores)" in note for note in report.notes)

    @pytest.mark.usefixtures("same_times")
    def test_parameters_of_calibration_come_from_the_plan(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A form that scales by what it saw: another number would be other bytes, and other answers."""
        seen: list[float] = []

        def calibrate(layer: Any, values: Any) -> dict[str, float]:
            seen.append(float(np.float32(np.abs(values[layer.nodes[0].input[0]]).max())))
            return {"largest": seen[-1]}

        def rewrite(layer: Any, parameters: Any) -> Any:
            assert parameters["largest"] == seen[0]
            return CANDIDATES["int8-weights"].rewrite(layer, {})

        only = dataclasses.replace(
            CANDIDATES["int8-weights"],
            name="calibrated",
            op_types=frozenset(["Gemm"]),
            rewrite=rewrite,
            calibration=Calibration(observed=lambda layer: [layer.nodes[0].input[0]], calibrate=calibrate),
        )
        monkeypatch.setitem(CANDIDATES, "calibrated", only)
        monkeypatch.setattr(
            "edgeseq.quantization.finding.candidates_for", lambda layer, **_: (only,) * (layer.op_type == "Gemm")
        )
        plan = tmp_path / "plan.json"
        edgeseq.quantize(classifier, tmp_path / "a.onnx", samples=ids(), save_plan=plan)
        forms = {form["layer"]: form for form in json.loads(plan.read_text())["forms"]}
        assert forms["dense/Gemm_5"]["parameters"] == {"largest": seen[0]}
        edgeseq.quantize(classifier, tmp_path / "b.onnx", plan=plan, samples=ids(seed=5), max_error=0.5)
        assert len(seen) == 1
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        edited(plan, forms=[{**forms["dense/Gemm_5"], "parameters": {}}])
        with pytest.raises(InvalidFile, match="lacks the parameters of 'calibrated' for 'dense/Gemm_5'"):
            edgeseq.quantize(classifier, tmp_path / "c.onnx", plan=plan)


def exact(path: Path) -> np.ndarray:
    from edgeseq.runtime import Model

    rows = ids()
    return Model(path)(rows[np.arange(40) % 4 != 3])


class TestRefusedPlans:
    @pytest.fixture
    def refused(self, classifier: Path, planned: Path, tmp_path: Path) -> Callable[..., str]:
        def attempt(error: type[Exception], **arguments: Any) -> str:
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(error) as raised:
                edgeseq.quantize(classifier, tmp_path / "again.onnx", **{"plan": planned, **arguments})
            assert sorted(tmp_path.rglob("*")) == before
            return str(raised.value)

        return attempt

    def test_no_plan(self, refused: Callable[..., str], planned: Path, tmp_path: Path) -> None:
        assert "plan not found" in refused(MissingInput, plan=tmp_path / "none.json")
        for text, words in (("no JSON", "not JSON"), ("[1]", "it is no plan"), ('{"schema": "x"}', "it is no plan")):
            planned.write_text(text)
            assert words in refused(InvalidFile)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"schema_version": 2}, "its schema version is 2; this edgeseq reads up to 1"),
            ({"schema_version": "1"}, "its schema version is '1'"),
            ({"forms": None}, "the plan is damaged: forms must be a list"),
            ({"threads": -1}, "the plan is damaged"),
            ({"batch": 0}, "the plan is damaged"),
            ({"tolerance": None}, "its tolerance is None"),
            ({"tolerance": -1.0}, "its tolerance is -1.0"),
            ({"versions": {}}, "versions.onnxruntime is missing"),
            ({"machine": {}}, "machine.cpu_model is missing"),
        ],
    )
    def test_damaged_and_newer(
        self, refused: Callable[..., str], planned: Path, changes: dict[str, Any], words: str
    ) -> None:
        edited(planned, **changes)
        assert words in refused(InvalidFile)

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ({"candidate": "int3-magic"}, "the form 'int3-magic', which this edgeseq does not have. It was written by"),
            ({"layer": "gone"}, "names the layer 'gone', which the file does not have"),
            ({"layer": "dense/Gemm_5", "candidate": "int8-rows"}, "which is not for it"),
            ({"candidate": "int8-weights", "parameters": {"scale": 1.0}}, "has parameters of 'int8-weights'"),
        ],
    )
    def test_forms_that_cannot_be(
        self, refused: Callable[..., str], planned: Path, form: dict[str, Any], words: str
    ) -> None:
        forms = json.loads(planned.read_text())["forms"]
        edited(planned, forms=[{**forms[0], **form}])
        assert words in refused(InvalidFile)

    def test_a_layer_named_twice(self, refused: Callable[..., str], planned: Path) -> None:
        forms = json.loads(planned.read_text())["forms"]
        edited(planned, forms=[forms[0], forms[0]])
        assert "twice" in refused(InvalidFile)

    def test_another_model(self, make_classifier: Make, planned: Path, tmp_path: Path) -> None:
        onnx.save(make_classifier(seed=1), tmp_path / "other.onnx")
        with pytest.raises(WrongUsage, match=r"was made for another file than .*other\.onnx"):
            edgeseq.quantize(tmp_path / "other.onnx", tmp_path / "again.onnx", plan=planned)

    @pytest.mark.usefixtures("same_times")
    def test_forms_that_leak_are_never_for_files_with_states(
        self, make_streaming: Make, save_with_manifest: Save, tmp_path: Path
    ) -> None:
        path, plan = save_with_manifest(make_streaming(), tmp_path / "stream.onnx"), tmp_path / "plan.json"
        samples = np.random.default_rng(0).standard_normal((8, 20, 4))
        edgeseq.quantize(path, tmp_path / "a.onnx", samples=samples, save_plan=plan)
        form = {"layer": "rnn", "candidate": "dynamic-int8", "parameters": {}}
        assert json.loads(plan.read_text())["forms"]
        edited(plan, forms=[form])
        with pytest.raises(InvalidFile, match="never for files with states"):
            edgeseq.quantize(path, tmp_path / "b.onnx", plan=plan)

    @pytest.mark.parametrize(
        "given",
        [{"goal": "size"}, {"batch": 2}, {"threads": 1}, {"max_latency_ms": 5}, {"allow_row_leak": True}],
        ids=lambda given: next(iter(given)),
    )
    def test_what_only_a_search_takes(self, refused: Callable[..., str], given: dict[str, Any]) -> None:
        assert f"{next(iter(given))} is for a search" in refused(WrongUsage, **given)

    def test_labels_without_samples(self, refused: Callable[..., str]) -> None:
        assert "labels= need samples=" in refused(WrongUsage, labels=[1])


class TestLimits:
    @pytest.mark.parametrize(
        ("given", "size_bytes"),
        [
            (500, 500),
            ("500", 500),
            ("1.5kB", 1500),
            ("2.5 MB", 2_500_000),
            ("30%", 300),
            ("0.1GB", 10**8),
            (None, None),
        ],
    )
    def test_sizes(self, given: Any, size_bytes: int | None) -> None:
        assert size_limit(given, 1000) == size_bytes

    @pytest.mark.parametrize("given", ["", "big", "-1kB", "0", 0, -5, "5 miles", float("nan"), True, "0.001%"])
    def test_sizes_that_mean_nothing(self, given: Any) -> None:
        with pytest.raises(WrongUsage, match="max_size must be"):
            size_limit(given, 1000)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"max_latency_ms": 0}, "max_latency_ms must be a positive number"),
            ({"max_latency_ms": float("nan")}, "max_latency_ms must be a positive number"),
            ({"goal": "speed"}, "goal must be balanced, latency, size; got 'speed'"),
            ({"batch": 0}, "batch must be at least 1"),
            ({"threads": -1}, "threads must be 0"),
            ({"samples": None}, "samples= are needed"),
            ({"report": "r.pdf"}, "a report is written as .html, .png, .svg"),
            ({"save_plan": "plan.txt"}, "a plan is written as .json"),
        ],
    )
    def test_options_that_mean_nothing(
        self, classifier: Path, tmp_path: Path, given: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(WrongUsage, match=words):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", **{"samples": ids(), **given})

    @pytest.mark.usefixtures("same_times")
    @pytest.mark.parametrize("limit", [{"max_size": "1%"}, {"max_latency_ms": 0.5}])
    def test_a_limit_that_nothing_keeps_names_the_nearest(
        self, classifier: Path, tmp_path: Path, limit: dict[str, Any]
    ) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(BudgetNotMet, match=r"no quantized form of model\.onnx keeps the budget") as raised:
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), **limit)
        assert sorted(tmp_path.rglob("*")) == before
        nearest: Any = raised.value.nearest
        if "max_size" in limit:
            assert nearest.size_bytes < classifier.stat().st_size
            assert "rnn/fused_2" in nearest.choices
            assert nearest.error <= 0.02
        else:
            # Every form takes as long as fp32.
            assert nearest.latency_ms == 2.0
            assert "2.00 ms is over the budget of 0.500 ms" in str(raised.value)

    @pytest.mark.usefixtures("same_times")
    def test_a_limit_that_is_kept(self, classifier: Path, tmp_path: Path) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), max_size="60%", max_latency_ms=2)
        assert report.max_size_bytes is not None
        assert report.size_bytes <= report.max_size_bytes < report.source_size_bytes
        assert report.size_bytes == (tmp_path / "small.onnx").stat().st_size
        # A limit that is just kept, and one that is just not.
        same = edgeseq.quantize(classifier, tmp_path / "same.onnx", samples=ids(), max_error=1e-9, max_size="100%")
        assert same.size_bytes == classifier.stat().st_size
        assert report.latency_ms == report.source_latency_ms == report.max_latency_ms == 2.0


class TestCalls:
    @pytest.mark.usefixtures("same_times")
    def test_the_best_number_of_threads_is_recorded(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def best(self: SampledTrial, choices: dict[str, str], counts: tuple[int, ...]) -> int:
            asked.append((dict(choices), tuple(counts)))
            return 3 if choices else 2

        asked: list[tuple[dict[str, str], tuple[int, ...]]] = []
        faster = Ratio(value=0.5, interval=Interval(low=0.4, high=0.6))
        monkeypatch.setattr("edgeseq.quantization.finding.thread_counts", lambda: (1, 2, 3))
        monkeypatch.setattr(SampledTrial, "_best_threads", best)
        monkeypatch.setattr(SampledTrial, "_in_turns", lambda *_: faster)
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), allow_row_leak=False)
        assert (report.source_threads, report.threads) == (2, 3)
        assert [counts for _, counts in asked] == [(1, 2, 3), (1, 2, 3)]
        assert report.speed is not None
        assert report.speed.value == 2.0
        assert (report.source_latency_ms, report.latency_ms) == (2.0, 1.0)
        manifest = load_manifest(tmp_path / "small.onnx")
        assert manifest is not None
        assert manifest.threads == (ThreadAdvice(batch=1, threads=3),)
        assert manifest.threads_for(1) == 3

    @pytest.mark.usefixtures("same_times")
    def test_threads_that_are_given_are_taken(self, classifier: Path, tmp_path: Path) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), threads=2, batch=8)
        assert (report.source_threads, report.threads, report.batch) == (2, 2, 8)
        manifest = load_manifest(tmp_path / "small.onnx")
        assert manifest is not None
        assert manifest.threads == (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=2))

    def test_times_are_those_of_the_batch(self, make_classifier: Make) -> None:
        from edgeseq.quantization.layers import find_layers
        from edgeseq.quantization.samples import split
        from edgeseq.runtime.manifest import TensorSpec

        model = make_classifier()
        parts = split({"ids": ids(8)}, [TensorSpec(name="ids", dtype="int32", axes=("batch", "time"))], 32)
        trial = SampledTrial(model, find_layers(model)[0], parts, batch=9)
        chosen = ids(8)[[0, 1, 2, 4, 5, 6]]
        np.testing.assert_array_equal(trial._timed_feed["ids"], chosen[np.arange(9) % 6])

    def test_of_thread_counts_that_measure_alike_the_first_is_taken(self) -> None:
        def ratio(low: float, high: float) -> Ratio:
            return Ratio(value=(low + high) / 2, interval=Interval(low=low, high=high))

        times = {1: 1.0, 2: 0.6, 4: 0.6, 8: 0.9}
        asked = []

        def time_over(count: int, other: int) -> Ratio:
            asked.append((count, other))
            return ratio(times[count] / times[other] - 0.02, times[count] / times[other] + 0.02)

        assert threads.fastest([1, 2, 4, 8], time_over) == 2
        assert asked == [(2, 1), (4, 2), (8, 2)]
        assert threads.fastest([4], time_over) == 4

    def test_thread_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for cores, counts in ((1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (12, (1, 2, 4, 12))):
            monkeypatch.setattr(threads, "physical_cores", lambda cores=cores: cores)
            assert threads.thread_counts() == counts
        assert threads.physical_cores() >= 1

    @pytest.mark.usefixtures("same_times")
    @pytest.mark.parametrize(
        ("batch", "allowed", "leaks"), [(1, None, True), (1, False, False), (2, None, False), (2, True, True)]
    )
    def test_row_leak(self, classifier: Path, tmp_path: Path, batch: int, allowed: bool | None, leaks: bool) -> None:
        report = edgeseq.quantize(
            classifier, tmp_path / "small.onnx", samples=ids(), batch=batch, allow_row_leak=allowed
        )
        tried = [entry for layer in report.layers for entry in layer.candidates if not entry.rows_independent]
        assert tried
        reasons = {entry.reason for entry in tried if "depend on each other" in entry.reason}
        assert bool(reasons) is not leaks
        if batch == 2 and not leaks:
            assert reasons == {
                "it makes the 2 rows of a call depend on each other, which allow_row_leak=True would allow"
            }

    @pytest.mark.usefixtures("same_times")
    def test_a_fixed_batch_is_the_batch(self, make_model: Make, tmp_path: Path) -> None:
        kernel = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
        node = onnx.helper.make_node("MatMul", ["x", "B"], ["y"])
        model = make_model([node], {"x": (onnx.TensorProto.FLOAT, [4, 16])}, {"y": None}, {"B": kernel})
        onnx.save(model, tmp_path / "model.onnx")
        samples = np.random.default_rng(0).standard_normal((32, 16))
        report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "a.onnx", samples=samples)
        assert report.batch == 4
        with pytest.raises(WrongUsage, match="a batch of exactly 4, not 1"):
            edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "b.onnx", samples=samples, batch=1)


class TestInterruptedSearches:
    @pytest.fixture
    def interrupted(self, classifier: Path, tmp_path: Path, same_times: None) -> Path:  # noqa: ARG002
        """A search stopped after three measurements."""

        def stop(stage: str, done: int, _: int) -> None:
            if stage == "measure candidates" and done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as raised:
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), progress=stop)
        journal = journal_path(tmp_path / "small.onnx")
        assert journal == tmp_path / "small.onnx.search.json"
        assert raised.value.__notes__ == [
            f"3 measurement(s) are kept in {journal}: run the same command again, and the search goes on where it "
            "stopped"
        ]
        assert not (tmp_path / "small.onnx").exists()
        return journal

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
        """Every single form that is timed."""
        asked: list[dict[str, str]] = []
        quality = SampledTrial.quality
        monkeypatch.setattr(
            SampledTrial, "quality", lambda self, choices: asked.append(dict(choices)) or quality(self, choices)
        )
        return asked

    def test_the_rest_is_measured(
        self, interrupted: Path, classifier: Path, tmp_path: Path, measured: list[dict[str, str]]
    ) -> None:
        kept = [(entry["layer"], entry["candidate"]) for entry in json.loads(interrupted.read_text())["tried"]]
        assert len(kept) == 3
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert not interrupted.exists()
        assert "3 measurement(s) were taken from an interrupted search." in report.notes
        alone = [pair for choices in measured if len(choices) == 1 for pair in choices.items()]
        assert not set(kept) & set(alone)
        whole = edgeseq.quantize(classifier, tmp_path / "whole.onnx", samples=ids())
        assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
        assert whole.layers == report.layers

    @pytest.mark.parametrize(
        ("changes", "differs"),
        [
            ({"samples": ids(seed=1)}, "samples"),
            ({"max_error": 0.01}, "budget"),
            ({"goal": "size"}, "goal"),
            ({"batch": 2, "allow_row_leak": True}, "batch"),
            ({"labels": np.zeros(40, int), "max_drop": 1}, "samples, metric, budget"),
        ],
    )
    def test_measurements_of_something_else_are_not_used(
        self, interrupted: Path, classifier: Path, tmp_path: Path, changes: dict[str, Any], differs: str
    ) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", **{"samples": ids(), **changes})
        words = "were not used, because they were made with another "
        [note] = [note for note in report.notes if words in note]
        assert note.split(words)[1] == f"{differs}."
        assert not interrupted.exists()

    def test_measurements_of_another_version_are_not_used(
        self, interrupted: Path, classifier: Path, tmp_path: Path
    ) -> None:
        document = json.loads(interrupted.read_text())
        document["identity"]["versions"]["onnxruntime"] = "0.1"
        interrupted.write_text(json.dumps(document))
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert any("made with another versions" in note for note in report.notes)

    @pytest.mark.parametrize("content", ["mine", "{}", '{"schema": "edgeseq unfinished search", "schema_version": 1}'])
    @pytest.mark.usefixtures("same_times")
    def test_what_is_in_its_place_is_kept(self, classifier: Path, tmp_path: Path, content: str) -> None:
        taken = tmp_path / "small.onnx.search.json"
        taken.write_text(content)
        with pytest.raises(WrongUsage, match="is in the place of the search's own measurements"):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert taken.read_text() == content

    def test_answers_that_are_no_numbers_are_kept_as_a_reason(self, tmp_path: Path) -> None:
        from edgeseq.quantization.budget import Quality
        from edgeseq.quantization.journal import Journal
        from edgeseq.quantization.search import Tried

        journal = Journal(tmp_path / "j.json", {"model": "x", "forms": ("a",)})
        journal.begin(2)
        tried = Tried(layer="a", candidate="b", declined="too much", quality=Quality(error=float("inf")))
        journal.tell(tried)
        again = Journal(tmp_path / "j.json", {"model": "x", "forms": ("a",)})
        assert again.known == (dataclasses.replace(tried, quality=None),)
        assert again.threads == 2


class TestReports:
    @pytest.fixture(autouse=True)
    def _drawn(self) -> None:
        pytest.importorskip("matplotlib")

    @pytest.mark.usefixtures("same_times")
    def test_a_page_and_a_picture(self, classifier: Path, tmp_path: Path) -> None:
        page, picture = tmp_path / "quant.html", tmp_path / "quant.png"
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), report=[page, picture])
        assert report.pages == (os.fspath(page), os.fspath(picture))
        assert picture.read_bytes().startswith(b"\x89PNG")
        text = page.read_text(encoding="utf-8")
        for layer in report.layers:
            assert f"<h2>{layer.name}</h2>" in text
            assert f"chosen: {layer.chosen}" in text
            for candidate in layer.candidates:
                assert candidate.name in text
        # Nothing is loaded from elsewhere.
        assert "http" not in text.replace("http://www.w3.org", "").replace("https://onnx", "")
        assert text.count("data:image/svg+xml;base64,") == 4

    @pytest.mark.usefixtures("same_times")
    def test_what_is_on_the_front(self, classifier: Path, tmp_path: Path) -> None:
        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        found = points(report)
        names = [point.name for point in found]
        assert (names[0], names[-1]) == (FP32, RESULT)
        front = [point for point in found if point.on_front]
        assert {FP32, RESULT} <= {point.name for point in front}
        for point in found:
            better = [
                other
                for other in found
                if (other.error, other.size_bytes) != (point.error, point.size_bytes)
                and other.error <= point.error
                and other.size_bytes <= point.size_bytes
                and (point.latency_ms is None or other.latency_ms is not None)
            ]
            assert point.on_front == (not better), point

    @pytest.mark.usefixtures("same_times")
    def test_the_same_report_gives_the_same_page(self, classifier: Path, tmp_path: Path) -> None:
        from edgeseq.quantization.page import draw

        report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert draw(report, ".html") == draw(report, ".html")
        assert draw(report, ".svg") == draw(report, ".svg")

    def test_outputs_that_exist_are_found_before_the_work(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeseq.quantization.pipeline.read_source", lambda _: pytest.fail("work was begun"))
        for name in ("quant.html", "quant.png", "plan.json"):
            (tmp_path / name).write_text("precious")
            given = {"save_plan" if name.endswith("json") else "report": tmp_path / name}
            with pytest.raises(OutputExists, match=name):
                edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), **given)
            assert (tmp_path / name).read_text() == "precious"
        with pytest.raises(WrongUsage, match="two of the outputs"):
            same = tmp_path / "twice.html"
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), report=[same, same])

    @pytest.mark.usefixtures("same_times")
    def test_outputs_may_be_replaced(self, classifier: Path, tmp_path: Path) -> None:
        (tmp_path / "quant.svg").write_text("old")
        edgeseq.quantize(
            classifier, tmp_path / "small.onnx", samples=ids(), report=tmp_path / "quant.svg", overwrite=True
        )
        assert "<svg" in (tmp_path / "quant.svg").read_text()

    @pytest.mark.usefixtures("same_times")
    def test_the_page_of_a_plan_and_of_fp32(self, classifier: Path, planned: Path, tmp_path: Path) -> None:
        edgeseq.quantize(classifier, tmp_path / "a.onnx", plan=planned, report=tmp_path / "a.html")
        assert "plan " in (tmp_path / "a.html").read_text()
        edgeseq.quantize(
            classifier,
            tmp_path / "b.onnx",
            samples=ids(),
            max_error=1e-9,
            report=[tmp_path / "b.html", tmp_path / "b.png"],
        )
        assert "Nothing was quantized" in (tmp_path / "b.html").read_text()
