"""Lengths of real sequences: a file of them, or of the sequences themselves, becomes the inputs to measure with.

Only the lengths are taken from the file; what is in the steps is made. The inputs are a cycle of some 32, which calls
go through in turn, so that one cycle has the lengths' distribution: the lengths in ascending order are cut into as many
equal parts as the cycle has rows, and each row is as long as its part is on average, in an order drawn from the seed.
So the mean is the file's, however rare its longest are; the longest itself is fed only where it fills a part, and else
it is told that it was not. As an application would, each input is as long as its longest row where the
time axis is free, and the rest of the other rows is padding: the mask's value where the file has one, else the id that
its preprocessing pads with, else 0. A file without a mask computes the padding like any other step.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.arrays import read_inputs
from edgeseq.bench.inputs import Inputs, made_inputs
from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.files import StrPath, check_input
from edgeseq.runtime.manifest import Manifest, TensorSpec, time_axes
from edgeseq.runtime.preprocessing import Preprocessing

CYCLE = 32
"""Most inputs of a cycle."""

_LENGTHS = "lengths"
"""Name of the array that has them, among others."""

_FORMS = ".txt, .csv, .npy, .npz, .jsonl or .jsonl.gz"

Lengths = npt.NDArray[np.int64]
"""Valid steps of each sequence; 0 for one that is all padding."""


@dataclass(frozen=True, kw_only=True)
class LengthFacts:
    """The lengths that a subject was fed with, in time steps."""

    source: str
    """Name of the file they were read from."""
    sha256: str
    """SHA-256 of that file in hexadecimal."""
    sequences: int
    """How many lengths the file holds."""
    shortest: int
    """The shortest fed, as below cut to what the model takes."""
    median: int
    """The median of those fed."""
    longest: int
    """The longest fed."""
    inputs: int
    """How many inputs one cycle has; calls go through them in turn."""
    mean: float | None = None
    """The mean of those fed; None, as the three below, in results of before edgeseq told."""
    file_shortest: int | None = None
    """The shortest in the file."""
    file_mean: float | None = None
    """The mean of those in the file."""
    file_longest: int | None = None
    """The longest in the file; longer than `longest` where it is too rare for a row of its own, or the model cuts."""
    density: float
    """Valid steps / all steps of the arrays fed, padding included, over the cycle: 1 where nothing is padded."""


@dataclass(frozen=True, kw_only=True)
class FileLengths:
    """The lengths in a file."""

    source: str
    """Name of the file."""
    sha256: str
    """SHA-256 of it in hexadecimal."""
    lengths: Lengths
    """Valid steps of each sequence, at least one sequence."""
    side: str | None
    """Where its sequences are padded, ``pre`` or ``post``; None where it does not tell."""


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What a file is fed in turn while it is measured."""

    inputs: tuple[Inputs, ...]
    """At least one; all of one batch."""
    lengths: LengthFacts | None = None
    """The lengths of their rows, where they came from a file."""

    @property
    def time_steps(self) -> int | None:
        """Length of the time axis, the longest of all inputs; None where there is none."""
        return max((found.time_steps for found in self.inputs if found.time_steps is not None), default=None)


def read_lengths(path: StrPath, manifest: Manifest) -> FileLengths:
    """The lengths in a file, as the model that `manifest` describes sees them.

    - ``.txt``, ``.csv``: a whole number a line; the first line may be a header.
    - ``.npy``, ``.npz``: whole numbers with one axis; else sequences as the model takes them. Of several arrays, the
      one called ``lengths``, or the sequences of the input by its name. Valid steps of sequences are counted by the
      model's mask; without one, zeros in all features before the first step and after the last are no steps.
    - ``.jsonl``, ``.jsonl.gz``: an object a line, whose ``text`` goes through the model's own preprocessing.

    Raises MissingInput, InvalidFile where the file does not hold that, and WrongUsage for another suffix, a model
    without a time axis or with a fixed one and no mask, and texts for a model without preprocessing of text.
    """
    source = check_input(path, "file of lengths")
    spec, axis = _sequence(manifest)
    side = None
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        lengths = _text_lengths(source, manifest)
    elif source.suffix in (".npy", ".npz"):
        lengths, side = _array_lengths(source, manifest, spec, axis)
    elif source.suffix in (".txt", ".csv"):
        lengths = _whole_numbers(source)
    else:
        raise WrongUsage(f"lengths are read from {_FORMS}; got {source.name}")
    if not len(lengths):
        raise InvalidFile(source, "it holds no lengths")
    if lengths.min() < 0:
        raise InvalidFile(source, f"a length is 0 steps or more; it holds {lengths.min()}")
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileLengths(source=source.name, sha256=sha256, lengths=lengths.astype(np.int64), side=side)


def length_inputs(
    found: FileLengths, manifest: Manifest, *, batch: int, sort_rows: bool = False, seed: int = 0, most: int = CYCLE
) -> Cycle:
    """A cycle of at most `most` inputs of `batch` rows for the model that `manifest` describes.

    Rows of unlike lengths share a batch at random; with `sort_rows` rows of like lengths do. A fixed time axis cuts
    the lengths. Rows are padded on the side where the file's or the preprocessing's are, else at their start, as
    Keras's `pad_sequences` does. One input is enough where all lengths are the same.

    Raises WrongUsage where neither time axis nor mask lets the lengths change anything, and for a batch that the file
    does not take.
    """
    spec, axis = _sequence(manifest)
    fixed = spec.axes[axis]
    lengths = np.minimum(found.lengths, fixed) if isinstance(fixed, int) else found.lengths
    count = 1 if lengths.min() == lengths.max() else min(most, len(lengths))
    random = np.random.default_rng(seed)
    rows = _means_of_parts(lengths, count * batch)
    if not sort_rows:
        random.shuffle(rows)
    batches = random.permutation(rows.reshape(count, batch), axis=0)
    side = found.side or _side(manifest, spec)
    inputs = []
    for fed in batches:
        steps = fixed if isinstance(fixed, int) else max(1, int(fed.max()))
        made = made_inputs(manifest, batch=batch, time_steps=steps, random=random)
        inputs.append(_padded(made, manifest, fed, side))
    facts = LengthFacts(
        source=found.source,
        sha256=found.sha256,
        sequences=len(found.lengths),
        shortest=int(rows.min()),
        median=int(statistics.median_low(rows.tolist())),
        longest=int(rows.max()),
        mean=float(rows.mean()),
        file_shortest=int(found.lengths.min()),
        file_mean=float(found.lengths.mean()),
        file_longest=int(found.lengths.max()),
        inputs=count,
        density=float(rows.sum()) / sum(batch * (it.time_steps or 0) for it in inputs),
    )
    return Cycle(inputs=tuple(inputs), lengths=facts)


def _means_of_parts(lengths: Lengths, count: int) -> Lengths:
    """The means of `count` equal parts of the lengths in ascending order, a length at a border shared by its parts.

    Their sum up to each part is rounded, not they themselves, so that errors do not add up; in whole numbers alone.
    """
    ordered = np.sort(lengths)
    sums = np.cumsum(np.append(0, ordered))
    whole, rest = np.divmod(np.arange(count + 1) * len(ordered), count)
    up_to = count * sums[whole] + rest * np.append(ordered, 0)[whole]
    return np.sort(np.diff((2 * up_to + len(ordered)) // (2 * len(ordered))))


def _padded(made: Inputs, manifest: Manifest, lengths: Lengths, side: str) -> Inputs:
    """`made` with padding in place of the steps that the rows do not have."""
    sequences = time_axes(manifest.inputs)
    arrays = dict(made.arrays)
    for spec in manifest.inputs:
        if spec.name not in sequences or spec.batch_axis is None:
            continue
        array = np.moveaxis(arrays[spec.name].copy(), (spec.batch_axis, sequences[spec.name]), (0, 1))
        steps = np.arange(array.shape[1])
        if side == "pre":
            steps = steps[::-1]
        array[steps[np.newaxis] >= lengths[:, np.newaxis]] = _padding(manifest, spec)
        array = np.moveaxis(array, (0, 1), (spec.batch_axis, sequences[spec.name]))
        arrays[spec.name] = np.ascontiguousarray(array)
    return Inputs(arrays=arrays, source=made.source, batch=made.batch, time_steps=made.time_steps)


def _sequence(manifest: Manifest) -> tuple[TensorSpec, int]:
    """The input whose lengths count, and its time axis: one with a mask where there is one, else the first.

    Raises WrongUsage where there is none, and where no length would change what is computed.
    """
    sequences = time_axes(manifest.inputs)
    masked = {mask.input for mask in manifest.masks}
    specs = [spec for spec in manifest.inputs if spec.name in sequences]
    if not specs:
        raise WrongUsage("the file has no time axis, so that lengths mean nothing to it. Leave them out")
    spec = next((spec for spec in specs if spec.name in masked), specs[0])
    steps = spec.axes[sequences[spec.name]]
    if isinstance(steps, int) and not _masked(manifest):
        raise WrongUsage(
            f"the file takes exactly {steps} time steps and has no mask, so that lengths change nothing. Leave the "
            "lengths out"
        )
    return spec, sequences[spec.name]


def _masked(manifest: Manifest) -> bool:
    """Whether padding changes what the file computes."""
    sequences = time_axes(manifest.inputs)
    return bool(manifest.masks) or any(spec.dtype == "bool" for spec in manifest.inputs if spec.name in sequences)


def _mask_value(manifest: Manifest, spec: TensorSpec) -> float | None:
    return next((mask.value for mask in manifest.masks if mask.input == spec.name), None)


def _text_step(manifest: Manifest, name: str | None = None) -> Mapping[str, Any] | None:
    """The preprocessing of text of an input, or of the first that has one."""
    steps = (manifest.preprocessing or {}).get("inputs", {})
    found = (step for key, step in steps.items() if step["kind"] == "text" and name in (key, None))
    return next(found, None)


def _padding(manifest: Manifest, spec: TensorSpec) -> float:
    value, step = _mask_value(manifest, spec), _text_step(manifest, spec.name)
    if value is not None:
        return value
    return 0 if step is None else int(step["pad_id"])


def _side(manifest: Manifest, spec: TensorSpec) -> str:
    step = _text_step(manifest, spec.name)
    return "pre" if step is None else str(step["padding"])


def _whole_numbers(source: Path) -> Lengths:
    found = []
    for number, line in _lines(source):
        text = line.strip().strip('"')
        if not text:
            continue
        if text.removeprefix("-").isdecimal():
            found.append(int(text))
        elif number > 1 or _is_number(text):
            raise InvalidFile(source, f"line {number} is not one whole number: '{text[:40]}'")
    return np.array(found, np.int64)


def _is_number(text: str) -> bool:
    """Whether it is one, so that it is no header."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text_lengths(source: Path, manifest: Manifest) -> Lengths:
    """The number of ids of each text, before padding and after cutting."""
    step = _text_step(manifest)
    if step is None:
        raise WrongUsage(
            f"{source.name} holds texts, and the file has no preprocessing that makes steps of them. Give whole "
            "numbers (.txt), or the sequences as the model takes them (.npz)"
        )
    free = Preprocessing({"inputs": {"text": {**step, "length": None}}})
    longest = step["length"]
    found = []
    for number, line in _lines(source):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFile(source, f"line {number} is no JSON object with a 'text'") from error
        if not isinstance(text, str):
            raise InvalidFile(source, f"the 'text' of line {number} is no text")
        steps = free.before({"text": [text]})["text"].shape[1]
        found.append(min(steps, longest or steps))
    return np.array(found, np.int64)


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file of text, packed or not, numbered from 1."""
    try:
        # Not split at the separators that only Unicode knows: texts hold them.
        with (gzip.open if source.suffix == ".gz" else open)(source, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from enumerate(file, start=1)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise InvalidFile(source, f"it is not text in UTF-8 ({error})") from error


def _array_lengths(source: Path, manifest: Manifest, spec: TensorSpec, axis: int) -> tuple[Lengths, str | None]:
    """The lengths in a file of arrays, and the side that is padded."""
    arrays = read_inputs(source, "file of lengths")
    if isinstance(arrays, dict):
        name = _LENGTHS if _LENGTHS in arrays else spec.name
        if len(arrays) > 1 and (name not in arrays or (name == spec.name and arrays[name].ndim == 1)):
            raise InvalidFile(
                source,
                f"it holds {', '.join(arrays)}, and which of them are the lengths is not told. Save them alone or as "
                f"'{_LENGTHS}', or sequences as the model's input '{spec.name}'",
            )
        arrays = next(iter(arrays.values())) if len(arrays) == 1 else arrays[name]
    array = np.asarray(arrays)
    if array.ndim == 1:
        if array.dtype.kind not in "iu":
            raise InvalidFile(source, f"lengths are whole numbers; it holds {array.dtype}")
        return array.astype(np.int64), None
    if array.ndim != len(spec.axes) or array.dtype.kind not in "biuf":
        raise InvalidFile(
            source,
            f"it holds {array.dtype} of shape {array.shape}: neither lengths (one axis) nor sequences as the input "
            f"'{spec.name}' takes them, {spec.axes}",
        )
    sequences = np.moveaxis(array, (spec.batch_axis or 0, axis), (0, 1))
    sequences = sequences.reshape(*sequences.shape[:2], -1)
    value = _mask_value(manifest, spec)
    there = (sequences != (0 if value is None else value)).any(axis=2)
    first, last = there.argmax(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1)
    lengths = np.where(there.any(axis=1), last - first, 0) if value is None else there.sum(axis=1)
    padded_before, padded_after = int((~there[:, 0]).sum()), int((~there[:, -1]).sum())
    if padded_before == padded_after:
        return lengths, None
    return lengths, "pre" if padded_before > padded_after else "post"
