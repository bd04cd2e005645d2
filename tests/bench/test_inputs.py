"""Inputs to measure with: golden samples fitted, or made to fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.bench.inputs import find_inputs, given_inputs
from edgeseq.errors import InputMismatch, InvalidFile, WrongUsage
from edgeseq.runtime.golden import Golden, golden_folder, write_golden
from edgeseq.runtime.manifest import Manifest, TensorSpec


def manifest(*specs: TensorSpec, **changes: Any) -> Manifest:
    return Manifest(
        inputs=specs, outputs=(), input_structure=[spec.name for spec in specs], output_structure=[], **changes
    )


X = TensorSpec(name="x", dtype="float32", axes=("batch", "time", 3))
IDS = TensorSpec(name="ids", dtype="int32", axes=("batch", "time"))


@pytest.fixture
def model_with_golden(tmp_path: Path) -> Path:
    model = tmp_path / "model.onnx"
    x = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
    write_golden(model, Golden(inputs={"x": x}, outputs={}), "abc")
    return model


def test_golden_samples_are_taken_as_long_as_they_are(model_with_golden: Path) -> None:
    found = find_inputs(model_with_golden, manifest(X), batch=1)
    assert (found.source, found.batch, found.time_steps) == ("golden", 1, 4)
    np.testing.assert_array_equal(found.arrays["x"], np.arange(12, dtype=np.float32).reshape(1, 4, 3))


def test_golden_samples_are_repeated_or_cut_to_what_is_wanted(model_with_golden: Path) -> None:
    found = find_inputs(model_with_golden, manifest(X), batch=3, time_steps=6)
    x = found.arrays["x"]
    assert x.shape == (3, 6, 3)
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x[:2, :4].ravel(), np.arange(24))
    np.testing.assert_array_equal(x[2], x[0])
    np.testing.assert_array_equal(x[:, 4:], x[:, :2])
    assert find_inputs(model_with_golden, manifest(X), time_steps=2).arrays["x"].shape == (1, 2, 3)


def test_golden_samples_that_do_not_fit_the_file_are_refused(model_with_golden: Path) -> None:
    with pytest.raises(InvalidFile, match="no sample for the input 'ids'"):
        find_inputs(model_with_golden, manifest(X, IDS))
    flat = TensorSpec(name="x", dtype="float32", axes=("batch", 3))
    with pytest.raises(InvalidFile, match=r"its sample is \(2, 4, 3\)"):
        find_inputs(model_with_golden, manifest(flat))
    with pytest.raises(InvalidFile, match="belong to another model"):
        find_inputs(model_with_golden, manifest(X, model_hash="other"))


def test_made_inputs_fill_the_free_axes_and_are_told(tmp_path: Path) -> None:
    assert not golden_folder(tmp_path / "model.onnx").exists()
    frames = TensorSpec(name="frames", dtype="float32", axes=("batch", "time", "height", "width", 1))
    other = TensorSpec(name="other", dtype="float64", axes=("batch", "time_2", 2))
    found = find_inputs(tmp_path / "model.onnx", manifest(frames, other), batch=2, time_steps=5)
    assert (found.source, found.batch, found.time_steps) == ("made", 2, 5)
    assert found.arrays["frames"].shape == (2, 5, 32, 32, 1)
    assert found.arrays["frames"].dtype == np.float32
    assert found.arrays["other"].shape == (2, 5, 2)
    assert found.arrays["other"].dtype == np.float64
    assert find_inputs(tmp_path / "model.onnx", manifest(X)).time_steps == 100


def test_made_inputs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    first, again, other = (find_inputs(tmp_path / "m.onnx", manifest(X), seed=seed).arrays["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_made_ids_are_valid_and_never_the_padding(tmp_path: Path) -> None:
    ids = find_inputs(tmp_path / "m.onnx", manifest(IDS), batch=4).arrays["ids"]
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) == set(range(1, 10))


def test_made_ids_reach_as_far_as_the_embedding(tmp_path: Path) -> None:
    for size, wanted in ((4, {1, 2, 3}), (1, {0})):
        spec = dataclasses.replace(IDS, vocabulary_size=size)
        assert set(np.unique(find_inputs(tmp_path / "m.onnx", manifest(spec)).arrays["ids"])) == wanted


def test_made_booleans_let_everything_through(tmp_path: Path) -> None:
    mask = TensorSpec(name="mask", dtype="bool", axes=("batch", "time"))
    assert find_inputs(tmp_path / "m.onnx", manifest(X, mask)).arrays["mask"].all()


@pytest.mark.parametrize(
    ("axes", "wanted", "message"),
    [
        (("batch", "time", 3), {"batch": 0}, "batch must be at least 1"),
        (("batch", "time", 3), {"time_steps": 0}, "time_steps must be at least 1"),
        ((4, 4, 1), {"batch": 1}, "exactly 4, not 1: ask for batch 4"),
        (("batch", 250, 3), {"time_steps": 100}, "exactly 250 time steps, not 100"),
        (("batch", 3), {"time_steps": 100}, "no time axis"),
    ],
)
def test_what_the_file_cannot_take_is_refused(tmp_path: Path, axes: Any, wanted: Any, message: str) -> None:
    spec = TensorSpec(name="x", dtype="float32", axes=axes)
    with pytest.raises(WrongUsage, match=message):
        find_inputs(tmp_path / "m.onnx", manifest(spec), **wanted)


def test_fixed_axes_are_kept(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", axes=(4, 6, 1))
    found = find_inputs(tmp_path / "m.onnx", manifest(spec), batch=4, time_steps=6)
    assert found.arrays["x"].shape == (4, 6, 1)
    assert (found.batch, found.time_steps) == (4, 6)


def test_given_inputs_tell_batch_and_length_themselves() -> None:
    found = given_inputs({"x": np.zeros((5, 9, 3))}, manifest(X))
    assert (found.source, found.batch, found.time_steps) == ("given", 5, 9)


def test_given_inputs_of_another_rank_are_refused() -> None:
    with pytest.raises(InputMismatch, match=r"'x' has the axes .*; got the shape \(9, 3\)"):
        given_inputs({"x": np.zeros((9, 3))}, manifest(X))


def test_nameless_axes_of_a_foreign_file_are_rows_and_time_too(tmp_path: Path) -> None:
    a = TensorSpec(name="a", dtype="float32", axes=("batch", "time", 3))
    b = TensorSpec(name="b", dtype="float32", axes=("batch_2", "time_2", 2))
    found = find_inputs(tmp_path / "m.onnx", manifest(a, b), batch=4, time_steps=6)
    assert (found.arrays["a"].shape, found.arrays["b"].shape) == ((4, 6, 3), (4, 6, 2))
    given = given_inputs({"b": np.zeros((5, 9, 2))}, manifest(b))
    assert (given.batch, given.time_steps) == (5, 9)


def test_an_input_beside_the_sequence_keeps_its_length(model_with_golden: Path) -> None:
    static = TensorSpec(name="static", dtype="float32", axes=("batch", 2, 3))
    samples = {"static": np.ones((2, 2, 3), np.float32), "x": np.ones((2, 4, 3), np.float32)}
    write_golden(model_with_golden, Golden(inputs=samples, outputs={}), "abc")
    found = find_inputs(model_with_golden, manifest(static, X), batch=1, time_steps=7)
    assert (found.arrays["static"].shape, found.arrays["x"].shape) == ((1, 2, 3), (1, 7, 3))
    assert found.time_steps == 7
