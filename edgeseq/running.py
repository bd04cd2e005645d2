"""Run a file on inputs from a file, whole or step by step: what `edgeseq run` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.arrays import READABLE, WRITABLE, plain_numbers, read_inputs, write_arrays
from edgeseq.errors import InputMismatch, InvalidFile, WrongUsage
from edgeseq.files import StrPath
from edgeseq.lines import STDIN, takes_steps, value_of
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import fewest_steps, output_time_axes, time_axes
from edgeseq.runtime.ranges import GivenRanges
from edgeseq.runtime.stream import Stream
from edgeseq.stepping import check_outputs, nested

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

PICTURES = (".gif", ".png")
BATCH = 256
"""Rows of a call; more inputs are run in several."""


@dataclass(frozen=True, kw_only=True)
class RunOutput:
    """One output."""

    name: str
    """Name in the file."""
    dtype: str
    """numpy dtype name."""
    shape: tuple[int, ...]
    """Axes as the file's; see `run_file` for what streaming makes of them."""
    values: Any
    """Nested lists of numbers; None when they were written to a file."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What `run_file` did."""

    path: str
    """The ONNX file."""
    provider: str
    """What was asked for: one provider, or a list of those allowed."""
    ran_on: tuple[str, ...]
    """onnxruntime's names of the providers that ran floating-point nodes, most nodes first."""
    threads: int
    """Threads within an op; 0 means all cores."""
    rows: int
    """Rows of the inputs."""
    calls: int
    """How often the file ran: once for each batch, or for each chunk of a stream."""
    outputs: tuple[RunOutput, ...]
    """In the file's order."""
    output_path: str | None
    """The file of outputs; None when they are in `outputs`."""
    notes: tuple[str, ...] = ()
    """What ran on another provider than the first one asked for."""


def run_file(
    model: StrPath,
    inputs: StrPath,
    output: StrPath | None = None,
    *,
    raw: bool = False,
    stream: bool = False,
    chunk: int | None = None,
    state_in: StrPath | None = None,
    state_out: StrPath | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    batch: int = BATCH,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """Run `model` on the inputs in a file and return or write the outputs.

    `inputs` is an `.npz` file by input name, an `.npy` file, a `.txt` file of one text a line, a `.jsonl` file of one
    row a line (a value, or an object by input name), or ``-`` for texts on stdin; texts need `raw`, which applies the
    file's preprocessing before and its inverse after. Rows are run `batch` at a time where the file takes any batch.

    `stream` goes through the time axis of arrays `chunk` steps at a time (the fewest that the file takes, unless said)
    and carries the states; outputs with a time axis are joined along it, others have an axis of chunks as their second.
    It begins from the states in the file `state_in`, and leaves those after the last step in `state_out`, as
    `Stream.to_bytes` gives them. For a stream that is fed as it comes, see `edgeseq.stepping`.

    `output` is `.npz`, `.npy`, `.json`, or a picture of predicted frames, `.gif` or `.png`: for a single output of
    shape (batch, time, height, width, channels), rows below one another, or (batch, height, width, channels), a row a
    frame; values from 0 to 1, or with `raw` from 0 to 255.

    Raises MissingInput, OutputExists, WrongUsage, InputMismatch, InvalidFile, and what opening the model and restoring
    a state raise.
    """
    target, kept = check_outputs(
        output, state_out, (*WRITABLE, *PICTURES), overwrite=overwrite, sources=(model, inputs)
    )
    if stream and raw:
        raise WrongUsage("a stream takes the arrays that the file takes: preprocessing (raw) is for whole sequences")
    if chunk is not None and (not stream or chunk < 1):
        raise WrongUsage(f"chunk must be at least 1, got {chunk}" if stream else "chunk is for streams (--stream)")
    if not stream and (state_in is not None or state_out is not None):
        raise WrongUsage("states are kept for streams (--stream)")
    if stream and takes_steps(inputs, None):
        raise WrongUsage(f"a stream of {os.fspath(inputs)} is fed line by line: use edgeseq.stepping.step_file")
    state = None if state_in is None else files.check_input(state_in, "saved state").read_bytes()
    if batch < 1:
        raise WrongUsage(f"batch must be at least 1, got {batch}")
    values = _read_inputs(inputs, raw=raw)
    opened = Model(
        model,
        provider=provider,
        provider_options=provider_options,
        ranges=ranges,
        threads=threads,
        batch=_rows(values, batch),
    )
    named = opened.feed.by_name(values)
    if stream:
        outputs, calls, after = _stream(opened, named, chunk, state, progress)
    else:
        outputs, calls = _batches(opened, named, batch, raw, progress)
    if target is not None and target.suffix in PICTURES:
        _write_frames(target, outputs, raw=raw)
    elif target is not None:
        write_arrays(target, outputs)
    if stream and kept is not None:
        files.write_bytes(kept, after.to_bytes())
    return RunReport(
        path=os.fspath(model),
        provider=opened.provider,
        ran_on=opened.placement.ran_on if opened.placement else (),
        threads=opened.threads,
        rows=_length(next(iter(named.values()))),
        calls=calls,
        outputs=tuple(
            RunOutput(
                name=name,
                dtype=array.dtype.name,
                shape=array.shape,
                values=plain_numbers(array.tolist()) if target is None else None,
            )
            for name, array in outputs.items()
        ),
        notes=opened.placement.notes if opened.placement else (),
        output_path=None if target is None else os.fspath(target),
    )


def _read_inputs(inputs: StrPath, *, raw: bool) -> Any:
    """What the model is to be given: an array, arrays by name, texts, or rows."""
    path = Path(inputs)
    is_text = os.fspath(inputs) == STDIN or path.suffix == ".txt"
    if is_text and not raw:
        raise WrongUsage("texts need the file's preprocessing: run with --raw (raw=True in Python)")
    if is_text:
        return _read_texts(inputs)
    if path.suffix == ".jsonl":
        return _read_rows(path)
    if path.suffix not in READABLE:
        raise WrongUsage(f"inputs must be .npz, .npy, .txt, .jsonl, or - for texts on stdin; got {os.fspath(inputs)}")
    return read_inputs(path)


def _read_texts(inputs: StrPath) -> list[str]:
    try:
        if os.fspath(inputs) == STDIN:
            content = sys.stdin.read()
        else:
            content = files.check_input(inputs, "inputs").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFile(inputs, f"it is not text in UTF-8 ({error})") from error
    # A byte-order mark, which some editors write, would be part of the first word.
    content = content.removeprefix("\ufeff")
    if not content:
        raise InvalidFile(inputs, "it holds no text")
    # Not splitlines, which also splits at characters that reviews do hold, such as U+0085 and U+2028.
    return content.removesuffix("\n").split("\n")


def _read_rows(path: Path) -> list[Any] | dict[str, list[Any]]:
    """Rows of JSON lines: a list of values, or where the lines are objects a list for each of their keys."""
    rows = [value_of(line, number, os.fspath(path)) for number, line in enumerate(_read_texts(path), start=1)]
    if not isinstance(rows[0], dict):
        return rows
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            raise InvalidFile(path, f"line {number} is no object with the keys of line 1 ({', '.join(rows[0])})")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _rows(values: Any, batch: int) -> int:
    """Rows of a call, before the file is open: what its advice on threads goes by."""
    first = next(iter(values.values())) if isinstance(values, dict) else values
    return max(1, min(_length(first), batch))


def _length(value: Any) -> int:
    return 1 if getattr(value, "ndim", 1) == 0 else len(value)


def _batches(
    model: Model, values: Mapping[str, Any], batch: int, raw: bool, progress: Progress | None
) -> tuple[dict[str, Array], int]:
    """The answers, rows joined, and the number of calls."""
    total = max(_length(value) for value in values.values())
    rows = {spec.axes[0] if spec.batch_axis == 0 else None for spec in (*model.inputs, *model.outputs)}
    # Rows can be cut and joined where one free axis comes first everywhere; others may have lengths of their own.
    size = batch if len(rows) == 1 and isinstance(rows.pop(), str) else max(total, 1)
    answers = []
    for start in range(0, max(total, 1), size):
        part = values if size >= total else {name: value[start : start + size] for name, value in values.items()}
        found = model(nested(part, model), raw=raw)
        answers.append(structure.flatten(found, model.manifest.output_structure, "the answer"))
        if progress is not None:
            progress("running", min(start + size, total), total)
    return _joined(answers, {spec.name: 0 for spec in model.outputs}), len(answers)


def _stream(
    model: Model, values: Mapping[str, Any], chunk: int | None, state: bytes | None, progress: Progress | None
) -> tuple[dict[str, Array], int, Stream]:
    """The answers of a stream that gets the sequence in chunks, joined over time, the number of chunks, the stream."""
    try:
        arrays = {name: np.asarray(value) for name, value in values.items()}
    except ValueError as error:
        raise InputMismatch(f"the inputs are no arrays ({error}). Rows of unequal lengths must be padded") from error
    axes = time_axes(model.inputs)
    if not axes:
        raise WrongUsage("the file has no time axis, so there is nothing to stream along")
    for name, axis in axes.items():
        if arrays[name].ndim <= axis:
            raise InputMismatch(f"input '{name}' has no time axis: its shape is {arrays[name].shape}", name)
    lengths = {name: arrays[name].shape[axis] for name, axis in axes.items()}
    if len(set(lengths.values())) > 1:
        raise InputMismatch(f"the inputs of a stream are equally long; got {lengths} time steps")
    total = next(iter(lengths.values()))
    size = chunk or fewest_steps(model.manifest)
    stream = model.stream(batch=_length(next(iter(arrays.values()))))
    if state is not None:
        stream.restore(state)
    answers = []
    for start in range(0, max(total, 1), size):
        part = {
            name: array[(slice(None),) * axes[name] + (slice(start, start + size),)] if name in axes else array
            for name, array in arrays.items()
        }
        found = stream.step(nested(part, model))
        answers.append(structure.flatten(found, model.manifest.output_structure, "the answer"))
        if progress is not None:
            progress("streaming", min(start + size, total), total)
    along = output_time_axes(model.inputs, model.outputs)
    return _joined(answers, {spec.name: along.get(spec.name) for spec in model.outputs}), len(answers), stream


def _joined(answers: Sequence[Mapping[str, Array]], axes: Mapping[str, int | None]) -> dict[str, Array]:
    """Each output's pieces in one array, along its axis, or along a new second one where that is None."""
    joined = {}
    for name, axis in axes.items():
        pieces = [answer[name] for answer in answers]
        try:
            joined[name] = np.stack(pieces, axis=1) if axis is None else np.concatenate(pieces, axis=axis)
        except ValueError as error:
            shapes = ", ".join(sorted({str(piece.shape) for piece in pieces}))
            raise InputMismatch(
                f"the answers of output '{name}' have different shapes ({shapes}) and cannot be joined. Run all rows "
                "at once (--batch)",
                name,
            ) from error
    return joined


def _write_frames(target: Path, outputs: Mapping[str, Array], *, raw: bool) -> None:
    from edgeseq.pictures import write_frames

    if len(outputs) != 1:
        raise WrongUsage(f"a picture shows one output; the file has {len(outputs)}: {', '.join(outputs)}")
    [frames] = outputs.values()
    if frames.ndim == 5:
        frames = np.concatenate(list(frames), axis=1)
    if raw:
        frames = np.rint(np.clip(frames, 0, 255)).astype(np.uint8)
    write_frames(target, frames)
