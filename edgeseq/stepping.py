"""A stream that is fed line by line, or frame by frame, and answers as they come: what `edgeseq run --stream` does with
JSON lines and raw frames."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.arrays import plain_numbers
from edgeseq.errors import EdgeseqError, InputMismatch, WrongUsage
from edgeseq.files import StrPath
from edgeseq.lines import FRAME_DTYPES, LINES, Interrupts, json_lines, raw_frames, sink, source, write_line
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import TensorSpec, fewest_steps, output_time_axes, time_axes
from edgeseq.runtime.ranges import GivenRanges
from edgeseq.runtime.states import to_bytes

Array = npt.NDArray[Any]


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
    interrupted_by: str | None
    """The signal that ended it, SIGINT (Ctrl-C) or SIGTERM; None where its input did."""
    notes: tuple[str, ...] = ()
    """What ran on another provider than the first one asked for."""


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
    input: `chunk` steps at a time, which are the fewest that the file takes unless said.

    Answers go to `output`, a `.jsonl` file that grows, or to `lines`; without either they are collected. The stream
    begins from `state_in`, what `Stream.to_bytes` gave, and its state after the last chunk whose answer was written
    goes to `state_out`, however the stream ends: by the end of the input, by Ctrl-C or SIGTERM (which never fall
    between a chunk and its answer), or by an error. There is none before the first answer of a file whose states take
    their size from the input, nor where `Stream.to_bytes` refuses.

    Raises MissingInput, OutputExists, WrongUsage, InvalidFile or InputMismatch with the number of the line or frame,
    and what opening the model, and restoring and saving a state raise.
    """
    target, kept = check_outputs(output, state_out, (LINES,), overwrite=overwrite, sources=(model, inputs))
    if frames is None and chunk is not None:
        raise WrongUsage("chunk is for arrays and raw frames: of JSON lines each is a chunk")
    if chunk is not None and chunk < 1:
        raise WrongUsage(f"chunk must be at least 1, got {chunk}")
    if frames is not None and frames not in FRAME_DTYPES:
        raise WrongUsage(f"frames are of {', '.join(FRAME_DTYPES)}; got {frames!r}")
    state = None if state_in is None else files.check_input(state_in, "saved state").read_bytes()
    opened = Model(model, provider=provider, provider_options=provider_options, ranges=ranges, threads=threads)
    stepper = Stepper(opened, state, keeps=kept is not None)
    chunks: Callable[..., Iterable[tuple[str, Any]]] = json_lines
    if frames is not None:
        count = chunk or fewest_steps(opened.manifest)
        chunks = functools.partial(raw_frames, dtype=frames, shape=stepper.frame_shape(), count=count)
    answers: list[Any] = []
    with contextlib.ExitStack() as stack:
        read, named = stack.enter_context(source(inputs))
        file = lines if target is None else stack.enter_context(sink(target))
        write = answers.append if file is None else functools.partial(write_line, file)
        ended = _answer(stepper, chunks(read, named), write, kept)
    return SteppingReport(
        path=os.fspath(model),
        provider=opened.provider,
        ran_on=opened.placement.ran_on if opened.placement else (),
        threads=opened.threads,
        chunks=stepper.chunks,
        steps=stepper.steps,
        answers=tuple(answers) if file is None else None,
        output_path=None if target is None else os.fspath(target),
        state_path=None if kept is None else os.fspath(kept),
        interrupted_by=None if ended is None else ended.name,
        notes=opened.placement.notes if opened.placement else (),
    )


def check_outputs(
    output: StrPath | None,
    state_out: StrPath | None,
    suffixes: Sequence[str],
    *,
    overwrite: bool,
    sources: Sequence[StrPath],
) -> tuple[Path | None, Path | None]:
    """Where answers and the state may be written; None where they are not to be.

    Raises what `files.check_output` does, and WrongUsage for another suffix of the answers, and for one file for both.
    """
    target, kept = (
        None if path is None else files.check_output(path, overwrite=overwrite, sources=sources)
        for path in (output, state_out)
    )
    if target is not None and target.suffix not in suffixes:
        raise WrongUsage(f"outputs are written as {', '.join(suffixes)}; got {target.name}")
    if target is not None and kept is not None and target.resolve() == kept.resolve():
        raise WrongUsage(f"the state would take the place of the outputs in {target}. Choose another name for one")
    return target, kept


def nested(values: Mapping[str, Any], model: Model) -> Any:
    """`values` by input name as the model takes them; a single one goes bare, whatever the structure."""
    return next(iter(values.values())) if len(values) == 1 else structure.nest(values, model.manifest.input_structure)


def _answer(
    stepper: Stepper, chunks: Iterable[tuple[str, Any]], write: Callable[[Any], None], kept: Path | None
) -> Signals | None:
    """Answer all chunks, until a signal if one comes. An error is told how far the stream came."""
    interrupts = Interrupts()
    try:
        with interrupts:
            for place, values in chunks:
                with interrupts.held():
                    stepper.answer(values, place, write)
    except BaseException as error:
        told = f"chunks answered: {stepper.chunks} (steps: {stepper.steps})"
        if kept is not None:
            try:
                files.write_bytes(kept, stepper.state())
                told += f"; the state after them is in {kept}"
            except (EdgeseqError, OSError) as unkept:
                told += f"; no state is kept: {unkept}"
        error.add_note(told)
        raise
    if kept is not None:
        files.write_bytes(kept, stepper.state())
    return interrupts.signal


class Stepper:
    """One stream of one row, from `state` on or the initial one, fed with arrays that have no batch axis."""

    def __init__(self, model: Model, state: bytes | None = None, *, keeps: bool = False):
        self._model, self._keeps = model, keeps
        self._stream = model.stream(batch=1)
        self._reached: Mapping[str, Array] | None = None
        if state is not None:
            self._stream.restore(state)
            self._reached = self._stream.state
        self.chunks = self.steps = 0
        """Answered so far."""
        self._along = time_axes(model.inputs)
        if not self._along:
            raise WrongUsage("the file has no time axis, so there is nothing to stream along")
        self._answers_along = output_time_axes(model.inputs, model.outputs)

    def answer(self, values: Any, place: str, write: Callable[[Any], None]) -> None:
        """Give `write` the answer as JSON holds it; `values` are nested lists or an array, or several by input name.

        Raises InputMismatch, which names `place`, for what does not fit, and what `write` does: the chunk is then not
        counted.
        """
        try:
            answer, steps = self._step(values)
        except InputMismatch as error:
            raise InputMismatch(f"{place}: {error}", error.name) from error
        write(answer)
        self.chunks += 1
        self.steps += steps
        if self._keeps:
            self._reached = self._stream.state

    def state(self) -> bytes:
        """As `Stream.to_bytes`, after the last answer that was written: where the stepper `keeps` it."""
        return to_bytes(self._model.stream(batch=1).state if self._reached is None else self._reached, self._model, 1)

    def frame_shape(self) -> tuple[int, ...]:
        """The shape of a step of the one input. Raises WrongUsage where raw frames do not tell enough."""
        if len(self._model.inputs) != 1:
            names = ", ".join(spec.name for spec in self._model.inputs)
            raise WrongUsage(f"raw frames are for a model of one input; this one has {names}. Use JSON lines")
        [spec] = self._model.inputs
        gone = (_batch_axis(spec), self._along[spec.name])
        step = [axis for place, axis in enumerate(spec.axes) if place not in gone]
        if not all(isinstance(axis, int) for axis in step):
            raise WrongUsage(
                f"raw frames need a step of a fixed size; input '{spec.name}' has {spec.axes}. Use JSON lines"
            )
        return tuple(int(axis) for axis in step)

    def _step(self, values: Any) -> tuple[Any, int]:
        """The answer, and how many time steps it is to."""
        arrays = self._model.feed.by_name(values)
        shaped = {spec.name: self._shaped(spec, arrays[spec.name]) for spec in self._model.inputs}
        forms = {single for name, (_, single) in shaped.items() if name in self._along}
        if len(forms) > 1:
            raise InputMismatch("some inputs have a time axis and others none")
        [single] = forms
        fed = {name: array for name, (array, _) in shaped.items()}
        found = self._stream.step(nested(fed, self._model))
        flat = structure.flatten(found, self._model.manifest.output_structure, "the answer")
        answer = {spec.name: self._plain(spec, flat[spec.name], single) for spec in self._model.outputs}
        name, axis = next(iter(self._along.items()))
        return next(iter(answer.values())) if len(answer) == 1 else answer, fed[name].shape[axis]

    def _shaped(self, spec: TensorSpec, value: Any) -> tuple[Array, bool]:
        """The array with all its axes, and whether it came as a single step."""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputMismatch(
                f"input '{spec.name}' is no array, as with rows of unequal lengths ({error})", spec.name
            ) from error
        batch = _batch_axis(spec)
        if array.ndim == len(spec.axes) - 1:
            return np.expand_dims(array, batch), False
        forms = _outline(spec, (batch,))
        if (time := self._along.get(spec.name)) is not None:
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


def _batch_axis(spec: TensorSpec) -> int:
    return spec.batch_axis or 0


def _outline(spec: TensorSpec, without: Sequence[int]) -> str:
    return _shape([axis for place, axis in enumerate(spec.axes) if place not in without])


def _shape(axes: Sequence[str | int]) -> str:
    return f"({', '.join(map(str, axes))})" if axes else "a number"
