"""From a Keras recurrent layer to a `RecurrentSpec`. An option not understood is refused by the layer's name.

A stock cell is read by its exact type, weights and all. A cell of any other type is traced: one call of it becomes the
step. So is an activation that is not among those known by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import tensorflow as tf
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from edgeseq.conversion.failures import reason_of
from edgeseq.conversion.finish import loops
from edgeseq.conversion.old.meaning import hard_sigmoid_of_keras_2
from edgeseq.conversion.pieces import Piece, trace_piece
from edgeseq.errors import EdgeseqError, LoopRefused, UnsupportedLayer
from edgeseq.lowering import activations
from edgeseq.lowering.spec import Activation, Array, Convolution, Direction, Kind, RecurrentSpec, TracedCell

# The exact types: a subclass may compute anything.
_KINDS: dict[type, Kind] = {
    keras.layers.SimpleRNNCell: "simple_rnn",
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    ConvLSTMCell: "conv_lstm",
}
# How Keras's own layers run a cell over time: all compute the same.
_INNER_LOOPS = {
    layer.__dict__["inner_loop"]
    for layer in (keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
    if "inner_loop" in layer.__dict__
}
# Keras's own layers with a `call`: each only hands on to that of the RNN.
_CALLERS = {
    base
    for name in ("RNN", "SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
    for base in getattr(keras.layers, name).__mro__
    if issubclass(base, keras.layers.RNN)
}
# An activation traced to a single one of these nodes is the function of that name.
_NAMES_OF_OPS = {
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Softsign": "softsign",
    "Softplus": "softplus",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """How a layer is called, as far as its cell does not say it."""

    layer: str
    """Name of the layer, for messages and reports."""
    layer_type: str
    """Its class name."""
    return_sequences: bool
    backwards: bool
    masked: bool
    masked_output: str
    """``repeat`` or ``zero``."""
    given_state: bool
    """Whether initial states come with the call."""
    time_steps: int | None
    """Number of time steps where it is fixed."""
    step_shape: tuple[int | None, ...]
    """Of one step of one row."""
    opset: int
    """For what must be traced."""
    allow_loop: bool
    """Whether what is traced may hold a while-loop of its own."""


def call_of(layer: Any, x: Any, *, masked: bool, given_state: bool, opset: int, allow_loop: bool) -> Call:
    """What a Keras recurrent layer says about a call with `x` (batch, time, ...).

    Raises UnsupportedLayer for one with a loop of its own.
    """
    if type(layer).inner_loop not in _INNER_LOOPS:
        raise UnsupportedLayer(layer.name, f"its type {type(layer).__name__} runs over time in a way of its own")
    return Call(
        layer=layer.name,
        layer_type=type(layer).__name__,
        return_sequences=layer.return_sequences,
        backwards=layer.go_backwards,
        masked=masked,
        masked_output="zero" if layer.zero_output_for_mask and not zeroes_in_time(layer) else "repeat",
        given_state=given_state,
        time_steps=x.shape[1],
        step_shape=tuple(x.shape[2:]),
        opset=opset,
        allow_loop=allow_loop,
    )


def begins_in_its_own_way(layer: Any) -> bool:
    """Whether a subclass says itself what the states are before the first step."""
    return type(layer).get_initial_state is not keras.layers.RNN.get_initial_state


def calls_in_its_own_way(layer: Any) -> bool:
    """Whether a subclass, or the layer itself, puts a `call` of its own around Keras's."""
    definer = next(base for base in type(layer).__mro__ if "call" in vars(base))
    return definer not in _CALLERS or "call" in vars(layer)


def zeroes_in_time(layer: Any) -> bool:
    """Whether Keras zeroes the steps of a backward pass by the mask in the order of time.

    With `unroll` it does: the outputs lie in the order of computation there, so other steps than the masked ones become
    zero (`keras/src/backend/tensorflow/rnn.py`). It is what the model computes, so it is what the file computes.
    """
    return bool(layer.unroll and layer.go_backwards and layer.zero_output_for_mask and layer.return_sequences)


def is_stock(cell: Any) -> bool:
    """Whether a cell is exactly one of Keras's own."""
    return type(cell) in _KINDS


def read_stock(cell: Any, call: Call) -> RecurrentSpec:
    """The spec of one of Keras's own cells. Raises UnsupportedLayer for an activation that cannot be traced."""
    kind = _KINDS[type(cell)]
    return RecurrentSpec(
        layer=call.layer,
        layer_type=call.layer_type,
        kind=kind,
        units=cell.filters if kind == "conv_lstm" else cell.units,
        directions=(_direction(cell, kind, call),),
        dtype=cell.compute_dtype,
        reset_after=getattr(cell, "reset_after", True),
        return_sequences=call.return_sequences,
        masked=call.masked,
        masked_output=call.masked_output,  # type: ignore[arg-type]
        initial_state="given" if call.given_state else "zero",
        time_steps=call.time_steps,
        convolution=_convolution(cell) if kind == "conv_lstm" else None,
    )


def read_bidirectional(layer: Any, forward: Call, backward: Call) -> RecurrentSpec | None:
    """One spec for both directions of a Bidirectional, or None when they differ too much to be one op."""
    cells = (layer.forward_layer.cell, layer.backward_layer.cell)
    if not all(is_stock(cell) for cell in cells):
        return None
    first, second = (read_stock(cell, call) for cell, call in zip(cells, (forward, backward), strict=True))
    alike = (
        first.kind == second.kind
        and first.kind != "conv_lstm"
        and first.units == second.units
        and first.reset_after == second.reset_after
        and first.masked_output == second.masked_output
        # A forward layer that itself goes backwards puts out reversed time.
        and not first.directions[0].backwards
    )
    if not alike:
        return None
    return RecurrentSpec(
        layer=layer.name,
        layer_type=type(layer).__name__,
        kind=first.kind,
        units=first.units,
        directions=(*first.directions, *second.directions),
        dtype=first.dtype,
        merge=layer.merge_mode or "none",
        reset_after=first.reset_after,
        return_sequences=first.return_sequences,
        masked=first.masked,
        masked_output=first.masked_output,
        initial_state=first.initial_state,
        time_steps=first.time_steps,
    )


def read_traced(cell: Any, call: Call, x: Any, states: Any) -> RecurrentSpec:
    """The spec of any other cell, by one call of it on a step of `x` (batch, time, ...) and a nest of `states`.

    Raises UnsupportedLayer, with the reason, for a cell that cannot be called so.
    """
    structure = states
    flat_states = keras.tree.flatten(states)
    trains = isinstance(cell, keras.layers.Layer) and cell._call_has_training_arg

    def step(x: Any, *states: Any) -> list[Any]:
        function = cell if callable(cell) else cell.call
        nest = keras.tree.pack_sequence_as(structure, list(states))
        output, after = function(x, nest, **({"training": False} if trains else {}))
        flat = [output, *keras.tree.flatten(after)]
        return [tf.cast(tensor, x.dtype) for tensor in flat]

    # The batch is free: an answer must not depend on how many rows are asked for at once.
    inputs = [tf.TensorSpec([None, *x.shape[2:]], x.dtype)]
    inputs += [tf.TensorSpec([None, *state.shape[1:]], x.dtype) for state in flat_states]
    piece = _trace(step, inputs, call, f"its cell {type(cell).__name__}")
    if len(piece.shapes) != len(inputs):
        raise UnsupportedLayer(
            call.layer, f"its cell returns {len(piece.shapes) - 1} states and takes {len(inputs) - 1}"
        )
    output_shape, *state_shapes = (_fixed(shape, call.layer) for shape in piece.shapes)
    return RecurrentSpec(
        layer=call.layer,
        layer_type=call.layer_type,
        kind="traced",
        units=output_shape[-1] if output_shape else 1,
        traced=TracedCell(
            model=piece.model,
            input_rank=len(x.shape) - 1,
            state_shapes=tuple(state_shapes),
            output_shape=output_shape,
            backwards=call.backwards,
        ),
        dtype=x.dtype.name,
        return_sequences=call.return_sequences,
        masked=call.masked,
        masked_output=call.masked_output,  # type: ignore[arg-type]
        initial_state="given",
        time_steps=call.time_steps,
    )


def _fixed(shape: Sequence[int | None], layer: str) -> tuple[int, ...]:
    lengths = tuple(length for length in shape[1:] if length is not None)
    if len(lengths) != len(shape) - 1:
        raise UnsupportedLayer(layer, f"its cell's outputs and states have free lengths beside the batch: {shape}")
    return lengths


def _trace(function: Any, inputs: Sequence[tf.TensorSpec], call: Call, what: str) -> Piece:
    try:
        piece = trace_piece(function, inputs, opset=call.opset)
    except EdgeseqError as error:
        raise UnsupportedLayer(call.layer, f"{what} cannot be converted: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnsupportedLayer(call.layer, f"{what} cannot be traced: {reason_of(error)}") from error
    if not call.allow_loop and loops(piece.graph):
        raise LoopRefused(
            f"layer '{call.layer}': {what} holds a while-loop, which becomes an ONNX Loop. Most accelerators refuse "
            "it, and it is slow. Rewrite it without, or allow it (--allow-loop, allow_loop=True)",
            call.layer,
        )
    return piece


def _direction(cell: Any, kind: Kind, call: Call) -> Direction:
    bias, recurrent_bias = _weight(cell.bias), None
    if kind == "gru" and cell.reset_after and bias is not None:
        bias, recurrent_bias = bias
    kernel, recurrent_kernel = _weight(cell.kernel), _weight(cell.recurrent_kernel)
    assert kernel is not None
    assert recurrent_kernel is not None
    return Direction(
        kernel=kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        recurrent_bias=recurrent_bias,
        activation=_activation(cell, cell.activation, call),
        recurrent_activation=None if kind == "simple_rnn" else _activation(cell, cell.recurrent_activation, call),
        backwards=call.backwards,
    )


def _convolution(cell: Any) -> Convolution:
    return Convolution(
        strides=tuple(cell.strides),
        padding=cell.padding,
        dilation=tuple(cell.dilation_rate),
        channels_last=cell.data_format == "channels_last",
    )


def _activation(cell: Any, function: Any, call: Call) -> Activation:
    """One of Keras's own functions by its name; anything else by a trace of it."""
    if function is None:
        return Activation(name="linear")
    if function is hard_sigmoid_of_keras_2:
        return Activation(name="hard_sigmoid", alpha=0.2, beta=0.5)
    name = getattr(function, "__name__", type(function).__name__)
    if function is keras.activations.celu:
        # With the alpha that a layer calls it with, 1, they are the same.
        return Activation(name="elu")
    if getattr(keras.activations, name, None) is function and activations.known(Activation(name=name)):
        return Activation(name=name)
    if type(cell) is ConvLSTMCell:
        shape = list(cell.compute_output_shape((None, *call.step_shape))[0][1:])
    else:
        shape = [cell.units]
    piece = _trace(
        lambda x: [function(x)], [tf.TensorSpec([None, *shape], cell.compute_dtype)], call, f"its activation '{name}'"
    )
    if list(piece.shapes[0][1:]) != shape:
        raise UnsupportedLayer(call.layer, f"its activation '{name}' changes the shape, to {piece.shapes[0]}")
    return _simple(piece.graph) or Activation(name=name, model=piece.model)


def _simple(graph: ir.Graph) -> Activation | None:
    """A function that turned out to be one that is known by name, such as `tf.tanh` or ``LeakyReLU(0.3)``."""
    nodes = [node for node in graph if node.op_type != "Identity"]
    if len(nodes) != 1 or nodes[0].op_type not in _NAMES_OF_OPS or nodes[0].inputs[0] is not graph.inputs[0]:
        return None
    alpha = nodes[0].attributes.get("alpha")
    if nodes[0].op_type in ("Elu", "LeakyRelu"):
        # ONNX's own defaults, where the converter left the attribute out.
        default = {"Elu": 1.0, "LeakyRelu": 0.01}[nodes[0].op_type]
        return Activation(name=_NAMES_OF_OPS[nodes[0].op_type], alpha=alpha.as_float() if alpha else default)
    return Activation(name=_NAMES_OF_OPS[nodes[0].op_type])


def _weight(variable: Any) -> Array | None:
    """A variable's value, also from inside a trace."""
    if variable is None:
        return None
    with tf.init_scope():
        return np.asarray(variable.value)
