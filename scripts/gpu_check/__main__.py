"""The command: `scripts/gpu-check`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseq import files
from edgeseq.errors import EdgeseqError, WrongUsage
from gpu_check.check import BATCHES
from gpu_check.results import GpuCheck
from gpu_check.run import SECONDS, run
from gpu_check.table import to_markdown

QUICK_SECONDS = 90.0

_EPILOG = """exit codes: 0 every expectation that could be judged is met; 1 one is not; 2 wrong usage;
3 a provider asked for cannot start; 5 the set is damaged"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a set, or check one; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.prepare:
        parser.error("-o OUT.json is needed: where to write the results")
    try:
        if options.prepare:
            # TensorFlow is needed for this alone.
            from gpu_check.prepare import prepare

            prepare(options.folder, only=options.only, overwrite=options.overwrite, progress=_progress)
            return 0
        return _check(options)
    except EdgeseqError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _check(options: argparse.Namespace) -> int:
    output: Path = options.output
    shown = output.with_suffix(".md")
    for path in (output, shown):
        files.check_output(path, overwrite=options.overwrite)
    told = _options(options.provider_option)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    found = run(
        options.folder,
        options.provider or ["cuda", "tensorrt"],
        options=told,
        batches=tuple(options.batch or (BATCHES[:2] if options.quick else BATCHES)),
        only=options.only,
        seconds=seconds,
        keep=lambda check: _write(check, output, shown),
        progress=_progress,
    )
    _write(found, output, shown)
    print(to_markdown(found))
    return found.exit_code


def _write(found: GpuCheck, output: Path, shown: Path) -> None:
    files.write_bytes(shown, to_markdown(found).encode())
    files.write_json(output, _finite(dataclasses.asdict(found)))


def _finite(value: Any) -> Any:
    """`value` as strict JSON has it: null for a number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _options(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise WrongUsage(f"--provider-option is name=value; got '{text}'")
    return dict(text.split("=", 1) for text in texts)


def _progress(stage: str, done: int, total: int) -> None:
    sys.stderr.write(f"[{done + 1}/{total}] {stage}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check",
        description="Make a set of models with golden answers, or hold a machine's providers against it.",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="the set")
    parser.add_argument("--prepare", action="store_true", help="make the set (needs TensorFlow) and do no more")
    parser.add_argument("-o", "--output", type=_json_file, metavar="OUT.json", help="results; a table goes to OUT.md")
    parser.add_argument(
        "-p", "--provider", action="append", help="cuda, tensorrt, cpu or onnxruntime's own name (cuda and tensorrt)"
    )
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of every provider but the CPU",
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this model of the set")
    parser.add_argument("--batch", action="append", type=_positive, help="rows of a call (1, 32 and 256)")
    parser.add_argument("--seconds", type=_seconds, help=f"time for all of it ({SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help=f"batches 1 and 32, {QUICK_SECONDS:g} seconds")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def _json_file(text: str) -> Path:
    if (path := Path(text)).suffix != ".json":
        raise argparse.ArgumentTypeError(f"results are written as .json, and as .md beside it; got {path.name}")
    return path


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
