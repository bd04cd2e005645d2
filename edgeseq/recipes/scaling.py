"""Columns brought to mean 0 and deviation 1, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.recipes.plan import Array


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """(x - offset) / scale on the last axis."""

    offset: Array
    """One number a column."""
    scale: Array
    """One number a column; never 0."""

    @classmethod
    def fit(cls, values: Array) -> Scaler:
        """Mean and standard deviation of the columns of `values`, shape (rows, columns).

        A constant column has no deviation: it is only shifted.
        """
        deviation = values.std(axis=0)
        return cls(offset=values.mean(axis=0), scale=np.where(deviation > 0, deviation, 1.0))

    def apply(self, values: Array) -> Array:
        """Scaled values, float32; the last axis of `values` is that of the columns."""
        return np.asarray((values - self.offset) / self.scale, np.float32)

    def invert(self, values: Array) -> Array:
        """The values that `apply` was given, float64."""
        return np.asarray(values, np.float64) * self.scale + self.offset

    def step(self) -> dict[str, Any]:
        """The preprocessing step of the same effect; for an output the inverse is meant."""
        return {"kind": "scale", "offset": self.offset.tolist(), "scale": self.scale.tolist()}
