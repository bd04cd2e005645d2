"""A stream that is fed line by line, or frame by frame, and answers as they come: what `edgeseq run --stream` does with
JSON lines and raw frames."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.arrays import plain_numbers
from edgeseq.errors import EdgeseqError, InputMismatch, InvalidFile, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import TensorSpec, output_time_axes, time_axes
from edgeseq.runtime.ranges import GivenRanges
from edgeseq.runtime.stream import Stream

Array = npt.NDArray[Any]

STDIN = "-"
LINES = ".jsonl"
FRAME_DTYPES = ("float32", "float64", "int16", "int32", "int64", "uint8")
"""Numbers that raw frames may be made of, little-endian."""


@dataclass(frozen=True, kw_only=True)
class SteppingReport:
    """What `step_file` did."""

    path: str
    """The ONNX file."""
    provider: str
    """What was asked for: one provider, or a list of those allowed."""
    ran_on: tuple[str, ...]
    """onnxruntime's names of the providers that ran floating-point nodes, most nodes first."""
    threads: int
    """Threads within an op; 0 means all cores."""
    chunks: int
    """How many chunks were answered: lines, or groups of frames."""
    steps: int
    """Time steps of them all."""
    answers: tuple[Any, ...] | None
    """One a chunk, as on a line; None where they were written as they came."""
    output_path: str | None
    """The file of answers; None where there is none."""
    state_path: str | None
    """The file of the state after the last step; None where there is none."""
    notes: tuple[str, ...] = ()
    """What ran on another provider than the first one asked for."""


def takes_steps(inputs: StrPath, frames: str | None) -> bool:
    """Whether a stream's `inputs` are for `step_file`: JSON lines, frames or stdin, and not whole arrays."""
    return frames is not None or os.fspath(inputs) == STDIN or Path(inputs).suffix == LINES


def step_file(
    model: StrPath,
    inputs: StrPath,
    output: StrPath | None = None,
    *,
    lines: IO[str] | None = None,
    frames: str | None = None,
    chunk: int | None = None,
    state_in: StrPath | None = None,
    state_out: StrPath | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> SteppingReport:
    """Feed one stream of the file `model` from `inputs`, and write each answer as a line of JSON, at once.

    `inputs` is a `.jsonl` file or ``-`` for stdin. A line is a chunk, an array of shape (time, ...), or a single step,
    without the time axis; for several inputs an object by input name. Blank lines are passed over. An answer has the
    form of its chunk: without the time axis for a single step; an object by output name where there are several.
    Numbers that are not finite are null.

    `frames` takes raw little-endian numbers of that dtype in place of lines, from ``-`` or any file, for a model of one
    input: `chunk` steps at a time, which is `Manifest.chunk_multiple` unless said.

    Answers go to `output`, a `.jsonl` file that grows, or to `lines`; without either they are collected. The stream
    begins from `state_in`, what `Stream.to_bytes` gave, and its state after the last chunk goes to `state_out`, however
    the stream ends: by the end of the input, by Ctrl-C (which never falls between a chunk and its answer), or by an
    error.

    Raises MissingInput, OutputExists, WrongUsage, InvalidFile or InputMismatch with the number of the line or frame,
    what opening the model and restoring a state raise, and KeyboardInterrupt.
    """
    target = _check_output(output, LINES, "answers of a stream", overwrite=overwrite, sources=(model, inputs))
    kept = _check_output(state_out, None, "", overwrite=overwrite, sources=(model, inputs))
    if frames is None and chunk is not None:
        raise WrongUsage("chunk is for arrays and raw frames: of JSON lines each is a chunk")
    if frames is not None and frames not in FRAME_DTYPES:
        raise WrongUsage(f"frames are of {', '.join(FRAME_DTYPES)}; got {frames!r}")
    state = None if state_in is None else files.check_input(state_in, "saved state").read_bytes()
    opened = Model(model, provider=provider, provider_options=provider_options, ranges=ranges, threads=threads)
    stepper = Stepper(opened)
    if state is not None:
        stepper.stream.restore(state)
    answers: list[Any] = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_source(inputs))
        named = "standard input" if os.fspath(inputs) == STDIN else os.fspath(inputs)
        if frames is None:
            chunks = _lines(source, named)
        else:
            chunks = _frames(source, named, stepper, frames, opened.manifest.chunk_multiple if chunk is None else chunk)
        sink = lines if target is None else stack.enter_context(target.open("w", encoding="utf-8"))
        write = answers.append if sink is None else _writer(sink)
        try:
            with _Interrupts() as interrupts:
                for place, values in chunks:
                    with interrupts.held():
                        write(stepper.step(values, place))
        except (EdgeseqError, KeyboardInterrupt, OSError) as error:
            told = f"chunks answered: {stepper.chunks} (steps: {stepper.steps})"
            # Before the first step there may be no state to keep.
            if kept is not None and stepper.chunks:
                _keep_state(stepper, kept)
                told += f"; the state after them is in {kept}"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(told) from None
            error.add_note(told)
            raise
    _keep_state(stepper, kept)
    return SteppingReport(
        path=os.fspath(model),
        provider=opened.provider,
        ran_on=opened.placement.ran_on if opened.placement else (),
        threads=opened.threads,
        chunks=stepper.chunks,
        steps=stepper.steps,
        answers=tuple(answers) if sink is None else None,
        output_path=None if target is None else os.fspath(target),
        state_path=None if kept is None else os.fspath(kept),
        notes=opened.placement.notes if opened.placement else (),
    )


class Stepper:
    """One stream of one row, fed with arrays that have no batch axis."""

    def __init__(self, model: Model):
        self._model = model
        self.stream: Stream = model.stream(batch=1)
        self.chunks = self.steps = 0
        """Answered so far."""
        self.along = time_axes(model.inputs)
        if not self.along:
            raise WrongUsage("the file has no time axis, so there is nothing to stream along")
        self._answers_along = output_time_axes(model.inputs, model.outputs)

    def step(self, values: Any, place: str) -> Any:
        """The answer as JSON holds it; `values` are nested lists or an array, or several by input name.

        Raises InputMismatch, which names `place`, for what does not fit.
        """
        try:
            arrays = self._model.feed.by_name(values)
            shaped = {spec.name: self._shaped(spec, arrays[spec.name]) for spec in self._model.inputs}
            forms = {single for name, (_, single) in shaped.items() if name in self.along}
            if len(forms) > 1:
                raise InputMismatch("some inputs have a time axis and others none")
            [single] = forms
            fed = {name: array for name, (array, _) in shaped.items()}
            nest = structure.nest(fed, self._model.manifest.input_structure)
            nested = self.stream.step(nest if len(fed) > 1 else next(iter(fed.values())))
        except InputMismatch as error:
            raise InputMismatch(f"{place}: {error}", error.name) from error
        self.chunks += 1
        name, axis = next(iter(self.along.items()))
        self.steps += fed[name].shape[axis]
        flat = structure.flatten(nested, self._model.manifest.output_structure, "the answer")
        answer = {spec.name: self._plain(spec, flat[spec.name], single) for spec in self._model.outputs}
        return next(iter(answer.values())) if len(answer) == 1 else answer

    def _shaped(self, spec: TensorSpec, value: Any) -> tuple[Array, bool]:
        """The array with all its axes, and whether it came as a single step."""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputMismatch(
                f"input '{spec.name}' is no array: its rows are of unequal lengths", spec.name
            ) from error
        batch = _batch_axis(spec)
        if array.ndim == len(spec.axes) - 1:
            return np.expand_dims(array, batch), False
        forms = _outline(spec, (batch,))
        if (time := self.along.get(spec.name)) is not None:
            if array.ndim == len(spec.axes) - 2:
                return np.expand_dims(array, (batch, time)), True
            forms += f", or {_outline(spec, (batch, time))} for a single step"
        raise InputMismatch(f"input '{spec.name}' takes {forms}; got {_shape(array.shape)}", spec.name)

    def _plain(self, spec: TensorSpec, array: Array, single: bool) -> Any:
        along = self._answers_along.get(spec.name)
        drop = [_batch_axis(spec)]
        if single and along is not None and array.shape[along] == 1:
            drop.append(along)
        return plain_numbers(array.squeeze(axis=tuple(drop)).tolist())

    def frame(self) -> tuple[TensorSpec, tuple[int, ...]]:
        """The one input, and the shape of a step of it. Raises WrongUsage where raw frames do not tell enough."""
        if len(self._model.inputs) != 1:
            names = ", ".join(spec.name for spec in self._model.inputs)
            raise WrongUsage(f"raw frames are for a model of one input; this one has {names}. Use JSON lines")
        [spec] = self._model.inputs
        gone = (_batch_axis(spec), self.along[spec.name])
        step = [axis for place, axis in enumerate(spec.axes) if place not in gone]
        if not all(isinstance(axis, int) for axis in step):
            raise WrongUsage(
                f"raw frames need a step of a fixed size; input '{spec.name}' has {spec.axes}. Use JSON lines"
            )
        return spec, tuple(int(axis) for axis in step)


def _batch_axis(spec: TensorSpec) -> int:
    return spec.batch_axis or 0


def _outline(spec: TensorSpec, without: Sequence[int]) -> str:
    return _shape([axis for place, axis in enumerate(spec.axes) if place not in without])


def _shape(axes: Sequence[str | int]) -> str:
    return f"({', '.join(map(str, axes))})" if axes else "a number"


def _check_output(
    path: StrPath | None, suffix: str | None, what: str, *, overwrite: bool, sources: tuple[StrPath, ...]
) -> Path | None:
    if path is None:
        return None
    target = files.check_output(path, overwrite=overwrite, sources=sources)
    if suffix is not None and target.suffix != suffix:
        raise WrongUsage(f"{what} are written as {suffix}; got {target.name}")
    return target


@contextlib.contextmanager
def _source(inputs: StrPath) -> Iterator[BinaryIO]:
    if os.fspath(inputs) == STDIN:
        yield sys.stdin.buffer
        return
    with files.check_input(inputs, "inputs").open("rb") as file:
        yield file


def _lines(source: BinaryIO, named: str) -> Iterator[tuple[str, Any]]:
    """Each line, and its number in words."""
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number} of {named}", json.loads(line)
        except ValueError as error:
            raise InvalidFile(named, f"line {number} is not JSON ({error})") from error


def _frames(
    source: BinaryIO, named: str, stepper: Stepper, dtype: str, count: int
) -> Iterator[tuple[str, dict[str, Array]]]:
    """`count` frames at a time, fewer at the end, as an array of shape (time, ...)."""
    if count < 1:
        raise WrongUsage(f"chunk must be at least 1, got {count}")
    spec, shape = stepper.frame()
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize * math.prod(shape)
    number = 1
    while content := source.read(size * count):
        whole, rest = divmod(len(content), size)
        if rest:
            raise InvalidFile(
                named, f"it ends within frame {number + whole}: {rest} of {size} bytes of {dtype} {shape}"
            )
        array = np.frombuffer(content, kind).reshape(whole, *shape)
        yield f"frame {number} of {named} and those after it", {spec.name: array}
        number += whole


def _writer(sink: IO[str]) -> Callable[[Any], None]:
    def write(answer: Any) -> None:
        sink.write(json.dumps(answer) + "\n")
        sink.flush()

    return write


def _keep_state(stepper: Stepper, path: Path | None) -> None:
    if path is not None:
        files.write_bytes(path, stepper.stream.to_bytes())


class _Interrupts:
    """Ctrl-C while the stream waits for input ends it; while a chunk is computed it waits until that is answered."""

    def __init__(self) -> None:
        self._busy = self._seen = False

    def __enter__(self) -> _Interrupts:
        # Python lets the main thread alone say what a signal does.
        self._here = threading.current_thread() is threading.main_thread()
        if self._here:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._here:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        # A second one strikes at once.
        if self._seen or not self._busy:
            raise KeyboardInterrupt
        self._seen = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is done here is done to its end."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._seen:
            raise KeyboardInterrupt
