"""Any Boolean mask as a shorter sequence: valid steps first, so that the fused ops can skip the rest.

The fused ops only know "the first n steps count" (`sequence_lens`), while a Keras mask may begin with masked steps
(`pad_sequences` does) and may have gaps. Since a masked step leaves the state alone, dropping it changes nothing but
the positions, and those are put back afterwards. The work shrinks with the number of valid steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import RecurrentSpec
from edgeseq.lowering.strategy import zero_where


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """How a batch of masked sequences maps to shorter ones without masked steps."""

    mask: ir.Value
    """(batch, time) Boolean."""
    valid: ir.Value
    """The mask as int32."""
    lengths: ir.Value
    """(batch) int32: number of valid steps of each row."""
    longest: ir.Value
    """Scalar int32: the greatest of the lengths, and at least one."""
    order: ir.Value
    """(batch, longest, 1) int64: time steps of each row, valid ones first and in order."""


def compact(b: Builder, mask: ir.Value) -> Compaction:
    """Find the valid steps of each row."""
    valid = b.op("Cast", mask, to=ir.DataType.INT32)
    lengths = b.op("ReduceSum", valid, b.integers(1), keepdims=0)
    steps = b.squeeze(b.shape(mask, 1, 2), 0)
    countdown = b.op("Range", steps, b.constant(0, np.int64), b.constant(-1, np.int64))
    countdown = b.op("Cast", countdown, to=ir.DataType.INT32)
    # The largest keys belong to the earliest valid steps, and masked steps have none.
    keys = b.op("Mul", valid, countdown)
    # At least one step, so that a batch with no valid step at all still has a sequence to run over.
    longest = b.op("Max", b.op("ReduceMax", lengths, keepdims=1), b.constant([1], np.int32))
    _, order = b.multi("TopK", keys, b.op("Cast", longest, to=ir.DataType.INT64), outputs=2, axis=1)
    return Compaction(
        mask=mask, valid=valid, lengths=lengths, longest=b.squeeze(longest, 0), order=b.unsqueeze(order, 2)
    )


def gather(b: Builder, compaction: Compaction, x: ir.Value) -> ir.Value:
    """(batch, time, features) to (batch, longest, features)."""
    return b.op("GatherND", x, compaction.order, batch_dims=1)


def shortened(b: Builder, compaction: Compaction) -> ir.Value:
    """The mask of the shorter sequences, (batch, longest) Boolean: a row's valid steps come first."""
    steps = b.op("Range", b.constant(0, np.int32), compaction.longest, b.constant(1, np.int32))
    return b.op("Less", b.unsqueeze(steps, 0), b.unsqueeze(compaction.lengths, 1))


def spread(
    b: Builder, compaction: Compaction, y: ir.Value, *, zero: bool, before: ir.Value | None = None, rank: int = 3
) -> ir.Value:
    """(batch, longest, units...), of `rank` axes, back to (batch, time, units...).

    A masked step puts out zeros when `zero`, else the output before it; where there is none, `before` (batch,
    units...), by default zeros.
    """
    counted = b.op("CumSum", compaction.valid, b.constant(1, np.int64))
    position = b.op("Sub", counted, b.constant(1, np.int32))
    index = b.op("Cast", b.op("Max", position, b.constant(0, np.int32)), to=ir.DataType.INT64)
    gathered = b.op("GatherND", y, b.unsqueeze(index, 2), batch_dims=1)
    keep = compaction.mask if zero else b.op("Greater", counted, b.constant(0, np.int32))
    keep = b.op("Unsqueeze", keep, b.integers(*range(2, rank))) if rank > 2 else keep
    return zero_where(b, keep, gathered) if before is None else b.op("Where", keep, gathered, b.unsqueeze(before, 1))


def fit(b: Builder, mask: ir.Value, rank: int) -> ir.Value:
    """A mask (batch, 1) so that it broadcasts to values of `rank` axes, batch included."""
    if rank == 1:
        return b.squeeze(mask, 1)
    return mask if rank == 2 else b.op("Unsqueeze", mask, b.integers(*range(2, rank)))


def any_valid(b: Builder, mask: ir.Value) -> ir.Value:
    """(batch, 1) Boolean: whether a row has a valid step at all."""
    counts = b.op("ReduceSum", b.op("Cast", mask, to=ir.DataType.INT32), b.integers(1), keepdims=1)
    return b.op("Greater", counts, b.constant(0, np.int32))


def last_output(
    b: Builder, spec: RecurrentSpec, mask: ir.Value, state: ir.Value, *, backwards: bool, from_zero: bool
) -> ir.Value:
    """The last step's output, (batch, units[, spatial...]), from the state after it.

    They differ where every step is masked, unless the states begin at zero, and where the last one is and masked steps
    put out zeros. `backwards` says that the last step computed is the first in time.
    """

    def zero_unless(keep: ir.Value) -> ir.Value:
        return zero_where(b, fit(b, keep, spec.output_rank), state)

    if not from_zero:
        state = zero_unless(any_valid(b, mask))
    if spec.masked_output == "zero":
        state = zero_unless(b.op("Gather", mask, b.integers(0 if backwards else -1), axis=1))
    return state
