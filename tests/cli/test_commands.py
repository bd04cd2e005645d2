"""Every command once for people and once as JSON, with values from the files themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeseq
from edgeseq.runtime import Model
from edgeseq.runtime.golden import read_golden
from edgeseq.runtime.manifest import Quantization

ONE_ROW = ("--min-seconds", "0.02")


def test_export_shows_what_was_done_and_writes_it(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    ran = edgeseq_command("export", made.keras, "-o", tmp_path / "m.onnx")
    assert ran.code == 0
    assert "lstm   LSTM  fused" in ran.out
    assert "Parity with Keras" in ran.out
    assert f"next: edgeseq bench {tmp_path / 'm.onnx'}" in ran.out
    assert ran.err == ""
    assert (tmp_path / "m.onnx").read_bytes() == made.onnx.read_bytes()


def test_export_passes_every_option_on(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps({"inputs": {"x": {"kind": "scale", "offset": [1.0], "scale": [2.0]}}}))
    options = ("--opset", 17, "--lowering", "scan", "--samples", made.samples, "--preprocessing", steps, "--json")
    ran = edgeseq_command("export", made.keras, "-o", tmp_path / "m.onnx", *options)
    document = ran.document("export")
    assert ran.code == 0
    assert {layer["strategy"] for layer in document["recurrent"]} == {"scan"}
    found = edgeseq.inspect(tmp_path / "m.onnx")
    assert found.opset == 17
    assert found.preprocessing == {"x": "scale"}
    # The samples were among what was checked: 16 rows more than the model's own trials have.
    plain = edgeseq_command("export", made.keras, "-o", tmp_path / "plain.onnx", "--json").document("export")
    assert document["parity"]["samples"] == plain["parity"]["samples"] + 16


def test_export_of_a_stream_names_its_states(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    ran = edgeseq_command("export", made.keras, "-o", tmp_path / "m.onnx", "--streaming")
    assert ran.code == 0
    assert "states to carry: state_in.00" in ran.out


def test_inspect(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("inspect", made.onnx)
    assert ran.code == 0
    # Keras: LSTM 4 (4 + 3 + 1) 4 = 128, GRU 3 (3 x (3 + 4) + 6) = 81, Dense 8.
    assert "217 Keras parameters" in ran.out
    assert "one recurrent op holds the whole layer" in ran.out
    assert "(batch, time, 3)" in ran.out
    document = edgeseq_command("inspect", made.onnx, "--json").document("inspect")
    assert document["parameters"] == 217
    assert document["loops"] == 0


def test_inspect_of_a_quantized_file(edgeseq_command: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    did = Quantization(method="post-training", layers={"lstm": "int8-weights", "y": "int8-rows"}, rows_independent=True)
    found = dataclasses.replace(edgeseq.inspect(made.onnx), quantization=did)
    monkeypatch.setattr("edgeseq.inspection.inspect", lambda *_: found)
    shown = edgeseq_command("inspect", made.onnx).out
    said = "quantized (post-training): lstm int8-weights, y int8-rows; rows do not depend on each other\n"
    assert said in shown
    document = edgeseq_command("inspect", made.onnx, "--json").document("inspect")
    assert document["quantization"] == dataclasses.asdict(did)


def test_inspect_predicts_where_nodes_run(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("inspect", made.onnx, "--target", "cuda")
    assert ran.code == 0
    assert (
        f"predicted on cuda: {edgeseq.inspect(made.onnx).nodes} cuda; all floating-point nodes there (by CUDA"
        in ran.out
    )
    assert "Not on cuda" not in ran.out
    document = edgeseq_command("inspect", made.onnx, "--target", "tensorrt", "--json").document("inspect")
    assert document["prediction"]["target"] == "tensorrt"
    assert {node["provider"] for node in document["prediction"]["nodes"]} == {"tensorrt"}
    refused = edgeseq_command("inspect", made.onnx, "--target", "gpu")
    assert refused.code == 2
    assert "cuda, tensorrt; got 'gpu'" in refused.err


def test_inspect_lists_what_leaves_and_says_how_many_more(edgeseq_command: Any, tmp_path: Path) -> None:
    # Det has no CUDA kernel; Shape and Gather are arithmetic on the host.
    nodes = [onnx.helper.make_node("Det", ["x"], [f"d{step}"], name=f"layer_{step}/Det") for step in range(14)]
    nodes += [
        onnx.helper.make_node("Shape", ["x"], ["s"], name="s/Shape"),
        onnx.helper.make_node("Gather", ["s", "zero"], ["y"], name="s/Gather"),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", "n"))
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, (1,))
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(np.array([0]), "zero")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    ran = edgeseq_command("inspect", tmp_path / "m.onnx", "--target", "cuda")
    assert "predicted on cuda: 15 cpu, 1 cuda; 14 floating-point nodes elsewhere" in ran.out
    assert "integer arithmetic elsewhere, which is no error: 1 Gather" in ran.out
    assert "layer_11  Det" in ran.out
    assert "layer_12" not in ran.out
    assert "CUDA has no kernel for Det" in ran.out
    assert "and 2 more (--json lists all)" in ran.out


@pytest.mark.parametrize(("name", "module"), [("check", "parity"), ("bench", "bench.subjects")])
def test_what_ran_elsewhere_than_predicted_is_told(
    edgeseq_command: Any, made: Any, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    asked = []

    def told(path: Path, placement: Any) -> tuple[str, ...]:
        asked.append((path, placement.requested))
        return ("predicted on cuda, ran on the moon",)

    monkeypatch.setattr(f"edgeseq.{module}.surprises", told)
    ran = edgeseq_command(name, made.onnx, *(ONE_ROW if name == "bench" else ()))
    assert ran.code == 0
    assert "predicted on cuda, ran on the moon" in ran.out
    assert asked == [(made.onnx, ("CPUExecutionProvider",))]


def test_check_against_golden_samples_keras_and_another_file(edgeseq_command: Any, made: Any) -> None:
    golden = edgeseq_command("check", made.onnx)
    assert (golden.code, golden.err) == (0, "")
    assert "parity holds" in golden.out
    keras = edgeseq_command("check", made.onnx, "-r", made.keras, "-i", made.samples, "--json").document("check")
    assert (keras["reference"], keras["samples"]) == ("keras", 16)
    onnx = edgeseq_command("check", made.onnx, "-r", made.onnx, "--json").document("check")
    assert onnx["outputs"][0]["max_abs"] == 0


def test_quantize_takes_shares_in_both_forms(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    common = ("quantize", made.onnx, "--samples", made.samples, "--json")
    percent = edgeseq_command(*common, "-o", tmp_path / "a.onnx", "--max-error", "3%")
    number = edgeseq_command(*common, "-o", tmp_path / "b.onnx", "--max-error", "0.03")
    assert percent.document("quantize")["max_error"] == number.document("quantize")["max_error"] == 0.03
    assert (tmp_path / "a.onnx").exists()
    shown = edgeseq_command("quantize", made.onnx, "--samples", made.samples, "-o", tmp_path / "c.onnx")
    assert shown.code == 0
    assert "(budget 2.00%)" in shown.out


def test_quantize_with_labels(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros(16, np.int64))
    options = ("--labels", labels, "--metric", "accuracy", "--max-drop", "50%", "--forbid-row-leak")
    ran = edgeseq_command(
        "quantize", made.onnx, "--samples", made.samples, "-o", tmp_path / "q.onnx", *options, "--json"
    )
    document = ran.document("quantize")
    assert (document["metric"], document["max_drop"], document["rows_independent"]) == ("accuracy", 0.5, True)


def test_quantize_with_a_plan_and_pages(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    plan, page, picture = tmp_path / "plan.json", tmp_path / "q.html", tmp_path / "q.png"
    ran = edgeseq_command(
        *("quantize", made.onnx, "--samples", made.samples, "-o", tmp_path / "a.onnx", "--threads", 1, "--batch", 4),
        *("--goal", "size", "--max-size", "100%", "--save-plan", plan, "--report", page, "--report", picture, "--json"),
    )
    document = ran.document("quantize")
    assert (document["goal"], document["threads"], document["batch"]) == ("size", 1, 4)
    assert document["saved_plan"] == str(plan)
    assert document["pages"] == [str(page), str(picture)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = edgeseq_command("quantize", made.onnx, "--plan", plan, "-o", tmp_path / "b.onnx")
    assert (again.code, again.err) == (0, "")
    assert "made from the plan in " in again.out
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_quantize_with_a_budget_that_cannot_be_met(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    common = ("quantize", made.onnx, "--samples", made.samples, "-o", tmp_path / "q.onnx", "--threads", 1)
    ran = edgeseq_command(*common, "--max-size", "1kB")
    assert (ran.code, ran.out) == (1, "")
    assert "error: no quantized form of model.onnx keeps the budget, and nothing was written. The nearest is" in ran.err
    ran = edgeseq_command(*common, "--max-latency-ms", "0.000001", "--json")
    error = ran.document("error")["error"]
    assert (ran.code, error["type"], error["exit_code"]) == (1, "BudgetNotMet", 1)
    assert error["details"]["nearest"]["latency_ms"] > 0
    assert list(tmp_path.iterdir()) == []


def test_bench_saves_compares_and_reports(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    ran = edgeseq_command("bench", made.onnx, made.streaming, *ONE_ROW, "-o", results, "--save-samples")
    assert ran.code == 0
    # Two models: neither is faster at the other's work.
    assert "note: streaming.onnx: not comparable: " in ran.out
    assert "Speed against" not in ran.out
    saved = json.loads(results.read_text())
    assert saved["results"][0]["samples_ns"] is not None

    # The same file against times a thousand times longer is faster, and against shorter ones a regression.
    for factor, verdict, code in ((1000, "faster", 0), (0.001, "slower", 1)):
        for result in saved["results"]:
            result["round_p50_ns"] = [time * factor for time in result["round_p50_ns"]]
        (tmp_path / "old.json").write_text(json.dumps(saved))
        compared = edgeseq_command("bench", made.onnx, *ONE_ROW, "--baseline", tmp_path / "old.json", "--json")
        assert compared.code == code
        assert compared.document("bench --baseline")["comparison"]["rows"][0]["verdict"] == verdict
        saved = json.loads(results.read_text())

    page = tmp_path / "report.html"
    document = edgeseq_command("report", results, "-o", page, "--json").document("report")
    assert document == {"path": str(page), "size_bytes": page.stat().st_size, "results": [str(results)]}
    assert "model.onnx" in page.read_text(encoding="utf-8")


def test_bench_json_can_be_reported(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    ran = edgeseq_command("bench", made.onnx, *ONE_ROW, "--batch", 2, "--time-steps", 5, "--threads", 1, "--json")
    result = ran.document("bench")["results"][0]
    assert (result["batch"], result["time_steps"], result["threads"]) == (2, 5, 1)
    (tmp_path / "piped.json").write_text(ran.out)
    assert edgeseq_command("report", tmp_path / "piped.json", "-o", tmp_path / "r.html").code == 0


def test_bench_says_of_each_file_what_it_was_fed(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    # Without golden samples beside it, the copy is fed what is made for it: it says that it takes other axes.
    model = onnx.load(made.onnx)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"time"', '"time_b"')
    onnx.save(model, tmp_path / "copy.onnx")
    ran = edgeseq_command("bench", made.onnx, tmp_path / "copy.onnx", *ONE_ROW)
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "not comparable" in said
    steps = len(read_golden(made.onnx, "").inputs["x"][0])
    assert f"model.onnx golden with {steps} time steps, copy.onnx made with 100 time steps" in said


def test_bench_puts_keras_beside_the_files(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("bench", made.onnx, "--keras", made.keras, "-i", made.samples, *ONE_ROW, "--max-seconds", 5)
    assert ran.code == 0
    said = " ".join(ran.out.split())
    assert "Speed against" in said
    assert "Keras predict" in said
    assert "Keras export" in said


def test_bench_looks_for_the_files_before_it_imports_tensorflow(
    edgeseq_command: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported() -> None:
        raise AssertionError("it takes seconds")

    monkeypatch.setattr("edgeseq.cli.quiet.import_tensorflow", imported)
    for arguments in ((made.onnx, "--keras", tmp_path / "none.keras"), (tmp_path / "none.onnx", "--keras", made.keras)):
        ran = edgeseq_command("bench", *arguments)
        assert (ran.code, "model file not found" in ran.err) == (2, True)


def test_bench_of_given_inputs_is_of_their_batch(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "three.npy", np.zeros((3, 20, 3), np.float32))
    ran = edgeseq_command("bench", made.onnx, "-i", tmp_path / "three.npy", *ONE_ROW, "--json")
    document = ran.document("bench")
    assert (document["scenario"], document["results"][0]["batch"]) == ("batch", 3)


def test_bench_of_less_than_a_second_needs_no_other_option(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("bench", made.onnx, "--max-seconds", 0.05, "--precision", 0, "--json")
    assert ran.document("bench")["settings"]["min_seconds"] == 0.05


def test_bench_measures_what_is_asked_for_beside_the_times(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("3\n5\n9\n")
    ran = edgeseq_command(
        "bench", made.onnx, "--lengths", lengths, "--rate", 200, "--deadline-ms", 500, "--layers", "--cold-start",
        "--min-seconds", 0.02, "--max-seconds", 10, "--precision", 0, "--threads", 1, "-o", tmp_path / "r.json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for title in ("Server: latency from the moment a query was due", "Cold start and memory", "Time by layer"):
        assert title in ran.out
    [result] = json.loads((tmp_path / "r.json").read_text())["results"]
    assert result["lengths"]["longest"] == 9
    assert result["server"]["at_rate"]["rate_per_s"] == 200
    assert result["server"]["searched"] in ("found", "limit", "unsteady")
    assert result["cold_start"]["total_ns"] > result["cold_start"]["open_ns"] > 0
    assert 0 < sum(layer["share"] for layer in result["layers"]) <= 1
    assert edgeseq_command("report", tmp_path / "r.json", "-o", tmp_path / "r.html").code == 0


def test_bench_sweeps_batches_and_threads(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("bench", made.onnx, "--batch", 1, "--batch", 4, "--threads", 1, "--threads", 2, *ONE_ROW)
    assert ran.code == 0, ran.err
    assert "Rows a second" in ran.out
    assert "model.onnx, batch 4, 2 threads" in ran.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scenario", "server"), "needs a rate of queries, a deadline, or both"),
        (("--scenario", "stream"), "there are: single, batch, offline, server"),
        (("--rate", 5, "--scenario", "single"), "for the scenario server"),
        (("--percentile", "150%"), "percentile must be a fraction between 0 and 1"),
        (("--precision", "much"), "neither 2% nor 0.02"),
    ],
)
def test_bench_says_what_cannot_be_asked_for(
    edgeseq_command: Any, made: Any, options: tuple[Any, ...], said: str
) -> None:
    ran = edgeseq_command("bench", made.onnx, *options)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())


def test_run_prints_and_writes_what_the_model_answers(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    expected = Model(made.onnx)(np.load(made.samples)["x"])
    document = edgeseq_command("run", made.onnx, made.samples, "--json").document("run")
    assert (document["rows"], document["calls"], document["outputs"][0]["shape"]) == (16, 1, [16, 2])
    np.testing.assert_array_equal(np.float32(document["outputs"][0]["values"]), expected)
    shown = edgeseq_command("run", made.onnx, made.samples)
    assert shown.out.startswith("y: float32, 16 x 2\n[[")
    ran = edgeseq_command("run", made.onnx, made.samples, "-o", tmp_path / "out.npz", "--batch", 5, "--json")
    assert ran.document("run")["calls"] == 4
    assert ran.document("run")["outputs"][0]["values"] is None
    # Rows of an fp32 file do not depend on each other, so batches of 5 answer the same.
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], expected, atol=1e-7)


def test_run_as_a_stream(edgeseq_command: Any, made: Any) -> None:
    whole = edgeseq_command("run", made.streaming, made.samples, "--json").document("run")
    stream = edgeseq_command("run", made.streaming, made.samples, "--stream", "--chunk", 5, "--json").document("run")
    assert (whole["calls"], stream["calls"]) == (1, 3)
    # Float32 sums of other lengths may end in other last bits.
    np.testing.assert_allclose(stream["outputs"][0]["values"], whole["outputs"][0]["values"], atol=1e-6)


def test_doctor(edgeseq_command: Any) -> None:
    ran = edgeseq_command("doctor")
    assert ran.code == 0
    assert "provider cpu" in ran.out
    assert "nothing is broken: models run on cpu" in ran.out
    document = edgeseq_command("doctor", "--json").document("doctor")
    assert "cpu" in document["providers"]
    assert document["verdict"] in ran.out
    assert document["threads"]["usable_cores"] >= 1


def test_doctor_with_something_broken(edgeseq_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.diagnosis.packages.NUMPY", ">=1000,<1001")
    ran = edgeseq_command("doctor")
    assert ran.code == 3
    assert "something is broken: numpy; models run on cpu" in ran.out
    assert "pip install 'numpy>=1000,<1001'" in ran.out


def test_train_and_its_list(edgeseq_command: Any, tmp_path: Path) -> None:
    output = tmp_path / "m.keras"
    ran = edgeseq_command("train", "middle", "-o", output, "--epochs", 1, "--variant", "b", "--seed", 3, "--json")
    document = ran.document("train")
    assert ran.code == 0
    assert (document["options"]["variant"], document["epochs"], document["seed"]) == ("b", 1, 3)
    # LSTM 20: 4 (20 + 1 + 1) 20 = 1,760; LSTM 10: 4 (10 + 20 + 1) 10 = 1,240; Dense: 11.
    assert document["parameters"] == 3011
    assert output.exists()
    shown = edgeseq_command("train", "middle", "-o", output, "--epochs", 1, "--overwrite", "--fresh")
    assert f"next: edgeseq export {output} -o {output.with_suffix('.onnx')}" in shown.out

    names = [
        recipe["name"] for recipe in edgeseq_command("train", "--list", "--json").document("train --list")["recipes"]
    ]
    assert names == ["middle", "imdb", "forecast", "stateful", "vowels", "frames"]
    listed = edgeseq_command("train", "--list").out
    assert all(f"\n{name} " in listed for name in names)


def test_bench_says_when_no_rate_keeps_the_deadline_and_why_a_file_failed(
    edgeseq_command: Any, made: Any, tmp_path: Path
) -> None:
    ran = edgeseq_command("bench", made.onnx, "--deadline-ms", 0.0001, *ONE_ROW, "--precision", 0)
    assert ran.code == 1
    assert "cannot keep p99 within" in ran.out
    model = onnx.load(made.onnx)
    # It is a file that opens, and fails on what it is fed.
    del model.metadata_props[:]
    node = onnx.helper.make_node("Reshape", [model.graph.output[0].name, "wrong"], ["odd"])
    model.graph.node.append(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 11, 13]), "wrong"))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("odd", onnx.TensorProto.FLOAT, [7, 11, 13]))
    onnx.save(model, tmp_path / "odd.onnx")
    ran = edgeseq_command("bench", tmp_path / "odd.onnx", *ONE_ROW)
    assert ran.code == 1
    assert "odd.onnx failed: " in ran.out
