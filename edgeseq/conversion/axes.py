"""Which axes of the outputs are free, and after which input axes they are named: found by running the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeseq.conversion.lengths import USUAL, Sizes, candidates
from edgeseq.errors import InputMismatch
from edgeseq.runtime.manifest import StateSpec, TensorSpec
from edgeseq.runtime.providers import open_session, run

Array = npt.NDArray[Any]
Lengths = dict[str, int]
Shapes = Sequence[tuple[int, ...]]

_LARGE_BYTES = 1024


def output_specs(
    graph: ir.Model,
    inputs: Sequence[TensorSpec],
    states: Sequence[StateSpec],
    known: Sizes | None = None,
    *,
    multiple: int = 1,
) -> tuple[tuple[TensorSpec, ...], tuple[Lengths, ...]]:
    """The graph's outputs, states left out, with an input axis's name for each axis that is always as long.

    Also the lengths of the free axes at which it was run to find out.

    One that is a whole part of an input axis, by strides of a file that takes multiples of `multiple` steps, is called
    ``time/4``. An axis that changes otherwise gets a name of its own. `known` are lengths of the free axes that the
    model takes.

    Raises InvalidFile for a graph that onnxruntime cannot open, and InputMismatch where no two lengths are found that
    it takes.
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
    tries = candidates([axis for axis in free if axis != "batch"], known)
    tries = [{axis: length * multiple for axis, length in way.items()} for way in tries]
    # What is fed in chunks must take any length.
    runs = _runs(free, shapes, tries[: len(USUAL)] if states else tries)
    specs = []
    for index, value in enumerate(outputs):
        axes: list[str | int] = []
        for position, usual in enumerate(runs[0][1][index]):
            found = [(lengths, shape[index][position]) for lengths, shape in runs]
            same = [axis for axis in free if all(lengths[axis] == length for lengths, length in found)]
            if all(length == usual for _, length in found):
                axes.append(usual)
            else:
                parts = [axis for axis in free if axis != "batch"] if multiple > 1 else []
                same += [part for axis in parts if (part := _part_of(axis, found))]
                axes.append(same[0] if same else f"{value.name}_{position}")
        assert value.dtype is not None
        specs.append(TensorSpec(name=str(value.name), dtype=value.dtype.numpy().name, axes=tuple(axes)))
    return tuple(specs), tuple(lengths for lengths, _ in runs)


def _part_of(axis: str, found: Sequence[tuple[Lengths, int]]) -> str:
    """``axis/4`` where an axis of a graph's output was always a fourth as long as that of an input; else empty."""
    parts = {lengths[axis] / length for lengths, length in found}
    part = parts.pop()
    return f"{axis}/{int(part)}" if not parts and part.is_integer() else ""


def _runs(
    free: Sequence[str], shapes: Callable[[Lengths], Shapes], tries: Sequence[Lengths]
) -> list[tuple[Lengths, Shapes]]:
    """Lengths of the free axes and the outputs' shapes there: the first that the graph takes, and others for each axis.

    An axis changes alone, or with another that must be as long, as where two sequences are added; else all change.
    """
    refusals: list[InputMismatch] = []

    def run_at(lengths: Lengths) -> Shapes | None:
        try:
            return shapes(lengths)
        except InputMismatch as error:
            refusals.append(error)
            return None

    # A small batch keeps wide models quick.
    found = ((lengths, run_at(lengths)) for lengths in ({"batch": 2} | way for way in tries))
    runs = [next(((lengths, shape) for lengths, shape in found if shape is not None), ({}, ()))]
    usual = runs[0][0]
    if not usual:
        raise refusals[0]
    # Far more steps tell more than a few, which a stride may hide.
    others = sorted(tries, key=lambda way: any(length < 2 * usual[axis] for axis, length in way.items()))
    for axis in free:
        ways = [
            {name: (other if name in changed else usual)[name] for name in free}
            for other in ({"batch": 3} | way for way in others)
            for changed in [{axis}, *[{axis, name} for name in free if name != axis], set(free)]
            if other[axis] != usual[axis]
        ]
        tried = ((lengths, run_at(lengths)) for lengths in ways)
        run_there = next(((lengths, shape) for lengths, shape in tried if shape is not None), None)
        if run_there is None:
            raise refusals[0]
        runs.append(run_there)
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
