"""`scripts/gpu-check` on a tiny set and the CPU: what it measures, how it judges, and that a broken one stops none."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.bench.stats import Ratio
from edgeseq.errors import InputMismatch, InvalidFile, MissingInput, OutputExists, WrongUsage
from edgeseq.runtime import Model
from edgeseq.runtime.partitions import read_partitions
from edgeseq.runtime.placement import PlacedNode, Placement

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from gpu_check import alone, judge, table  # noqa: E402
from gpu_check.artifacts import SET_FILE, Artifact, read_set  # noqa: E402
from gpu_check.check import Plan, _placed, blank, check  # noqa: E402
from gpu_check.measure import Place, planned  # noqa: E402
from gpu_check.results import (  # noqa: E402
    EDGESEQ,
    GRAPH,
    RIVAL,
    ArtifactResult,
    Failure,
    GpuCheck,
    Measurement,
    Parity,
    Placed,
)
from gpu_check.run import run  # noqa: E402

LATER = 1e12
"""A deadline that never comes, by the monotonic clock."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: Any) -> Path:
    """A set of four small models: with a Loop as its rival, streaming, relu for the CPU, and in half precision."""
    from gpu_check.prepare import RECIPES, L, Recipe, _floats, _model, prepare

    wanted = {recipe.name: recipe for recipe in RECIPES}
    gru = Recipe(
        name="gru",
        description="",
        build=lambda: _model((None, 3), L.GRU(4), L.Dense(2)),
        samples=_floats(2, 6, 3),
    )
    recipes = (
        gru,
        dataclasses.replace(
            gru, name="stream", build=lambda: _model((None, 3), L.LSTM(4, return_sequences=True)), streaming=True
        ),
        wanted["relu-lstm-cpu"],
        dataclasses.replace(gru, name="gru-fp16", half_of="gru"),
    )
    folder: Path = tmp_path_factory.mktemp("gpu-check") / "set"
    prepare(folder, recipes=recipes)
    with pytest.raises(OutputExists):
        prepare(folder, recipes=recipes)
    return folder


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "set")
    return tmp_path / "set"


def by_name(found: GpuCheck) -> dict[str, ArtifactResult]:
    return {result.name: result for result in found.results}


def test_the_set_says_what_it_holds(prepared: Path) -> None:
    artifacts = {artifact.name: artifact for artifact in read_set(prepared).artifacts}
    assert list(artifacts) == ["gru", "stream", "relu-lstm-cpu", "gru-fp16"]
    gru, stream, relu, half = artifacts.values()
    assert (gru.strategies, gru.rival, gru.rival_loops) == (("fused",), "gru.keras-export.onnx", 1)
    assert (stream.rival, stream.rival_note) == ("", "Keras's export drops the state")
    assert (relu.refused_on, relu.rival_loops) == (("cuda",), 0)
    assert (half.precision, half.rival) == ("fp16", gru.rival)
    assert (prepared / half.file).stat().st_size > 0
    assert all((prepared / f"{name}.golden").is_dir() for name in artifacts)


def test_half_precision_carries_its_tolerance_and_keras_answers(prepared: Path) -> None:
    from gpu_check.prepare import HALF_TOLERANCE

    from edgeseq import compare
    from edgeseq.inspection import inspect

    parity = compare(prepared / "gru-fp16.onnx")
    assert parity
    assert parity.outputs[0].tolerance == HALF_TOLERANCE
    # Rounded weights differ: the file is not the fp32 one under another name.
    assert parity.outputs[0].max_abs > compare(prepared / "gru.onnx").outputs[0].max_abs
    assert inspect(prepared / "gru-fp16.onnx").weights_bytes < inspect(prepared / "gru.onnx").weights_bytes


def test_a_whole_check_on_the_cpu(prepared: Path, tmp_path: Path) -> None:
    kept: list[GpuCheck] = []
    found = run(prepared, ["cpu"], batches=(1, 3), seconds=8, keep=kept.append)
    assert [one.complete for one in kept] == [False] * 4
    assert found.complete
    results = by_name(found)
    assert all(result.started and result.parity and result.parity.within for result in results.values())
    gru, stream = results["gru"], results["stream"]
    assert [(one.subject, one.what, one.batch) for one in gru.measurements] == [
        (EDGESEQ, "call", 1),
        (EDGESEQ, "call", 3),
        (RIVAL, "call", 1),
        (RIVAL, "call", 3),
    ]
    assert [(one.what, one.batch) for one in stream.measurements] == [
        ("call", 1),
        ("step", 1),
        ("call", 3),
        ("step", 3),
    ]
    for one in (*gru.measurements, *stream.measurements):
        assert one.failure is None
        assert one.p50_ns > 0
        assert one.count >= 11
    assert gru.measurements[0].time_steps == 6
    assert {one.time_steps for one in stream.measurements if one.what == "step"} == {1}
    rival = gru.measurements[2]
    assert math.isfinite(rival.time_ratio.value)
    assert rival.time_ratio.value > 0
    assert rival.max_abs < 1e-5
    verdicts = {one.name: one.verdict for one in found.expectations}
    assert verdicts.pop("answers within the tolerance of Keras's") == "met"
    assert set(verdicts.values()) == {"not run"}
    assert found.exit_code == 0
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_one_broken_model_does_not_stop_the_others(copied: Path) -> None:
    (copied / "gru.onnx").write_bytes(b"no model")
    (copied / "relu-lstm-cpu.keras-export.onnx").unlink()
    shutil.rmtree(copied / "stream.golden")
    found = run(copied, ["cpu"], batches=(1,), seconds=4)
    results = by_name(found)
    assert results["gru"].failure.kind == "InvalidFile"
    assert not results["gru"].started
    assert results["stream"].parity_failure.kind == "MissingInput"
    assert results["stream"].measurements[0].p50_ns > 0
    rival = judge.one_measurement(results["relu-lstm-cpu"], RIVAL, "call", 1)
    assert rival.failure.kind == "MissingInput"
    assert results["gru-fp16"].parity.within
    assert found.exit_code == 1
    [exact] = [one for one in found.expectations if one.name.startswith("answers")]
    assert exact.verdict == "not met"
    assert "gru on cpu: InvalidFile" in exact.detail


def test_wrong_answers_are_found(copied: Path) -> None:
    shutil.rmtree(copied / "gru.golden")
    shutil.copytree(copied / "gru-fp16.golden", copied / "gru.golden")
    samples = copied / "gru.golden" / "test_data_set_0"
    data = bytearray((samples / "output_0.pb").read_bytes())
    data[-1] ^= 0x40  # the exponent of the last answer
    (samples / "output_0.pb").write_bytes(bytes(data))
    found = run(copied, ["cpu"], batches=(1,), seconds=2, only=["gru"])
    assert not found.results[0].parity.within
    assert found.exit_code == 1
    assert "FAILED" in table.to_markdown(found)


def test_a_provider_that_cannot_start_is_the_result_of_each(prepared: Path) -> None:
    from edgeseq.runtime.providers import open_session
    from edgeseq.runtime.tiny import tiny_model

    try:
        open_session(tiny_model(), provider="cuda")
    except Exception:  # noqa: BLE001 - it cannot start, which is what this test needs
        pass
    else:
        pytest.skip("CUDA starts here")
    found = run(prepared, ["cuda"], seconds=5)
    assert {result.failure.kind for result in found.results} == {"ProviderUnavailable"}
    assert {one.verdict for one in found.expectations} == {"not run"}
    assert found.exit_code == 3
    assert "built without it" in found.unavailable["cuda"]


def test_what_the_time_does_not_allow_is_said(prepared: Path) -> None:
    found = run(prepared, ["cpu"], seconds=1e-6)
    assert {result.failure.kind for result in found.results} == {"NotRun"}
    assert {one.verdict for one in found.expectations} == {"not run"}
    assert found.exit_code == 0
    plan = Plan(folder=prepared, options={}, batches=(1,), deadline=0.0)
    *_, (result, _) = check(read_set(prepared).artifacts[0], "cpu", plan, 0.0)
    assert result.started
    assert {one.failure.kind for one in result.measurements} == {"NotRun"}


def artifact(**changes: Any) -> Artifact:
    facts: dict[str, Any] = {
        "name": "m",
        "description": "",
        "file": "m.onnx",
        "target": "cuda",
        "precision": "fp32",
        "strategies": ("fused",),
        "rival": "r.onnx",
        "rival_loops": 1,
        "rival_note": "",
        "refused_on": (),
    }
    return Artifact(**{**facts, **changes})


def crashing(*_: Any) -> Iterator[Any]:
    result = dataclasses.replace(blank(artifact(), "cpu"), started=True)
    yield result, Measurement(subject=RIVAL, what="call", batch=1, time_steps=None)
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(*_: Any) -> Iterator[Any]:
    yield blank(artifact(), "cpu"), "opening"
    time.sleep(60)


def test_a_crash_is_the_result_of_what_was_tried_then(monkeypatch: pytest.MonkeyPatch) -> None:
    # Forked, so that the stand-in is there in the other process as well.
    monkeypatch.setattr(alone, "_CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(alone, "check", crashing)
    plan = Plan(folder=Path(), options={}, batches=(1,), deadline=LATER)
    result = alone.check_alone(artifact(), "cpu", plan, 1.0)
    assert (result.started, result.failure) == (True, None)
    [rival] = result.measurements
    assert (rival.subject, rival.failure.kind) == (RIVAL, "Crashed")
    assert rival.failure.message == "its process ended with signal 9 (SIGKILL)"


def test_a_provider_that_crashes_when_it_starts_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(alone, "open_session", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    failure = alone.find_unavailable("tensorrt", {})
    assert failure.kind == "ProviderUnavailable"
    assert failure.message == "starting it ended the process with signal 9 (SIGKILL)"


def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(alone, "check", hanging)
    monkeypatch.setattr(alone, "_LEAST_PATIENCE_SECONDS", 0.3)
    plan = Plan(folder=Path(), options={}, batches=(1,), deadline=LATER)
    assert alone.check_alone(artifact(), "cpu", plan, 0.0).failure.kind == "TimedOut"


def test_one_engine_of_tensorrt_serves_every_batch(prepared: Path) -> None:
    name = prepared / "stream.onnx"
    place = Place(
        path=name, rival=prepared / "gru.keras-export.onnx", provider="tensorrt", options={"a": "b"}, batches=(1, 32)
    )
    assert planned(name, place) == {"batch": (1, 1, 32), "time": (1, 6, 6)}
    # Its golden samples of 2 rows are run as well.
    assert planned(name, dataclasses.replace(place, batches=(1,)))["batch"] == (1, 1, 2)
    assert planned(name, dataclasses.replace(place, provider="TensorrtExecutionProvider")) == planned(name, place)
    assert sorted(planned(place.rival, place).values()) == [(1, 1, 32), (1, 6, 6)]
    # Who plans the profiles plans all of it.
    given = dataclasses.replace(place, options={"trt_profile_min_shapes": "mine"})
    assert planned(name, given) == {}
    assert planned(name, dataclasses.replace(place, provider="cuda")) == {}


@pytest.fixture
def stood_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT's provider, whose place the CPU takes; where nodes ran is not held against it."""
    from edgeseq.runtime import providers
    from edgeseq.runtime.partitions import RECORD

    real = providers.open_session

    def opened(source: Any, *, provider_options: Any = None, **rest: Any) -> Any:
        return real(source, config=RECORD, **{**rest, "provider": "cpu", "others": ()})

    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(providers, "open_session", opened)
    monkeypatch.setattr(providers, "check_installed", lambda _: None)
    monkeypatch.setattr("edgeseq.runtime.placement.check_strict", lambda _: None)


@pytest.mark.usefixtures("stood_in")
def test_lengths_are_checked_against_the_engine_s(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Model] = []
    real = Model.__init__

    def init(model: Model, *arguments: Any, **rest: Any) -> None:
        real(model, *arguments, **rest)
        made.append(model)

    monkeypatch.setattr(Model, "__init__", init)
    plan = Plan(folder=prepared, options={}, batches=(1, 3), deadline=LATER)
    *_, (result, _) = check(read_set(prepared).artifacts[0], "tensorrt", plan, 1.0)
    assert (result.failure, result.parity_failure) == (None, None)
    assert [one.failure for one in result.measurements] == [None] * 4
    # Ours, for parity, for another batch, and Keras's export.
    assert len(made) >= 4
    assert {tuple(sorted(model.ranges.values())) for model in made} == {((1, 1, 3), (1, 6, 6))}
    with pytest.raises(InputMismatch, match="the engine was built for 1 to 6"):
        made[0](np.zeros((1, 7, 3), np.float32))


def compiled_whole(path: Path, monkeypatch: pytest.MonkeyPatch, taken: str) -> Placed:
    """How a file is told that the provider took as one subgraph, which the profile shows as one node."""
    model = Model(path, provider="tensorrt")
    model(np.zeros((1, 6, 3), np.float32))
    provider = "TensorrtExecutionProvider"
    node = PlacedNode(
        name=f"{provider}_TRTKernel_graph_1_0", op_type="TRTKernel_1", layer="", provider=provider, floating=True
    )
    placement = Placement(requested=(provider,), nodes=(node,))
    monkeypatch.setattr(Model, "placement", property(lambda _: placement))
    found = read_partitions(model.session)
    assert found is not None
    parts = tuple(part for part in found.subgraphs if (taken in part.op_types) or not taken)
    monkeypatch.setattr("gpu_check.check.read_partitions", lambda _: dataclasses.replace(found, subgraphs=parts))
    placed = _placed(model)
    assert placed is not None
    assert placed.nodes == {provider: 1}
    return placed


@pytest.mark.usefixtures("stood_in")
@pytest.mark.parametrize(("taken", "recurrent"), [("", 1), ("GRU", 1), ("Gemm", 0)])
def test_recurrent_ops_in_an_engine_are_counted(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, taken: str, recurrent: int
) -> None:
    assert compiled_whole(prepared / "gru.onnx", monkeypatch, taken).recurrent == recurrent


# Judging, on results that are made up.

PLACED = Placed(nodes={"CUDAExecutionProvider": 5, "CPUExecutionProvider": 1}, recurrent=1, fallen=(), host=1)
NEAR = Parity(max_rel=1e-6, tolerance=1e-4, within=True)
ON_GPU, FAST, RELU, REFUSED, EXACT = range(5)


def ran(ratio: float | None = 20.0, **changes: Any) -> ArtifactResult:
    rival = Measurement(
        subject=RIVAL,
        what="call",
        batch=1,
        time_steps=5,
        p50_ns=20,
        time_ratio=None if ratio is None else Ratio(value=ratio, interval=None),
    )
    ours = Measurement(subject=EDGESEQ, what="call", batch=1, time_steps=5, p50_ns=1000, throughput_per_s=1e6)
    facts = {"started": True, "placed": PLACED, "parity": NEAR, "measurements": (ours, rival)}
    return dataclasses.replace(blank(artifact(), "cuda"), **{**facts, **changes})


def verdict(place: int, *results: ArtifactResult) -> str:
    return judge.judge(results)[place].verdict


def test_all_is_met() -> None:
    refusal = Failure(kind="PlacementRefused", message="LSTM")
    refused = dataclasses.replace(ran(), expects_refusal=True, failure=refusal, started=False, parity=None)
    found = judge.judge([ran(), ran(name=judge.RELU_ON_CUDA, expects_speedup=False), refused])
    assert [one.verdict for one in found] == ["met"] * 5


def test_nothing_is_met_by_nothing() -> None:
    assert [one.verdict for one in judge.judge([])] == ["not run"] * 5
    missing = ran(failure=Failure(kind="ProviderUnavailable", message=""), placed=None, parity=None, measurements=())
    assert [one.verdict for one in judge.judge([missing])] == ["not run"] * 5


def test_a_fallen_node_or_an_unproved_placement_is_not_met() -> None:
    fallen = dataclasses.replace(PLACED, fallen=("LSTM lstm/LSTM",))
    assert verdict(ON_GPU, ran(placed=fallen)) == "not met"
    assert verdict(ON_GPU, ran(placed=None)) == "not met"
    assert verdict(ON_GPU, ran(placed=dataclasses.replace(PLACED, recurrent=0))) == "not met"
    assert verdict(ON_GPU, ran(failure=Failure(kind="PlacementRefused", message=""))) == "not met"
    assert verdict(ON_GPU, ran(), ran(placed=fallen)) == "not met"
    assert verdict(ON_GPU, ran(placed=None, provider="cpu")) == "not run"
    assert verdict(RELU, ran(name=judge.RELU_ON_CUDA, placed=fallen)) == "not met"
    assert verdict(RELU, ran()) == "not run"


@pytest.mark.parametrize(("ratio", "wanted"), [(10.0, "met"), (9.9, "not met"), (None, "not run")])
def test_ten_times_as_fast(ratio: float | None, wanted: str) -> None:
    assert verdict(FAST, ran(ratio)) == wanted
    assert verdict(FAST, ran(ratio, provider="tensorrt")) == "not run"
    # A file of steps that are written out, or one whose rival has no Loop, claims nothing.
    assert verdict(FAST, ran(ratio, expects_speedup=False)) == "not run"


def test_what_claims_ten_times() -> None:
    assert blank(artifact(), "cuda").expects_speedup
    assert not blank(artifact(strategies=("fused", "scan")), "cuda").expects_speedup
    assert not blank(artifact(rival_loops=0), "cuda").expects_speedup
    assert not blank(artifact(precision="fp16"), "cuda").expects_speedup


def test_a_refusal_that_was_expected_and_did_not_come() -> None:
    expected = {"expects_refusal": True}
    assert verdict(REFUSED, ran(**expected)) == "not met"
    other = Failure(kind="InvalidFile", message="")
    assert verdict(REFUSED, ran(**expected, failure=other)) == "not met"


def test_answers_out_of_tolerance_or_nan_are_not_met() -> None:
    far = Parity(max_rel=1e-3, tolerance=1e-4, within=False)
    assert verdict(EXACT, ran(parity=far)) == "not met"
    nan = judge.judge([ran(parity=dataclasses.replace(far, max_rel=None))])[EXACT]
    assert (nan.verdict, "NaN of 0.0001" in nan.detail) == ("not met", True)
    assert verdict(EXACT, ran(parity=None, parity_failure=Failure(kind="InvalidFile", message=""))) == "not met"
    # What was refused gave no wrong answer.
    assert verdict(EXACT, ran(parity=None, failure=Failure(kind="PlacementRefused", message=""))) == "not run"


def test_what_did_not_run_is_said_beside_what_is_met() -> None:
    late = ran(failure=Failure(kind="NotRun", message=""), placed=None)
    found = judge.judge([ran(), late])[ON_GPU]
    assert (found.verdict, found.detail) == ("met", "1 of 2 models; not run: m on cuda")


def made_up(prepared: Path, *results: ArtifactResult, **changes: Any) -> GpuCheck:
    empty = run(prepared, ["cpu"], seconds=1e-6)
    return dataclasses.replace(empty, results=results, expectations=judge.judge(results), **changes)


def test_the_exit_code(prepared: Path) -> None:
    assert made_up(prepared, ran()).exit_code == 0
    assert made_up(prepared, ran(2.0)).exit_code == 1
    assert made_up(prepared, ran(), unavailable={"tensorrt": "no library"}).exit_code == 3
    assert made_up(prepared, ran(2.0), unavailable={"tensorrt": "no library"}).exit_code == 1


def test_the_table(prepared: Path) -> None:
    graph = Measurement(
        subject=GRAPH, what="call", batch=1, time_steps=5, failure=Failure(kind="WrongUsage", message="it has a | Scan")
    )
    result = ran()
    result = dataclasses.replace(result, measurements=(*result.measurements, graph))
    text = table.to_markdown(made_up(prepared, result))
    assert "| every recurrent node on the GPU | met | 1 of 1 models |" in text
    assert "| m | cuda | fused (fp32) | yes | 1 | CUDA 5, CPU 1 | 1 | 1.00e-06 / 0.0001 |" in text
    assert "| m | cuda | call | 1 | 1.00 µs | - | - | 1,000,000 | no [1] | 20.0 ns | 20.0 × |" in text
    assert "1. WrongUsage: it has a | Scan" in text
    [head] = [line for line in text.splitlines() if line.startswith("| model | provider | what |")]
    [row] = [line for line in text.splitlines() if line.startswith("| m | cuda | call |")]
    assert head.count("|") == row.count("|")


def test_a_set_that_is_missing_or_damaged(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="--prepare"):
        run(tmp_path, ["cpu"])
    (tmp_path / SET_FILE).write_text('{"version": 99}')
    with pytest.raises(InvalidFile, match="its version is 99"):
        run(tmp_path, ["cpu"])
    with pytest.raises(WrongUsage, match="no model 'x'; it has gru, stream"):
        run(prepared, ["cpu"], only=["x"])
    with pytest.raises(WrongUsage, match="each alone"):
        run(prepared, ["cuda,cpu"])


# In a process where nothing but numpy, onnxruntime and edgeseq's own can be imported.
BLOCKED = """
import sys
for name in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "typer", "rich", "matplotlib", "PIL", "sympy"):
    sys.modules[name] = None
from gpu_check.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{SCRIPTS.parent}:{SCRIPTS}"},
    )


def test_the_command_needs_numpy_and_onnxruntime_alone(prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    arguments = (prepared, "-o", output, "-p", "cpu", "--batch", 1, "--seconds", 3)
    ran = command(*arguments)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(output.read_text())
    assert (document["schema"], document["complete"]) == ("edgeseq.gpu-check", True)
    assert [result["name"] for result in document["results"]] == ["gru", "stream", "relu-lstm-cpu", "gru-fp16"]
    assert ran.stdout.strip() == output.with_suffix(".md").read_text().strip()
    again = command(*arguments)
    assert again.returncode == 2
    assert "output exists" in again.stderr


def test_wrong_usage(prepared: Path, tmp_path: Path) -> None:
    missing = command(tmp_path / "none", "-o", tmp_path / "x.json", "-p", "cpu")
    assert (missing.returncode, "--prepare FOLDER" in missing.stderr) == (2, True)
    assert not (tmp_path / "x.json").exists()
    nowhere = command(prepared, "-p", "cpu")
    assert (nowhere.returncode, "usage: scripts/gpu-check" in nowhere.stderr) == (2, True)
    assert "-o OUT.json is needed" in nowhere.stderr
    other = command(prepared, "-o", tmp_path / "x.txt")
    assert (other.returncode, "argument -o/--output: results are written as .json" in other.stderr) == (2, True)
    assert command(prepared, "-o", tmp_path / "x.json", "--provider-option", "a").returncode == 2
    unknown = command(prepared, "-o", tmp_path / "x.json", "-p", "nowhere")
    assert (unknown.returncode, "unknown provider" in unknown.stderr) == (2, True)
