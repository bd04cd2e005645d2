"""`edgeseq.quantize` from file to file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeseq
from edgeseq.bench.sample import Settings
from edgeseq.bench.stats import Interval, Ratio
from edgeseq.errors import InputMismatch, InvalidFile, MissingInput, OutputExists, Refused, WrongUsage
from edgeseq.quantization import measure
from edgeseq.quantization.candidates import candidates_for
from edgeseq.quantization.layers import find_layers, load_model
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.runs import run_all
from edgeseq.quantization.write import quantized_file
from edgeseq.runtime import Model, load_manifest
from edgeseq.runtime.golden import Golden, golden_folder, read_golden

Make = Callable[..., onnx.ModelProto]
Save = Callable[..., Path]


def ids(rows: int = 40, time: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, (rows, time)).astype(np.int32)


def chosen(report: edgeseq.quantization.QuantizationReport) -> dict[str, str]:
    return {layer.name: layer.chosen for layer in report.layers}


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - exact).sum() / np.square(exact).sum()))


@pytest.fixture
def classifier(make_classifier: Make, save_with_manifest: Save, tmp_path: Path) -> Path:
    """A file as edgeseq exports it, with golden samples of the original model (here slightly off the file)."""
    model = make_classifier()
    inputs = ids(3, seed=9)
    answers = run_all(model.SerializeToString(), [{"ids": inputs}])[0][0]
    golden = Golden(inputs={"ids": inputs}, outputs={"probability": answers + np.float32(1e-6)})
    return save_with_manifest(model, tmp_path / "model.onnx", golden)


@pytest.mark.usefixtures("same_times")
def test_a_model_gets_smaller_within_the_budget(classifier: Path, tmp_path: Path) -> None:
    samples = ids()
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=samples)
    assert report.quantized
    assert report.size_bytes == (tmp_path / "small.onnx").stat().st_size < 0.5 * report.source_size_bytes
    exact, ours = Model(classifier)(samples), Model(tmp_path / "small.onnx")(samples)
    is_held_out = np.arange(40) % 4 == 3
    # The last digits depend on how rows are batched.
    assert report.error == pytest.approx(relative_error(ours[~is_held_out], exact[~is_held_out]), rel=0.2)
    assert 0 < report.error <= 0.02
    assert report.held_out_error is not None
    assert 0 < report.held_out_error <= 0.02
    assert (report.rows, report.held_out_rows) == (40, 10)
    assert relative_error(ours, exact) <= 0.02
    assert set(chosen(report)) == {"embedding/Gather_0", "rnn/fused_2", "dense/Gemm_5", "last/MatMul_6"}
    assert chosen(report)["embedding/Gather_0"].startswith(("int8-", "4-bit-"))
    assert chosen(report)["last/MatMul_6"] == "fp32"
    json.dumps(dataclasses.asdict(report))


@pytest.fixture
def only_leaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only forms in which rows depend on each other."""
    monkeypatch.setattr(
        "edgeseq.quantization.finding.candidates_for",
        lambda layer, **_: tuple(entry for entry in candidates_for(layer) if not entry.rows_independent),
    )


@pytest.mark.usefixtures("same_times", "only_leaking")
def test_the_manifest_says_what_was_done(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    before, after = load_manifest(classifier), load_manifest(tmp_path / "small.onnx")
    assert before is not None
    assert after is not None
    assert after.quantization is not None
    forms = {name: form for name, form in chosen(report).items() if form != "fp32"}
    assert after.quantization.layers == forms
    assert after.quantization.rows_independent is report.rows_independent is False
    assert after.recurrent[0].op_types == ("DynamicQuantizeLSTM",)
    assert after.tolerance == report.tolerance > before.tolerance
    assert after.versions == {**before.versions, "onnxruntime": onnxruntime.__version__}
    changed = {"quantization", "recurrent", "tolerance", "versions"}
    for field in dataclasses.fields(before):
        if field.name not in changed:
            assert getattr(after, field.name) == getattr(before, field.name)
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert properties["author"] == "somebody"


@pytest.mark.usefixtures("same_times")
def test_golden_samples_keep_the_originals_answers_and_add_the_files_own(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    before, after = read_golden(classifier, "abc123"), read_golden(tmp_path / "small.onnx", "abc123")
    np.testing.assert_array_equal(after.inputs["ids"], before.inputs["ids"])
    np.testing.assert_array_equal(after.outputs["probability"], before.outputs["probability"])
    assert after.own_outputs is not None
    own = after.own_outputs["probability"]
    np.testing.assert_array_equal(own, Model(tmp_path / "small.onnx")(before.inputs["ids"]))
    assert report.tolerance is not None
    assert 0 < np.abs(own - before.outputs["probability"]).max() <= report.tolerance
    names = {path.name for path in (golden_folder(tmp_path / "small.onnx") / "test_data_set_0").iterdir()}
    assert names == {"input_0.pb", "output_0.pb", "own_output_0.pb"}


@pytest.mark.usefixtures("same_times")
def test_the_tolerance_holds_for_every_sample(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    exact, ours = Model(classifier)(ids()), Model(tmp_path / "small.onnx")(ids())
    assert report.tolerance is not None
    assert (np.abs(ours - exact) <= report.tolerance * np.maximum(1, np.abs(exact))).all()


def test_the_bytes_follow_from_the_plan_alone(classifier: Path) -> None:
    plan = {"embedding/Gather_0": "int8-rows", "rnn/fused_2": "dynamic-int8", "dense/Gemm_5": "float16-weights"}
    contents = set()
    for order in (1, -1):
        model = load_model(classifier)
        layers, _ = find_layers(model)
        choices = dict(list(plan.items())[::order])
        contents.add(quantized_file(model, layers, choices, {}, load_manifest(classifier), 0.01))
    assert len(contents) == 1


@pytest.mark.usefixtures("same_times")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_recurrent_op_becomes_smaller(
    make_classifier: Make, tmp_path: Path, kind: str, bidirectional: bool
) -> None:
    onnx.save(make_classifier(kind, bidirectional=bidirectional), tmp_path / "model.onnx")
    report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", samples=ids())
    assert chosen(report)["rnn/fused_2"] != "fp32"
    assert report.error <= 0.02
    # A file without a manifest gets none, and no golden samples out of nowhere.
    assert load_manifest(tmp_path / "small.onnx") is None
    assert report.tolerance is None
    assert not golden_folder(tmp_path / "small.onnx").exists()
    assert "The fp32 file has no golden samples beside it, so the written file has none either." in report.notes


@pytest.mark.usefixtures("same_times")
def test_a_sensitive_layer_goes_back_to_fp32_and_the_others_stay(make_model: Make, tmp_path: Path) -> None:
    """The last kernel's columns differ by tiny amounts that the output enlarges: no 8-bit form of it can do."""
    random = np.random.default_rng(0)
    table = random.standard_normal((64, 32)).astype(np.float32)
    base = random.standard_normal((32, 1)).astype(np.float32)
    sensitive = base + 1e-4 * random.standard_normal((32, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["vector"], "robust"),
        helper.make_node("MatMul", ["vector", "sensitive"], ["product"], "sensitive"),
        helper.make_node("ReduceMean", ["product"], ["mean"], "mean", axes=[1]),
        helper.make_node("Sub", ["product", "mean"], ["y"], "difference"),
    ]
    inputs = {"x": (TensorProto.INT64, ["batch"])}
    model = make_model(nodes, inputs, {"y": ["batch", 64]}, {"table": table, "sensitive": sensitive}, opset=17)
    onnx.save(model, tmp_path / "model.onnx")
    report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", samples=np.arange(64))
    assert chosen(report)["robust"] in ("int8-rows", "int8-weights")
    assert chosen(report)["sensitive"] == "fp32"
    reasons = {entry.name: entry.reason for layer in report.layers[1:] for entry in layer.candidates}
    assert all("over the budget of 2.00%" in reason for reason in reasons.values()), reasons
    assert report.error <= 0.02


@pytest.mark.usefixtures("same_times")
def test_held_out_rows_break_a_budget_that_the_others_keep(make_model: Make, tmp_path: Path) -> None:
    """Ids of the held-out rows read the one part of the table that 8 bits with a single scale cannot hold."""
    table = np.full((8, 64), 1.0, np.float32)
    table[3] = table[7] = 1e-3 * np.linspace(-1, 1, 64)
    table[7, 0] = 100.0
    node = helper.make_node("Gather", ["table", "x"], ["y"], "table")
    model = make_model([node], {"x": (TensorProto.INT64, ["batch"])}, {"y": ["batch", 64]}, {"table": table})
    onnx.save(model, tmp_path / "model.onnx")
    samples = np.array([0, 1, 2, 3] * 4)
    report = edgeseq.quantize(
        tmp_path / "model.onnx", tmp_path / "small.onnx", samples=samples, max_error=0.001, overwrite=True
    )
    assert report.error <= 0.001
    assert report.held_out_error is not None
    assert report.held_out_error <= 0.001
    tried = {entry.name: entry for entry in report.layers[0].candidates}
    assert tried["int8-rows"].verdict == "reverted"
    assert tried["int8-rows"].reason.startswith("on the held-out rows, error")
    assert report.layers[0].chosen == "float16-weights"


@pytest.mark.usefixtures("same_times")
def test_a_metric_is_the_budget(classifier: Path, tmp_path: Path) -> None:
    samples = ids(80)
    probability = Model(classifier)(samples)[:, 0]
    np.save(tmp_path / "y.npy", probability > 0.5)
    report = edgeseq.quantize(
        classifier, tmp_path / "small.onnx", samples=samples, labels=tmp_path / "y.npy", max_drop=0.05
    )
    assert (report.metric, report.metric_before, report.held_out_metric_before) == ("accuracy", 1.0, 1.0)
    assert report.metric_after is not None
    assert report.held_out_metric_after is not None
    assert min(report.metric_after, report.held_out_metric_after) >= 0.95
    assert (report.max_error, report.max_drop) == (None, 0.05)
    ours = Model(tmp_path / "small.onnx")(samples)[:, 0]
    agree = (ours > 0.5) == (probability > 0.5)
    is_held_out = np.arange(80) % 4 == 3
    assert report.metric_after == pytest.approx(agree[~is_held_out].mean(), abs=0.02)


@pytest.mark.usefixtures("same_times")
def test_a_metric_of_ones_own_is_held(classifier: Path, tmp_path: Path) -> None:
    def worst(labels: np.ndarray, predictions: np.ndarray) -> float:
        return float(np.abs(predictions[:, 0] - labels).max())

    samples = ids()
    labels = Model(classifier)(samples)[:, 0]
    reports = [
        edgeseq.quantize(
            classifier,
            tmp_path / f"small{index}.onnx",
            samples=samples,
            labels=labels,
            metric=worst,
            greater_is_better=False,
            max_drop=drop,
        )
        for index, drop in enumerate((0.05, 1e-4))
    ]
    for report, drop in zip(reports, (0.05, 1e-4), strict=True):
        assert report.metric == "worst"
        assert report.metric_after is not None
        assert report.metric_after <= drop + 1e-6
    # The tighter budget leaves less in 8 bits.
    assert reports[0].size_bytes < reports[1].size_bytes


@pytest.mark.usefixtures("same_times")
@pytest.mark.parametrize("with_manifest", [True, False])
def test_files_that_stream_never_get_forms_that_mix_steps(
    make_streaming: Make, save_with_manifest: Save, tmp_path: Path, with_manifest: bool
) -> None:
    path = tmp_path / "stream.onnx"
    samples: Any = np.random.default_rng(0).standard_normal((8, 20, 4))
    if with_manifest:
        save_with_manifest(make_streaming(), path)
    else:
        onnx.save(make_streaming(), path)
        state = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
        samples = {"x": samples, "state_in.00.rnn.h": state, "state_in.01.rnn.c": state}
    report = edgeseq.quantize(path, tmp_path / "small.onnx", samples=samples)
    tried = {entry.name: entry for entry in report.layers[0].candidates}
    for name in ("dynamic-int8", "dynamic-int8-per-channel"):
        assert tried[name].verdict == "declined"
        assert (
            tried[name].reason == "it makes steps depend on each other, and the file carries states from call to call"
        )
    assert report.layers[0].chosen == "int8-weights"
    assert report.rows_independent


@pytest.mark.usefixtures("same_times")
def test_a_quantized_stream_step_by_step_is_the_whole(
    make_streaming: Make, save_with_manifest: Save, tmp_path: Path
) -> None:
    path = save_with_manifest(make_streaming(), tmp_path / "stream.onnx")
    samples = np.random.default_rng(0).standard_normal((8, 20, 4)).astype(np.float32)
    edgeseq.quantize(path, tmp_path / "small.onnx", samples=samples)
    model = Model(tmp_path / "small.onnx")
    stream = model.stream(batch=8)
    steps = np.concatenate([stream.step(samples[:, time : time + 1]) for time in range(20)], axis=1)
    # fp32 kernels of other lengths may add in another order.
    np.testing.assert_allclose(steps, model(samples), atol=1e-6)


@pytest.mark.usefixtures("same_times")
def test_row_leak_can_be_forbidden(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), allow_row_leak=False)
    assert report.rows_independent
    assert chosen(report)["rnn/fused_2"] == "int8-weights"
    reasons = [entry.reason for entry in report.layers[1].candidates if not entry.rows_independent]
    assert set(reasons) == {"it makes rows depend on each other, which allow_row_leak=False forbids"}
    small = Model(tmp_path / "small.onnx")
    alone, together = small(ids()[:1]), small(ids())[:1]
    np.testing.assert_allclose(alone, together, atol=1e-6)


@pytest.mark.usefixtures("same_times", "only_leaking")
def test_row_leak_is_said(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    assert not report.rows_independent
    assert any(note.startswith("A row's answer depends a little on the rows beside it") for note in report.notes)


def test_a_slower_form_is_not_taken(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_ratio(self: SampledTrial, choices: dict[str, str]) -> Ratio:
        slow = any(form.startswith("dynamic") for form in choices.values())
        return Ratio(value=1.3, interval=Interval(low=1.2, high=1.4)) if slow else Ratio(value=1.0, interval=None)

    monkeypatch.setattr(SampledTrial, "time_ratio", time_ratio)
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    assert chosen(report)["rnn/fused_2"] == "int8-weights"
    tried = {entry.name: entry.reason for entry in report.layers[1].candidates}
    assert tried["dynamic-int8"] == "it is slower than fp32: 1.30 times its time"
    assert report.speed is not None
    assert report.speed.value == 1.0


@pytest.mark.usefixtures("same_times")
def test_when_nothing_helps_the_fp32_file_is_written_as_it_is(classifier: Path, tmp_path: Path) -> None:
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), max_error=1e-9)
    assert not report.quantized
    assert (tmp_path / "small.onnx").read_bytes() == classifier.read_bytes()
    assert read_golden(tmp_path / "small.onnx", "abc123").own_outputs is None
    assert (report.error, report.held_out_error, report.speed) == (0.0, 0.0, None)
    assert report.notes[0] == (
        "Nothing was quantized, and the fp32 file was written as it is: no form of any layer keeps the budget and "
        "makes the file smaller or faster."
    )


@pytest.mark.parametrize("units", [1, 0])
def test_a_model_too_small_or_without_layers_is_written_as_it_is(make_model: Make, tmp_path: Path, units: int) -> None:
    node = helper.make_node("MatMul", ["x", "B"], ["y"]) if units else helper.make_node("Relu", ["x"], ["y"])
    constants = {"B": np.ones((4, units), np.float32)} if units else {}
    model = make_model([node], {"x": (TensorProto.FLOAT, ["batch", 4])}, {"y": None}, constants)
    onnx.save(model, tmp_path / "model.onnx")
    report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", samples=np.arange(32.0).reshape(8, 4))
    why = "its layers are too small to gain anything" if units else "it has no layer with constant float32 weights"
    assert report.notes[0].endswith(f": {why}.")
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.usefixtures("same_times")
def test_weights_beside_the_file_come_into_it(make_classifier: Make, tmp_path: Path) -> None:
    folder = tmp_path / "with weights beside"
    folder.mkdir()
    onnx.save(make_classifier(), folder / "model.onnx", save_as_external_data=True, size_threshold=100)
    for name, error in (("small.onnx", 0.02), ("same.onnx", 1e-9)):
        report = edgeseq.quantize(folder / "model.onnx", tmp_path / name, samples=ids(), max_error=error)
        assert report.source_size_bytes > 20_000
        np.testing.assert_allclose(Model(tmp_path / name)(ids()), Model(folder / "model.onnx")(ids()), rtol=0.1)


@pytest.mark.usefixtures("same_times")
def test_a_fixed_batch_and_weights_in_constant_nodes(make_model: Make, tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["B"], value=numpy_helper.from_array(kernel)),
        helper.make_node("MatMul", ["x", "B"], ["y"]),
    ]
    model = make_model(nodes, {"x": (TensorProto.FLOAT, [4, 16])}, {"y": None}, {})
    onnx.save(model, tmp_path / "model.onnx")
    samples = np.random.default_rng(0).standard_normal((35, 16))
    report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", samples=samples)
    assert report.quantized
    assert report.rows == 32
    assert "The last 3 row(s) were not used: they fill no batch of the file's size." in report.notes


def test_times_are_measured_in_turns_with_fp32(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure, "_TIMING", Settings(min_runs=6, min_seconds=0.0, precision=None, rounds=6, warm_up_max_seconds=0.0)
    )
    report = edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(8))
    measured = [entry.speed for layer in report.layers for entry in layer.candidates if entry.speed]
    assert measured
    for speed in measured:
        assert speed.low is not None
        assert speed.high is not None
        assert 0 < speed.low <= speed.value <= speed.high


def test_progress_is_told_from_start_to_end(classifier: Path, tmp_path: Path, same_times: None) -> None:
    told: list[tuple[str, int, int]] = []
    edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["measure fp32", "measure candidates", "verify the combination", "write"]
    assert told[-1] == ("write", 1, 1)
    assert all(0 <= done <= total for _, done, total in told)


class TestRefusals:
    """Each with its type and words, and nothing written."""

    @pytest.fixture
    def refused(self, classifier: Path, tmp_path: Path) -> Callable[..., str]:
        def attempt(error: type[Exception], source: Path | None = None, /, **arguments: Any) -> str:
            before = sorted(tmp_path.rglob("*"))
            arguments = {"samples": ids(), **arguments}
            with pytest.raises(error) as raised:
                edgeseq.quantize(source or classifier, tmp_path / "small.onnx", **arguments)
            assert sorted(tmp_path.rglob("*")) == before
            return str(raised.value)

        return attempt

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            *(
                ({"max_error": value}, f"max_error must be above 0 and at most 1 (100%), got {value!r}")
                for value in (-0.1, 0, 5.0, float("nan"), "2%", True)
            ),
            *(
                ({"labels": [1] * 40, "max_drop": value}, f"max_drop must be 0 or a positive number, got {value!r}")
                for value in (-0.1, float("inf"), float("nan"))
            ),
            ({"max_drop": 0.1}, "need labels="),
            ({"metric": "mae"}, "need labels="),
            ({"labels": [1] * 40, "metric": "f1"}, "unknown metric 'f1'"),
        ],
    )
    def test_budgets_that_mean_nothing(
        self, refused: Callable[..., str], arguments: dict[str, Any], words: str
    ) -> None:
        assert words in refused(WrongUsage, **arguments)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"samples": np.ones((4, 5, 6))}, "input 'ids' has the shape (rows, time)"),
            ({"samples": np.ones((0, 5))}, "No axis may be empty"),
            ({"samples": {"words": ids(), "more": ids()}}, "ids"),
            ({"samples": np.full((4, 5), "a")}, "got dtype <U1"),
            ({"samples": 10**6 + np.arange(20).reshape(4, 5)}, "indices element out of data bounds"),
            ({"labels": [1] * 39}, "40 rows, but 39 labels"),
            ({"labels": np.ones((40, 3)), "metric": "mae"}, "do not fit answers of shape"),
            ({"labels": [1] * 39 + [2]}, "got labels such as 2. For accuracy, labels are 0 or 1"),
        ],
    )
    def test_samples_and_labels_that_do_not_fit(
        self, refused: Callable[..., str], arguments: dict[str, Any], words: str
    ) -> None:
        assert words in refused(InputMismatch, **arguments)

    def test_files_that_cannot_be_read(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "ONNX file not found" in refused(MissingInput, tmp_path / "none.onnx")
        (tmp_path / "text.onnx").write_text("this is no protobuf at all")
        assert "not an ONNX model" in refused(InvalidFile, tmp_path / "text.onnx")
        (tmp_path / "empty.onnx").touch()
        assert "it is empty" in refused(InvalidFile, tmp_path / "empty.onnx")
        assert "directory" in refused(InvalidFile, tmp_path).lower()

    def test_weights_beside_the_file_that_are_missing(
        self, refused: Callable[..., str], make_classifier: Make, tmp_path: Path
    ) -> None:
        onnx.save(make_classifier(), tmp_path / "big.onnx", save_as_external_data=True, location="w", size_threshold=9)
        (tmp_path / "w").unlink()
        assert "big.onnx" in refused(InvalidFile, tmp_path / "big.onnx")

    def test_more_than_2_gb_beside_the_file(self, refused: Callable[..., str], tmp_path: Path) -> None:
        size_bytes = 550_000_000 * 4
        with (tmp_path / "w").open("wb") as file:
            file.truncate(size_bytes)  # takes no room on the disk
        tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[550_000, 1000])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w")
        x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "time"])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([helper.make_node("Gather", ["W", "x"], ["y"])], "g", [x], [y], [tensor])
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        onnx.save(model, tmp_path / "big.onnx")
        assert "holds 2.2 GB; files up to 2 GB can be quantized" in refused(Refused, tmp_path / "big.onnx")

    def test_an_output_that_exists_is_found_before_the_work(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "small.onnx").write_text("precious")
        monkeypatch.setattr("edgeseq.quantization.source.load_model", lambda _: pytest.fail("work was begun"))
        with pytest.raises(OutputExists):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert (tmp_path / "small.onnx").read_text() == "precious"

    @pytest.mark.parametrize(("overwrite", "error"), [(False, OutputExists), (True, WrongUsage)])
    def test_what_is_in_the_place_of_the_samples_is_kept(
        self,
        classifier: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        overwrite: bool,
        error: type[Exception],
    ) -> None:
        """Without overwriting anything, and with it what is no folder of samples."""
        mine = golden_folder(tmp_path / "small.onnx") / "mine.txt"
        mine.parent.mkdir()
        mine.write_text("precious")
        monkeypatch.setattr("edgeseq.quantization.source.load_model", lambda _: pytest.fail("work was begun"))
        with pytest.raises(error, match=r"small\.golden"):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), overwrite=overwrite)
        assert mine.read_text() == "precious"

    @pytest.mark.parametrize("read", ["model.onnx", "x.npy", "y.npy"])
    def test_what_is_read_is_never_the_output(self, classifier: Path, tmp_path: Path, read: str) -> None:
        np.save(tmp_path / "x.npy", ids())
        np.save(tmp_path / "y.npy", [1] * 40)
        output = classifier
        if read != "model.onnx":
            output = tmp_path / "link.onnx"
            output.hardlink_to(tmp_path / read)
        before = output.read_bytes()
        with pytest.raises(WrongUsage, match="is also what is read"):
            edgeseq.quantize(classifier, output, samples=tmp_path / "x.npy", labels=tmp_path / "y.npy", overwrite=True)
        assert output.read_bytes() == before

    @pytest.mark.parametrize("name", ["model", "model.txt"])
    def test_an_output_that_is_no_onnx_does_not_take_another_models_samples(
        self, classifier: Path, tmp_path: Path, name: str
    ) -> None:
        before = read_golden(classifier, "abc123").inputs["ids"]
        with pytest.raises(WrongUsage, match=rf"must end in \.onnx, got {name}$"):
            edgeseq.quantize(classifier, tmp_path / name, samples=ids(), overwrite=True)
        np.testing.assert_array_equal(read_golden(classifier, "abc123").inputs["ids"], before)

    @pytest.mark.usefixtures("same_times")
    @pytest.mark.parametrize("theirs", ["small.onnx", "small.golden/test_data_set_0"])
    def test_what_another_process_wrote_meanwhile_stays(self, classifier: Path, tmp_path: Path, theirs: str) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if stage == "write":
                (tmp_path / theirs).parent.mkdir(exist_ok=True)
                (tmp_path / theirs).mkdir() if theirs.endswith("0") else (tmp_path / theirs).write_text("theirs")

        with pytest.raises(OutputExists, match="small"):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids(), progress=progress)
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*small*")}
        # What was measured is kept: with another name the search need not begin again.
        assert found == {theirs.split("/")[0], "small.onnx.search.json"}
        assert not list((tmp_path / "small.golden").rglob("*.pb"))

    @pytest.mark.usefixtures("same_times")
    def test_the_name_goes_to_whoever_is_first(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other's file comes at the last moment, after every look."""
        monkeypatch.setattr("edgeseq.quantization.write.write_golden", lambda target, *_: target.write_text("theirs"))
        with pytest.raises(OutputExists):
            edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
        assert (tmp_path / "small.onnx").read_text() == "theirs"

    @pytest.mark.usefixtures("same_times")
    def test_a_file_that_is_quantized_already(self, classifier: Path, make_classifier: Make, tmp_path: Path) -> None:
        onnx.save(make_classifier(), tmp_path / "plain.onnx")
        for source, words in (
            (classifier, "as its manifest says"),
            (tmp_path / "plain.onnx", "it has the ops .*Dynamic"),
        ):
            small = source.with_suffix(".small.onnx")
            edgeseq.quantize(source, small, samples=ids())
            with pytest.raises(WrongUsage, match=f"is quantized already.*{words}"):
                edgeseq.quantize(small, tmp_path / "again.onnx", samples=ids())
            assert not (tmp_path / "again.onnx").exists()

    def test_answers_that_are_not_finite(self, refused: Callable[..., str], make_model: Make, tmp_path: Path) -> None:
        node = helper.make_node("Log", ["x"], ["y"])
        model = make_model([node], {"x": (TensorProto.FLOAT, ["batch", 4])}, {"y": None}, {})
        onnx.save(model, tmp_path / "log.onnx")
        words = refused(InputMismatch, tmp_path / "log.onnx", samples=-np.arange(1.0, 33).reshape(8, 4))
        assert "the fp32 file's own answers to the samples are not finite" in words


@pytest.mark.usefixtures("same_times")
def test_samples_of_an_older_file_do_not_stay_beside_a_new_one(
    classifier: Path, make_classifier: Make, tmp_path: Path
) -> None:
    edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    assert golden_folder(tmp_path / "small.onnx").exists()
    onnx.save(make_classifier("GRU"), tmp_path / "plain.onnx")
    edgeseq.quantize(tmp_path / "plain.onnx", tmp_path / "small.onnx", samples=ids(), overwrite=True)
    assert not golden_folder(tmp_path / "small.onnx").exists()


def test_a_failure_while_writing_leaves_no_file(
    classifier: Path, tmp_path: Path, same_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeseq.quantization.write.write_golden", fail)
    with pytest.raises(KeyboardInterrupt):
        edgeseq.quantize(classifier, tmp_path / "small.onnx", samples=ids())
    assert not (tmp_path / "small.onnx").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("same_times")
def test_nodes_without_names_are_told_apart(make_model: Make, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", [f"x{index}", f"B{index}"], [f"x{index + 1}"], "named" if index == 3 else "")
        for index in range(4)
    ]
    constants = {f"B{index}": random.standard_normal((32, 32)).astype(np.float32) / 5 for index in range(4)}
    model = make_model(nodes, {"x0": (TensorProto.FLOAT, ["batch", 32])}, {"x4": None}, constants)
    onnx.save(model, tmp_path / "model.onnx")
    samples = random.standard_normal((16, 32))
    report = edgeseq.quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", samples=samples)
    assert list(chosen(report)) == ["MatMul/0", "MatMul/1", "MatMul/2", "named"]
    assert set(chosen(report).values()) != {"fp32"}
    assert relative_error(Model(tmp_path / "small.onnx")(samples), Model(tmp_path / "model.onnx")(samples)) <= 0.02
