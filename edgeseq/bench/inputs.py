"""Inputs to measure with: the golden samples beside a file where there are some, else made from what the file takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.bench.answers import flatten
from edgeseq.errors import InputMismatch, InvalidFile, MissingInput, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime.golden import find_golden, read_golden
from edgeseq.runtime.manifest import Manifest, TensorSpec, time_axes

DEFAULT_TIME_STEPS = 100
"""Length of a free time axis where nothing else tells one."""

_OTHER_LENGTH = 32

# Without a vocabulary nothing tells how many rows a table has, but fewer than ten would be an odd one. 0 is left out:
# it is often masked, and a masked step need not be computed, which would flatter the file.
_SAFE_IDS = (1, 10)

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays by the name of the graph's input; axes as the file's."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a file is fed while it is measured."""

    arrays: Arrays
    """The array of each input."""
    source: str
    """``golden``, ``made`` or ``given``."""
    batch: int
    """Number of rows."""
    time_steps: int | None
    """Length of the time axis; None where no input has one."""


def find_inputs(
    model: StrPath, manifest: Manifest, *, batch: int = 1, time_steps: int | None = None, seed: int = 0
) -> Inputs:
    """Inputs of the wanted batch and length for the file `model`, which `manifest` describes.

    Golden samples are repeated or cut along the free axes; `time_steps` None keeps their length. Where there are
    none, floats are drawn from a standard normal distribution, ids from the vocabulary or from 1 to 9, and Booleans
    are true; time axes get `time_steps` (None: 100) and other free axes 32.

    Raises WrongUsage when the file fixes another batch or length, InvalidFile when the golden samples are damaged.
    """
    check_counts(batch=batch, time_steps=time_steps)
    specs = manifest.inputs
    _check_fixed(specs, batch, time_steps)
    golden = _golden(model, manifest)
    if golden is not None:
        arrays = {spec.name: _fitted(golden[spec.name], spec, batch, time_steps) for spec in specs}
        return _inputs(arrays, specs, "golden", batch)
    steps = DEFAULT_TIME_STEPS if time_steps is None else time_steps
    return made_inputs(manifest, batch=batch, time_steps=steps, random=np.random.default_rng(seed))


def made_inputs(manifest: Manifest, *, batch: int, time_steps: int, random: np.random.Generator) -> Inputs:
    """Inputs drawn from `random`, as `find_inputs` says of those where there are no golden samples.

    Raises WrongUsage when the file fixes another batch or length.
    """
    specs = manifest.inputs
    _check_fixed(specs, batch, time_steps if time_axes(specs) else None)
    arrays = {spec.name: _made(spec, batch, time_steps, _id_range(spec), random) for spec in specs}
    return _inputs(arrays, specs, "made", batch)


def given_inputs(values: Mapping[str, Any], manifest: Manifest) -> Inputs:
    """`values`, by input name, as the inputs to measure with; batch and time steps are read from them.

    Raises InputMismatch for another number of axes than the file's.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for spec in manifest.inputs:
        if arrays[spec.name].ndim != len(spec.axes):
            shape = arrays[spec.name].shape
            raise InputMismatch(f"input '{spec.name}' has the axes {spec.axes}; got the shape {shape}", spec.name)
    batches = [arrays[spec.name].shape[axis] for spec in manifest.inputs if (axis := spec.batch_axis) is not None]
    return _inputs(arrays, manifest.inputs, "given", batches[0] if batches else 1)


def check_counts(**values: int | None) -> None:
    """Raise WrongUsage for one that is neither None nor a whole number of at least 1, by its name."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise WrongUsage(f"{name} must be at least 1, a whole number, not {value!r}")


def rows_of(inputs: Any) -> int:
    """How many rows given inputs have, however they are nested. Raises InputMismatch where there is no array."""
    arrays = flatten(inputs)
    if not arrays:
        raise InputMismatch(f"inputs are an array, or lists or dicts of arrays; got {inputs!r}")
    return len(arrays[0]) if arrays[0].ndim else 1


def _inputs(arrays: Arrays, specs: Sequence[TensorSpec], source: str, batch: int) -> Inputs:
    lengths = [arrays[name].shape[axis] for name, axis in time_axes(specs).items()]
    return Inputs(arrays=arrays, source=source, batch=batch, time_steps=lengths[0] if lengths else None)


def _check_fixed(specs: Sequence[TensorSpec], batch: int, time_steps: int | None) -> None:
    """Raise WrongUsage where the file fixes what is wanted otherwise."""
    rows = [spec.axes[axis] for spec in specs if (axis := spec.batch_axis) is not None]
    if rows and all(isinstance(length, int) for length in rows) and rows[0] != batch:
        raise WrongUsage(f"the file takes a batch of exactly {rows[0]}, not {batch}: ask for batch {rows[0]}")
    if time_steps is None:
        return
    sequences = time_axes(specs)
    lengths = [spec.axes[sequences[spec.name]] for spec in specs if spec.name in sequences]
    if not lengths:
        raise WrongUsage(f"the file has no time axis, so it cannot take {time_steps} time steps")
    if isinstance(lengths[0], int) and lengths[0] != time_steps:
        raise WrongUsage(f"the file takes exactly {lengths[0]} time steps, not {time_steps}")


def _golden(model: StrPath, manifest: Manifest) -> Arrays | None:
    """The golden input of each spec; None where there are no golden samples beside the file."""
    try:
        found = read_golden(model, manifest.model_hash).inputs
    except MissingInput:
        return None
    for spec in manifest.inputs:
        if spec.name not in found:
            raise InvalidFile(find_golden(model), f"it has no sample for the input '{spec.name}'. Export again")
        shape = found[spec.name].shape
        if len(shape) != len(spec.axes) or 0 in shape:
            raise InvalidFile(find_golden(model), f"the input '{spec.name}' takes {spec.axes}; its sample is {shape}")
    return found


def _fitted(array: npt.NDArray[Any], spec: TensorSpec, batch: int, time_steps: int | None) -> npt.NDArray[Any]:
    """A golden sample with free axes of the wanted lengths, repeated from its start where it is too short."""
    for axis, length in enumerate(_wanted(spec, batch, time_steps)):
        if length is not None:
            array = np.take(array, np.arange(length) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)


def _made(
    spec: TensorSpec, batch: int, time_steps: int, ids: tuple[int, int], random: np.random.Generator
) -> npt.NDArray[Any]:
    shape = [
        axis if isinstance(axis, int) else wanted or _OTHER_LENGTH
        for axis, wanted in zip(spec.axes, _wanted(spec, batch, time_steps), strict=True)
    ]
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        return random.integers(*ids, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def _wanted(spec: TensorSpec, batch: int, time_steps: int | None) -> list[int | None]:
    """The length that was asked for of each axis; None where the axis is fixed, or is neither rows nor time."""
    lengths: list[int | None] = []
    for place, axis in enumerate(spec.axes):
        if isinstance(axis, int):
            lengths.append(None)
        elif place == spec.batch_axis:
            lengths.append(batch)
        else:
            lengths.append(time_steps if place == spec.time_axis or axis.startswith("time") else None)
    return lengths


def _id_range(spec: TensorSpec) -> tuple[int, int]:
    """First id and the one past the last that an integer input certainly takes. 0 is often masked: not first."""
    return _SAFE_IDS if spec.vocabulary_size is None else (min(1, spec.vocabulary_size - 1), spec.vocabulary_size)
