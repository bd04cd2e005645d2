"""The Typer application: which commands there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgeseq import __version__
from edgeseq.cli import bench, check, doctor, export, inspect, quantize, report, run, train
from edgeseq.cli import compile as compile_command
from edgeseq.cli.options import command

_ABOUT = """\
Keras sequence models to exact, native ONNX: train, export, check, quantize, benchmark, run.

Exit codes: 0 done; 1 the answer is no (parity failed, a regression found); 2 wrong usage, a missing input or an
existing output; 3 a provider, package or data set is not available; 4 refused: it cannot be exported exactly;
5 an unreadable or invalid file; 70 a bug in edgeseq; 130 interrupted; 143 stopped by SIGTERM.
"""


def build() -> Any:
    """The whole command, ready to parse arguments."""
    app = typer.Typer(
        help=_ABOUT,
        # Plain help: square brackets, as in edgeseq[cpu], would be taken for markup.
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    train.register(app)
    for module in (export, inspect, check, quantize, compile_command, bench, run, report, doctor):
        function = getattr(module, module.__name__.rpartition(".")[2])
        app.command()(command(function))
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeseq {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
