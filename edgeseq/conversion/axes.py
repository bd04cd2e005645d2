"""Which axes of the outputs are free, and after which input axes they are named: found by running the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeseq.errors import InputMismatch
from edgeseq.runtime.manifest import StateSpec, TensorSpec
from edgeseq.runtime.providers import open_session, run

Array = npt.NDArray[Any]
Lengths = dict[str, int]
Shapes = Sequence[tuple[int, ...]]

_LARGE_BYTES = 1024


def output_specs(graph: ir.Model, inputs: Sequence[TensorSpec], states: Sequence[StateSpec]) -> tuple[TensorSpec, ...]:
    """The graph's outputs, states left out, with an input axis's name for each axis that is always as long.

    An axis that changes otherwise gets a name of its own. Raises InvalidFile for a graph that onnxruntime cannot open,
    and InputMismatch where it fails at the lengths of `_runs`.
    """
    document, weights = _without_large_weights(graph)
    session = open_session(document, threads=1)
    state_names = {state.output for state in states}
    outputs = [value for value in graph.graph.outputs if value.name not in state_names]
    # Ones are an id, a valid mask and a number alike.
    given = [(spec.name, spec.dtype, spec.axes, 0 if spec.vocabulary_size == 1 else 1) for spec in inputs]
    given += [(state.input, state.dtype, state.axes, 1) for state in states]

    def shapes(lengths: Lengths) -> Shapes:
        feeds = {
            name: np.full([lengths[axis] if isinstance(axis, str) else axis for axis in axes], number, dtype)
            for name, dtype, axes, number in given
        }
        return [value.shape for value in run(session, [str(value.name) for value in outputs], weights | feeds)]

    free = list(dict.fromkeys(axis for spec in inputs for axis in spec.axes if isinstance(axis, str)))
    runs = _runs(free, shapes)
    specs = []
    for index, value in enumerate(outputs):
        axes: list[str | int] = []
        for position, usual in enumerate(runs[0][1][index]):
            found = [(lengths, shape[index][position]) for lengths, shape in runs]
            same = [axis for axis in free if all(lengths[axis] == length for lengths, length in found)]
            if all(length == usual for _, length in found):
                axes.append(usual)
            else:
                axes.append(same[0] if same else f"{value.name}_{position}")
        assert value.dtype is not None
        specs.append(TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, axes=tuple(axes)))
    return tuple(specs)


def _runs(free: Sequence[str], shapes: Callable[[Lengths], Shapes]) -> list[tuple[Lengths, Shapes]]:
    """Lengths of the free axes and the outputs' shapes there: the usual ones, and once for each axis a longer one.

    An axis grows alone, or with another that must be as long, as where two sequences are added; else all grow.
    """
    # Long enough for windows, and grown by more than a stride; a small batch keeps wide models quick.
    usual, grown = dict.fromkeys(free, 24) | {"batch": 2}, dict.fromkeys(free, 67) | {"batch": 3}
    runs = [(usual, shapes(usual))]
    for axis in free:
        for longer in [{axis}, *[{axis, other} for other in free if other != axis], set(free)]:
            lengths = {name: (grown if name in longer else usual)[name] for name in usual}
            try:
                runs.append((lengths, shapes(lengths)))
            except InputMismatch:
                if longer == set(free):
                    raise
            else:
                break
    return runs


def _without_large_weights(graph: ir.Model) -> tuple[bytes, dict[str, Array]]:
    """The graph as a document that takes its large weights as inputs, and the weights: onnxruntime copies no input."""
    copy = graph.clone()
    weights = {}
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes >= _LARGE_BYTES:
            weights[name] = value.const_value.numpy()
            del copy.graph.initializers[name]
            copy.graph.inputs.append(value)
    return ir.to_proto(copy).SerializeToString(), weights
