"""The states of all streams of a pool: one array for each state of the file, a row for each stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeseq.runtime.manifest import StateSpec
from edgeseq.runtime.states import initial

_FIRST = 16

Index = np.ndarray | slice
"""Some rows in an order, as `index_of` makes it."""


class Rows:
    """Rows that are taken and given back, in arrays that double as they fill; they lie on the host.

    Not to be used by two threads at once.
    """

    def __init__(self, specs: Sequence[StateSpec], axis: str | int):
        self._specs, self._axis = specs, axis
        self._arrays = self._new(_FIRST)
        self._free: list[int] = []
        self._used = 0

    def _new(self, rows: int) -> dict[str, np.ndarray]:
        one = initial(self._specs, {str(self._axis): 1})
        return {name: np.repeat(array, rows, axis=0) for name, array in one.items()}

    @property
    def taken(self) -> int:
        """How many rows are."""
        return self._used - len(self._free)

    def take(self) -> int:
        """The number of a row in the initial state."""
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            if row == len(next(iter(self._arrays.values()))):
                more = self._new(row)
                self._arrays = {name: np.concatenate([array, more[name]]) for name, array in self._arrays.items()}
            self._used += 1
        self.reset(row)
        return row

    def give_back(self, row: int) -> None:
        """Another stream may have it."""
        self._free.append(row)

    def reset(self, row: int) -> None:
        """Back to the initial state."""
        for spec in self._specs:
            self._arrays[spec.input][row] = spec.initial

    def read(self, row: int) -> dict[str, np.ndarray]:
        """Copies of the states of one row, with a batch axis of one."""
        return {name: array[row : row + 1].copy() for name, array in self._arrays.items()}

    def gather(self, rows: Index) -> dict[str, np.ndarray]:
        """The states of `rows`, in this order, until they change."""
        return {name: array[rows] for name, array in self._arrays.items()}

    def scatter(self, rows: Index, states: Mapping[str, np.ndarray]) -> None:
        """Make `states` those of `rows`."""
        for name, array in self._arrays.items():
            array[rows] = states[name]


def index_of(rows: list[int]) -> Index:
    """`rows` to index arrays by: a slice, which is quicker, of those that lie one after the other."""
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows) and rows == list(range(first, last + 1)):
        return slice(first, last + 1)
    return np.array(rows)
