"""`edgeseq quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile, Output, Overwrite, fraction
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.quantization import LayerReport, QuantizationReport


def quantize(
    model: OnnxFile,
    output: Output,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="Real inputs: .npz by input name, .npy, .csv or .parquet. Needed unless there is a plan.",
            show_default=False,
        ),
    ] = None,
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
    metric: Annotated[
        str | None, typer.Option("--metric", help="With --labels: accuracy or mae. Default: accuracy, or the plan's.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=fraction,
            metavar="DROP",
            help="With --labels: by how much the metric may get worse, in its own unit or in %. Default: 0.5%.",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Largest file: 500kB, 2.5MB, or 30% of the fp32 file."),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", metavar="MS", help="Longest time of one call. Exit code 1: not reached."),
    ] = None,
    goal: Annotated[str, typer.Option("--goal", help="What gain counts: balanced, latency or size.")] = "balanced",
    target: Annotated[
        str, typer.Option("--target", help="Where it is to run, and is measured: cpu, cuda or tensorrt.")
    ] = "cpu",
    batch: Annotated[
        int | None, typer.Option("--batch", help="Rows of a call that is timed. Default: 1, or what the file fixes.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads within an op; 0 for all cores. Default: the best is measured."),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", help="Most rows of the samples to use.", show_default=False)
    ] = None,
    row_leak: Annotated[
        bool | None,
        typer.Option(
            "--allow-row-leak/--forbid-row-leak",
            help="Use forms in which a row's answer depends on its neighbours. Default: only at batch 1, where only "
            "time steps are neighbours. Never used in files with states.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Make the file that a plan says, without measuring times.")
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option("--save-plan", help="Write what was decided, .json, for --plan.")
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", help="Write a page (.html) or picture (.png, .svg) of it all; may be repeated."),
    ] = None,
    overwrite: Overwrite = False,
) -> Reply:
    """Write a smaller and faster form of a file, within a budget of accuracy. Every choice is measured here."""
    from edgeseq.cli.console import progress_bar
    from edgeseq.quantization import quantize as search
    from edgeseq.quantization.samples import DEFAULT_MAX_SAMPLES

    with progress_bar() as progress:
        found = search(
            model,
            output,
            samples=samples,
            labels=labels,
            metric=metric,
            max_error=max_error,
            max_drop=max_drop,
            max_size=max_size,
            max_latency_ms=max_latency_ms,
            goal=goal,
            target=target,
            batch=batch,
            threads=threads,
            max_samples=DEFAULT_MAX_SAMPLES if max_samples is None else max_samples,
            allow_row_leak=row_leak,
            plan=plan,
            save_plan=save_plan,
            report=report or (),
            overwrite=overwrite,
            progress=progress,
        )
    return Reply(document=found, show=lambda out: _show(found, out))


def _show(report: QuantizationReport, out: Console) -> None:
    from edgeseq.bench.units import duration, significant, size, times
    from edgeseq.cli.console import notes, section, table

    layers = table("layer", "op", "weights", "chosen", "speed", "error", "why", right=("weights", "speed", "error"))
    for layer in report.layers:
        layers.add_row(layer.name, layer.op_type, size(layer.weight_bytes), layer.chosen, *_chosen(layer, report))
    section(out, "Layers", layers)
    ratio = report.source_size_bytes / report.size_bytes
    smaller = f"{size(report.source_size_bytes)} -> {size(report.size_bytes)} ({times(ratio)} smaller)"
    fp32 = "the plan keeps fp32" if report.plan else "nothing helped, it is the fp32 file"
    out.print(f"{report.path}: {smaller if report.quantized else fp32}", soft_wrap=True)
    budget = "" if report.max_error is None else f" (budget {report.max_error:.2%})"
    held_out = "" if report.held_out_error is None else f", on held-out rows {report.held_out_error:.2%}"
    if report.error is not None:
        out.print(f"error {report.error:.2%}{held_out}{budget}")
    if report.metric_before is not None and report.metric_after is not None:
        out.print(
            f"{report.metric} {report.metric_before:.4f} -> {report.metric_after:.4f} (may drop {report.max_drop:g})"
        )
    used = {0: "all cores", 1: "1 thread"}.get(report.threads, f"{report.threads} threads")
    if report.speed is not None and report.latency_ms is not None and report.source_latency_ms is not None:
        speed = report.speed
        between = "" if speed.low is None else f", 95 % interval {speed.low:.2f} to {speed.high:.2f}"
        out.print(
            f"speed {times(speed.value)} that of fp32{between}: {duration(report.source_latency_ms * 1e6)} -> "
            f"{duration(report.latency_ms * 1e6)} a call of {report.batch} row(s), {used}",
            soft_wrap=True,
        )
    notes(out, report.notes)
    written = [path for path in (report.saved_plan, *report.pages) if path is not None]
    if written:
        out.print(f"wrote {', '.join(written)}", soft_wrap=True)
    took = "made from the plan" if report.plan else "searched"
    out.print(
        f"{took} in {significant(report.seconds)} s; next: edgeseq bench {report.source_path} {report.path}",
        soft_wrap=True,
    )


def _chosen(layer: LayerReport, report: QuantizationReport) -> tuple[str, str, str]:
    """Speed, error and reason of the form chosen, or the reasons against all others."""
    from edgeseq.bench.units import times

    for entry in layer.candidates:
        if entry.verdict == "chosen":
            speed = "-" if entry.speed is None else times(entry.speed.value)
            return speed, "-" if entry.error is None else f"{entry.error:.2%}", entry.reason
    if report.plan:
        return "-", "-", "as the plan says"
    reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in layer.candidates)
    return "-", "-", reasons or "no form applies"
