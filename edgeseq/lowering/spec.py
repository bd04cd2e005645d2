"""`RecurrentSpec`: what a recurrent layer computes, as plain data. No Keras and no ONNX types are in it.

A spec is read from a Keras layer (`edgeseq.conversion.layers`) or from an ONNX node (`edgeseq.lowering.reading`), and
written as ONNX nodes by any strategy here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["simple_rnn", "lstm", "gru", "conv_lstm", "traced"]

# The one order of gates in every kernel and bias of a spec. It is Keras's order, so reading from Keras copies
# nothing; whoever needs another order (ONNX's LSTM) reorders by name.
GATES: dict[Kind, tuple[str, ...]] = {
    "simple_rnn": ("hidden",),
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("update", "reset", "hidden"),
    "conv_lstm": ("input", "forget", "cell", "output"),
    "traced": (),
}

# Names of the states a step carries, in Keras's order; a traced cell has as many as it says.
STATES: dict[Kind, tuple[str, ...]] = {
    "simple_rnn": ("h",),
    "lstm": ("h", "c"),
    "gru": ("h",),
    "conv_lstm": ("h", "c"),
    "traced": (),
}

# The gates of an LSTM that may look at the cell state, in the order of the rows of `Direction.peephole`.
PEEPHOLES = ("input", "forget", "output")


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function by its Keras name, with its parameters where it has any."""

    name: str
    """Keras's name, such as ``tanh``, ``hard_sigmoid`` or ``leaky_relu``; or one that only ONNX has: ``affine``
    (alpha x + beta), ``scaled_tanh`` (alpha tanh(beta x)) and ``thresholded_relu`` (x above alpha, else 0)."""
    alpha: float | None = None
    """Slope or scale, where the function has one."""
    beta: float | None = None
    """Offset, where the function has one."""
    model: bytes | None = field(default=None, repr=False)
    """For a function that is not known by name: the function itself, as an ONNX model of one input and one output.
    It may do more than work on each number alone, as softmax does."""


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
    peephole: Array | None = None
    """LSTM only: weights of the cell state in each gate of `PEEPHOLES`, (3, units). The input and forget gates see the
    cell state before the step, the output gate the one after it. Keras has none; ONNX's LSTM may."""
    activation: Activation
    """Of the candidate and, in an LSTM, of the cell state on its way out."""
    recurrent_activation: Activation | None
    """Of the gates; None for a SimpleRNN, which has none."""
    backwards: bool = False
    """Whether the pass starts at the last time step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TracedCell:
    """One step of a cell that is not among the known kinds, as it was traced, and one pass of it over the sequence."""

    model: bytes
    """An ONNX model: x (batch, features...) and the states before the step, to the output and the states after it."""
    input_rank: int
    """Number of axes of a step's x, batch included."""
    state_shapes: tuple[tuple[int, ...], ...]
    """Of each state, batch left out."""
    output_shape: tuple[int, ...]
    """Of the output, batch left out."""
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
    """Width of a state: units, or filters of a convolutional cell; of a traced cell, width of its output."""
    directions: tuple[Direction, ...] = ()
    """One pass, or two: the forward one first. None for a traced cell."""
    traced: TracedCell | None = None
    """For a traced cell only."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of weights, inputs, outputs and states."""
    merge: Literal["concat", "sum", "mul", "ave", "none"] | None = None
    """How two directions are put together; ``none`` keeps two outputs. None for a single direction."""
    reset_after: bool = True
    """GRU only: whether the reset gate applies after the recurrent product (`linear_before_reset` in ONNX)."""
    return_sequences: bool
    """Whether the output is every step's (batch, time, units) or the last one's (batch, units). A single backward
    pass puts its steps out in the order it computed them; two directions put out time order."""
    clip: float | None = None
    """Bound of what enters the activations of gates and candidate, in -clip..clip; None for none. Keras has none."""
    masked: bool = False
    """Whether a Boolean mask (batch, time) says which steps count. A masked step keeps the state."""
    masked_output: Literal["repeat", "zero"] = "repeat"
    """What a masked step puts out: the output before it (zeros when there is none), or zeros."""
    first_output: Literal["zero", "state", "given"] = "zero"
    """What masked steps before the first valid one repeat: zeros; the first state before the first step; or an output
    that comes as one more state behind the others and goes out as one. For a single pass only."""
    initial_state: Literal["zero", "given"] = "zero"
    """Whether the states start from zero or come as inputs, one a state and direction, in the order of `STATES`."""
    time_steps: int | None = None
    """Number of time steps where it is fixed."""
    convolution: Convolution | None = None
    """For convolutional kinds only."""

    @property
    def passes(self) -> tuple[Direction | TracedCell, ...]:
        """What is run over the sequence, whatever the kind."""
        return self.directions if self.traced is None else (self.traced,)

    @property
    def pass_states(self) -> tuple[str, ...]:
        """Names of the states of one pass, such as ``h, c``; of a traced cell, ``0, 1, ...``."""
        if self.traced is None:
            return STATES[self.kind]
        return tuple(str(index) for index in range(len(self.traced.state_shapes)))

    @property
    def output_rank(self) -> int:
        """Number of axes of one step's output, batch included."""
        if self.traced is not None:
            return 1 + len(self.traced.output_shape)
        return 2 if self.convolution is None else 2 + self.convolution.rank

    @property
    def state_ranks(self) -> tuple[int, ...]:
        """Number of axes of each state of one pass, batch included."""
        if self.traced is not None:
            return tuple(1 + len(shape) for shape in self.traced.state_shapes)
        return (self.output_rank,) * len(STATES[self.kind])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all that is carried, in order, such as ``h, c``, ``0, output`` or ``forward_h, forward_c,
        backward_h, backward_c``."""
        names = self.pass_states
        if len(self.passes) == 1:
            return (*names, "output") if self.first_output == "given" else names
        return tuple(f"{side}_{name}" for side in ("forward", "backward") for name in names)


def select_gates(array: Array, kind: Kind, names: tuple[str, ...]) -> Array:
    """The columns of `array` (…, gates × units) that belong to the gates `names`, in that order."""
    blocks = dict(zip(GATES[kind], np.split(array, len(GATES[kind]), axis=-1), strict=True))
    return np.concatenate([blocks[name] for name in names], axis=-1)
