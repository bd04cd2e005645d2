"""States that come from and go to a caller, checked against what the file takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.runtime import saved_state, structure
from edgeseq.runtime.feed import Feed, Lengths, check_shape, converted, shape_of
from edgeseq.runtime.manifest import StateSpec

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model


def checked(states: Mapping[str, Any], specs: Sequence[StateSpec], lengths: Lengths, feed: Feed) -> dict[str, Any]:
    """`states` as arrays by input name; `lengths` is filled with the lengths of named axes.

    Raises InputMismatch for other names, dtypes and shapes, and for numbers that the file does not take.
    """
    structure.check_keys(states, [spec.input for spec in specs], "the state")
    found = {}
    for spec in specs:
        array = converted(spec.input, states[spec.input], np.dtype(spec.dtype), kind="state")
        check_shape(spec.input, array, spec.axes, lengths, kind="state")
        feed.check_finite(spec.input, array, "state")
        found[spec.input] = array
    return found


def to_bytes(states: Mapping[str, np.ndarray], model: Model, batch: int) -> bytes:
    """`states` of `batch` rows, for `saved_state.unpack`. Raises WrongUsage for numbers that `checked` refuses."""
    for name, array in states.items():
        if model.feed.takes_finite_only(array.dtype) and not np.isfinite(array).all():
            raise WrongUsage(
                f"state '{name}' overflowed to NaN or infinity at some step before: no stream of this file could be "
                "restored from it. Start anew with reset()"
            )
    return saved_state.pack(states, model_hash=model.manifest.model_hash, batch=batch)


def initial(specs: Sequence[StateSpec], lengths: Lengths) -> dict[str, np.ndarray]:
    """New arrays of the initial states by input name; `lengths` gives the length of each named axis."""
    return {spec.input: np.full(shape_of(spec.axes, lengths), spec.initial, spec.dtype) for spec in specs}
