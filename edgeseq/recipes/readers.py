"""Readers of the data sets' files. Each raises InvalidFile, naming the place, where a file is not of its kind."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeseq.errors import InvalidFile
from edgeseq.files import check_input
from edgeseq.recipes.plan import Array

_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def read_reviews(path: Path) -> tuple[list[str], Array]:
    """Texts and their labels (int64, 0 or 1) from gzipped JSON lines with the fields `text` and `label`."""
    texts, labels = [], []
    for number, line in _lines(path, gzip.open):
        try:
            review = json.loads(line)
            text, label = review["text"], review["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFile(path, f"line {number} is not a review with text and label ({error})") from error
        if not isinstance(text, str) or label not in (0, 1):
            raise InvalidFile(path, f"line {number}: text must be a string and label 0 or 1, got label {label!r}")
        texts.append(text)
        labels.append(int(label))
    if not texts:
        raise InvalidFile(path, "it holds no reviews")
    return texts, np.array(labels)


def read_table(path: Path) -> tuple[tuple[str, ...], Array]:
    """Column names and values, shape (rows, columns), float64, of a CSV file whose first column is a date."""
    rows = [(number, row) for number, row in _rows(path) if row]
    if len(rows) < 2 or len(rows[0][1]) < 2:
        raise InvalidFile(path, "it is not a table with a heading, a column of dates and columns of numbers")
    names = rows[0][1][1:]
    values = np.empty((len(rows) - 1, len(names)))
    for index, (number, row) in enumerate(rows[1:]):
        try:
            if len(row) != len(rows[0][1]):
                raise ValueError(f"it has {len(row)} columns, the heading {len(rows[0][1])}")
            values[index] = [float(cell) for cell in row[1:]]
        except ValueError as error:
            raise InvalidFile(path, f"line {number} is not a date and {len(names)} numbers: {error}") from error
    if not np.isfinite(values).all():
        raise InvalidFile(path, "it holds values that are not finite numbers")
    return tuple(names), values


def read_sequences(path: Path) -> tuple[list[Array], Array]:
    """Sequences of unequal lengths and their labels from a `.ts` file (timeseriesclassification.com).

    Each sequence has the shape (steps, channels), float32; labels are int64 numbers from 0 in the order in which the
    file's heading names the classes.
    """
    classes: dict[str, int] = {}
    sequences, labels = [], []
    for number, line in _lines(path, open):
        text = line.strip()
        if text.lower().startswith("@classlabel true"):
            classes = {name: index for index, name in enumerate(text.split()[2:])}
        if not text or text[0] in "#@":
            continue
        *channels, label = text.split(":")
        try:
            sequences.append(np.array([channel.split(",") for channel in channels], np.float32).T)
            labels.append(classes[label])
        except (ValueError, KeyError) as error:
            raise InvalidFile(
                path, f"line {number} is not channels of one length and a known class: {error}"
            ) from error
        if sequences[-1].ndim != 2 or sequences[-1].shape[1] != sequences[0].shape[1]:
            raise InvalidFile(path, f"line {number} has {len(channels)} channels, the first has another number")
    if not sequences:
        raise InvalidFile(path, "it holds no sequences")
    return sequences, np.array(labels)


def read_digits(path: Path) -> Array:
    """Images, shape (count, height, width), uint8, from a gzipped IDX file (the format of MNIST)."""
    check_input(path)
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except _UNREADABLE as error:
        raise InvalidFile(path, str(error)) from error
    # 0, 0, type 8 (unsigned bytes), 3 axes; then each axis as a big-endian 32-bit number.
    if content[:4] != b"\x00\x00\x08\x03" or len(content) < 16:
        raise InvalidFile(path, "it is not an IDX file of images")
    count, height, width = (int(size) for size in np.frombuffer(content, ">i4", 3, 4))
    if len(content) != 16 + count * height * width:
        raise InvalidFile(path, f"it holds {len(content) - 16} bytes of pixels, {count * height * width} are announced")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        yield from enumerate(csv.reader(line for _, line in _lines(path, open)), start=1)
    except csv.Error as error:
        raise InvalidFile(path, str(error)) from error


def _lines(path: Path, opener: object) -> Iterator[tuple[int, str]]:
    check_input(path)
    try:
        with opener(path, "rt", encoding="utf-8") as file:  # type: ignore[operator]
            yield from enumerate(file, start=1)
    except _UNREADABLE as error:
        raise InvalidFile(path, str(error)) from error
