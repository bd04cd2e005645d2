"""Which axes of the outputs are free, and after which input axes they are named: found by running the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeseq.runtime.manifest import StateSpec, TensorSpec
from edgeseq.runtime.providers import open_session

Array = npt.NDArray[Any]

_LARGE_BYTES = 1024


def output_specs(graph: ir.Model, inputs: Sequence[TensorSpec], states: Sequence[StateSpec]) -> tuple[TensorSpec, ...]:
    """The graph's outputs, states left out, with an input axis's name for each axis that is always as long.

    The graph is run twice, with every free axis of another length each time: a length that follows an input's axis
    both times is that axis, and one that changes otherwise gets a name of its own.
    """
    document, weights = _without_large_weights(graph)
    session = open_session(document, threads=1)
    state_names = {state.output for state in states}
    arguments = [value for value in graph.graph.outputs if value.name not in state_names]
    free = sorted({axis for spec in inputs for axis in spec.axes if isinstance(axis, str)})
    try:
        runs = [_lengths(free, number, equal=False) for number in (0, 1)]
        shapes = [_run(session, inputs, states, arguments, lengths, weights) for lengths in runs]
    except Exception:  # noqa: BLE001  (onnxruntime's errors share no base; a real one is raised again below)
        # Two sequences that are added or concatenated must be equally long.
        runs = [_lengths(free, number, equal=True) for number in (0, 1)]
        shapes = [_run(session, inputs, states, arguments, lengths, weights) for lengths in runs]
    specs = []
    for index, argument in enumerate(arguments):
        axes: list[str | int] = []
        for position, lengths in enumerate(zip(*[shape[index] for shape in shapes], strict=True)):
            same = [
                axis
                for axis in free
                if all(lengths_of[axis] == size for lengths_of, size in zip(runs, lengths, strict=True))
            ]
            if len(set(lengths)) == 1:
                axes.append(int(lengths[0]))
            else:
                axes.append(same[0] if same else f"{argument.name}_{position}")
        assert argument.dtype is not None
        specs.append(TensorSpec(name=str(argument.name), dtype=argument.dtype.numpy().name, axes=tuple(axes)))
    return tuple(specs)


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


def _lengths(free: Sequence[str], run: int, *, equal: bool) -> dict[str, int]:
    """A length for each free axis, unlike those of the other run, and long enough for windows and pooling."""
    lengths = {axis: 16 + 7 * run if equal else 16 + 3 * index + 40 * run for index, axis in enumerate(free)}
    # A small batch keeps wide models quick.
    return lengths | ({"batch": 2 + run} if "batch" in lengths else {})


def _run(
    session: Any,
    inputs: Sequence[TensorSpec],
    states: Sequence[StateSpec],
    outputs: Sequence[Any],
    lengths: Mapping[str, int],
    weights: Mapping[str, Array],
) -> list[tuple[int, ...]]:
    feeds = dict(weights)
    for name, dtype, axes in [(spec.name, spec.dtype, spec.axes) for spec in inputs] + [
        (state.input, state.dtype, state.axes) for state in states
    ]:
        shape = [axis if isinstance(axis, int) else lengths[axis] for axis in axes]
        # Ones are an id, a valid mask and a number alike.
        feeds[name] = np.ones(shape, dtype)
    return [value.shape for value in session.run([output.name for output in outputs], feeds)]
