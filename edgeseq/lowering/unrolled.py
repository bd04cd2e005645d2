"""The recurrence written out: a copy of the step for each time step. For few, fixed steps.

It costs nodes, but no loop: onnxruntime fuses and schedules across steps, and a zero initial state costs nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeseq.lowering import cells, stepwise
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import RecurrentSpec
from edgeseq.lowering.strategy import Lowered, Signals

MOST_STEPS = 1024


def decline(spec: RecurrentSpec, target: str) -> str:  # noqa: ARG001
    """Why this strategy cannot lower `spec` for `target`; empty when it can."""
    if spec.time_steps is None:
        return "the number of time steps is free"
    if not 1 <= spec.time_steps <= MOST_STEPS:
        return f"{spec.time_steps} time steps; 1 to {MOST_STEPS} can be written out"
    return stepwise.decline(spec)


def lower(b: Builder, spec: RecurrentSpec, signals: Signals) -> Lowered:
    """Nodes for the whole layer."""
    return stepwise.lower(b, spec, signals, _run, "MatMul" if spec.convolution is None else "Conv", compact=False)


def _run(b: Builder, work: stepwise.Pass) -> stepwise.Ran:
    spec = work.spec
    steps, count = spec.time_steps, len(spec.pass_states)
    assert steps is not None
    carried: list[ir.Value | None] = [*work.initial] or [None] * count
    if spec.kind == "gru" and not work.initial:
        carried = [*cells.zero_states(b, spec, work.products)]
    if work.carries_output:
        carried.append(work.output_before)
    outputs = []
    for time in reversed(range(steps)) if work.backwards else range(steps):

        def at(x: ir.Value, time: int = time) -> ir.Value:
            return b.op("Gather", x, b.constant(time, np.int64), axis=0)

        mask = None if work.mask is None else at(work.mask)
        after, output = stepwise.masked_step(b, work, at(work.products), mask, carried)
        carried = [*after]
        outputs.append(output)
    sequence = b.op("Concat", *[b.unsqueeze(output, 0) for output in outputs], axis=0) if work.wants_sequence else None
    last = carried[count] if work.carries_output else carried[0]
    assert last is not None
    return stepwise.Ran(
        sequence=sequence, end=last, states=tuple(state for state in carried[:count] if state is not None)
    )
