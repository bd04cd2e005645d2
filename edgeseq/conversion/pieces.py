"""Pieces of a model traced on their own: a custom cell's step, or an activation function, as a small ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import tensorflow as tf

from edgeseq.conversion.bridge import to_onnx


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A function of tensors as an ONNX model. It may hold markers of the trace it was made in."""

    model: bytes
    """The model, serialized."""
    graph: ir.Graph
    """The same, to look into."""
    shapes: tuple[tuple[int | None, ...], ...]
    """Of the outputs."""


def concrete_function(function: Callable[..., Sequence[Any]], inputs: Sequence[tf.TensorSpec]) -> Any:
    """A trace of `function`, which takes and returns flat tensors."""

    def flat(*tensors: Any) -> Any:
        # An Identity gives every output a node of its own, also when an output is an input or appears twice.
        return tuple(tf.identity(tensor) for tensor in function(*tensors))

    return tf.function(flat, autograph=False).get_concrete_function(*inputs)


def trace_piece(function: Callable[..., Sequence[Any]], inputs: Sequence[tf.TensorSpec], *, opset: int) -> Piece:
    """Trace `function`, which takes and returns flat tensors, apart from any graph that is being made around it.

    Raises whatever the function raises, and what `to_onnx` does.
    """
    with tf.init_scope():
        concrete = concrete_function(function, inputs)
        names = [f"output:{index}" for index in range(len(concrete.outputs))]
        model = to_onnx(concrete, [f"input:{index}" for index in range(len(inputs))], names, opset=opset)
    return Piece(
        model=ir.to_proto(model).SerializeToString(),
        graph=model.graph,
        shapes=tuple(tuple(output.shape) for output in concrete.outputs),
    )
