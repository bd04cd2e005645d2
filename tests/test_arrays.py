"""Arrays in files: what is written is read again, and what cannot be read is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseq.arrays import read_arrays, read_inputs, write_arrays
from edgeseq.errors import InvalidFile, MissingInput, WrongUsage


def test_round_trip(tmp_path: Path) -> None:
    # numpy.savez itself cannot store an array of this name; a slash is common in names of ONNX tensors.
    arrays = {"file": np.arange(6, dtype=np.int32).reshape(2, 3), "a/b:0": np.float32([np.nan, 1])}
    write_arrays(tmp_path / "x.npz", arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert isinstance(found, dict)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with np.load(tmp_path / "x.npz") as plain:
        np.testing.assert_array_equal(plain["file"], arrays["file"])


def test_a_single_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.ones(3))
    write_arrays(tmp_path / "x.npy", {"any": np.ones(3)})
    for name in ("x.npz", "x.npy"):
        found = read_arrays(tmp_path / name)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, np.ones(3))


def test_json_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.json", {"y": np.float32([[1.5, np.nan], [np.inf, -np.inf]]), "n": np.int64([1])})
    assert json.loads((tmp_path / "x.json").read_text()) == {"y": [[1.5, None], [None, None]], "n": [1]}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"samples not found: .*gone\.npz"):
        read_arrays(tmp_path / "gone.npz", "samples")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "nothing.npz")
    for name in ("objects.npy", "text.npz", "empty.npy", "nothing.npz"):
        with pytest.raises(InvalidFile, match=name):
            read_arrays(tmp_path / name)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(WrongUsage, match=r"must be an \.npz or \.npy file, got x\.csv"):
        read_arrays(tmp_path / "x.csv")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    two = {"a": np.ones(1), "b": np.ones(1)}
    with pytest.raises(WrongUsage, match=r"holds one array, not 2 \(a, b\)"):
        write_arrays(tmp_path / "x.npy", two)
    with pytest.raises(WrongUsage, match=r"got x\.csv"):
        write_arrays(tmp_path / "x.csv", two)
    assert list(tmp_path.iterdir()) == []


def test_inputs_keep_the_name_they_were_given(tmp_path: Path) -> None:
    x = np.ones(3)
    np.savez(tmp_path / "named.npz", wrong=x)
    np.savez(tmp_path / "nameless.npz", x)
    np.savez(tmp_path / "two.npz", x, x)
    np.save(tmp_path / "x.npy", x)
    named = read_inputs(tmp_path / "named.npz")
    assert isinstance(named, dict)
    assert list(named) == ["wrong"]
    for name in ("nameless.npz", "x.npy"):
        np.testing.assert_array_equal(read_inputs(tmp_path / name), x)
    assert list(read_inputs(tmp_path / "two.npz")) == ["arr_0", "arr_1"]
