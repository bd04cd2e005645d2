"""From a Keras recurrent layer to a `RecurrentSpec`. An option not understood is refused by the layer's name."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edgeseq.errors import UnsupportedLayer
from edgeseq.lowering.spec import Activation, Array, Convolution, Direction, Kind, RecurrentSpec

# The exact types: a subclass may compute anything.
_KINDS: dict[type, Kind] = {
    keras.layers.SimpleRNN: "simple_rnn",
    keras.layers.LSTM: "lstm",
    keras.layers.GRU: "gru",
    keras.layers.ConvLSTM1D: "conv_lstm",
    keras.layers.ConvLSTM2D: "conv_lstm",
    keras.layers.ConvLSTM3D: "conv_lstm",
}
# RNN(cell) with one of Keras's own cells computes the same as the layer of that name.
_CELL_KINDS: dict[type, Kind] = {
    keras.layers.SimpleRNNCell: "simple_rnn",
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
}


def read_layer(layer: Any, *, masked: bool, given_state: bool, time_steps: int | None) -> RecurrentSpec:
    """The spec of one recurrent layer, in a call with or without a mask and initial states.

    Raises UnsupportedLayer.
    """
    kind = kind_of(layer)
    cell = layer.cell
    return RecurrentSpec(
        layer=layer.name,
        layer_type=type(layer).__name__,
        kind=kind,
        units=cell.filters if kind == "conv_lstm" else cell.units,
        directions=(_direction(layer, kind),),
        reset_after=getattr(cell, "reset_after", True),
        return_sequences=layer.return_sequences,
        masked=masked,
        masked_output="zero" if layer.zero_output_for_mask else "repeat",
        initial_state="given" if given_state else "zero",
        time_steps=time_steps,
        convolution=_convolution(cell) if kind == "conv_lstm" else None,
    )


def read_bidirectional(layer: Any, *, masked: bool, given_state: bool, time_steps: int | None) -> RecurrentSpec | None:
    """One spec for both directions of a Bidirectional, or None when they differ too much to be one op.

    Raises UnsupportedLayer when one of them cannot be read at all.
    """
    forward, backward = (
        read_layer(inner, masked=masked, given_state=given_state, time_steps=time_steps)
        for inner in (layer.forward_layer, layer.backward_layer)
    )
    alike = (
        forward.kind == backward.kind
        and forward.kind != "conv_lstm"
        and forward.units == backward.units
        and forward.reset_after == backward.reset_after
        and forward.masked_output == backward.masked_output
        # A forward layer that itself goes backwards puts out reversed time.
        and not forward.directions[0].backwards
    )
    if not alike:
        return None
    return RecurrentSpec(
        layer=layer.name,
        layer_type=type(layer).__name__,
        kind=forward.kind,
        units=forward.units,
        directions=(*forward.directions, *backward.directions),
        merge=layer.merge_mode or "none",
        reset_after=forward.reset_after,
        return_sequences=forward.return_sequences,
        masked=masked,
        masked_output=forward.masked_output,
        initial_state=forward.initial_state,
        time_steps=time_steps,
    )


def kind_of(layer: Any) -> Kind:
    """Which equations a layer follows, by its exact type; raises UnsupportedLayer for any other."""
    if type(layer) is keras.layers.RNN:
        if type(layer.cell) in _CELL_KINDS:
            return _CELL_KINDS[type(layer.cell)]
        raise UnsupportedLayer(
            layer.name,
            f"its cell is a {type(layer.cell).__name__}; of cells, {_names(_CELL_KINDS)} are exported",
        )
    if type(layer) not in _KINDS:
        raise UnsupportedLayer(
            layer.name,
            f"its type {type(layer).__name__} is not one of Keras's own recurrent layers ({_names(_KINDS)}), "
            "and a subclass may compute anything",
        )
    return _KINDS[type(layer)]


def _names(table: dict[type, Kind]) -> str:
    return ", ".join(kind.__name__ for kind in table)


def _direction(layer: Any, kind: Kind) -> Direction:
    cell = layer.cell
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
        activation=_activation(layer, cell.activation),
        recurrent_activation=None if kind == "simple_rnn" else _activation(layer, cell.recurrent_activation),
        backwards=layer.go_backwards,
    )


def _convolution(cell: Any) -> Convolution:
    return Convolution(
        strides=tuple(cell.strides),
        padding=cell.padding,
        dilation=tuple(cell.dilation_rate),
        channels_last=cell.data_format == "channels_last",
    )


def _activation(layer: Any, function: Any) -> Activation:
    """Keras's own function by its name; anything else is refused."""
    if function is None:
        return Activation(name="linear")
    name = getattr(function, "__name__", type(function).__name__)
    if getattr(keras.activations, name, None) is not function:
        raise UnsupportedLayer(
            layer.name, f"its activation '{name}' is not one of keras.activations, and may compute anything"
        )
    return Activation(name=name)


def _weight(variable: Any) -> Array | None:
    """A variable's value, also from inside a trace."""
    if variable is None:
        return None
    with tf.init_scope():
        return np.asarray(variable.value)
