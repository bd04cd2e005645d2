"""The numbers that flow through an fp32 file while it runs on samples: what ranges are chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgeseq.quantization.runs import run_all, serialize
from edgeseq.runtime.manifest import StateSpec

# Of a value in one batch. More would change the second digit of a range, and cost memory.
_MOST_NUMBERS = 100_000


def observe(
    model: onnx.ModelProto,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, npt.NDArray[Any]]],
    states: Sequence[StateSpec] = (),
) -> dict[str, npt.NDArray[Any]]:
    """What the float values `names` of the main graph are on `feeds`: of each a flat sample, its extremes included."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in names}
    content = serialize(opened)
    for feed in feeds:
        # One batch after the other: all of an image sequence's values at once could fill the memory.
        [answers] = run_all(content, [feed], states)
        for name, value in zip(names, answers, strict=True):
            flat = value.ravel()
            sample = flat[:: -(-flat.size // _MOST_NUMBERS)]
            found[name] += [sample, flat.min(keepdims=True), flat.max(keepdims=True)]
    return {name: np.concatenate(parts) for name, parts in found.items()}
