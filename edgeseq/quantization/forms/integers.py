"""Weights as 8-bit integers.

They are symmetric: q = round(w / scale), scale = max |w| / 127 over one output unit (a row of a recurrent matrix, a
column of a dense kernel, an output channel of a convolution, a row of an embedding). Of 7 bits, the numbers go to 64:
two products with an unsigned 8-bit number then add up to no more than 16 bits hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]

LARGEST = {8: 127, 7: 64}
"""The largest magnitude of a number, by its bits."""


def to_int8(array: Array, axes: tuple[int, ...], bits: int = 8) -> tuple[Array, Array]:
    """int8 numbers of the array's shape, of 8 or 7 `bits`, and float32 scales with length 1 along `axes`."""
    largest = LARGEST[bits]
    scale = np.abs(array).max(axis=axes, keepdims=True, initial=0) / np.float32(largest)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(array / scale), -largest, largest).astype(np.int8), scale


def tensor(name: str, array: Any) -> onnx.TensorProto:
    """A constant of a graph; a scalar stays one."""
    array = np.asarray(array)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
