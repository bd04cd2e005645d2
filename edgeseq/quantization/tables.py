"""Rows of arrays in files, read as they are needed: `.npy`, `.npz`, `.csv` and `.parquet`.

A file of samples can be larger than memory, and a part of its rows is enough. Nothing but the rows asked for is kept.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.errors import InvalidFile, MissingExtra, WrongUsage
from edgeseq.files import StrPath

Array = npt.NDArray[Any]
Places = npt.NDArray[np.intp]

READABLE = (".npz", ".npy", ".csv", ".parquet")
# Of a file at a time: enough to be quick, and little beside a model.
_CHUNK_BYTES = 16 * 2**20
_CHUNK_LINES = 1000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One array in a file."""

    length: int
    """Number of rows."""
    read: Callable[[Places, Callable[[int], None]], Array]
    """Rows at increasing places to an array; the second argument is told how many rows of the file were passed."""
    is_flat: bool
    """Whether a row is a line of numbers, whatever shape the sample has."""


def open_rows(path: StrPath, what: str = "file of arrays") -> dict[str, Rows]:
    """The arrays of a file by name; that of an `.npy` file, or all columns of a table together, has an empty one.

    An `.npz` file's arrays are read from the archive piece by piece, an `.npy` file is mapped into memory. A `.csv`
    file holds a row of numbers a line, the same count in each, after a header or none. A `.parquet` file's columns are
    either all numbers, and then together the array, or all lists, and then an array each.

    Raises MissingInput, WrongUsage for another suffix, MissingExtra for `.parquet` without pyarrow, and InvalidFile
    with the reason when the file is damaged, empty, or holds anything but numbers.
    """
    source = files.check_input(path, what)
    openers = {".npz": _open_npz, ".npy": _open_npy, ".csv": _open_csv, ".parquet": _open_parquet}
    if source.suffix not in openers:
        known = ", ".join(READABLE)
        raise WrongUsage(f"{what} must be one of {known}, got {source.name}. Save arrays with numpy.savez.")
    try:
        found = openers[source.suffix](source)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidFile(source, f"it is not a file of plain numbers ({error})") from error
    if not found:
        raise InvalidFile(source, "it holds no arrays")
    return found


def _open_npy(source: Path) -> dict[str, Rows]:
    array = np.load(source, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        raise ValueError("it is an .npz archive by another name")

    def read(places: Places, passed: Callable[[int], None]) -> Array:
        passed(len(array))
        return np.array(array[places])

    return {"": Rows(length=_length(array.shape), read=read, is_flat=False)}


def _open_npz(source: Path) -> dict[str, Rows]:
    found = {}
    with zipfile.ZipFile(source) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    shape, _, _ = _header(stream)
                found[member.removesuffix(".npy")] = _member(source, member, _length(shape))
    return found


def _member(source: Path, member: str, length: int) -> Rows:
    def read(places: Places, passed: Callable[[int], None]) -> Array:
        try:
            with zipfile.ZipFile(source) as archive, archive.open(member) as stream:
                return _rows_of(stream, places, passed)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidFile(source, f"its array '{member.removesuffix('.npy')}' cannot be read ({error})") from error

    return Rows(length=length, read=read, is_flat=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, is_fortran, dtype


def _rows_of(stream: IO[bytes], places: Places, passed: Callable[[int], None]) -> Array:
    shape, is_fortran, dtype = _header(stream)
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    if is_fortran or not row_bytes:
        # Rows of such an array lie scattered over all of it.
        content = stream.read()
        whole = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
        passed(len(whole))
        return np.array(whole[places])
    parts = []
    size = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, int(places[-1]) + 1, size):
        count = min(size, shape[0] - start)
        content = stream.read(count * row_bytes)
        if len(content) != count * row_bytes:
            raise EOFError("it ends too early")
        inside = places[(places >= start) & (places < start + count)] - start
        parts.append(np.frombuffer(content, dtype).reshape(count, *shape[1:])[inside])
        passed(start + count)
    return np.concatenate(parts)


def _length(shape: tuple[int, ...]) -> int:
    if not shape:
        raise ValueError("it holds a single value, not rows")
    return shape[0]


def _open_csv(source: Path) -> dict[str, Rows]:
    with source.open(encoding="utf-8-sig", newline="") as lines:
        first = next((line for line in lines if line.strip()), "")
        has_header = bool(first) and not any(map(_is_number, first.split(",")))
        length = sum(bool(line.strip()) for line in lines) + (not has_header and bool(first))
    if not length:
        raise ValueError("it holds no rows")

    def read(places: Places, passed: Callable[[int], None]) -> Array:
        with source.open(encoding="utf-8-sig", newline="") as lines:
            filled = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
            found = _chosen(itertools.islice(filled, int(has_header), None), places, passed)
            return _parse(source, list(found))

    return {"": Rows(length=length, read=read, is_flat=True)}


def _chosen(
    lines: Iterator[tuple[int, str]], places: Places, passed: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    wanted = set(places.tolist())
    for row, line in enumerate(lines):
        if row in wanted:
            yield line
        if row % _CHUNK_LINES == 0:
            passed(row + 1)


def _parse(source: Path, lines: list[tuple[int, str]]) -> Array:
    columns = lines[0][1].count(",") + 1
    parsed = np.empty((len(lines), columns))
    for row, (number, line) in enumerate(lines):
        cells = line.split(",")
        if len(cells) != columns:
            raise InvalidFile(source, f"line {number} has {len(cells)} columns, and line {lines[0][0]} has {columns}")
        try:
            parsed[row] = cells
        except ValueError:
            place = next(index for index, cell in enumerate(cells) if not _is_number(cell))
            wrong = f"line {number}, column {place + 1} is {cells[place].strip()!r}, not a number"
            raise InvalidFile(source, wrong) from None
    return parsed


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _open_parquet(source: Path) -> dict[str, Rows]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", "reading .parquet files") from error
    try:
        opened = parquet.ParquetFile(source)
    except pyarrow.ArrowException as error:
        raise InvalidFile(source, f"it is not a Parquet file ({str(error).splitlines()[0]})") from error
    names = opened.schema_arrow.names
    kinds = {field.name: field.type for field in opened.schema_arrow}
    lists = [name for name in names if hasattr(kinds[name], "value_type")]
    wrong = [f"'{name}' ({kinds[name]})" for name in names if name not in lists and not _is_plain(pyarrow, kinds[name])]
    if wrong or (lists and len(lists) < len(names)):
        expected = "its columns must be all numbers, or all lists of numbers"
        raise InvalidFile(source, f"{expected}; {', '.join(wrong) or ', '.join(lists)} among the others")
    length = opened.metadata.num_rows
    if not length:
        raise ValueError("it holds no rows")

    def reader(columns: list[str]) -> Callable[[Places, Callable[[int], None]], Array]:
        def read(places: Places, passed: Callable[[int], None]) -> Array:
            parts, start = [], 0
            for batch in parquet.ParquetFile(source).iter_batches(_CHUNK_LINES, columns=columns):
                inside = places[(places >= start) & (places < start + len(batch))] - start
                taken = batch.take(pyarrow.array(inside))
                for column in taken.columns:
                    if column.null_count:
                        raise InvalidFile(source, f"{', '.join(columns)} has missing values")
                if lists:
                    parts += [_stack(source, columns[0], value.as_py()) for value in taken.columns[0]]
                else:
                    parts += list(np.column_stack([column.to_numpy(zero_copy_only=False) for column in taken.columns]))
                start += len(batch)
                passed(start)
            try:
                return np.stack(parts)
            except ValueError as error:
                raise InvalidFile(source, f"rows of '{columns[0]}' have different lengths; pad them first") from error

        return read

    if lists:
        return {name: Rows(length=length, read=reader([name]), is_flat=True) for name in names}
    return {"": Rows(length=length, read=reader(names), is_flat=True)}


def _is_plain(pyarrow: Any, kind: Any) -> bool:
    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind))


def _stack(source: Path, name: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidFile(source, f"a row of '{name}' holds lists of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise InvalidFile(source, f"a row of '{name}' holds {array.dtype}, not numbers")
    return array
