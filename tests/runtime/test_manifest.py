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
from edgeseq.runtime.manifest import MaskSpec, RecurrentLayer, TensorSpec, ThreadAdvice


def test_a_manifest_comes_back_as_it_was_written(make_lstm: Callable[..., Any]):
    changes = {
        "masks": (MaskSpec(layer="masking", value=-1.0),),
        "recurrent": (RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",)),),
        "threads": (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=0)),
        "input_structure": {"dict": {"ä": "x"}},
        "versions": {"keras": "3.15.1"},
        "parameters": 128,
    }
    path = make_lstm(streaming=True, **changes).path
    manifest = load_manifest(path)
    assert manifest is not None
    for name, value in changes.items():
        assert getattr(manifest, name) == value
    assert [state.input for state in manifest.states] == ["state_in.00.lstm.h", "state_in.01.lstm.c"]
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_model_without_one_has_none(make_lstm: Callable[..., Any]):
    assert load_manifest(make_lstm(manifest=False).path) is None


def _document(**changes: Any) -> str:
    spec = TensorSpec(name="x", dtype="float32", axes=("batch",))
    manifest = Manifest(inputs=(spec,), outputs=(spec,), input_structure="x", output_structure="x")
    document = {**json.loads(manifest.to_json()), **changes}
    return json.dumps({key: value for key, value in document.items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no format version"),
        ('{"format_version": "1"}', "no format version"),
        (_document(format_version=2), r"format version 2; this edgeseq reads up to 1. Upgrade with: pip install"),
        (_document(inputs="absent"), "lacks 'inputs'"),
        (_document(output_structure="absent"), "damaged .*output_structure"),
        (_document(inputs=[1]), "damaged"),
        (_document(inputs=[{"name": "x"}]), "damaged .*dtype"),
        (_document(surprise=1), "damaged .*surprise"),
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
