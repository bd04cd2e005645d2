"""The equations of one time step as ONNX nodes, shared by the strategies that write steps out.

Sources: Keras's own cells (`keras.layers.LSTMCell`, `GRUCell`, `SimpleRNNCell`, `ConvLSTMCell`); Hochreiter and
Schmidhuber 1997, Cho et al. 2014, Shi et al. 2015. Layouts inside: time first, then batch; channels before the spatial
axes, as ONNX convolutions want them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeseq.lowering import activations
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import (
    GATES,
    PEEPHOLES,
    STATES,
    Activation,
    Array,
    Direction,
    RecurrentSpec,
    TracedCell,
    select_gates,
)


def project(b: Builder, spec: RecurrentSpec, direction: Direction | TracedCell, x: ir.Value) -> ir.Value:
    """All steps' input products at once, outside the recurrence: (time, batch, gates × units).

    `x` is (batch, time, features). What a traced cell does with its inputs is its own: they are put in time order only,
    (time, batch, features...). So are images, (time, batch, channels, spatial...): their convolution is a step's.
    """
    if isinstance(direction, TracedCell):
        return b.transpose(x, 1, 0, *range(2, direction.input_rank + 1))
    if spec.convolution is not None:
        return b.transpose(channels_first(b, spec, x, leading=2), 1, 0, *range(2, 3 + spec.convolution.rank))
    # A single product over all steps reads the kernel once instead of once a step.
    products = b.op("MatMul", b.transpose(x, 1, 0, 2), b.constant(direction.kernel))
    bias = _input_bias(spec, direction)
    return products if bias is None else b.op("Add", products, b.constant(bias))


def step(
    b: Builder,
    spec: RecurrentSpec,
    direction: Direction | TracedCell,
    products: ir.Value,
    states: Sequence[ir.Value | None],
) -> tuple[ir.Value, tuple[ir.Value, ...]]:
    """One step: what `project` gave for it and the states before it, to its output and the states after it.

    A state of None is zero, which spares its products; a traced cell's states are never None.
    """
    if isinstance(direction, TracedCell):
        output, *traced = b.inline(direction.model, products, *[state for state in states if state is not None])
        return output, tuple(traced)
    if spec.convolution is not None:
        products = _convolve(b, spec, direction, products)
    after = {"simple_rnn": _simple_rnn, "lstm": _lstm, "conv_lstm": _lstm, "gru": _gru}[spec.kind](
        b, spec, direction, products, list(states)
    )
    return after[0], after


def zero_output(b: Builder, spec: RecurrentSpec, products: ir.Value) -> ir.Value:
    """Zeros in the shape of one step's output, (batch, units[, spatial...]), from the shape of `project`'s result."""
    lengths = [b.shape(products, 1, 2)]
    if spec.traced is not None:
        lengths.append(b.integers(*spec.traced.output_shape))
    else:
        lengths.append(b.integers(spec.units))
    if spec.convolution is not None:
        lengths.append(_image_lengths(b, spec, products))
    return b.op("ConstantOfShape", b.op("Concat", *lengths, axis=0), value=ir.tensor(np.zeros(1, b.dtype)))


def zero_states(b: Builder, spec: RecurrentSpec, products: ir.Value) -> list[ir.Value]:
    """Zero states for every name in STATES. All are alike, and like the output."""
    return [zero_output(b, spec, products)] * len(STATES[spec.kind])


def _input_bias(spec: RecurrentSpec, direction: Direction) -> Array | None:
    """Everything that can be added before the recurrence: a GRU's recurrent bias too, but for its hidden gate."""
    bias, recurrent = direction.bias, direction.recurrent_bias
    if bias is None or recurrent is None:
        return bias
    return np.concatenate([(bias + recurrent)[: 2 * spec.units], bias[2 * spec.units :]])


def _recurrent_product(b: Builder, spec: RecurrentSpec, state: ir.Value, kernel: Array) -> ir.Value:
    if spec.convolution is None:
        return b.op("MatMul", state, b.constant(kernel))
    window = kernel.shape[: spec.convolution.rank]
    return b.op("Conv", state, b.weights(_onnx_kernel(kernel)), pads=_same_pads(window, (1,) * len(window)))


def _activate(b: Builder, spec: RecurrentSpec, activation: Activation | None, x: ir.Value) -> ir.Value:
    if activation is None:
        return x
    if activation.model is None:
        return activations.apply(b, activation, x)
    # A function of the user's own may tell the axes apart, as softmax does.
    return channels_first(b, spec, activations.apply(b, activation, channels_back(b, spec, x, leading=1)), leading=1)


def _clip(b: Builder, spec: RecurrentSpec, x: ir.Value) -> ir.Value:
    """What enters the activation of a gate or candidate, within the bounds of the spec."""
    return x if spec.clip is None else b.op("Clip", x, b.constant(-spec.clip), b.constant(spec.clip))


def _peek(b: Builder, direction: Direction, gate: str, x: ir.Value, cell: ir.Value | None) -> ir.Value:
    """Add what a gate of an LSTM sees of the cell state through its peephole."""
    if direction.peephole is None or cell is None:
        return x
    weights = direction.peephole[PEEPHOLES.index(gate)]
    return b.op("Add", x, b.op("Mul", cell, b.constant(weights)))


def _simple_rnn(
    b: Builder, spec: RecurrentSpec, direction: Direction, products: ir.Value, states: list[ir.Value | None]
) -> tuple[ir.Value, ...]:
    (h,) = states
    total = products if h is None else b.op("Add", products, _recurrent_product(b, spec, h, direction.recurrent_kernel))
    return (_activate(b, spec, direction.activation, _clip(b, spec, total)),)


def _lstm(
    b: Builder, spec: RecurrentSpec, direction: Direction, products: ir.Value, states: list[ir.Value | None]
) -> tuple[ir.Value, ...]:
    h, c = states
    total = products if h is None else b.op("Add", products, _recurrent_product(b, spec, h, direction.recurrent_kernel))
    input_, forget, cell, output = b.multi(
        "Split", total, b.integers(*[spec.units] * len(GATES[spec.kind])), outputs=4, axis=1
    )
    gate = direction.recurrent_activation
    input_ = _clip(b, spec, _peek(b, direction, "input", input_, c))
    forget = _clip(b, spec, _peek(b, direction, "forget", forget, c))
    new = b.op("Mul", _activate(b, spec, gate, input_), _activate(b, spec, direction.activation, _clip(b, spec, cell)))
    c_next = new if c is None else b.op("Add", b.op("Mul", _activate(b, spec, gate, forget), c), new)
    # The cell state on its way out is not clipped: onnxruntime's LSTM does not either.
    output = _clip(b, spec, _peek(b, direction, "output", output, c_next))
    h_next = b.op("Mul", _activate(b, spec, gate, output), _activate(b, spec, direction.activation, c_next))
    return h_next, c_next


def _gru(
    b: Builder, spec: RecurrentSpec, direction: Direction, products: ir.Value, states: list[ir.Value | None]
) -> tuple[ir.Value, ...]:
    (h,) = states
    if h is None:
        raise AssertionError("a GRU step needs its state: with reset_after its recurrent bias counts even at zero")
    units, gate = spec.units, direction.recurrent_activation
    split = b.integers(2 * units, units)
    x_gates, x_hidden = b.multi("Split", products, split, outputs=2, axis=1)
    gates_kernel = select_gates(direction.recurrent_kernel, "gru", ("update", "reset"))
    hidden_kernel = select_gates(direction.recurrent_kernel, "gru", ("hidden",))
    if spec.reset_after:
        recurrent = _recurrent_product(b, spec, h, direction.recurrent_kernel)
        if direction.recurrent_bias is not None:
            # Right behind the product, where a quantized one takes it in. The gates' part went into the input products.
            bias = np.concatenate([np.zeros(2 * units, b.dtype), direction.recurrent_bias[2 * units :]])
            recurrent = b.op("Add", recurrent, b.constant(bias))
        h_gates, h_hidden = b.multi("Split", recurrent, split, outputs=2, axis=1)
    else:
        h_gates = _recurrent_product(b, spec, h, gates_kernel)
    gates, halves = _clip(b, spec, b.op("Add", x_gates, h_gates)), b.integers(units, units)
    if gate is None or gate.model is None:
        update, reset = b.multi("Split", _activate(b, spec, gate, gates), halves, outputs=2, axis=1)
    else:
        # Each gate on its own: the function may look at a whole row.
        parts = b.multi("Split", gates, halves, outputs=2, axis=1)
        update, reset = (_activate(b, spec, gate, part) for part in parts)
    if spec.reset_after:
        recurrent_hidden = b.op("Mul", reset, h_hidden)
    else:
        recurrent_hidden = _recurrent_product(b, spec, b.op("Mul", reset, h), hidden_kernel)
    candidate = _activate(b, spec, direction.activation, _clip(b, spec, b.op("Add", x_hidden, recurrent_hidden)))
    # z h + (1 - z) n, with one product less.
    return (b.op("Add", candidate, b.op("Mul", update, b.op("Sub", h, candidate))),)


def channels_first(b: Builder, spec: RecurrentSpec, x: ir.Value, leading: int) -> ir.Value:
    """Move the channels of `x` before its spatial axes; `leading` axes (batch, or batch and time) stay in front."""
    convolution = spec.convolution
    if convolution is None or not convolution.channels_last:
        return x
    rank = convolution.rank
    return b.transpose(x, *range(leading), leading + rank, *range(leading, leading + rank))


def channels_back(b: Builder, spec: RecurrentSpec, x: ir.Value, leading: int) -> ir.Value:
    """The inverse of `channels_first`."""
    convolution = spec.convolution
    if convolution is None or not convolution.channels_last:
        return x
    rank = convolution.rank
    return b.transpose(x, *range(leading), *range(leading + 1, leading + 1 + rank), leading)


def _convolve(b: Builder, spec: RecurrentSpec, direction: Direction, x: ir.Value) -> ir.Value:
    """The input products of one step, (batch, gates × filters, spatial...), from its images.

    One convolution of all steps' images is slower: onnxruntime adds that of the state to this one within the
    convolution, in the blocked layout that its convolutions have on the CPU.
    """
    convolution = spec.convolution
    assert convolution is not None
    window = direction.kernel.shape[: convolution.rank]
    attributes: dict[str, Any] = {"strides": list(convolution.strides), "dilations": list(convolution.dilation)}
    if convolution.padding == "valid":
        attributes["pads"] = [0] * (2 * convolution.rank)
    elif all(stride == 1 for stride in convolution.strides):
        attributes["pads"] = _same_pads(window, convolution.dilation)
    else:
        # With strides the padding depends on the image size, which may be free.
        attributes["auto_pad"] = "SAME_UPPER"
    bias = None if direction.bias is None else b.weights(direction.bias)
    return b.op("Conv", x, b.weights(_onnx_kernel(direction.kernel)), bias, **attributes)


def _image_lengths(b: Builder, spec: RecurrentSpec, x: ir.Value) -> ir.Value:
    """Lengths of the spatial axes of a state, from steps of inputs (time, batch, channels, spatial...)."""
    convolution, lengths = spec.convolution, b.shape(x, 3)
    assert convolution is not None
    window = spec.directions[0].kernel.shape[: convolution.rank]
    # A window over `valid` positions alone, and its last one is as far from the first as it spreads.
    lost = [
        (size - 1) * spread if convolution.padding == "valid" else 0
        for size, spread in zip(window, convolution.dilation, strict=True)
    ]
    rounded_up = [stride - 1 - less for stride, less in zip(convolution.strides, lost, strict=True)]
    if any(rounded_up):
        lengths = b.op("Add", lengths, b.integers(*rounded_up))
    if any(stride > 1 for stride in convolution.strides):
        lengths = b.op("Div", lengths, b.integers(*convolution.strides))
    return lengths


def _onnx_kernel(kernel: Array) -> Array:
    """Keras's (*window, in, out) as ONNX's (out, in, *window)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _same_pads(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """TensorFlow's SAME padding at stride 1: the odd one goes to the end."""
    totals = [(size - 1) * spread for size, spread in zip(window, dilation, strict=True)]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]
