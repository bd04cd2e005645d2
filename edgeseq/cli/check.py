"""`edgeseq check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseq.cli.options import OnnxFile, Provider, ProviderOption, Ranges, key_values
from edgeseq.cli.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.parity import Parity


def check(
    model: OnnxFile,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "-r",
            help="A Keras model or another .onnx file. Default: the golden samples beside the file.",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            "-i",
            help=".npz by input name, or .npy; only with --reference. Default: those of the golden samples.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Largest difference over max(1, largest reference answer). Default: what the file states.",
        ),
    ] = None,
    provider: Provider = "cpu",
    provider_option: ProviderOption = None,
    ranges: Ranges = None,
) -> Reply:
    """Compare the file's answers with Keras's, another file's, or the golden samples. Exit code 1: they differ."""
    from edgeseq.arrays import read_inputs
    from edgeseq.cli.console import working
    from edgeseq.cli.quiet import import_tensorflow
    from edgeseq.parity import compare
    from edgeseq.runtime.ranges import parse_ranges

    options = key_values(provider_option)
    given = None if inputs is None else read_inputs(inputs, "inputs")
    with working("comparing"):
        if reference is not None and reference.suffix != ".onnx":
            import_tensorflow()
        parity = compare(
            model,
            reference,
            given,
            tolerance=tolerance,
            provider=provider,
            provider_options=options,
            ranges=parse_ranges(ranges or ()),
        )
    return Reply(document=parity, show=lambda out: _show(parity, out), exit_code=0 if parity else 1)


def _show(parity: Parity, out: Console) -> None:
    from edgeseq.cli.console import notes
    from edgeseq.cli.parity import show_parity

    show_parity(parity, out)
    notes(out, parity.notes)
    out.print("parity holds" if parity else "parity failed")
