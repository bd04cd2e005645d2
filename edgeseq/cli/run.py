"""`edgeseq run`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from edgeseq.cli.options import OnnxFile, Overwrite, Provider, ProviderOption, Ranges, Threads, key_values
from edgeseq.cli.reply import Reply
from edgeseq.errors import WrongUsage

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.running import RunReport
    from edgeseq.stepping import SteppingReport

_SHOWN = 1000
"""Numbers of an output that are printed; of more, those at the ends."""


def run(
    model: OnnxFile,
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUTS",
            help=".npz by input name, .npy, .txt (a text a line), .jsonl (a row a line), or - for texts on stdin. With "
            "--stream, .jsonl or - is a step or a chunk a line, answered at once by a line.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=".npz, .npy, .json, or for frames .gif, .png; for a stream of lines .jsonl. Default: print outputs.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Apply the file's preprocessing before, and its inverse after.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Go through the time axis in chunks, keeping the state.")
    ] = False,
    chunk: Annotated[
        int | None, typer.Option("--chunk", help="Steps of a chunk. Default: the fewest that the file takes, mostly 1.")
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames",
            metavar="DTYPE",
            help="With --stream: inputs are raw little-endian numbers, float32 or int16 for example, step after step.",
        ),
    ] = None,
    state_in: Annotated[
        Path | None, typer.Option("--state-in", help="Begin the stream from the state in this file.")
    ] = None,
    state_out: Annotated[
        Path | None, typer.Option("--state-out", help="Write the stream's last state, for --state-in of another run.")
    ] = None,
    provider: Provider = "cpu",
    provider_option: ProviderOption = None,
    ranges: Ranges = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows of a call.")] = 256,
    overwrite: Overwrite = False,
    lines: IO[str] | None = None,
) -> Reply:
    """Run a file on inputs, whole or as a stream, and print or write its outputs.

    A stream that reads lines or frames prints a line of JSON for each as soon as it is answered; with --json one
    document at the end, which holds the error alone where the input is refused. It ends with its input, or by Ctrl-C or
    SIGTERM (exit code 143).
    """
    from edgeseq.cli.console import progress_bar
    from edgeseq.lines import takes_steps
    from edgeseq.running import run_file
    from edgeseq.runtime.ranges import parse_ranges
    from edgeseq.stepping import step_file

    if frames is not None and not stream:
        raise WrongUsage("frames are for streams (--stream)")
    choices: dict[str, Any] = {
        "chunk": chunk,
        "state_in": state_in,
        "state_out": state_out,
        "provider": provider,
        "provider_options": key_values(provider_option),
        "ranges": parse_ranges(ranges or ()),
        "threads": threads,
        "overwrite": overwrite,
    }
    if stream and not raw and takes_steps(inputs, frames):
        stepped = step_file(model, inputs, output, lines=lines, frames=frames, **choices)
        return Reply(document=stepped, show=lambda out: _show_stepped(stepped, out), exit_code=_exit_code(stepped))
    with progress_bar() as progress:
        report = run_file(model, inputs, output, raw=raw, stream=stream, batch=batch, progress=progress, **choices)
    return Reply(document=report, show=lambda out: _show(report, out))


def _exit_code(report: SteppingReport) -> int:
    """0, or a shell's for the signal that ended the stream; stderr then says how far it came, whatever stdout holds."""
    if report.interrupted_by is None:
        return 0
    kept = "" if report.state_path is None else f"; the state after them is in {report.state_path}"
    sys.stderr.write(f"interrupted: chunks answered: {report.chunks} (steps: {report.steps}){kept}\n")
    return 128 + signal.Signals[report.interrupted_by]


def _show_stepped(report: SteppingReport, out: Console) -> None:
    # Where the answers are on stdout, nothing else is.
    if report.output_path is not None:
        out.print(f"{report.chunks} chunks, {report.steps} steps; wrote {report.output_path}", soft_wrap=True)


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
