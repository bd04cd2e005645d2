"""What is around a recurrence that is written out step by step, whoever runs the steps (`scan`, `unrolled`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from edgeseq.lowering import activations, cells, masks
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import Direction, RecurrentSpec, TracedCell
from edgeseq.lowering.strategy import Lowered, Signals, merge, output_before, zero_where


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One direction, ready to be run over time."""

    spec: RecurrentSpec
    direction: Direction | TracedCell
    backwards: bool
    """Whether it begins at the last of the steps below."""
    products: ir.Value
    """(time, batch, ...): see `cells.project`."""
    mask: ir.Value | None
    """(time, batch, 1) Boolean."""
    initial: tuple[ir.Value, ...]
    """States before the first step, (batch, units[, spatial...]); empty when they are zero."""
    output_before: ir.Value | None
    """What counts as the output before the first step, (batch, units[, spatial...]); None for zeros."""
    masked_output: Literal["repeat", "zero", "any"]
    """What a masked step puts out; ``any`` where nobody looks."""
    wants_sequence: bool
    """Whether every step's output is wanted, rather than the last one's."""
    wants_output: bool
    """Whether any output is wanted."""

    @property
    def carries_output(self) -> bool:
        """Whether the output before a step is needed in it or after it, as if it were a state."""
        if self.spec.first_output == "given":
            return True
        if self.wants_sequence:
            return self.mask is not None and self.masked_output == "repeat"
        # The output of Keras's own cells is their first state.
        return self.wants_output and self.spec.traced is not None


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a pass gives."""

    sequence: ir.Value | None
    """(time, batch, units[, spatial...]) in the order of computation, when it was wanted."""
    end: ir.Value
    """The output after the last valid step, when it was wanted or is carried."""
    states: tuple[ir.Value, ...]
    """After the last step."""


Run = Callable[[Builder, Pass], Ran]


def decline(spec: RecurrentSpec) -> str:
    """Why no step can be written out for `spec`; empty when it can."""
    for direction in spec.directions:
        for activation in (direction.recurrent_activation, direction.activation):
            if activation is None:
                continue
            if not activations.known(activation):
                return f"activation '{activation.name}' is not among those edgeseq has ONNX nodes for"
            if spec.dtype == "float64" and not activations.has_double_kernels(activation):
                return f"onnxruntime cannot compute '{activation.name}' in double precision on the CPU"
    if spec.dtype == "float64" and spec.convolution is not None:
        return "onnxruntime has no convolution in double precision on the CPU"
    return ""


def lower(b: Builder, spec: RecurrentSpec, signals: Signals, run: Run, op_type: str, *, compact: bool) -> Lowered:
    """Nodes for the whole layer, its steps run by `run`.

    With `compact`, masked steps are left out of the run instead of being computed in vain.
    """
    count = len(spec.pass_states)
    sequences: list[ir.Value] = []
    ends: list[ir.Value] = []
    states: list[ir.Value] = []
    wants_sequence = spec.return_sequences and signals.wants_output
    before = output_before(spec, signals.initial)
    for index, direction in enumerate(spec.passes):
        given = signals.initial[index * count : (index + 1) * count]
        x, mask, backwards = signals.x, signals.mask, direction.backwards
        if mask is not None and compact and backwards:
            x, mask, backwards = b.flip(x, 1), b.flip(mask, 1), False
        compaction = masks.compact(b, mask) if mask is not None and compact else None
        if compaction is not None:
            x, mask = masks.gather(b, compaction, x), masks.shortened(b, compaction)
        ran = run(
            b,
            Pass(
                spec=spec,
                direction=direction,
                backwards=backwards,
                products=cells.project(b, spec, direction, x),
                mask=None if mask is None else b.unsqueeze(b.transpose(mask, 1, 0), 2),
                initial=tuple(cells.channels_first(b, spec, state, leading=1) for state in given),
                output_before=None if before is None else cells.channels_first(b, spec, before, leading=1),
                # A compacted sequence gets its masked steps back when it is spread out again.
                masked_output="any" if compact else spec.masked_output,
                wants_sequence=wants_sequence,
                wants_output=signals.wants_output,
            ),
        )
        finals = [cells.channels_back(b, spec, state, leading=1) for state in ran.states]
        states += finals
        if spec.first_output == "given":
            states.append(cells.channels_back(b, spec, ran.end, leading=1))
        if ran.sequence is not None:
            rank = spec.output_rank + 1
            sequence = cells.channels_back(b, spec, b.transpose(ran.sequence, 1, 0, *range(2, rank)), leading=2)
            if compaction is not None:
                zero = spec.masked_output == "zero"
                sequence = masks.spread(b, compaction, sequence, rank=rank, zero=zero, before=before)
            # Two directions are put together in time order; a single one stays in the order of computation.
            in_time = direction.backwards and len(spec.passes) == 2
            sequences.append(b.flip(sequence, 1) if in_time else sequence)
        else:
            end = cells.channels_back(b, spec, ran.end, leading=1)
            if signals.mask is not None and before is None:
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
    spec = work.spec
    count = len(spec.pass_states)
    before = carried[:count]
    output, states = cells.step(b, spec, work.direction, products, before)
    after = list(states)
    if mask is None:
        return ([*after, output] if work.carries_output else after), output

    def keep(new: ir.Value, old: ir.Value | None, rank: int) -> ir.Value:
        valid = masks.fit(b, mask, rank)
        return zero_where(b, valid, new) if old is None else b.op("Where", valid, new, old)

    kept = [keep(new, old, rank) for new, old, rank in zip(after, before, spec.state_ranks, strict=True)]
    if work.carries_output:
        output = keep(output, carried[count], spec.output_rank)
        return [*kept, output], output
    if work.wants_sequence and work.masked_output == "zero":
        output = keep(output, None, spec.output_rank)
    return kept, output
