"""What goes into a strategy and what comes out: values of a graph, in Keras's layout (batch, time, ...)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import RecurrentSpec


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Inputs of one recurrent layer."""

    x: ir.Value
    """(batch, time, features), or (batch, time, spatial and channels)."""
    mask: ir.Value | None
    """(batch, time) Boolean, true where a step counts."""
    initial: tuple[ir.Value, ...]
    """Initial states in the order of `RecurrentSpec.state_names`; empty when they are zero."""
    wants_output: bool
    """Whether anything reads the output."""
    wants_states: bool
    """Whether anything reads the states after the last step."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """Outputs of one recurrent layer; what was not wanted may be absent."""

    outputs: tuple[ir.Value, ...]
    """One output, or two when the directions are not merged."""
    states: tuple[ir.Value, ...]
    """States after the last step, in the order of `RecurrentSpec.state_names`."""
    op_types: tuple[str, ...]
    """ONNX op types that compute the recurrence."""


def merge(b: Builder, spec: RecurrentSpec, forward: ir.Value, backward: ir.Value) -> tuple[ir.Value, ...]:
    """Put the outputs of two directions together as `spec.merge` says."""
    match spec.merge:
        case "concat":
            return (b.op("Concat", forward, backward, axis=-1),)
        case "sum":
            return (b.op("Add", forward, backward),)
        case "mul":
            return (b.op("Mul", forward, backward),)
        case "ave":
            return (b.op("Mul", b.op("Add", forward, backward), b.constant(0.5)),)
        case _:
            return forward, backward


def output_before(spec: RecurrentSpec, initial: tuple[ir.Value, ...]) -> ir.Value | None:
    """What masked steps before the first valid one put out, (batch, units[, spatial...]); None for zeros."""
    if spec.first_output == "zero":
        return None
    return initial[0 if spec.first_output == "state" else -1]


def zero_where(b: Builder, keep: ir.Value, value: ir.Value) -> ir.Value:
    """`value` where `keep` is true, else zero; `keep` broadcasts."""
    return b.op("Where", keep, value, b.constant(0.0))
