"""`edgeseq inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeseq.cli.options import OnnxFile
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.inspection import Inspection


def inspect(model: OnnxFile) -> Reply:
    """Show what is in a file: inputs, outputs, states, ops, layers, parameters, preprocessing."""
    from edgeseq.inspection import inspect as look_into

    found = look_into(model)
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
    if found.has_manifest:
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        out.print(
            f"tolerance {found.tolerance:.0e}; model {found.model_hash[:12]}; written by {versions}", soft_wrap=True
        )
    else:
        notes(out, ["edgeseq did not write this file: it has no manifest"])


def _axes(axes: Sequence[str | int]) -> str:
    return "(" + ", ".join(map(str, axes)) + ")"
