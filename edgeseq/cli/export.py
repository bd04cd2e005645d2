"""`edgeseq export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import Output, Overwrite
from edgeseq.cli.reply import Reply
from edgeseq.files import check_input, check_output, read_json

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.conversion import ExportReport


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.keras",
            help="The Keras model: .keras, .h5 or .hdf5 of any Keras, or its .json config.",
            show_default=False,
        ),
    ],
    output: Output,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights of the model, .h5; a .json needs it.")
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset to write.")] = 18,
    target: Annotated[str, typer.Option("--target", help="Where the file will run: cpu, cuda or tensorrt.")] = "cpu",
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Make every recurrent state an input and an output.")
    ] = False,
    lowering: Annotated[
        str, typer.Option("--lowering", help="How recurrent layers are written: auto, fused, unrolled or scan.")
    ] = "auto",
    allow_loop: Annotated[
        bool, typer.Option("--allow-loop", help="Allow ONNX Loop where the model has while-loops of its own.")
    ] = False,
    samples: Annotated[
        Path | None,
        typer.Option(help="Real inputs to check with and to keep as golden samples: .npz by input name, or .npy."),
    ] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(help="JSON that turns raw data into inputs. Default: MODEL.preprocessing.json where it exists."),
    ] = None,
    overwrite: Overwrite = False,
) -> Reply:
    """Convert a Keras model to exact, native ONNX; verify it against Keras; write it."""
    from edgeseq.arrays import read_inputs
    from edgeseq.cli.console import working
    from edgeseq.cli.quiet import import_tensorflow

    # Before TensorFlow is imported, which takes seconds.
    check_input(model, "model file")
    if weights is not None:
        check_input(weights, "weights file")
    check_output(output, overwrite=overwrite)
    given = None if samples is None else read_inputs(samples, "samples")
    steps = None if preprocessing is None else read_json(preprocessing)
    with working("exporting"):
        import_tensorflow()
        from edgeseq.conversion import export as convert

        result = convert(
            model,
            output,
            weights=weights,
            opset=opset,
            target=target,
            streaming=streaming,
            lowering=lowering,
            allow_loop=allow_loop,
            samples=given,
            preprocessing=steps,
            overwrite=overwrite,
        )
    return Reply(document=result, show=lambda out: _show(result, out))


def _show(report: ExportReport, out: Console) -> None:
    from edgeseq.bench.units import size
    from edgeseq.cli.console import notes, section, table
    from edgeseq.cli.parity import show_parity

    loops = "no Loop" if not report.loops else f"{report.loops} Loop"
    out.print(
        f"{report.path}: {size(report.size_bytes)}, {report.parameters:,} parameters, {report.nodes} nodes, {loops}",
        soft_wrap=True,
    )
    if report.recurrent:
        layers = table("layer", "type", "strategy", "ops", "why")
        for layer in report.recurrent:
            layers.add_row(layer.name, layer.layer_type, layer.strategy, ", ".join(layer.op_types), layer.reason)
        section(out, "Recurrent layers", layers)
    show_parity(report.parity, out)
    if report.data_path is not None:
        out.print(f"weights: {report.data_path}. Keep it in the folder of {report.path}", soft_wrap=True)
    if report.states:
        out.print(f"states to carry: {', '.join(report.states)}", soft_wrap=True)
    notes(out, report.notes)
    out.print(f"golden samples: {report.golden_path}", soft_wrap=True)
    out.print(f"converted in {report.conversion_seconds:.1f} s, verified in {report.verification_seconds:.1f} s")
    out.print(
        f"next: edgeseq bench {report.path}; edgeseq quantize {report.path} -o small.onnx --samples x.npz",
        soft_wrap=True,
    )
