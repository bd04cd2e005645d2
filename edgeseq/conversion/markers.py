"""What a traced model leaves behind: a marker op for each recurrent layer and large weight, and what it stands for.

A marker is a `PyFuncStateless` op whose token names an entry in a `Trace`: it is never run and nothing is registered
for it; the graph converter carries it through, and the entry says what to put in its place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from edgeseq.errors import EdgeseqError
from edgeseq.lowering.spec import Array, RecurrentSpec
from edgeseq.runtime.manifest import RecurrentLayer

# A constant smaller than this is no burden to the converter.
_LARGE_WEIGHT_ELEMENTS = 1024


@dataclass(frozen=True, kw_only=True)
class RecurrentMarker:
    """What a marker stands for. Its inputs are x, then initial states, then the mask, as far as the spec has them;
    its outputs are the spec's outputs, then its states."""

    spec: RecurrentSpec
    layer_id: int
    """Which Keras layer to report it as: the outermost Bidirectional around it, or the layer itself."""
    layer: str
    """Name of that layer."""
    layer_type: str
    """Keras class name of that layer."""
    outputs: int
    """Number of outputs before the states."""
    state_shapes: tuple[tuple[int, ...], ...]
    """Of each state, batch left out."""
    carried: tuple[float, ...] | None
    """What each state begins with, where the states become inputs and outputs of the whole file; else None."""


@dataclass(frozen=True, kw_only=True)
class WindowMarker:
    """What stands before a layer that looks at a window of time steps. Its input is x, its output x with the steps
    before it in front."""

    layer: str
    """Name of the layer."""
    history: int
    """Number of steps before x that are carried from chunk to chunk; zeros before the first."""
    stride: int
    """Time steps from one answer of the layer to the next."""
    channels: int
    """Width of x."""
    dtype: str
    """Of x."""


@dataclass(kw_only=True)
class Trace:
    """A traced model: the concrete function and what its markers stand for."""

    streaming: bool
    """Whether the states of every recurrent layer become inputs and outputs of the file."""
    opset: int
    """For the pieces that are traced on their own."""
    allow_loop: bool
    """Whether what cannot be native may become an ONNX Loop."""
    function: Any = None
    """The concrete TensorFlow function, once it is traced."""
    recurrent: dict[str, RecurrentMarker] = field(default_factory=dict)
    """What stands for a recurrent layer, by its marker's token."""
    windows: dict[str, WindowMarker] = field(default_factory=dict)
    """What stands before a layer with a window, by its marker's token."""
    weights: dict[str, Array] = field(default_factory=dict)
    """Large weights, by their markers' tokens."""
    loops: dict[int, RecurrentLayer] = field(default_factory=dict)
    """Recurrent layers that were left to Keras's own while-loop, by `layer_id`."""
    carried_layers: set[int] = field(default_factory=set)
    """The `id` of each layer whose states are inputs and outputs of the file: once is all that they can be."""
    around: list[Any] = field(default_factory=list)
    """Layers that the tracing is inside of and that call others in a way of their own, outermost first."""
    refusal: EdgeseqError | None = None
    """What a replaced call raised: Keras puts an exception of its own in the place of any that passes through it."""

    def next_token(self, table: dict[str, Any], kind: str) -> str:
        """A token that no marker of this trace has yet."""
        return f"edgeseq/{kind}/{len(table):04d}"

    @contextlib.contextmanager
    def inside(self, layer: Any) -> Iterator[None]:
        """Say that what is called meanwhile is called by `layer`."""
        self.around.append(layer)
        try:
            yield
        finally:
            self.around.pop()


def leave_marker(token: str, inputs: Sequence[Any], shapes: Sequence[tf.TensorShape], dtype: Any) -> list[Any]:
    """A marker op in the graph that is being traced; its outputs have these shapes and one dtype."""
    outputs = tf.raw_ops.PyFuncStateless(input=list(inputs), token=token, Tout=[tf.as_dtype(dtype)] * len(shapes))
    # The converter needs shapes as part of the graph: shapes set from Python are lost when it is frozen.
    return [tf.ensure_shape(output, shape) for output, shape in zip(outputs, shapes, strict=True)]


def weight(trace: Trace, variable: Any) -> Any:
    """A weight as a marker when it is large, else as the constant that the converter will make of it."""
    if math.prod(variable.shape) < _LARGE_WEIGHT_ELEMENTS:
        return variable.value
    token = trace.next_token(trace.weights, "weight")
    with tf.init_scope():
        trace.weights[token] = np.asarray(variable.value)
    return leave_marker(token, [], [tf.TensorShape(variable.shape)], variable.dtype)[0]
