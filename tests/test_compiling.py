"""Compiling ahead of time: the whole way from the file to the compiled one, with a provider that the CPU stands in for.

What it writes as its compiled model is the file itself, which runs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save

from edgeseq import compile_model, compiling
from edgeseq.errors import (
    CompiledElsewhere,
    MissingInput,
    OutputExists,
    ParityFailed,
    ProviderUnavailable,
    Refused,
    WrongUsage,
)
from edgeseq.parity import compare
from edgeseq.runtime import Model, providers, tensorrt, wire
from edgeseq.runtime.golden import Golden, golden_folder, write_golden
from edgeseq.runtime.manifest import Manifest, TensorSpec, load_manifest
from edgeseq.runtime.tensorrt import Device

CPU = "CPUExecutionProvider"
DEVICE = Device(
    onnxruntime="1.31.1", cuda="13.0", tensorrt="10.9.0", driver="13.0", gpu="NVIDIA L4", compute_capability="8.9"
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = 2 x, (batch, time, 3), with golden samples of 5 rows and 7 steps."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", "time", 3])],
        [value("y", TensorProto.FLOAT, ["batch", "time", 3])],
        [numpy_helper.from_array(np.float32([2]), "two")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    specs = {name: TensorSpec(name=name, dtype="float32", axes=("batch", "time", 3)) for name in "xy"}
    manifest = Manifest(
        inputs=(specs["x"],), outputs=(specs["y"],), input_structure="x", output_structure="y", model_hash="ab"
    )
    helper.set_model_props(made, {"edgeseq": manifest.to_json(), "other": "entry"})
    path = tmp_path / "model.onnx"
    save(made, path)
    x = np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32)
    write_golden(path, Golden(inputs={"x": x}, outputs={"y": 2 * x}), "ab")
    return path


@pytest.fixture
def built(monkeypatch) -> list[dict[str, Any]]:
    """A provider, called cpu, that compiles: what it was asked for, each time."""
    asked: list[dict[str, Any]] = []
    real = providers.open_session

    def open_session(source: Any, *, provider_options: Any = None, config: Any = None, **rest: Any) -> Any:
        wanted = {**(provider_options or {}), **(config or {})}
        place = wanted.get("ep.context_file_path") or wanted.get("trt_ep_context_file_path")
        if place:
            asked.append(wanted)
            shutil.copyfile(source, place)
        rest = {**rest, "provider": "cpu", "others": ()}
        return real(source, config={"session.record_ep_graph_assignment_info": "1"}, **rest)

    monkeypatch.setattr(providers, "open_session", open_session)
    monkeypatch.setattr(compiling, "_COMPILES_NOTHING", ())
    monkeypatch.setattr(providers, "check_installed", lambda _: None)
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: DEVICE)
    return asked


@pytest.fixture
def believed(monkeypatch) -> None:
    """What ran on the CPU, in TensorRT's place, is not held against it."""
    monkeypatch.setattr("edgeseq.runtime.placement.check_strict", lambda _: None)


def test_the_compiled_file_is_the_whole_model(model, built, tmp_path):
    target = tmp_path / "small.onnx"
    report = compile_model(model, target, provider="cpu")
    [asked] = built
    assert asked["ep.context_enable"] == asked["ep.context_embed_mode"] == "1"
    assert (report.provider, report.cached, report.cache_folder, report.ranges) == (CPU, False, None, {})
    assert report.size_bytes == target.stat().st_size
    assert report.build_seconds is not None
    assert report.partitions is not None
    assert [part.op_types for part in report.partitions.subgraphs] == [{"Mul": 1}]
    assert report.parity
    manifest, original = load_manifest(target), load_manifest(model)
    assert manifest is not None
    assert manifest.compiled is not None
    assert manifest.compiled.provider == CPU
    assert manifest.model_hash == original.model_hash
    assert wire.read_metadata(target)["other"] == "entry"
    # One entry of each key, as onnx's checker wants.
    assert sorted(entry.key for entry in load(target).metadata_props) == ["edgeseq", "other"]
    assert np.array_equal(Model(target)(np.ones((2, 3, 3), np.float32)), np.full((2, 3, 3), 2, np.float32))
    parity = compare(target)
    assert parity
    assert parity.reference == "golden"
    assert report.golden_path == str(golden_folder(target))


def test_it_is_refused_with_other_versions(model, built, tmp_path, monkeypatch):
    compile_model(model, tmp_path / "small.onnx", provider="cpu")
    monkeypatch.setattr(providers, "versions", lambda: {"onnxruntime": "9.9", "cuda": ""})
    with pytest.raises(CompiledElsewhere, match=r"onnxruntime .*, here 9\.9"):
        Model(tmp_path / "small.onnx")


def test_a_compiled_file_is_not_compiled_again(model, built, tmp_path):
    compile_model(model, tmp_path / "small.onnx", provider="cpu")
    with pytest.raises(WrongUsage, match="is compiled already"):
        compile_model(tmp_path / "small.onnx", provider="cpu")


def test_without_golden_samples_it_is_held_against_the_original(model, built, tmp_path):
    shutil.rmtree(golden_folder(model))
    target = tmp_path / "small.onnx"
    report = compile_model(model, target, provider="cpu")
    assert report.parity is not None
    assert (report.parity.reference, report.golden_path) == ("onnx", None)
    report = compile_model(model, target, provider="cpu", samples={"x": np.ones((4, 2, 3))}, overwrite=True)
    assert report.parity is not None
    assert report.parity.samples == 4


@pytest.mark.parametrize("nested", [lambda x: x, lambda x: [x], lambda x: (x,), lambda x: {"x": x}, np.ndarray.tolist])
def test_samples_come_as_for_a_call(model, built, nested, tmp_path):
    samples = nested(np.ones((4, 2, 3), np.float32))
    report = compile_model(model, samples=samples, provider="tensorrt", dry_run=True)
    assert report.ranges == {"batch": (1, 4, 4), "time": (1, 2, 2)}
    report = compile_model(model, tmp_path / "small.onnx", provider="cpu", samples=samples)
    assert report.parity is not None
    assert report.parity.samples == 4


def test_answers_that_differ_are_not_written(model, built, tmp_path):
    x = np.ones((1, 1, 3), np.float32)
    write_golden(model, Golden(inputs={"x": x}, outputs={"y": 3 * x}), "ab")
    with pytest.raises(ParityFailed, match=r"differs from the golden samples by 0\.333 in 'y'") as caught:
        compile_model(model, tmp_path / "small.onnx", provider="cpu")
    assert caught.value.parity is not None
    assert not (tmp_path / "small.onnx").exists()
    assert not golden_folder(tmp_path / "small.onnx").exists()


def test_a_provider_that_writes_nothing_is_refused(model, built, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", lambda *_: None)
    with pytest.raises(Refused, match=r"'cpu' wrote no compiled model: .* It took 1 nodes and left 0"):
        compile_model(model, provider="cpu")
    assert not model.with_name("model.cpu.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"provider": "cpu"}, WrongUsage, "nothing to compile for the provider 'cpu'"),
        ({"provider": "cuda"}, WrongUsage, "nothing to compile for the provider 'cuda'"),
        ({"provider": "tensort"}, WrongUsage, "unknown provider 'tensort'"),
        ({"precision": "fp8"}, WrongUsage, "precision must be one of fp32, fp16, bf16; got 'fp8'"),
        ({"provider_options": {"trt_fp16_enable": "1"}}, WrongUsage, "trt_fp16_enable is what precision=fp32 decides"),
        ({"provider_options": {"trt_dump_ep_context_model": "1"}}, WrongUsage, "is set by compiling itself"),
        ({"ranges": {"tme": (1, 2)}}, WrongUsage, "no free axis 'tme'"),
        ({"samples": {"z": np.ones(3)}}, WrongUsage, "missing 'x' and unexpected 'z'"),
        ({"samples": np.ones((2, 3))}, WrongUsage, "has 3 axes"),
        ({"output": "model.onnx"}, WrongUsage, "also what is read"),
        ({"output": "there.onnx"}, OutputExists, "output exists"),
        ({"path": "none.onnx"}, MissingInput, "model file not found"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_anything_is_built(
    model, arguments, error, reason, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    with pytest.raises(error, match=reason):
        compile_model(**{"path": model, "dry_run": True, **arguments})


def test_precision_and_ranges_are_for_tensorrt(model, built):
    with pytest.raises(WrongUsage, match="precision is for TensorRT"):
        compile_model(model, provider="cpu", precision="fp16")
    with pytest.raises(WrongUsage, match="ranges plan engines of TensorRT"):
        compile_model(model, provider="cpu", ranges={"batch": (1, 2)})


def test_without_tensorrt_the_cause_is_told(model):
    with pytest.raises(ProviderUnavailable, match="built without it"):
        compile_model(model)


def test_a_dry_run_needs_no_tensorrt_and_leaves_nothing(model, tmp_path):
    report = compile_model(model, dry_run=True)
    assert report.dry_run
    assert report.ranges == {"batch": (1, 5, 5), "time": (1, 7, 7)}
    assert report.profiles == {
        "trt_profile_min_shapes": "x:1x1x3",
        "trt_profile_opt_shapes": "x:5x7x3",
        "trt_profile_max_shapes": "x:5x7x3",
    }
    assert (report.cached, report.size_bytes, report.parity) == (False, None, None)
    assert "no NVIDIA GPU was found here" in report.notes[0]
    assert not (tmp_path / "cache").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.golden", "model.onnx"]


@pytest.mark.usefixtures("believed")
def test_an_engine_is_built_once(model, built, tmp_path):
    planned = compile_model(model, dry_run=True)
    assert not planned.cached
    first = compile_model(model, tmp_path / "a.onnx")
    [asked] = built
    assert asked["trt_dump_ep_context_model"] == asked["trt_ep_context_embed_mode"] == "1"
    assert Path(asked["trt_ep_context_file_path"]).name == "context.onnx"
    assert "trt_engine_cache_enable" not in asked
    assert not first.cached
    assert first.cache_folder == planned.cache_folder
    assert compile_model(model, dry_run=True).cached
    second = compile_model(model, tmp_path / "b.onnx")
    assert len(built) == 1
    assert second.cached
    assert (second.build_seconds, second.partitions) == (first.build_seconds, first.partitions)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    plan = json.loads((Path(str(first.cache_folder)) / "plan.json").read_text())
    assert plan["device"]["compute_capability"] == "8.9"
    compile_model(model, tmp_path / "c.onnx", ranges={"time": (1, 8)})
    assert len(built) == 2


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize(
    ("precision", "option", "tolerance"),
    [("fp32", None, 1e-5), ("fp16", "trt_fp16_enable", 1e-2), ("bf16", "trt_bf16_enable", 8e-2)],
)
def test_the_precision_is_an_option_and_a_tolerance(model, built, tmp_path, precision, option, tolerance):
    report = compile_model(model, tmp_path / "small.onnx", precision=precision)
    found = {name for name in ("trt_fp16_enable", "trt_bf16_enable") if built[0].get(name) == "1"}
    assert found == ({option} if option else set())
    manifest = load_manifest(tmp_path / "small.onnx")
    assert manifest is not None
    assert manifest.tolerance == report.tolerance == tolerance
    assert manifest.compiled is not None
    assert manifest.compiled.precision == precision
    assert manifest.compiled.ranges == {"batch": (1, 5, 5), "time": (1, 7, 7)}
    assert Model(tmp_path / "small.onnx", provider="tensorrt").ranges == manifest.compiled.ranges


@pytest.mark.usefixtures("believed")
def test_options_that_only_building_needs_do_not_travel(model, built, tmp_path):
    given = {"device_id": 0, "trt_timing_cache_path": str(tmp_path / "mine"), "trt_builder_optimization_level": 5}
    compile_model(model, tmp_path / "small.onnx", provider_options=given)
    assert built[0].items() >= {"device_id": "0", "trt_builder_optimization_level": "5"}.items()
    manifest = load_manifest(tmp_path / "small.onnx")
    assert manifest is not None
    assert manifest.compiled is not None
    assert manifest.compiled.options == {"device_id": "0"}
    assert (tmp_path / "mine").is_dir()
