"""`RecurrentSpec`: what a recurrent layer computes, as plain data. No Keras and no ONNX types are in it.

A spec is read from a Keras layer (`edgeseq.conversion.layers`) and written as ONNX nodes by any strategy here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["simple_rnn", "lstm", "gru", "conv_lstm"]

# The one order of gates in every kernel and bias of a spec. It is Keras's order, so reading from Keras copies
# nothing; whoever needs another order (ONNX's LSTM) reorders by name.
GATES: dict[Kind, tuple[str, ...]] = {
    "simple_rnn": ("hidden",),
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("update", "reset", "hidden"),
    "conv_lstm": ("input", "forget", "cell", "output"),
}

# Names of the states a step carries, in Keras's order.
STATES: dict[Kind, tuple[str, ...]] = {
    "simple_rnn": ("h",),
    "lstm": ("h", "c"),
    "gru": ("h",),
    "conv_lstm": ("h", "c"),
}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function by its Keras name, with its parameters where it has any."""

    name: str
    """Keras's name, such as ``tanh``, ``hard_sigmoid`` or ``leaky_relu``."""
    alpha: float | None = None
    """Slope or scale, where the function has one."""
    beta: float | None = None
    """Offset, where the function has one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """How the products of a convolutional cell are taken. Kernels are (\\*window, channels in, gates × filters)."""

    strides: tuple[int, ...]
    """Of the input convolution, one a spatial axis; the recurrent one always has 1."""
    padding: Literal["same", "valid"]
    """Of the input convolution; the recurrent one is always ``same``."""
    dilation: tuple[int, ...]
    """Of the input convolution; the recurrent one always has 1."""
    channels_last: bool
    """Whether inputs, outputs and states have their channels on the last axis."""

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.strides)


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """The weights of one pass over the sequence. Gates lie side by side on the last axis, in the order of `GATES`."""

    kernel: Array
    """Input weights, (features, gates × units); convolutional: see `Convolution`."""
    recurrent_kernel: Array
    """Recurrent weights, (units, gates × units); convolutional: see `Convolution`."""
    bias: Array | None
    """Added to the input products, (gates × units)."""
    recurrent_bias: Array | None = None
    """Added to the recurrent products, (gates × units); only a GRU with `reset_after` has one."""
    activation: Activation
    """Of the candidate and, in an LSTM, of the cell state on its way out."""
    recurrent_activation: Activation | None
    """Of the gates; None for a SimpleRNN, which has none."""
    backwards: bool = False
    """Whether the pass starts at the last time step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecurrentSpec:
    """One recurrent layer, or both directions of a Bidirectional one."""

    layer: str
    """Name of the Keras layer, for messages and reports."""
    layer_type: str
    """Keras class name, for reports."""
    kind: Kind
    """Which equations a step follows."""
    units: int
    """Width of a state: units, or filters of a convolutional cell."""
    directions: tuple[Direction, ...]
    """One pass, or two: the forward one first."""
    merge: Literal["concat", "sum", "mul", "ave", "none"] | None = None
    """How two directions are put together; ``none`` keeps two outputs. None for a single direction."""
    reset_after: bool = True
    """GRU only: whether the reset gate applies after the recurrent product (`linear_before_reset` in ONNX)."""
    return_sequences: bool
    """Whether the output is every step's (batch, time, units) or the last one's (batch, units). A single backward
    pass puts its steps out in the order it computed them; two directions put out time order."""
    masked: bool = False
    """Whether a Boolean mask (batch, time) says which steps count. A masked step keeps the state."""
    masked_output: Literal["repeat", "zero"] = "repeat"
    """What a masked step puts out: the output before it (zeros when there is none), or zeros."""
    initial_state: Literal["zero", "given"] = "zero"
    """Whether the states start from zero or come as inputs, one a state and direction, in the order of `STATES`."""
    time_steps: int | None = None
    """Number of time steps where it is fixed."""
    convolution: Convolution | None = None
    """For convolutional kinds only."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all states in order, such as ``h, c`` or ``forward_h, forward_c, backward_h, backward_c``."""
        names = STATES[self.kind]
        if len(self.directions) == 1:
            return names
        return tuple(f"{side}_{name}" for side in ("forward", "backward") for name in names)


def select_gates(array: Array, kind: Kind, names: tuple[str, ...]) -> Array:
    """The columns of `array` (…, gates × units) that belong to the gates `names`, in that order."""
    blocks = dict(zip(GATES[kind], np.split(array, len(GATES[kind]), axis=-1), strict=True))
    return np.concatenate([blocks[name] for name in names], axis=-1)
