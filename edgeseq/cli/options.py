"""Options that several commands share, and what every command has: `--json`, `--debug`, and a clean stdout."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseq.cli.reply import Reply

_LINES = "lines"

Command = Callable[..., Reply | None]

OnnxFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Provider = Annotated[
    str,
    typer.Option(
        "--provider",
        "-p",
        metavar="NAME",
        help="cpu, cuda, tensorrt, or ONNX Runtime's name of another: all runs there, or an error says what would "
        "not. A list, as cuda,cpu, allows the later ones.",
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option("--provider-option", metavar="KEY=VALUE", help="An option of the provider's; may be repeated."),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="AXIS=MIN:MAX",
        help="For tensorrt: lengths that its engine is built for, as time=1:200 or, with the one to be fastest at, "
        "time=1:100:200; may be repeated. Default: 1 to the longest in the samples.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads within an op; 0 for all cores. Default: what the file recommends."),
]

_COMMON = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks and all libraries' messages.")],
}


def command(function: Command) -> Command:
    """`function` with the common options; whatever it or a library prints while it runs goes to stderr.

    The boundary looks for the common options itself, because it needs them also when parsing fails. A function with a
    parameter `lines` gets stdout in it, to write to while it runs, or None where `--json` promises one document there.
    """
    signature = inspect.signature(function, eval_str=True)
    writes_lines = _LINES in signature.parameters

    def run(**arguments: Any) -> Reply | None:
        as_json = arguments["as_json"]
        for name in _COMMON:
            del arguments[name]
        if writes_lines:
            arguments[_LINES] = None if as_json else sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            return function(**arguments)

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    parameters = [*(found for name, found in signature.parameters.items() if name != _LINES), *common]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def key_values(texts: list[str] | None) -> dict[str, str]:
    """Options given as ``KEY=VALUE``."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE, as in device_id=1")
        if key.strip() in found:
            raise typer.BadParameter(f"{key.strip()} is given twice")
        found[key.strip()] = value.strip()
    return found


def fraction(text: str) -> float:
    """A share given as ``2%`` or as ``0.02``."""
    number = text.strip()
    try:
        return float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither 2% nor 0.02") from error
