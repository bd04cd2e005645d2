"""Samples and labels: what is taken, what is refused and in which words, and what is held out."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.errors import InputMismatch, InvalidFile, MissingExtra, MissingInput, WrongUsage
from edgeseq.quantization.samples import Samples, read_labels, read_samples, split
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


def samples_of(rows: int, given_rows: int | None = None) -> Samples:
    return Samples(arrays={}, rows=np.arange(rows), given_rows=rows if given_rows is None else given_rows)


ONE, TWO = manifest(IDS), manifest(IDS, FEATURES)


def test_ids_of_any_integer_type_become_the_files() -> None:
    found = read_samples(np.array([[1, 2], [3, 4]], np.int64), ONE).arrays
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
    assert read_samples(given, ONE).arrays["ids"].tolist() == array.tolist()


@pytest.mark.parametrize("form", ["dict", "list", "npz"])
def test_several_inputs_come_by_name_or_in_order(form: str, tmp_path: Path) -> None:
    arrays = {"ids": np.arange(8, dtype=np.int32).reshape(2, 4), "features": np.arange(24.0).reshape(2, 4, 3)}
    given: Any = {"dict": arrays, "list": list(arrays.values())}.get(form)
    if form == "npz":
        given = tmp_path / "x.npz"
        np.savez(given, **arrays)
    found = read_samples(given, TWO).arrays
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
    samples = {"ids": np.arange(8).reshape(2, 4), "features": np.arange(24.0).reshape(2, 4, 3)}
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
    (tmp_path / "x.txt").write_text("1,2")
    with pytest.raises(WrongUsage, match=r"must be one of \.npz, \.npy, \.csv, \.parquet, got x\.txt"):
        read_samples(tmp_path / "x.txt", ONE)
    (tmp_path / "x.npz").write_bytes(b"PK not really")
    with pytest.raises(InvalidFile, match="not a file of plain numbers"):
        read_samples(tmp_path / "x.npz", ONE)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InvalidFile, match="not a file of plain numbers"):
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
        read_labels(labels, samples_of(4))


def test_labels_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", [0, 1])
    np.savez(tmp_path / "y.npz", labels=[0, 1])
    np.savez(tmp_path / "two.npz", a=[0, 1], b=[1, 0])
    for path in (tmp_path / "y.npy", SomePath(tmp_path / "y.npy"), tmp_path / "y.npz"):
        assert read_labels(path, samples_of(2)).tolist() == [0, 1]
    with pytest.raises(InputMismatch, match="labels need one array; the file has 2: a, b"):
        read_labels(tmp_path / "two.npz", samples_of(2))


def test_every_fourth_row_is_held_out() -> None:
    parts = split({"ids": np.arange(40).reshape(20, 2)}, [IDS], batch=6)
    assert parts.held_out is not None
    assert parts.held_out.rows.tolist() == [3, 7, 11, 15, 19]
    assert sorted([*parts.chosen_on.rows, *parts.held_out.rows]) == list(range(20))
    assert [len(feed["ids"]) for feed in parts.chosen_on.feeds] == [6, 6, 3]
    joined = np.concatenate([feed["ids"] for feed in parts.chosen_on.feeds])
    assert (joined[:, 0] == 2 * parts.chosen_on.rows).all()


@pytest.mark.parametrize(("rows", "held_out"), [(2, [1]), (3, [2]), (4, [3]), (7, [3]), (8, [3, 7])])
def test_of_few_rows_some_are_held_out_as_well(rows: int, held_out: list[int]) -> None:
    parts = split({"ids": np.zeros((rows, 2), np.int32)}, [IDS], batch=32)
    assert parts.held_out is not None
    assert parts.held_out.rows.tolist() == held_out
    assert len(parts.chosen_on.rows) == rows - len(held_out)


def test_a_single_row_is_too_few() -> None:
    words = "the samples have 1 row, and at least 2 are needed: some to choose by, others to check"
    with pytest.raises(InputMismatch, match=words):
        split({"ids": np.zeros((1, 2), np.int32)}, [IDS], batch=32)


def test_a_fixed_batch_takes_rows_in_groups() -> None:
    fixed = TensorSpec(name="x", dtype="float32", axes=(2, "time"))
    samples = read_samples(np.arange(38.0).reshape(19, 2), manifest(fixed)).arrays
    parts = split(samples, [fixed], batch=32)
    assert parts.unused_rows == 1
    assert parts.held_out is not None
    assert parts.held_out.rows.tolist() == [6, 7, 14, 15]
    assert {feed["x"].shape for feed in parts.chosen_on.feeds} == {(2, 2)}
    with pytest.raises(InputMismatch, match="takes batches of 2 rows; the samples have 3 rows, and at least 4 are"):
        split({"x": np.zeros((3, 2), np.float32)}, [fixed], batch=32)


CUBES = manifest(TensorSpec(name="x", dtype="float32", axes=("batch", "time", 3)))


def told(stages: list[tuple[str, int, int]]) -> Any:
    return lambda *stage: stages.append(stage)


@pytest.mark.parametrize("header", ["", "a,b,c,d,e,f\n", "\n"])
def test_a_line_of_a_table_is_reshaped_to_the_input(header: str, tmp_path: Path) -> None:
    numbers = np.arange(24.0).reshape(4, 2, 3)
    lines = "\n".join(",".join(map(str, row.ravel())) for row in numbers)
    (tmp_path / "x.csv").write_text(f"{header}{lines}\n\n")
    found = read_samples(tmp_path / "x.csv", CUBES)
    assert found.arrays["x"].tolist() == numbers.tolist()
    assert (found.rows.tolist(), found.given_rows) == ([0, 1, 2, 3], 4)
    assert read_samples(tmp_path / "x.csv", ONE).arrays["ids"].shape == (4, 6)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("1,2,3\n4,5\n", InvalidFile, "line 2 has 2 columns, and line 1 has 3"),
        ("a,b,c\n1,2,3\n4,word,6\n", InvalidFile, "line 3, column 2 is 'word', not a number"),
        ("1,2,3\n4,,6\n", InvalidFile, "line 2, column 2 is '', not a number"),
        ("1,2,3,4\n5,6,7,8\n", InputMismatch, r"a row of the samples has 4 numbers; input 'x' .* a multiple of 3"),
        ("1,2,nan\n4,5,6\n", InputMismatch, "samples of input 'x' hold NaN"),
        ("a,b\n", InvalidFile, "it holds no rows"),
        ("", InvalidFile, "it holds no rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(error, match=words):
        read_samples(tmp_path / "x.csv", CUBES)


def test_a_table_cannot_say_which_of_two_free_axes_is_how_long(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2,3,4\n5,6,7,8\n")
    images = manifest(TensorSpec(name="x", dtype="float32", axes=("batch", "height", "width", 1)))
    with pytest.raises(InputMismatch, match=r"shape \(height, width, 1\) of input 'x' in several ways"):
        read_samples(tmp_path / "x.csv", images)


@pytest.mark.parametrize("form", ["array", "npy", "npz", "compressed", "fortran", "csv"])
def test_of_many_rows_some_at_even_distances_are_read(form: str, tmp_path: Path) -> None:
    array = np.arange(3000).reshape(1000, 3)
    given: Any = array
    if form == "npy":
        given = tmp_path / "x.npy"
        np.save(given, array)
    elif form == "csv":
        given = tmp_path / "x.csv"
        np.savetxt(given, array, delimiter=",")
    elif form != "array":
        given = tmp_path / "x.npz"
        save = np.savez_compressed if form == "compressed" else np.savez
        save(given, ids=np.asfortranarray(array) if form == "fortran" else array)
    stages: list[tuple[str, int, int]] = []
    found = read_samples(given, ONE, max_samples=10, progress=told(stages))
    assert found.rows.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert found.arrays["ids"].tolist() == array[found.rows].tolist()
    assert found.given_rows == 1000
    assert read_labels(np.arange(1000), found).tolist() == found.rows.tolist()
    if form != "array":
        assert stages[-1] == ("read samples", 1000, 1000)
        assert [done for _, done, _ in stages] == sorted(done for _, done, _ in stages)


def test_an_archive_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.quantization.tables._CHUNK_BYTES", 100)
    array = np.random.default_rng(0).standard_normal((40, 2, 3)).astype(np.float32)
    np.savez_compressed(tmp_path / "x.npz", array)
    stages: list[tuple[str, int, int]] = []
    found = read_samples(tmp_path / "x.npz", CUBES, max_samples=7, progress=told(stages))
    assert (found.arrays["x"] == array[found.rows]).all()
    # Four rows of 24 bytes at a time.
    assert [done for _, done, _ in stages][:10] == list(range(4, 44, 4))


def test_an_archive_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (9, 3), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(20)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("ids.npy", content)
    with pytest.raises(InvalidFile, match=r"array 'ids' cannot be read \(it ends too early\)"):
        read_samples(tmp_path / "x.npz", ONE)


@pytest.mark.parametrize("form", ["arrays", "dicts", "lists", "loader"])
def test_batches_come_one_by_one(form: str) -> None:
    ids, features = np.arange(20).reshape(10, 2), np.arange(60.0).reshape(10, 2, 3)

    class Loader:
        """Like a data loader: it can be gone through again, and is no iterator itself."""

        def __iter__(self) -> Iterator[np.ndarray]:
            yield from np.split(ids, 5)

    given: Any = {
        "arrays": lambda: iter(np.split(ids, 5)),
        "dicts": lambda: ({"ids": ids[i : i + 4], "features": features[i : i + 4]} for i in range(0, 10, 4)),
        "lists": lambda: ([ids[i : i + 4], features[i : i + 4]] for i in range(0, 10, 4)),
        "loader": Loader,
    }[form]()
    found = read_samples(given, TWO if form in ("dicts", "lists") else ONE)
    assert found.arrays["ids"].tolist() == ids.tolist()
    assert found.given_rows == 10


def test_an_endless_iterator_is_read_up_to_the_limit() -> None:
    def endless() -> Iterator[np.ndarray]:
        start = 0
        while True:
            yield np.arange(start, start + 6).reshape(3, 2)
            start += 6

    stages: list[tuple[str, int, int]] = []
    found = read_samples(endless(), ONE, max_samples=8, progress=told(stages))
    assert found.arrays["ids"].tolist() == np.arange(16).reshape(8, 2).tolist()
    assert found.given_rows is None
    assert stages == [("read samples", done, 8) for done in (3, 6, 8, 8)]
    assert read_labels(np.arange(100), found).tolist() == list(range(8))
    with pytest.raises(InputMismatch, match="at least 8 rows, but 7 labels"):
        read_labels(np.arange(7), found)


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputMismatch, match="the iterator of samples gave no batch"):
        read_samples(iter([]), ONE)
    lengths = (np.arange(2 * length).reshape(2, length) for length in (3, 4))
    with pytest.raises(InputMismatch, match=r"batch 1 .* rows of shape \(4,\), and the first of \(3,\). Pad them"):
        read_samples(lengths, ONE)


def test_samples_that_are_all_the_same_number_are_refused() -> None:
    samples = {"ids": np.arange(8).reshape(2, 4), "features": np.full((2, 4, 3), 0.5)}
    with pytest.raises(InputMismatch, match=r"all samples of input 'features' are 0\.5: nothing could be") as raised:
        read_samples(samples, TWO)
    assert raised.value.name == "features"
    mask = TensorSpec(name="mask", dtype="bool", axes=("batch", "time"))
    found = read_samples({"ids": samples["ids"], "mask": np.ones((2, 4), bool)}, manifest(IDS, mask))
    assert found.arrays["mask"].all()


def test_a_limit_that_leaves_nothing_to_check_on_is_refused() -> None:
    with pytest.raises(WrongUsage, match="max_samples must be at least 2, got 1"):
        read_samples(np.arange(8).reshape(2, 4), ONE, max_samples=1)


def test_labels_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("label\n0\n1\n1\n")
    assert read_labels(tmp_path / "y.csv", samples_of(3)).tolist() == [0, 1, 1]


@pytest.fixture
def parquet() -> Any:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    return pyarrow.parquet


def test_tables_of_numbers_and_of_lists(parquet: Any, tmp_path: Path) -> None:
    import pyarrow

    numbers = np.arange(24.0).reshape(4, 2, 3)
    columns = {f"c{index}": column for index, column in enumerate(numbers.reshape(4, 6).T)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "flat.parquet")
    assert read_samples(tmp_path / "flat.parquet", CUBES).arrays["x"].tolist() == numbers.tolist()
    lists = {"ids": [[1, 2], [3, 4], [5, 6], [7, 8]], "features": numbers.tolist()}
    parquet.write_table(pyarrow.table(lists), tmp_path / "lists.parquet")
    found = read_samples(tmp_path / "lists.parquet", TWO, max_samples=2)
    assert found.arrays["ids"].tolist() == [[1, 2], [7, 8]]
    assert found.arrays["features"].tolist() == numbers[[0, 3]].tolist()
    parquet.write_table(pyarrow.table({"x": [[1.0], [2.0, 3.0]]}), tmp_path / "ragged.parquet")
    with pytest.raises(InvalidFile, match="rows of 'x' have different lengths; pad them first"):
        read_samples(tmp_path / "ragged.parquet", ONE)
    parquet.write_table(pyarrow.table({"x": ["a", "b"]}), tmp_path / "text.parquet")
    with pytest.raises(InvalidFile, match=r"must be all numbers, or all lists of numbers; 'x' \(string\)"):
        read_samples(tmp_path / "text.parquet", ONE)
    parquet.write_table(pyarrow.table({"x": [1, None]}), tmp_path / "gaps.parquet")
    with pytest.raises(InvalidFile, match="x has missing values"):
        read_samples(tmp_path / "gaps.parquet", ONE)
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(InvalidFile, match="not a Parquet file"):
        read_samples(tmp_path / "x.parquet", ONE)


def test_parquet_without_pyarrow_names_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"reading \.parquet files needs .*edgeseq\[parquet\]"):
        read_samples(tmp_path / "x.parquet", ONE)
