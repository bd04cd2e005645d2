"""The manifest in a file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeseq.errors import InvalidFile, MissingInput
from edgeseq.runtime import Manifest, load_manifest
from edgeseq.runtime.manifest import MaskSpec, Quantization, RecurrentLayer, TensorSpec, ThreadAdvice, time_axes


def test_a_manifest_comes_back_as_it_was_written(make_lstm: Callable[..., Any]):
    changes = {
        "masks": (MaskSpec(input="x", layer="masking", value=-1.0),),
        "recurrent": (RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",)),),
        "threads": (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=0)),
        "input_structure": {"dict": {"ä": "x"}},
        "versions": {"keras": "3.15.1"},
        "parameters": 128,
        "quantization": Quantization(method="post-training", layers={"lstm/LSTM": "int8"}, rows_independent=False),
    }
    path = make_lstm(streaming=True, **changes).path
    manifest = load_manifest(path)
    assert manifest is not None
    for name, value in changes.items():
        assert getattr(manifest, name) == value
    assert [state.input for state in manifest.states] == ["state_in.00.lstm.h", "state_in.01.lstm.c"]
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_layer_without_its_reason_opens():
    layer = {"name": "lstm", "layer_type": "LSTM", "strategy": "fused", "op_types": ["LSTM"]}
    (found,) = Manifest.from_json(_document(recurrent=[layer])).recurrent
    assert found == RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",), reason="")


def test_a_model_without_one_has_none(make_lstm: Callable[..., Any]):
    assert load_manifest(make_lstm(manifest=False).path) is None


_SPEC = {"name": "x", "dtype": "float32", "axes": ["batch"]}


def _document(**changes: Any) -> str:
    spec = TensorSpec(name="x", dtype="float32", axes=("batch",))
    manifest = Manifest(inputs=(spec,), outputs=(spec,), input_structure="x", output_structure="x")
    document = {**json.loads(manifest.to_json()), **changes}
    return json.dumps({key: value for key, value in document.items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no format version"),
        ('{"format_version": "1"}', "no format version"),
        (_document(format_version=2), r"format version 2; this edgeseq reads up to 1. Upgrade with: pip install"),
        (_document(inputs="absent"), "damaged: inputs is missing"),
        (_document(output_structure="absent"), "damaged: output_structure is missing"),
        (_document(inputs={}), r"inputs must be a list; got \{\}"),
        (_document(inputs=[1]), r"inputs\[0\] must be an object; got 1"),
        (_document(inputs=[{"name": "x"}]), r"inputs\[0\]\.dtype is missing"),
        (
            _document(inputs=[{**_SPEC, "axes": ["batch", None]}]),
            r"inputs\[0\]\.axes\[1\] must be an integer; got None",
        ),
        (_document(inputs=[{**_SPEC, "vocabulary_size": "9"}]), r"vocabulary_size must be an integer; got '9'"),
        (_document(tolerance="abc"), "tolerance must be a finite number; got 'abc'"),
        (_document(tolerance=True), "tolerance must be a finite number; got True"),
        (_document(tolerance=float("nan")), "tolerance must be a finite number; got nan"),
        (_document(threads=[{"batch": 1, "threads": 1.5}]), r"threads\[0\]\.threads must be an integer; got 1\.5"),
        (_document(versions={"keras": 3}), r"versions\.keras must be text; got 3"),
        (_document(quantization={"method": "x", "layers": {}}), r"quantization\.rows_independent is missing"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(make_lstm: Callable[..., Any], text: str, reason: str):
    path: Path = make_lstm().path
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"edgeseq": text})
    onnx.save(model, path)
    with pytest.raises(InvalidFile, match=reason):
        load_manifest(path)


def test_a_missing_file_is_said(tmp_path: Path):
    with pytest.raises(MissingInput):
        load_manifest(tmp_path / "absent.onnx")


def test_threads_by_batch():
    spec = TensorSpec(name="x", dtype="float32", axes=("batch",))
    advice = (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=4))
    manifest = Manifest(inputs=(spec,), outputs=(spec,), input_structure="x", output_structure="x", threads=advice)
    assert [manifest.threads_for(batch) for batch in (None, 1, 7, 8, 100)] == [1, 1, 1, 4, 4]


def test_what_a_newer_edgeseq_adds_is_left_out():
    spec = {**_SPEC, "unit": "metre"}
    document = _document(surprise=1, inputs=[spec], threads=[{"batch": 1, "threads": 1, "reason": "measured"}])
    manifest = Manifest.from_json(document)
    assert manifest.inputs == (TensorSpec(name="x", dtype="float32", axes=("batch",)),)
    assert manifest.threads == (ThreadAdvice(batch=1, threads=1),)


def test_what_may_be_absent_has_its_default_and_integers_pass_for_floats():
    manifest = Manifest.from_json(_document(states="absent", tolerance=1))
    assert manifest.states == ()
    assert isinstance(manifest.tolerance, float)


def test_numbers_that_json_lacks_are_not_written():
    spec = TensorSpec(name="x", dtype="float32", axes=("batch",))
    manifest = Manifest(
        inputs=(spec,), outputs=(spec,), input_structure="x", output_structure="x", tolerance=float("inf")
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.to_json()


@pytest.mark.parametrize(
    ("axes", "dtype", "vocabulary_size", "batch_axis", "time_axis"),
    [
        (("batch", "time", 3), "float32", None, 0, 1),
        (("batch", "time"), "float32", None, 0, 1),
        (("batch", 3), "float32", None, 0, None),
        (("batch", 10, 3), "float32", None, 0, 1),
        (("batch", 10), "int32", None, 0, 1),
        (("batch", 10), "uint8", None, 0, 1),
        (("batch", 10), "float32", 50, 0, 1),
        (("batch", 10), "bool", None, 0, None),
        ((4, 10, 3), "float32", None, 0, 1),
        ((4, 3), "float32", None, 0, None),
        ((4,), "float32", None, None, None),
        (("batch",), "float32", None, 0, None),
        (("time",), "float32", None, None, 0),
        ((), "float32", None, None, None),
        # Files of others: nameless axes get numbers, others keep their own names.
        (("batch_2", "time_2", 3), "float32", None, 0, 1),
        (("batch_2", "time_2"), "float32", None, 0, 1),
        (("batch_3", "axis_1"), "float32", None, 0, None),
        (("N", "T", 3), "float32", None, 0, 1),
        (("N", 3), "float32", None, 0, None),
        (("time", "batch", 3), "float32", None, 1, 0),
        (("T", "batch", 3), "float32", None, 1, None),
    ],
)
def test_axes_of_rows_and_of_time(
    axes: Any, dtype: str, vocabulary_size: int | None, batch_axis: int | None, time_axis: int | None
):
    spec = TensorSpec(name="x", dtype=dtype, axes=axes, vocabulary_size=vocabulary_size)
    assert (spec.batch_axis, spec.time_axis) == (batch_axis, time_axis)


@pytest.mark.parametrize(
    ("inputs", "cut"),
    [
        ([("batch", "time", 3), ("batch", 5)], {"0": 1}),
        ([("batch", 8, 8, 1), ("batch", "time", 3)], {"1": 1}),
        ([("batch", "time", 3), ("batch", "time_2", 3)], {"0": 1, "1": 1}),
        ([(1, 5), (1, 10, 3), (1, 10)], {"1": 1, "2": 1}),
        ([(1, 10, 3), (1, 8, 8, 1)], {"0": 1}),
        ([(1, 10)], {"0": 1}),
        ([("batch",)], {}),
    ],
)
def test_a_stream_cuts_the_sequences_and_not_what_is_beside_them(inputs: Any, cut: dict[str, int]):
    specs = [TensorSpec(name=str(place), dtype="int32", axes=axes) for place, axes in enumerate(inputs)]
    assert time_axes(specs) == cut
