"""The recurrence as an ONNX `Scan`: one body, run once a step. For any number of steps and any activation.

Operator page: https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeseq.lowering import cells, stepwise
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import RecurrentSpec
from edgeseq.lowering.strategy import Lowered, Signals


def decline(spec: RecurrentSpec, target: str) -> str:  # noqa: ARG001
    """Why this strategy cannot lower `spec` for `target`; empty when it can."""
    return stepwise.decline(spec)


def lower(b: Builder, spec: RecurrentSpec, signals: Signals) -> Lowered:
    """Nodes for the whole layer."""
    return stepwise.lower(b, spec, signals, _run, "Scan", compact=True)


def _run(b: Builder, work: stepwise.Pass) -> stepwise.Ran:
    spec = work.spec
    initial = list(work.initial) or cells.zero_states(b, spec, work.products)
    count = len(initial)
    if work.carries_output:
        before = work.output_before
        initial.append(cells.zero_output(b, spec, work.products) if before is None else before)

    dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
    body = b.body()
    carried = [_input(f"carried_{index}", dtype) for index in range(len(initial))]
    products = _input("products", dtype)
    scanned = [products]
    mask = None
    if work.mask is not None:
        mask = _input("mask", ir.DataType.BOOL)
        scanned.append(mask)
    after, output = stepwise.masked_step(body, work, products, mask, list(carried))
    # A graph must not list one value twice, nor put an input out. An Identity copies, so only those get one.
    results: list[ir.Value] = []
    for value in [*after, *([output] if work.wants_sequence else [])]:
        plain = value.producer() is not None and all(value is not other for other in results)
        results.append(value if plain else body.op("Identity", value))
    ranks = [*spec.state_ranks, *[spec.output_rank] * (len(results) - count)]
    for value, rank in zip(results, ranks, strict=True):
        # A body states the types of its outputs, and their ranks where onnxruntime cannot infer them.
        value.type, value.shape = ir.TensorType(dtype), ir.Shape([None] * rank)
    graph = ir.Graph([*carried, *scanned], results, nodes=body.nodes, initializers=body.own, name="step")
    made = b.multi(
        "Scan",
        *initial,
        work.products,
        *([] if work.mask is None else [work.mask]),
        outputs=len(results),
        body=graph,
        num_scan_inputs=len(scanned),
        scan_input_directions=[int(work.backwards)] * len(scanned),
    )
    return stepwise.Ran(
        sequence=made[-1] if work.wants_sequence else None,
        end=made[count] if work.carries_output else made[0],
        states=tuple(made[:count]),
    )


def _input(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype))
