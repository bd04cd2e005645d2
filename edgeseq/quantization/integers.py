"""Weights as 8-bit integers.

They are symmetric: q = round(w / scale), scale = max |w| / 127 over one output unit (a row of a recurrent matrix, a
column of a dense kernel, an output channel of a convolution, a row of an embedding).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]


def to_int8(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """int8 numbers of the array's shape, and float32 scales with length 1 along `axes`."""
    scale = np.abs(array).max(axis=axes, keepdims=True, initial=0) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale


def tensor(name: str, array: Any) -> onnx.TensorProto:
    """A constant of a graph; a scalar stays one."""
    array = np.asarray(array)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
