"""Samples and labels: what is taken, what is refused and in which words, and what is held out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.errors import InputMismatch, InvalidFile, MissingInput, WrongUsage
from edgeseq.quantization.samples import read_labels, read_samples, split
from edgeseq.runtime.manifest import Manifest, TensorSpec

IDS = TensorSpec(name="ids", dtype="int32", axes=("batch", "time"))
FEATURES = TensorSpec(name="features", dtype="float32", axes=("batch", "time", 3))


def manifest(*inputs: TensorSpec) -> Manifest:
    names: Any = [entry.name for entry in inputs]
    return Manifest(
        inputs=inputs, outputs=(), input_structure=names[0] if len(names) == 1 else names, output_structure="y"
    )


class SomePath(os.PathLike[str]):
    """A path that is neither text nor a `pathlib.Path`."""

    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


ONE, TWO = manifest(IDS), manifest(IDS, FEATURES)


def test_ids_of_any_integer_type_become_the_files() -> None:
    found = read_samples(np.array([[1, 2], [3, 4]], np.int64), ONE)
    assert found["ids"].dtype == np.int32
    assert found["ids"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("form", ["array", "dict", "npy", "any path", "npz by name", "npz with another name"])
def test_a_single_input_comes_in_several_ways(form: str, tmp_path: Path) -> None:
    array = np.arange(6).reshape(3, 2)
    given: Any = {"array": array, "dict": {"ids": array}}.get(form)
    if form in ("npy", "any path"):
        np.save(tmp_path / "x.npy", array)
        given = tmp_path / "x.npy" if form == "npy" else SomePath(tmp_path / "x.npy")
    elif form.startswith("npz"):
        given = str(tmp_path / "x.npz")
        np.savez(given, **{"ids" if form == "npz by name" else "anything": array})
    assert read_samples(given, ONE)["ids"].tolist() == array.tolist()


@pytest.mark.parametrize("form", ["dict", "list", "npz"])
def test_several_inputs_come_by_name_or_in_order(form: str, tmp_path: Path) -> None:
    arrays = {"ids": np.ones((2, 4), np.int32), "features": np.ones((2, 4, 3))}
    given: Any = {"dict": arrays, "list": list(arrays.values())}.get(form)
    if form == "npz":
        given = tmp_path / "x.npz"
        np.savez(given, **arrays)
    found = read_samples(given, TWO)
    assert list(found) == ["ids", "features"]
    assert found["features"].dtype == np.float32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.ones((2, 3, 4)), r"input 'ids' has the shape \(rows, time\); got \(2, 3, 4\)"),
        (np.ones((0, 3)), "No axis may be empty"),
        (np.array([[1.5]]), r"input 'ids' takes int32 \(whole numbers .*\); got 1.5"),
        (np.array([[np.nan]]), "input 'ids' takes int32"),
        (np.array([[2**40]]), r"takes int32 \(whole numbers from -2147483648"),
        (np.array([["word"]]), "got dtype <U4"),
        ({"x": np.ones((2, 2)), "y": np.ones((2, 2))}, "ids"),
    ],
)
def test_samples_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InputMismatch, match=words):
        read_samples(given, ONE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = {"ids": np.ones((2, 4)), "features": np.ones((2, 4, 3))}
    samples["features"][1, 2, 0] = value
    with pytest.raises(InputMismatch, match="samples of input 'features' hold NaN or infinite") as raised:
        read_samples(samples, TWO)
    assert raised.value.name == "features"


def test_inputs_of_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(InputMismatch, match=r"'features' has the shape \(rows=2, time=4, 3\); got \(3, 4, 3\)"):
        read_samples({"ids": np.ones((2, 4)), "features": np.ones((3, 4, 3))}, TWO)


def test_files_that_are_not_there_or_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="samples not found"):
        read_samples(tmp_path / "none.npz", ONE)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(WrongUsage, match=r"must be an \.npz or \.npy file, got x\.csv"):
        read_samples(tmp_path / "x.csv", ONE)
    (tmp_path / "x.npz").write_bytes(b"PK not really")
    with pytest.raises(InvalidFile, match="not a numpy file of plain numbers"):
        read_samples(tmp_path / "x.npz", ONE)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InvalidFile, match="not a numpy file of plain numbers"):
        read_samples(tmp_path / "objects.npy", ONE)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 1], "4 rows, but 3 labels"),
        (1, "4 rows, but a single value labels"),
        ([0.0, np.nan, 1.0, 1.0], "labels must be finite numbers"),
        (["a", "b", "c", "d"], "labels must be finite numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(InputMismatch, match=words):
        read_labels(labels, 4)


def test_labels_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", [0, 1])
    np.savez(tmp_path / "y.npz", labels=[0, 1])
    np.savez(tmp_path / "two.npz", a=[0, 1], b=[1, 0])
    for path in (tmp_path / "y.npy", SomePath(tmp_path / "y.npy"), tmp_path / "y.npz"):
        assert read_labels(path, 2).tolist() == [0, 1]
    with pytest.raises(InputMismatch, match="labels need one array; the file has 2: a, b"):
        read_labels(tmp_path / "two.npz", 2)


def test_every_fourth_row_is_held_out() -> None:
    parts = split({"ids": np.arange(40).reshape(20, 2)}, [IDS], batch=6)
    assert parts.held_out is not None
    assert parts.held_out.rows.tolist() == [3, 7, 11, 15, 19]
    assert sorted([*parts.chosen_on.rows, *parts.held_out.rows]) == list(range(20))
    assert [len(feed["ids"]) for feed in parts.chosen_on.feeds] == [6, 6, 3]
    joined = np.concatenate([feed["ids"] for feed in parts.chosen_on.feeds])
    assert (joined[:, 0] == 2 * parts.chosen_on.rows).all()
    assert parts.first["ids"].tolist() == [[0, 1]]


def test_few_rows_are_all_used_to_choose() -> None:
    parts = split({"ids": np.zeros((7, 2), np.int32)}, [IDS], batch=32)
    assert parts.held_out is None
    assert len(parts.chosen_on.rows) == 7


def test_a_fixed_batch_takes_rows_in_groups() -> None:
    fixed = TensorSpec(name="x", dtype="float32", axes=(2, "time"))
    samples = read_samples(np.arange(38.0).reshape(19, 2), manifest(fixed))
    parts = split(samples, [fixed], batch=32)
    assert parts.unused_rows == 1
    assert parts.held_out is not None
    assert parts.held_out.rows.tolist() == [6, 7, 14, 15]
    assert {feed["x"].shape for feed in parts.chosen_on.feeds} == {(2, 2)}
    assert parts.first["x"].shape == (2, 2)
    with pytest.raises(InputMismatch, match="takes batches of 2 rows; the samples have 1"):
        split({"x": np.zeros((1, 2), np.float32)}, [fixed], batch=32)
