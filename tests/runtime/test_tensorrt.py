"""Ranges, profiles, options, folders and refusals of TensorRT: all that needs neither TensorRT nor a GPU.

Sessions, where one is needed, are the CPU's with what the provider would write put in the place that it was told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.errors import CompiledElsewhere, InputMismatch, PlacementRefused, Refused, WrongUsage
from edgeseq.runtime import Model, compiled, opening, providers, tensorrt
from edgeseq.runtime.golden import Golden, write_golden
from edgeseq.runtime.manifest import Compiled, Manifest, StateSpec, TensorSpec, load_manifest
from edgeseq.runtime.partitions import read_partitions
from edgeseq.runtime.ranges import check_lengths, choose_ranges, parse_ranges
from edgeseq.runtime.tensorrt import MAX, MIN, OPT, Device, plan, prepare, read_device

DEVICE = Device(
    onnxruntime="1.31.1", cuda="13.0", tensorrt="10.9.0", driver="13.0", gpu="NVIDIA L4", compute_capability="8.9"
)


def manifest_of(*axes: tuple[str | int, ...], states: tuple[tuple[str | int, ...], ...] = ()) -> Manifest:
    specs = tuple(TensorSpec(name=f"x{place}", dtype="float32", axes=found) for place, found in enumerate(axes))
    return Manifest(
        inputs=specs,
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", 2)),),
        input_structure=[spec.name for spec in specs],
        output_structure="y",
        states=tuple(
            StateSpec(
                input=f"state_in.{place:02}.lstm.h",
                output=f"state_out.{place:02}.lstm.h",
                dtype="float32",
                axes=found,
            )
            for place, found in enumerate(states)
        ),
    )


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], {}),
        (["batch=1:32"], {"batch": (1, 32, 32)}),
        (["batch=1:32", "time=1:100:200"], {"batch": (1, 32, 32), "time": (1, 100, 200)}),
        ([" time_2 = 3 : 3 "], {"time_2": (3, 3, 3)}),
    ],
)
def test_text_becomes_ranges(texts, wanted):
    assert parse_ranges(texts) == wanted


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["batch"], "a range is AXIS=MIN:MAX or AXIS=MIN:OPT:MAX"),
        (["=1:2"], "a range is AXIS=MIN:MAX"),
        (["batch=1:x"], "a range is AXIS=MIN:MAX"),
        (["batch=-1:2"], "a range is AXIS=MIN:MAX"),
        (["batch=1"], r"must be \(min, max\)"),
        (["batch=1:2:3:4"], r"must be \(min, max\)"),
        (["batch=0:2"], "must have 1 <= min <= opt <= max; got 0:2"),
        (["batch=3:2"], "must have 1 <= min <= opt <= max; got 3:2"),
        (["batch=1:9:8"], "must have 1 <= min <= opt <= max; got 1:9:8"),
        (["batch=1:2", "batch=1:3"], "the range of 'batch' is given twice"),
        ([f"batch=1:{2**31}"], "must have 1 <= min"),
    ],
)
def test_text_that_is_no_range_is_refused(texts, reason):
    with pytest.raises(WrongUsage, match=reason):
        parse_ranges(texts)


@given(st.lists(st.integers(1, 2**31 - 1), min_size=2, max_size=3), st.sampled_from(["batch", "time", "time_2"]))
def test_what_is_taken_is_in_order(numbers, axis):
    text = f"{axis}=" + ":".join(map(str, numbers))
    if sorted(numbers) != numbers:
        with pytest.raises(WrongUsage):
            parse_ranges([text])
        return
    shortest, best, longest = parse_ranges([text])[axis]
    assert (shortest, longest) == (numbers[0], numbers[-1])
    assert 1 <= shortest <= best <= longest


@pytest.mark.parametrize("numbers", [(True, 2), (1.0, 2), (1,), (1, 2, 3, 4), ()])
def test_numbers_that_are_no_range_are_refused(numbers):
    with pytest.raises(WrongUsage, match="must be"):
        choose_ranges(manifest_of(("batch", 3)), {"batch": numbers})


def test_given_wins_over_seen_and_seen_starts_at_one():
    manifest = manifest_of(("batch", "time", 3), ("batch", "time_2"))
    samples = {"x0": np.zeros((7, 9, 3)), "x1": np.zeros((7, 5))}
    assert choose_ranges(manifest, {"time": (2, 50)}, samples) == {
        "batch": (1, 7, 7),
        "time": (2, 50, 50),
        "time_2": (1, 5, 5),
    }


def test_axes_without_a_range_are_named():
    manifest = manifest_of(("batch", "time", 3), ("batch", "time_2"))
    with pytest.raises(WrongUsage, match=r"'batch' \(of 'x0'\), 'time_2' \(of 'x1'\).*--range batch=1:32"):
        choose_ranges(manifest, {"time": (1, 9)})


def test_an_axis_that_the_model_has_not_is_refused():
    with pytest.raises(WrongUsage, match=r"no free axis 'tme'; it has batch, time"):
        choose_ranges(manifest_of(("batch", "time")), {"tme": (1, 2)})
    with pytest.raises(WrongUsage, match="none: its lengths are fixed"):
        choose_ranges(manifest_of((2, 3)), {"batch": (1, 2)})


@pytest.mark.parametrize("length", [1, 5, 9])
def test_lengths_within_pass(length):
    check_lengths({"batch": length, "other": 99}, {"batch": (1, 5, 9)})


@pytest.mark.parametrize(("length", "wider"), [(10, "1:10"), (0, "1:9")])
def test_lengths_outside_say_what_is_allowed(length, wider):
    with pytest.raises(InputMismatch, match=rf"'batch' has the length {length}.*1 to 9.*30 to 120 s.*{wider}"):
        check_lengths({"batch": length}, {"batch": (1, 5, 9)})


names = st.sampled_from(["batch", "time", "time_2", "rows"])
shapes = st.lists(st.one_of(names, st.integers(1, 64)), min_size=1, max_size=4).map(tuple)
some_ranges = st.fixed_dictionaries(
    {
        name: st.lists(st.integers(1, 999), min_size=3, max_size=3).map(lambda found: tuple(sorted(found)))
        for name in ("batch", "time", "time_2", "rows")
    }
)


def parsed(text: str) -> dict[str, tuple[int, ...]]:
    """As the provider reads it: at commas, then at the colon, then at each x."""
    entries = [entry.split(":") for entry in text.split(",")] if text else []
    return {name: tuple(int(number) for number in shape.split("x")) for name, shape in entries}


def test_the_shapes_of_all_inputs_and_states():
    manifest = manifest_of(("batch", "time", 8), states=(("batch", 32),))
    found = plan(manifest, {"batch": (1, 4, 16), "time": (1, 50, 100)})
    assert found.shapes == {
        MIN: "x0:1x1x8,state_in.00.lstm.h:1x32",
        OPT: "x0:4x50x8,state_in.00.lstm.h:4x32",
        MAX: "x0:16x100x8,state_in.00.lstm.h:16x32",
    }


def test_fixed_shapes_need_none():
    assert plan(manifest_of((2, 3), states=((2, 4),)), {}).shapes == {}


@pytest.mark.parametrize("name", ["x:0", "a,b"])
def test_names_that_the_option_cannot_hold_are_refused(name):
    manifest = Manifest(
        inputs=(TensorSpec(name=name, dtype="float32", axes=("batch",)),),
        outputs=(),
        input_structure=name,
        output_structure=[],
    )
    with pytest.raises(WrongUsage, match=f"cannot name the input '{name}'"):
        plan(manifest, {"batch": (1, 1, 1)})


@given(st.lists(shapes, min_size=1, max_size=4), st.lists(shapes, max_size=3), some_ranges)
def test_every_dynamic_input_is_covered_and_min_opt_max_are_in_order(inputs, states, ranges):
    manifest = manifest_of(*inputs, states=tuple(states))
    found = {option: parsed(text) for option, text in plan(manifest, ranges).shapes.items()}
    axes = {spec.name: spec.axes for spec in manifest.inputs} | {s.input: s.axes for s in manifest.states}
    dynamic = {name: shape for name, shape in axes.items() if any(isinstance(axis, str) for axis in shape)}
    if not dynamic:
        assert found == {}
        return
    for option, place in ((MIN, 0), (OPT, 1), (MAX, 2)):
        assert found[option] == {
            name: tuple(axis if isinstance(axis, int) else ranges[axis][place] for axis in shape)
            for name, shape in dynamic.items()
        }
    for name in dynamic:
        assert all(
            low <= best <= high
            for low, best, high in zip(found[MIN][name], found[OPT][name], found[MAX][name], strict=True)
        )


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """A machine with a GPU, as far as planning asks, and an empty cache folder."""
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: DEVICE)
    return tmp_path / "cache"


def ready(path: Path, **changes: Any) -> tensorrt.Engine:
    manifest = load_manifest(path)
    assert manifest is not None
    return prepare(path, manifest, **{"ranges": {"batch": (1, 4), "time": (1, 9)}, **changes})


def test_the_options_and_the_folder(here, make_lstm):
    engine = ready(make_lstm().path)
    timing = engine.options.pop("trt_timing_cache_path")
    assert engine.options == {
        MIN: "x:1x1x3",
        OPT: "x:4x9x3",
        MAX: "x:4x9x3",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_prefix": "edgeseq",
        "trt_timing_cache_enable": "1",
    }
    assert engine.folder is not None
    assert engine.folder.parent == here / "tensorrt"
    assert Path(timing).parent == here / "tensorrt" / "timing"
    assert not engine.cached
    assert not here.exists()


def test_ranges_come_from_the_golden_samples(here, make_lstm):
    path = make_lstm().path
    with pytest.raises(WrongUsage, match="a range is needed for 'batch'"):
        ready(path, ranges=None)
    samples = {"x": np.zeros((5, 11, 3), np.float32)}
    write_golden(path, Golden(inputs=samples, outputs={"y": np.zeros((5, 11, 4), np.float32)}), "")
    assert ready(path, ranges=None).ranges == {"batch": (1, 5, 5), "time": (1, 11, 11)}
    assert ready(path, ranges={"batch": (2, 3)}).ranges == {"batch": (2, 3, 3), "time": (1, 11, 11)}


def test_the_folder_changes_with_every_ingredient_and_with_nothing_else(here, make_lstm, monkeypatch):
    path = make_lstm().path
    first = ready(path)
    assert ready(path).folder == first.folder
    renamed = path.with_name("other.onnx")
    renamed.write_bytes(path.read_bytes())
    found = [
        first,
        ready(renamed),
        ready(make_lstm(tolerance=0.5).path),
        ready(path, ranges={"batch": (1, 5), "time": (1, 9)}),
        ready(path, ranges={"batch": (1, 2, 4), "time": (1, 9)}),
        ready(path, options={"trt_fp16_enable": True}),
        ready(path, options={"trt_builder_optimization_level": 4}),
        ready(path, context=True),
    ]
    for field in ("onnxruntime", "cuda", "tensorrt", "driver", "gpu", "compute_capability"):
        other = Device(**{**vars(DEVICE), field: "another"})
        monkeypatch.setattr(tensorrt, "read_device", lambda *_, other=other: other)
        found.append(ready(path))
    assert len({engine.folder for engine in found}) == len(found)


def test_the_timing_cache_is_that_of_the_gpu_and_the_versions(here, make_lstm, monkeypatch):
    path = make_lstm().path
    first = ready(path).options["trt_timing_cache_path"]
    assert ready(path, options={"trt_fp16_enable": "1"}).options["trt_timing_cache_path"] == first
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: Device(**{**vars(DEVICE), "gpu": "another"}))
    assert ready(path).options["trt_timing_cache_path"] != first


def test_the_callers_options_win(here, make_lstm):
    path = make_lstm().path
    own = {"trt_timing_cache_path": "/mine", "trt_engine_cache_prefix": "mine", "trt_bf16_enable": True}
    options = ready(path, options=own).options
    assert (options["trt_timing_cache_path"], options["trt_engine_cache_prefix"]) == ("/mine", "mine")
    assert options["trt_bf16_enable"] == "1"
    assert ready(path, options={"trt_engine_cache_path": "/mine"}).folder is None
    assert ready(path, options={"trt_engine_cache_enable": False}).folder is None
    shapes = {MIN: "x:1x1x3", OPT: "x:1x1x3", MAX: "x:2x2x3"}
    engine = ready(path, ranges=None, options=shapes)
    assert engine.ranges == {}
    assert {name: engine.options[name] for name in shapes} == shapes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({MIN: "x:1x1x3"}, "needs the other two"),
        ({MIN: "a", OPT: "b", MAX: "c"}, "plan the same thing"),
        ({"trt_engine_cache_path": "/a", "trt_engine_cache_enable": "0"}, "of no use with"),
        ({"trt_timing_cache_path": "/a", "trt_timing_cache_enable": "False"}, "of no use with"),
        ({"device_id": "gpu"}, "device_id must be the number of a GPU"),
        ({"trt_dump_ep_context_model": True}, "is what compiling does"),
    ],
)
def test_options_that_contradict_one_another_are_refused(here, make_lstm, options, reason):
    with pytest.raises(WrongUsage, match=reason):
        ready(make_lstm().path, options=options)


def test_the_driver_and_the_library_are_asked(monkeypatch):
    class Library:
        def cuDriverGetVersion(self, number):  # noqa: N802 - the driver's own name
            number._obj.value = 13000

        def cuInit(self, _):  # noqa: N802
            return 0

        def cuDeviceGetCount(self, number):  # noqa: N802
            number._obj.value = 2

        def cuDeviceGetName(self, name, _, device):  # noqa: N802
            name.value = b"GPU %d" % device

        def cuDeviceGetAttribute(self, number, attribute, device):  # noqa: N802
            number._obj.value = {75: 8, 76: 6 + device}[attribute]

        def getInferLibVersion(self):  # noqa: N802
            return 100900

    monkeypatch.setattr(providers, "nvidia_libraries", lambda: {"libnvinfer.so.10": True})
    found = read_device(1, lambda _: Library())
    assert (found.gpu, found.compute_capability, found.driver, found.tensorrt) == ("GPU 1", "8.7", "13.0", "10.9.0")
    # One that is not there has no name, and what opens it says so.
    assert (read_device(2, lambda _: Library()).gpu, read_device(2, lambda _: Library()).driver) == ("", "13.0")


def test_without_any_the_texts_are_empty():
    def load(name: str) -> Any:
        raise OSError(name)

    found = read_device(0, load)
    assert (found.driver, found.gpu, found.compute_capability) == ("", "", "")
    assert found.onnxruntime


@pytest.fixture
def pretended(here, monkeypatch) -> list[dict[str, str]]:
    """TensorRT's sessions: the CPU's, with an engine in the folder named; answers the options of each."""
    opened: list[dict[str, str]] = []
    real = providers.open_session

    def open_session(source: Any, *, provider: str = "cpu", provider_options: Any = None, **rest: Any) -> Any:
        if provider == "tensorrt":
            options = dict(provider_options or {})
            opened.append(options)
            assert Path(options["trt_timing_cache_path"]).is_dir()
            if folder := options.get("trt_engine_cache_path"):
                (Path(folder) / "edgeseq_1.engine").write_bytes(b"engine")
            return real(source, **{**rest, "others": ()})
        return real(source, provider=provider, provider_options=provider_options, **rest)

    monkeypatch.setattr(providers, "open_session", open_session)
    monkeypatch.setattr(providers, "check_installed", lambda _: None)
    return opened


RANGES = {"batch": (1, 4), "time": (1, 9)}


def test_the_engine_is_built_once_and_kept_whole(pretended, make_lstm):
    path = make_lstm().path
    first = Model(path, provider="tensorrt", ranges=RANGES)
    assert first.engine_folder is not None
    assert sorted(found.name for found in first.engine_folder.iterdir()) == ["edgeseq_1.engine", "plan.json"]
    said = json.loads((first.engine_folder / "plan.json").read_text())
    assert said["device"]["gpu"] == "NVIDIA L4"
    assert said["ranges"] == {"batch": [1, 4, 4], "time": [1, 9, 9]}
    assert said["build_seconds"] > 0
    second = Model(path, provider="tensorrt", ranges=RANGES)
    built, read = (options["trt_engine_cache_path"] for options in pretended)
    # Built beside its place, and read from there.
    assert Path(built).parent == Path(read).parent
    assert Path(built) != Path(read) == second.engine_folder == first.engine_folder


def test_a_build_that_fails_leaves_nothing(pretended, make_lstm, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise WrongUsage("no")

    monkeypatch.setattr(providers, "open_session", fail)
    with pytest.raises(WrongUsage, match="no"):
        Model(make_lstm().path, provider="tensorrt", ranges=RANGES)
    [timing] = (Path(opening.caching.cache_folder()) / "tensorrt").iterdir()
    assert timing.name == "timing"


def test_an_engine_that_cannot_be_read_names_its_folder(pretended, make_lstm, monkeypatch):
    path = make_lstm().path
    folder = Model(path, provider="tensorrt", ranges=RANGES).engine_folder

    def fail(*_: Any, **__: Any) -> Any:
        raise WrongUsage("could not deserialize")

    monkeypatch.setattr(providers, "open_session", fail)
    with pytest.raises(WrongUsage) as caught:
        Model(path, provider="tensorrt", ranges=RANGES)
    assert caught.value.__notes__ == [f"the engine was read from {folder}; delete that folder to have it built again"]


def test_parts_that_cannot_be_planned_are_refused(pretended, make_lstm, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise WrongUsage("Following input(s) has no associated shape profiles provided: cut_1,cut_2.")

    monkeypatch.setattr(providers, "open_session", fail)
    with pytest.raises(Refused, match=r"known for: cut_1,cut_2\. Export it with fixed lengths"):
        Model(make_lstm().path, provider="tensorrt", ranges=RANGES)


def test_lengths_outside_are_refused_before_anything_runs(pretended, make_lstm):
    model = Model(make_lstm().path, provider="tensorrt", ranges=RANGES)
    with pytest.raises(InputMismatch, match=r"'time' has the length 10; .* 1 to 9"):
        model(np.zeros((4, 10, 3), np.float32))
    with pytest.raises(InputMismatch, match=r"'batch' has the length 5"):
        model(np.zeros((5, 9, 3), np.float32))
    assert model.placement is None  # nothing has run
    with pytest.raises(PlacementRefused):  # the CPU stands in for TensorRT
        model(np.zeros((4, 9, 3), np.float32))


def test_a_stream_is_held_to_the_ranges_too(pretended, make_lstm):
    model = Model(make_lstm(streaming=True).path, provider="tensorrt", ranges=RANGES)
    shapes = pretended[0][MAX]
    assert shapes == "x:4x9x3,state_in.00.lstm.h:4x4,state_in.01.lstm.c:4x4"
    with pytest.raises(InputMismatch, match="'time' has the length 10"):
        model.stream(batch=2).step(np.zeros((2, 10, 3), np.float32))
    with pytest.raises(InputMismatch, match="'batch' has the length 5"):
        model.stream(batch=5).step(np.zeros((5, 9, 3), np.float32))


def test_a_file_without_a_manifest_is_planned_too(pretended, make_lstm):
    model = Model(make_lstm(manifest=False).path, provider="tensorrt", ranges=RANGES)
    assert model.ranges == {"batch": (1, 4, 4), "time": (1, 9, 9)}


def test_fixed_shapes_need_no_range(pretended, make_lstm):
    model = Model(make_lstm(batch=2, time=5).path, provider="tensorrt")
    assert model.ranges == {}
    assert MIN not in pretended[0]


def test_ranges_mean_nothing_elsewhere(make_lstm):
    with pytest.raises(WrongUsage, match="CPUExecutionProvider takes any length"):
        Model(make_lstm().path, ranges=RANGES)


RECORD = Compiled(
    provider="TensorrtExecutionProvider",
    options={},
    precision="fp32",
    ranges={"batch": (1, 4, 4)},
    built_on=vars(DEVICE),
    source="00",
)


def test_the_record_survives_the_manifest_and_older_readers_leave_it_out(make_lstm):
    manifest = load_manifest(make_lstm(compiled=RECORD).path)
    assert manifest is not None
    assert manifest.compiled == RECORD
    assert manifest.format_version == 1
    said = json.loads(manifest.to_json())
    del said["compiled"]
    assert Manifest.from_json(json.dumps(said)).compiled is None


def test_another_provider_is_refused(make_lstm):
    with pytest.raises(WrongUsage, match=r"compiled for TensorrtExecutionProvider .* with provider 'tensorrt'"):
        Model(make_lstm(compiled=RECORD).path)


@pytest.mark.parametrize("field", ["tensorrt", "gpu", "compute_capability"])
def test_another_machine_is_refused(pretended, make_lstm, monkeypatch, field):
    other = Device(**{**vars(DEVICE), field: "another"})
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: other)
    with pytest.raises(CompiledElsewhere, match=f"{field} .*, here another. Compile the original again") as caught:
        Model(make_lstm(compiled=RECORD).path, provider="tensorrt")
    assert caught.value.differences == {field: (vars(DEVICE)[field], "another")}
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("field", ["onnxruntime", "cuda", "driver"])
def test_what_an_engine_is_not_bound_to_may_differ(here, monkeypatch, field):
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: Device(**{**vars(DEVICE), field: "another"}))
    compiled.check("m.onnx", RECORD, tensorrt.FULL_NAME, {})


def test_an_engine_for_any_gpu_runs_on_any(here, monkeypatch):
    monkeypatch.setattr(tensorrt, "read_device", lambda *_: Device(**{**vars(DEVICE), "gpu": "another"}))
    record = Compiled(**{**vars(RECORD), "options": {"trt_engine_hw_compatible": "1"}})
    compiled.check("m.onnx", record, tensorrt.FULL_NAME, {})


def test_its_ranges_are_fixed(here, make_lstm):
    path = make_lstm(compiled=RECORD).path
    with pytest.raises(WrongUsage, match="its ranges are fixed"):
        Model(path, provider="tensorrt", ranges=RANGES)


def test_of_another_provider_every_version_counts():
    built_on = {**compiled.read_machine("OpenVINOExecutionProvider", {}), "onnxruntime": "1.0"}
    record = Compiled(**{**vars(RECORD), "provider": "OpenVINOExecutionProvider", "built_on": built_on})
    with pytest.raises(CompiledElsewhere, match=r"onnxruntime 1\.0, here "):
        compiled.check("m.onnx", record, "OpenVINOExecutionProvider", {})


def test_partitions_are_told_where_they_were_recorded(make_lstm):
    path = make_lstm().path
    assert read_partitions(providers.open_session(path)) is None
    config = {"session.record_ep_graph_assignment_info": "1"}
    found = read_partitions(providers.open_session(path, config=config))
    assert found is not None
    assert found.provider == "CPUExecutionProvider"
    assert found.left == ()
    assert sum(part.op_types.get("LSTM", 0) for part in found.subgraphs) == 1


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            "/onnxruntime/python/state.cc:1053 std::shared_ptr<onnxruntime::Factory> onnxruntime::python::Create(const "
            "onnxruntime::SessionOptions&, const std::function<void (int)>&) Invalid OpenVINO EP option: device",
            "Invalid OpenVINO EP option: device",
        ),
        ("[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not (x)", "TensorRT EP could not (x)"),
        ("/somewhere/model.onnx is not there", "/somewhere/model.onnx is not there"),
    ],
)
def test_a_reason_is_told_without_onnxruntime_s_source_lines(raised, told):
    assert providers._reason(RuntimeError(raised)) == told
