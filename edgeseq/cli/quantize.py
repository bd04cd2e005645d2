"""`edgeseq quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile, Output, Overwrite, fraction
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.quantization import QuantizationReport


def quantize(
    model: OnnxFile,
    output: Output,
    samples: Annotated[
        Path, typer.Option("--samples", help="Real inputs: .npz by input name, or .npy.", show_default=False)
    ],
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            parser=fraction,
            metavar="SHARE",
            help="Largest relative RMS error against the file, 2% or 0.02, at most 100%. Default without labels: 2%.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Right answers, .npy (class numbers for accuracy): the metric counts, too."),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="With --labels: accuracy or mae.")] = "accuracy",
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=fraction,
            metavar="DROP",
            help="With --labels: by how much the metric may get worse, in its own unit or in %. Default: 0.5%.",
        ),
    ] = None,
    rows_independent: Annotated[
        bool, typer.Option("--rows-independent", help="Use no form in which a row's answer depends on its neighbours.")
    ] = False,
    overwrite: Overwrite = False,
) -> Reply:
    """Write a smaller and faster form of a file, within a budget of accuracy. Every choice is measured here."""
    from edgeseq.cli.console import progress_bar
    from edgeseq.quantization import quantize as search

    with progress_bar() as progress:
        report = search(
            model,
            output,
            samples=samples,
            labels=labels,
            metric=metric,
            max_error=max_error,
            max_drop=max_drop,
            allow_row_leak=not rows_independent,
            overwrite=overwrite,
            progress=progress,
        )
    return Reply(document=report, show=lambda out: _show(report, out))


def _show(report: QuantizationReport, out: Console) -> None:
    from edgeseq.bench.units import size, times
    from edgeseq.cli.console import notes, section, table

    layers = table("layer", "op", "weights", "chosen", "why", right=("weights",))
    for layer in report.layers:
        reasons = [tried.reason for tried in layer.candidates if tried.verdict == "chosen"] or [
            f"{tried.name}: {tried.reason}" for tried in layer.candidates
        ]
        reasons = reasons or ["no form applies"]
        layers.add_row(layer.name, layer.op_type, size(layer.weight_bytes), layer.chosen, "; ".join(reasons))
    section(out, "Layers", layers)
    ratio = report.source_size_bytes / report.size_bytes
    smaller = f"{size(report.source_size_bytes)} -> {size(report.size_bytes)} ({times(ratio)} smaller)"
    out.print(
        f"{report.path}: {smaller}" if report.quantized else f"{report.path}: nothing helped, it is the fp32 file"
    )
    budget = "" if report.max_error is None else f" (budget {report.max_error:.2%})"
    held_out = "" if report.held_out_error is None else f", on held-out rows {report.held_out_error:.2%}"
    out.print(f"error {report.error:.2%}{held_out}{budget}")
    if report.metric is not None:
        out.print(
            f"{report.metric} {report.metric_before:.4f} -> {report.metric_after:.4f} (may drop {report.max_drop:g})"
        )
    if report.speed is not None:
        speed = report.speed
        between = "" if speed.low is None else f", 95 % interval {speed.low:.2f} to {speed.high:.2f}"
        out.print(f"speed {times(speed.value)} that of fp32 at one row{between}")
    notes(out, report.notes)
    out.print(f"next: edgeseq bench {report.source_path} {report.path}", soft_wrap=True)
