"""States that a caller gives, checked against what the file takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq.errors import InputMismatch
from edgeseq.runtime import structure
from edgeseq.runtime.feed import Feed, Lengths, check_shape, shape_of
from edgeseq.runtime.manifest import StateSpec


def checked(states: Mapping[str, Any], specs: Sequence[StateSpec], lengths: Lengths, feed: Feed) -> dict[str, Any]:
    """`states` as arrays by input name; `lengths` is filled with the lengths of named axes.

    Raises InputMismatch for other names, dtypes and shapes, and for numbers that the file does not take.
    """
    structure.check_keys(states, [spec.input for spec in specs], "the state")
    found = {}
    for spec in specs:
        array = np.asarray(states[spec.input])
        if array.dtype != spec.dtype:
            raise InputMismatch(f"state '{spec.input}' is {spec.dtype}; got {array.dtype}", spec.input)
        check_shape(spec.input, array, spec.axes, lengths, kind="state")
        feed.check_finite(spec.input, array, "state")
        found[spec.input] = array
    return found


def initial(specs: Sequence[StateSpec], lengths: Lengths) -> dict[str, np.ndarray]:
    """New arrays of the initial states by input name; `lengths` gives the length of each named axis."""
    return {spec.input: np.full(shape_of(spec.axes, lengths), spec.initial, spec.dtype) for spec in specs}
