"""What a caller passes, as the arrays a graph takes, or an error that says what was wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq.errors import InputMismatch
from edgeseq.runtime import structure
from edgeseq.runtime.manifest import Structure, TensorSpec, time_axes

Axes = tuple[str | int, ...]
Lengths = dict[str, int]
"""The length of each named axis, as far as known."""

# Kinds of numpy dtype (b bool, i and u integers, f floats) that an input of each kind takes, as Keras does.
_TAKEN = {"f": "biuf", "i": "biuf", "u": "biuf", "b": "biu"}


class Feed:
    """The checks for a file's inputs, made once and shared by all calls: it holds nothing of a call."""

    def __init__(self, specs: Sequence[TensorSpec], input_structure: Structure, *, finite_only: bool = False):
        self._finite_only = finite_only
        self._structure = input_structure
        self._specs = tuple((spec.name, np.dtype(spec.dtype), spec.axes, spec.vocabulary_size) for spec in specs)
        self._names = [spec.name for spec in specs]
        self.only = self._specs[0] if len(specs) == 1 else None
        """Name, dtype, axes and vocabulary of the input, where there is only one."""

    def by_name(self, inputs: Any) -> dict[str, Any]:
        """The values by input name, whether they come nested as for Keras or as a dict by name.

        Raises InputMismatch when they are nested in another way, or names are missing or unexpected.
        """
        if isinstance(inputs, Mapping):
            if structure.is_dict(self._structure) and not self._is_by_name_only(inputs):
                return structure.flatten(inputs, self._structure)
            structure.check_keys(inputs, self._names, "the input")
            return dict(inputs)
        if len(self._names) != 1:
            return structure.flatten(inputs, self._structure)
        # A single input: Keras takes x, [x] and (x,) alike, whatever the structure.
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            [(_, _, axes, _)] = self._specs
            if getattr(inputs[0], "ndim", None) == len(axes):
                inputs = inputs[0]
        return {self._names[0]: inputs}

    def _is_by_name_only(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the keys are the inputs' names, and not also what Keras calls them."""
        return inputs.keys() == set(self._names) and inputs.keys() != self._structure["dict"].keys()

    def arrays(self, values: Mapping[str, Any], lengths: Lengths) -> dict[str, np.ndarray]:
        """`values` as arrays of the right dtype and shape; `lengths` is filled with the lengths of named axes.

        Raises InputMismatch for a dtype, value, rank or length that the input does not take.
        """
        arrays = {}
        for name, dtype, axes, vocabulary in self._specs:
            array = values[name]
            if type(array) is not np.ndarray or array.dtype != dtype:
                array = converted(name, array, dtype)
            check_shape(name, array, axes, lengths)
            self.check_values(name, array, vocabulary)
            arrays[name] = array
        return arrays

    def check_values(self, name: str, array: np.ndarray, vocabulary: int | None) -> None:
        """Raise InputMismatch for numbers that the input does not take: those not finite, and ids past the table."""
        kind = array.dtype.kind
        if kind == "f":
            self.check_finite(name, array)
        elif vocabulary is not None and kind in "iu":
            _check_ids(name, array, vocabulary)

    def takes_finite_only(self, dtype: np.dtype[Any]) -> bool:
        """Whether NaN and infinity are refused in arrays of `dtype`: an op of the file may answer a number to them."""
        return self._finite_only and dtype.kind == "f"

    def check_finite(self, name: str, array: np.ndarray, kind: str = "input") -> None:
        """Raise InputMismatch for NaN and infinity where those are refused."""
        # A sum of squares is finite only of finite numbers, and the quickest look at all. It may overflow: np.dot warns
        # of that, np.vdot does not.
        if self.takes_finite_only(array.dtype) and not math.isfinite(np.vdot(array, array)):
            _check_finite(name, array, kind)


def check_chunk(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], multiple: int) -> None:
    """Raise InputMismatch unless the sequences among `arrays` have a multiple of `Manifest.chunk_multiple` steps."""
    if multiple == 1:
        return
    for name, axis in time_axes(inputs).items():
        steps = arrays[name].shape[axis]
        if steps % multiple:
            raise InputMismatch(
                f"input '{name}' takes chunks of {multiple}, {2 * multiple}, {3 * multiple}... time steps, because the "
                f"model's strides put out one step for every {multiple} that go in; got {steps}. Keep the last "
                f"{steps % multiple} for the next chunk",
                name,
            )


def check_shape(name: str, array: np.ndarray, axes: Axes, lengths: Lengths, *, kind: str = "input") -> None:
    """Raise InputMismatch unless `array` has `axes`, none empty and each as long as `lengths` says.

    Names that `lengths` lacks are entered there.
    """
    if array.ndim == len(axes):
        for axis, length in zip(axes, array.shape, strict=True):
            wanted = axis if isinstance(axis, int) else lengths.setdefault(axis, length)
            # Empty is refused because a recurrent op that gets no rows makes onnxruntime abort the whole process.
            if wanted != length or not length:
                break
        else:
            return
    message = f"{kind} '{name}' has the shape {_outline(axes, lengths)}; got {_outline(array.shape)}"
    if array.ndim == len(axes) - 1:
        message += ". An axis is missing: one sample needs a batch axis x[np.newaxis], one feature x[..., np.newaxis]"
    elif 0 in array.shape:
        message += ". No axis may be empty"
    raise InputMismatch(message, name)


def _check_finite(name: str, array: np.ndarray, kind: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        raise InputMismatch(
            f"{kind} '{name}' holds NaN or infinity, first at {_first(~finite)}. Keras may answer NaN where "
            "onnxruntime's LSTM, GRU and RNN answer a number that looks right. "
            + ("Fill or mask such steps first" if kind == "input" else "Start anew with reset()"),
            name,
        )


def _check_ids(name: str, array: np.ndarray, vocabulary: int) -> None:
    # As unsigned numbers negative ids are the largest: one look at the array finds whether anything is out of the way.
    if array.view(f"u{array.itemsize}").max() < vocabulary:
        return
    # Ids below 0 count from the table's end, in Keras as in the file.
    outside = (array >= vocabulary) | (array < -vocabulary)
    if outside.any():
        raise InputMismatch(
            f"input '{name}' takes ids 0 to {vocabulary - 1}; got {array[outside][0]} at {_first(outside)}", name
        )


def _first(marked: np.ndarray) -> str:
    """The index of the first true element, such as [0, 3]."""
    return "[" + ", ".join(str(int(index)) for index in np.argwhere(marked)[0]) + "]"


def shape_of(axes: Axes, lengths: Lengths) -> tuple[int, ...]:
    """`axes` with the names replaced by their lengths."""
    return tuple(axis if isinstance(axis, int) else lengths[axis] for axis in axes)


def converted(name: str, value: Any, dtype: np.dtype[Any], kind: str = "input") -> np.ndarray:
    """`value` as an array of `dtype`, when nothing but a float's precision is lost. Raises InputMismatch."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputMismatch(
            f"{kind} '{name}' takes {dtype}; got a {type(value).__name__} that is no array ({error}). "
            "Rows of unequal lengths must be padded first.",
            name,
        ) from error
    if array.dtype.kind not in _TAKEN[dtype.kind]:
        raise InputMismatch(f"{kind} '{name}' takes {_accepted(dtype)}; got {_no_numbers(array)}", name)
    with np.errstate(invalid="ignore", over="ignore"):
        found = array.astype(dtype)
    lost = np.isinf(found) & np.isfinite(array) if dtype.kind == "f" else found != array
    if lost.any():
        raise InputMismatch(f"{kind} '{name}' takes {_accepted(dtype)}; got {array[lost][0]}", name)
    return found


def _no_numbers(array: np.ndarray) -> str:
    """What is wrong with an array of a dtype that is not taken."""
    if array.dtype == object and any(type(item) is int and not -(1 << 63) <= item < 1 << 64 for item in array.flat):
        return "an integer of more than 64 bits"
    advice = ". Text goes in with raw=True, if the file has preprocessing" if array.dtype.kind in "USO" else ""
    return f"dtype {array.dtype}{advice}"


def _accepted(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return f"{dtype} (whole numbers from {limits.min} to {limits.max})"
    if dtype.kind == "b":
        return "bool (or the integers 0 and 1)"
    return f"{dtype} (real numbers up to ±{np.finfo(dtype).max:.3g})"


def _outline(axes: Iterable[str | int], lengths: Lengths | None = None) -> str:
    """Axes as text, such as (batch=4, 10, 1)."""
    known = lengths or {}
    return "(" + ", ".join(f"{axis}={known[str(axis)]}" if known.get(str(axis)) else str(axis) for axis in axes) + ")"
