"""`edgeseq inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.inspection import Inspection
    from edgeseq.prediction import Prediction

_SHOWN = 12
"""Nodes listed one by one; `--json` has all."""


def inspect(
    model: OnnxFile,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Predict where each node would run: cuda or tensorrt. Needs no GPU.", metavar="NAME"
        ),
    ] = None,
) -> Reply:
    """Show what is in a file: inputs, outputs, states, ops, layers, parameters, preprocessing; where it would run."""
    from edgeseq.inspection import inspect as look_into

    found = look_into(model, target)
    return Reply(document=found, show=lambda out: _show(found, out))


def _show(found: Inspection, out: Console) -> None:
    from edgeseq.bench.units import size
    from edgeseq.cli.console import notes, section, table

    keras = "" if found.parameters is None else f", {found.parameters:,} Keras parameters"
    weights = f"{found.weights:,} weights ({size(found.weights_bytes)})"
    out.print(f"{found.path}: {size(found.size_bytes)}, opset {found.opset}{keras}, {weights}", soft_wrap=True)
    for name, length in found.data_files.items():
        there = "not found, so the model cannot be run" if length is None else size(length)
        out.print(f"weights in {name}: {there}", soft_wrap=True)
    tensors = table("", "name", "dtype", "axes")
    for what, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            tensors.add_row(what, spec.name, spec.dtype, _axes(spec.axes))
    for state in found.states:
        tensors.add_row("state in", state.input, state.dtype, _axes(state.axes))
        tensors.add_row("state out", state.output, state.dtype, _axes(state.axes))
    section(out, "Tensors", tensors)
    if found.recurrent:
        layers = table("layer", "type", "strategy", "ops", "why")
        for layer in found.recurrent:
            layers.add_row(layer.name, layer.layer_type, layer.strategy, ", ".join(layer.op_types), layer.reason)
        section(out, "Recurrent layers", layers)
    ops = ", ".join(f"{count} {name}" for name, count in found.ops.items())
    out.print(f"{found.nodes} nodes: {ops}", soft_wrap=True)
    for name, kind in found.preprocessing.items():
        out.print(f"preprocessing of {name}: {kind} (used by raw=True, edgeseq run --raw)", soft_wrap=True)
    if found.quantization is not None:
        forms = ", ".join(f"{layer} {form}" for layer, form in found.quantization.layers.items())
        rows = "rows do not" if found.quantization.rows_independent else "rows may"
        out.print(f"quantized ({found.quantization.method}): {forms}; {rows} depend on each other", soft_wrap=True)
    if found.compiled is not None:
        built_on = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.compiled.built_on.items())
        out.print(f"compiled in {found.compiled.precision} for {found.compiled.provider}: {built_on}", soft_wrap=True)
        for axis, (shortest, _, longest) in found.compiled.ranges.items():
            out.print(f"takes {axis} from {shortest} to {longest}", soft_wrap=True)
    if found.has_manifest:
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        out.print(
            f"tolerance {found.tolerance:.0e}; model {found.model_hash[:12]}; written by {versions}", soft_wrap=True
        )
    else:
        notes(out, ["edgeseq did not write this file: it has no manifest"])
    if found.prediction is not None:
        _show_prediction(found.prediction, out)


def _show_prediction(prediction: Prediction, out: Console) -> None:
    from edgeseq.cli.console import section, table

    counts = ", ".join(f"{count} {provider}" for provider, count in prediction.counts.items())
    leaving = len(prediction.leaving)
    verdict = (
        f"{leaving} floating-point node{'s' * (leaving > 1)} elsewhere" if leaving else "all floating-point nodes there"
    )
    out.print(f"predicted on {prediction.target}: {counts}; {verdict} (by {prediction.rules})", soft_wrap=True)
    if prediction.host:
        ops = Counter(node.op_type for node in prediction.host)
        listed = ", ".join(f"{count} {op}" for op, count in ops.most_common())
        out.print(f"integer arithmetic elsewhere, which is no error: {listed}", soft_wrap=True)
    if prediction.leaving:
        nodes = table("layer", "op", "node", "why", "what would help")
        for node in prediction.leaving[:_SHOWN]:
            nodes.add_row(node.layer, node.op_type, node.name, node.reason, node.rewrite)
        section(out, f"Not on {prediction.target}", nodes)
    if len(prediction.leaving) > _SHOWN:
        out.print(f"and {len(prediction.leaving) - _SHOWN} more (--json lists all)", soft_wrap=True)


def _axes(axes: Sequence[str | int]) -> str:
    return "(" + ", ".join(map(str, axes)) + ")"
