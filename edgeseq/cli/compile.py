"""`edgeseq compile`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile, Overwrite, Provider, ProviderOption, Ranges, key_values
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.compiling import CompileReport
    from edgeseq.runtime.partitions import Partitions


def compile(  # noqa: A001 - the command's name
    model: OnnxFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write. Default: MODEL.tensorrt.onnx.", show_default=False),
    ] = None,
    provider: Provider = "tensorrt",
    ranges: Ranges = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples", help="Inputs to take ranges from and to check with: .npz, .npy. Default: the golden samples."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="What TensorRT may round to: fp32, fp16 or bf16.")
    ] = "fp32",
    provider_option: ProviderOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and whether it was before; build nothing.")
    ] = False,
    overwrite: Overwrite = False,
) -> Reply:
    """Build the provider's engine ahead of time and write it into an ONNX file that starts without building."""
    from edgeseq.arrays import read_inputs
    from edgeseq.cli.console import working
    from edgeseq.compiling import compile_model
    from edgeseq.runtime.ranges import parse_ranges

    options = key_values(provider_option)
    wanted = parse_ranges(ranges or ())
    given = None if samples is None else read_inputs(samples, "samples")
    with working("planning" if dry_run else "compiling"):
        report = compile_model(
            model,
            output,
            provider=provider,
            ranges=wanted,
            samples=given,
            precision=precision,
            provider_options=options,
            dry_run=dry_run,
            overwrite=overwrite,
        )
    return Reply(document=report, show=lambda out: _show(report, out))


def _show(report: CompileReport, out: Console) -> None:
    from edgeseq.bench.units import size
    from edgeseq.cli.console import notes, section, table
    from edgeseq.cli.parity import show_parity

    if report.size_bytes is None:
        verdict = "the engine is there: nothing would be built" if report.cached else "an engine would be built"
        out.print(f"{report.output}: {verdict}", soft_wrap=True)
    else:
        took = "built before" if report.cached else "built"
        out.print(
            f"{report.output}: {size(report.size_bytes)}, {took} in {report.build_seconds or 0.0:.1f} s", soft_wrap=True
        )
    about = table("", "")
    about.add_row("provider", report.provider)
    about.add_row("precision", f"{report.precision}, tolerance {report.tolerance:g}")
    for name, value in report.built_on.items():
        about.add_row(name.replace("_", " "), value or "not found")
    out.print(about)
    if report.ranges:
        lengths = table("axis", "shortest", "fastest", "longest", right=("shortest", "fastest", "longest"))
        for axis, numbers in report.ranges.items():
            lengths.add_row(axis, *(str(number) for number in numbers))
        section(out, "Lengths it takes", lengths)
    if report.options:
        options = table("option", "value")
        for name, value in report.options.items():
            options.add_row(name, value)
        section(out, "Options", options)
    if report.partitions is not None:
        _show_partitions(report.partitions, out)
    if report.parity is not None:
        show_parity(report.parity, out)
    notes(out, report.notes)
    if report.cache_folder is not None:
        out.print(f"engine: {report.cache_folder}", soft_wrap=True)
    if report.golden_path is not None:
        out.print(f"golden samples: {report.golden_path}", soft_wrap=True)


def _show_partitions(partitions: Partitions, out: Console) -> None:
    from edgeseq.cli.console import section, table

    parts = table("where", "nodes", "ops", right=("nodes",))
    for number, subgraph in enumerate(partitions.subgraphs, start=1):
        parts.add_row(f"{partitions.provider}, part {number}", str(subgraph.nodes), _counted(subgraph.op_types))
    for provider in dict.fromkeys(node.provider for node in partitions.left):
        ops = Counter(node.op_type for node in partitions.left if node.provider == provider)
        parts.add_row(provider, str(ops.total()), _counted(dict(ops.most_common())))
    section(out, "Parts of the graph", parts)


def _counted(op_types: dict[str, int]) -> str:
    return ", ".join(op if count == 1 else f"{count} {op}" for op, count in op_types.items())
