"""What is around a recurrence that is written out step by step, whoever runs the steps (`scan`, `unrolled`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgeseq.lowering import activations, cells, masks
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import STATES, Direction, RecurrentSpec
from edgeseq.lowering.strategy import Lowered, Signals, merge, zero_where


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One direction, ready to be run over time."""

    spec: RecurrentSpec
    direction: Direction
    products: ir.Value
    """(time, batch, gates × units[, spatial...]): see `cells.project`."""
    mask: ir.Value | None
    """(time, batch, 1[, 1...]) Boolean."""
    initial: tuple[ir.Value, ...]
    """States before the first step, (batch, units[, spatial...]); empty when they are zero."""
    wants_sequence: bool

    @property
    def carries_output(self) -> bool:
        """Whether the output before a step is needed in it, as if it were a state."""
        return self.wants_sequence and self.mask is not None and self.spec.masked_output == "repeat"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a pass gives."""

    sequence: ir.Value | None
    """(time, batch, units[, spatial...]) in the order of computation, when it was wanted."""
    states: tuple[ir.Value, ...]
    """After the last step."""


Run = Callable[[Builder, Pass], Ran]


def decline(spec: RecurrentSpec) -> str:
    """Why no step can be written out for `spec`; empty when it can."""
    for direction in spec.directions:
        for activation in (direction.recurrent_activation, direction.activation):
            if activation is not None and not activations.known(activation):
                return f"activation '{activation.name}' is not among those edgeseq has ONNX nodes for"
    return ""


def lower(b: Builder, spec: RecurrentSpec, signals: Signals, run: Run, op_type: str) -> Lowered:
    """Nodes for the whole layer, its steps run by `run`."""
    count = len(STATES[spec.kind])
    sequences: list[ir.Value] = []
    ends: list[ir.Value] = []
    states: list[ir.Value] = []
    rank = 0 if spec.convolution is None else spec.convolution.rank
    for index, direction in enumerate(spec.directions):
        given = signals.initial[index * count : (index + 1) * count]
        mask = signals.mask
        if mask is not None:
            mask = b.op("Unsqueeze", b.transpose(mask, 1, 0), b.integers(*range(2, 3 + rank)))
        ran = run(
            b,
            Pass(
                spec=spec,
                direction=direction,
                products=cells.project(b, spec, direction, signals.x),
                mask=mask,
                initial=tuple(cells.channels_first(b, spec, state, leading=1) for state in given),
                wants_sequence=spec.return_sequences and signals.wants_output,
            ),
        )
        finals = [cells.channels_back(b, spec, state, leading=1) for state in ran.states]
        states += finals
        if ran.sequence is not None:
            # Two directions are put together in time order; a single one stays in the order of computation.
            in_time = direction.backwards and len(spec.directions) == 2
            sequence = b.flip(ran.sequence, 0) if in_time else ran.sequence
            batch_first = b.transpose(sequence, 1, 0, *range(2, 3 + rank))
            sequences.append(cells.channels_back(b, spec, batch_first, leading=2))
        else:
            end = finals[0]
            if signals.mask is not None:
                late, from_zero = direction.backwards, not given
                end = masks.last_output(b, spec, signals.mask, end, backwards=late, from_zero=from_zero)
            ends.append(end)
    outputs = tuple(sequences or ends)
    if len(outputs) == 2:
        outputs = merge(b, spec, *outputs)
    return Lowered(outputs=outputs, states=tuple(states), op_types=(op_type,))


def masked_step(
    b: Builder, work: Pass, products: ir.Value, mask: ir.Value | None, carried: list[ir.Value | None]
) -> tuple[list[ir.Value], ir.Value]:
    """One step of a pass: what is carried before it to what is carried after it, and its output.

    Carried are the states and, where `carries_output`, the output before.
    """
    count = len(STATES[work.spec.kind])
    before = carried[:count]
    after = list(cells.step(b, work.spec, work.direction, products, before))
    output = after[0]
    if mask is None:
        return after, output
    kept = [
        zero_where(b, mask, new) if old is None else b.op("Where", mask, new, old)
        for new, old in zip(after, before, strict=True)
    ]
    if not work.carries_output:
        return kept, zero_where(b, mask, output)
    previous = carried[count]
    output = zero_where(b, mask, output) if previous is None else b.op("Where", mask, output, previous)
    return [*kept, output], output
