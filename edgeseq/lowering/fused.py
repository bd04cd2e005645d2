"""One ONNX recurrent op for the whole layer: LSTM, GRU or RNN.

Operator pages: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeseq.lowering import activations, masks
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import (
    GATES,
    PEEPHOLES,
    STATES,
    Activation,
    Array,
    Direction,
    Kind,
    RecurrentSpec,
    select_gates,
)
from edgeseq.lowering.strategy import Lowered, Signals, merge, output_before

OP: dict[Kind, str] = {"simple_rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}

# The order of gates that each op's page gives (there "iofc", "zrh", "i").
ONNX_GATES: dict[Kind, tuple[str, ...]] = {**GATES, "lstm": ("input", "output", "forget", "cell")}
ONNX_PEEPHOLES = ("input", "output", "forget")

# Functions that take entries from `activation_alpha` and `activation_beta`.
TAKES_ALPHA = ("Affine", "HardSigmoid", "LeakyRelu", "Elu", "ThresholdedRelu", "ScaledTanh")
TAKES_BETA = ("Affine", "HardSigmoid", "ScaledTanh")

DEFAULT_ACTIVATIONS: dict[Kind, list[str]] = {
    "simple_rnn": ["Tanh"],
    "lstm": ["Sigmoid", "Tanh", "Tanh"],
    "gru": ["Sigmoid", "Tanh"],
}

# cuDNN has only these; onnxruntime leaves any other combination to the CPU.
_CUDNN: dict[Kind, tuple[str, ...]] = {"simple_rnn": ("Tanh",), "lstm": ("Sigmoid", "Tanh"), "gru": ("Sigmoid", "Tanh")}


def decline(spec: RecurrentSpec, target: str) -> str:
    """Why this strategy cannot lower `spec` for `target`; empty when it can."""
    if spec.kind not in OP:
        return f"ONNX has no recurrent op for {spec.layer_type}"
    if spec.first_output == "given":
        return "what masked steps repeat is carried beside the states"
    if spec.dtype == "float64":
        return f"onnxruntime has no {OP[spec.kind]} in double precision on the CPU"
    for direction in spec.directions:
        for activation in _functions(direction):
            if activations.op_attribute(activation) is None:
                return f"ONNX's {OP[spec.kind]} has no activation '{activation.name}'"
            if target == "cpu" and activation.name == "softplus":
                return f"the softplus in onnxruntime's {OP[spec.kind]} gives infinity from 89 on"
        if target == "cuda":
            names = tuple(name for name, _, _ in map(activations.op_attribute, _functions(direction)))  # type: ignore[misc]
            if names != _CUDNN[spec.kind]:
                return f"onnxruntime's CUDA {OP[spec.kind]} has {_CUDNN[spec.kind]}, not {names}, and runs on the CPU"
    if target == "cuda" and (spec.clip is not None or any(side.peephole is not None for side in spec.directions)):
        return f"onnxruntime's CUDA {OP[spec.kind]} with clip or peepholes runs on the CPU"
    if len(spec.directions) == 2 and spec.masked and spec.return_sequences and spec.masked_output == "repeat":
        return "each direction repeats another output at a masked step, and they come merged from one op"
    if target == "tensorrt" and len({tuple(_functions(direction)) for direction in spec.directions}) > 1:
        return "TensorRT wants the same activations in both directions"
    if target == "cuda" and spec.kind == "gru" and not spec.reset_after:
        return "onnxruntime's CUDA GRU with linear_before_reset=0 runs on the CPU"
    return ""


def lower(b: Builder, spec: RecurrentSpec, signals: Signals) -> Lowered:
    """Nodes for the whole layer. Raises nothing that `decline` would not have said."""
    x, mask = signals.x, signals.mask
    backwards = len(spec.directions) == 1 and spec.directions[0].backwards
    wants_sequence = spec.return_sequences and signals.wants_output
    if backwards and wants_sequence and mask is not None:
        # A masked step repeats the output computed before it: that is simplest in the order of computation.
        x, mask, backwards = b.flip(x, 1), b.flip(mask, 1), False
    compaction = None if mask is None else masks.compact(b, mask)
    if compaction is not None:
        x = masks.gather(b, compaction, x)
    side = "bidirectional" if len(spec.directions) == 2 else "reverse" if backwards else "forward"
    y, *final = _recurrent_op(b, spec, side, x, None if compaction is None else compaction.lengths, signals.initial)

    # (directions, batch, units) each, in the op's order of states.
    by_direction = [_unstack(b, state, len(spec.directions), axis=0) for state in final]
    states = tuple(state[d] for d in range(len(spec.directions)) for state in by_direction)
    if mask is not None and signals.initial:
        # A row without a valid step gives its initial state back; onnxruntime gives zeros.
        valid = masks.any_valid(b, mask)
        states = tuple(b.op("Where", valid, state, start) for state, start in zip(states, signals.initial, strict=True))
    before = output_before(spec, signals.initial)

    outputs: tuple[ir.Value, ...] = ()
    if wants_sequence:
        outputs = _sequence(b, spec, y, backwards)
        if compaction is not None:
            zero = spec.masked_output == "zero"
            outputs = tuple(masks.spread(b, compaction, output, zero=zero, before=before) for output in outputs)
    elif signals.wants_output and before is not None:
        outputs = (states[0],)
    elif signals.wants_output:
        ends = tuple(by_direction[0])
        if mask is not None:
            late = [backwards] if len(ends) == 1 else [direction.backwards for direction in spec.directions]
            ends = tuple(
                masks.last_output(b, spec, mask, end, backwards=late[index], from_zero=not signals.initial)
                for index, end in enumerate(ends)
            )
        outputs = ends if len(ends) == 1 else _merge_ends(b, spec, final[0], ends, masked=mask is not None)
    return Lowered(outputs=outputs, states=states if signals.wants_states else (), op_types=(OP[spec.kind],))


def _functions(direction: Direction) -> list[Activation]:
    """Activations in the order of the ops' `activations` attribute, each once."""
    gates = [] if direction.recurrent_activation is None else [direction.recurrent_activation]
    return [*gates, direction.activation]


def _recurrent_op(
    b: Builder, spec: RecurrentSpec, side: str, x: ir.Value, lengths: ir.Value | None, initial: tuple[ir.Value, ...]
) -> Sequence[ir.Value]:
    def stacked(arrays: list[Array]) -> ir.Value:
        return b.constant(np.stack(arrays))

    def onnx_order(array: Array) -> Array:
        return select_gates(array, spec.kind, ONNX_GATES[spec.kind])

    def biases(direction: Direction) -> Array:
        width = direction.kernel.shape[-1]
        parts = (direction.bias, direction.recurrent_bias)
        return np.concatenate([np.zeros(width, np.float32) if part is None else onnx_order(part) for part in parts])

    def peepholes(direction: Direction) -> Array:
        if direction.peephole is None:
            return np.zeros(len(PEEPHOLES) * spec.units, np.float32)
        return np.concatenate([direction.peephole[PEEPHOLES.index(gate)] for gate in ONNX_PEEPHOLES])

    attributes: dict[str, Any] = {"hidden_size": spec.units, "direction": side}
    names: list[str] = []
    alphas: list[float] = []
    betas: list[float] = []
    for direction in spec.directions:
        functions = _functions(direction)
        # An LSTM names the function of the candidate and that of the cell's output apart; in Keras they are one.
        for activation in [*functions, direction.activation] if spec.kind == "lstm" else functions:
            found = activations.op_attribute(activation)
            assert found is not None
            name, alpha, beta = found
            names.append(name)
            # Each list holds entries for those functions alone that take the parameter, in order.
            if name in TAKES_ALPHA:
                alphas.append(alpha)
            if name in TAKES_BETA:
                betas.append(beta)
    if names != DEFAULT_ACTIVATIONS[spec.kind] * len(spec.directions):
        attributes["activations"] = names
    if alphas:
        attributes["activation_alpha"] = alphas
    if betas:
        attributes["activation_beta"] = betas
    if spec.kind == "gru":
        attributes["linear_before_reset"] = int(spec.reset_after)

    if spec.clip is not None:
        attributes["clip"] = spec.clip

    has_peephole = any(direction.peephole is not None for direction in spec.directions)
    has_bias = any(direction.bias is not None for direction in spec.directions)
    count = len(STATES[spec.kind])
    starts: list[ir.Value | None] = [None] * count
    if initial:
        for index in range(count):
            parts = [b.unsqueeze(state, 0) for state in initial[index::count]]
            starts[index] = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)
    return b.multi(
        OP[spec.kind],
        b.transpose(x, 1, 0, 2),
        stacked([onnx_order(direction.kernel).T for direction in spec.directions]),
        stacked([onnx_order(direction.recurrent_kernel).T for direction in spec.directions]),
        stacked([biases(direction) for direction in spec.directions]) if has_bias else None,
        lengths,
        *starts,
        *([stacked([peepholes(direction) for direction in spec.directions])] if has_peephole else []),
        outputs=1 + count,
        **attributes,
    )


def _unstack(b: Builder, x: ir.Value, count: int, axis: int) -> list[ir.Value]:
    if count == 1:
        return [b.squeeze(x, axis)]
    parts = b.multi("Split", x, b.integers(*[1] * count), outputs=count, axis=axis)
    return [b.squeeze(part, axis) for part in parts]


def _sequence(b: Builder, spec: RecurrentSpec, y: ir.Value, backwards: bool) -> tuple[ir.Value, ...]:
    """(time, directions, batch, units) to one or two of (batch, time, units)."""
    if len(spec.directions) == 1:
        steps = b.squeeze(y, 1)
        # The op puts a reverse pass out in time order, Keras in the order of computation.
        return (b.transpose(b.flip(steps, 0) if backwards else steps, 1, 0, 2),)
    if spec.merge == "concat":
        # One transposition instead of a split and a concatenation.
        together = b.op("Reshape", b.transpose(y, 0, 2, 1, 3), b.integers(0, 0, 2 * spec.units))
        return (b.transpose(together, 1, 0, 2),)
    return tuple(b.transpose(side, 1, 0, 2) for side in merge(b, spec, *_unstack(b, y, 2, axis=1)))


def _merge_ends(
    b: Builder, spec: RecurrentSpec, final: ir.Value, ends: tuple[ir.Value, ...], *, masked: bool
) -> tuple[ir.Value, ...]:
    """Last outputs of two directions, (batch, units) each, as one."""
    if spec.merge == "concat" and not masked:
        return (b.op("Reshape", b.transpose(final, 1, 0, 2), b.integers(0, 2 * spec.units)),)
    return merge(b, spec, *ends)
