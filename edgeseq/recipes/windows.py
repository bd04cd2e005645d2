"""Long series: parts in the order of time, windows, and errors against repeating the last value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.recipes import data, readers
from edgeseq.recipes.plan import Array, Samples

TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.1
"""The first part of a series, and the part after it; the rest is for testing."""

SERIES = {
    "daily-min-temperatures": ("series", "daily-min-temperatures.csv"),
    "airline-passengers": ("series", "airline-passengers.csv"),
    "etth1": ("ett", "ETTh1.csv"),
}
"""Name -> the data set and the file in it."""


class Series(NamedTuple):
    """A series as it was read."""

    columns: tuple[str, ...]
    """Names of the columns."""
    values: Array
    """Shape (rows, columns), float64, in the order of time."""
    source: str
    """The file."""


class Parts(NamedTuple):
    """Where the parts of a series begin and end: row numbers, each part up to the next one's first."""

    validation: int
    test: int
    end: int


def load(name: str, named: Path | None) -> Series:
    """The series called `name`, a key of `SERIES`."""
    data_set, file = SERIES[name]
    path = data.require(data_set, named) / file
    columns, values = readers.read_table(path)
    return Series(columns, values, str(path))


def parts_of(rows: int) -> Parts:
    """Training, validation and test parts of a series of `rows` rows, in the order of time."""
    return Parts(round(rows * TRAIN_SHARE), round(rows * (TRAIN_SHARE + VALIDATION_SHARE)), rows)


def windows(values: Array, first: int, last: int, steps: int) -> Samples:
    """For each row from `first` up to `last`: the `steps` rows before it, and the row itself as the target.

    Inputs have the shape (windows, steps, columns), targets (windows, columns). A window may reach back before `first`:
    what came earlier is known when the row is to be predicted.
    """
    first = max(first, steps)
    if first >= last:
        raise WrongUsage(f"{steps} steps do not fit into a part of the series that ends at row {last}")
    views = np.lib.stride_tricks.sliding_window_view(values[first - steps : last - 1], steps, axis=0)
    return Samples(inputs=np.ascontiguousarray(views.swapaxes(1, 2)), targets=values[first:last])


def errors(predicted: Array, actual: Array, columns: Sequence[str] = ()) -> dict[str, float]:
    """Mean absolute and root mean square error over all values, and of each named column, in the series' units."""
    differences = predicted - actual
    found = {"mae": _mae(differences), "rmse": _rmse(differences)}
    for index, name in enumerate(columns):
        found |= {f"mae_{name}": _mae(differences[..., index]), f"rmse_{name}": _rmse(differences[..., index])}
    return found


def _mae(differences: Array) -> float:
    return float(np.abs(differences).mean())


def _rmse(differences: Array) -> float:
    return float(np.sqrt(np.square(differences).mean()))
