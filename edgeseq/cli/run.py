"""`edgeseq run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile, Overwrite, Provider, ProviderOption, Ranges, Threads, key_values
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.running import RunReport

_SHOWN = 1000
"""Numbers of an output that are printed; of more, those at the ends."""


def run(
    model: OnnxFile,
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUTS",
            help=".npz by input name, .npy, .txt (a text a line), .jsonl (a row a line), or - for texts on stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".npz, .npy, .json, or for frames .gif, .png. Default: print the outputs."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Apply the file's preprocessing before, and its inverse after.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Go through the time axis in chunks, keeping the state.")
    ] = False,
    chunk: Annotated[int | None, typer.Option("--chunk", help="Steps of a chunk. Default: 1.")] = None,
    provider: Provider = "cpu",
    provider_option: ProviderOption = None,
    ranges: Ranges = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows of a call.")] = 256,
    overwrite: Overwrite = False,
) -> Reply:
    """Run a file on inputs, whole or as a stream, and print or write its outputs."""
    from edgeseq.cli.console import progress_bar
    from edgeseq.running import run_file
    from edgeseq.runtime.ranges import parse_ranges

    with progress_bar() as progress:
        report = run_file(
            model,
            inputs,
            output,
            raw=raw,
            stream=stream,
            chunk=chunk,
            provider=provider,
            provider_options=key_values(provider_option),
            ranges=parse_ranges(ranges or ()),
            threads=threads,
            batch=batch,
            overwrite=overwrite,
            progress=progress,
        )
    return Reply(document=report, show=lambda out: _show(report, out))


def _show(report: RunReport, out: Console) -> None:
    import numpy as np

    from edgeseq.cli.console import notes

    for output in report.outputs:
        axes = " x ".join(map(str, output.shape))
        out.print(f"{output.name}: {output.dtype}, {axes}", soft_wrap=True)
        if report.output_path is None:
            values = np.array(output.values, dtype=output.dtype)
            out.print(
                np.array2string(values, threshold=_SHOWN, precision=6, suppress_small=True, max_line_width=out.width),
                soft_wrap=True,
            )
    notes(out, report.notes)
    if report.output_path is not None:
        out.print(f"wrote {report.output_path}", soft_wrap=True)
