"""Reading samples and labels, checking them against the file's inputs, and keeping a part of them held out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.files import StrPath
from edgeseq.quantization.tables import Places, Rows, open_rows
from edgeseq.runtime.feed import Feed as RuntimeFeed
from edgeseq.runtime.manifest import Manifest, TensorSpec

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Batches = Iterable[npt.ArrayLike | Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]]
Given = StrPath | npt.ArrayLike | Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | Batches
Progress = Callable[[str, int, int], None]
"""Called with the stage, how much is done and how much there is."""

DEFAULT_MAX_SAMPLES = 4096
# Every HELD_OUT_EVERY-th row is held out; of fewer, the last.
HELD_OUT_EVERY = 4
_LEAST_GROUPS = 2
_ROWS = "rows"
_STAGE = "read samples"


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Samples as the file takes them."""

    arrays: Feed
    """One array an input, each of the input's dtype, rank and fixed lengths, all with as many rows."""
    rows: Places
    """Which of the rows given these are, in order."""
    given_rows: int | None
    """How many rows were given; None for an iterator that was not read to its end."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the samples, in the batches in which they are run."""

    feeds: tuple[Feed, ...]
    """One dict of input arrays a batch."""
    rows: npt.NDArray[np.intp]
    """Which rows of the given samples these are, in order."""


@dataclass(frozen=True, kw_only=True)
class SplitSamples:
    """The samples that choose, and those that only check what was chosen."""

    chosen_on: Part
    """Rows that candidates are measured on."""
    held_out: Part | None
    """Every fourth row, or the last of fewer (of rows, or of groups of rows for a fixed batch size)."""
    unused_rows: int
    """Rows at the end that fill no batch of a fixed size."""


def read_samples(
    given: Given,
    manifest: Manifest,
    *,
    max_samples: int = DEFAULT_MAX_SAMPLES,
    progress: Progress | None = None,
) -> Samples:
    """Up to `max_samples` rows of the samples, checked.

    `given` is a path to a file (see `edgeseq.quantization.tables.open_rows`; a row of a .csv or .parquet file is
    reshaped to the axes of the input); or an array, a dict by name, or a list in the order of the inputs; or an
    iterator of batches, each of them one of these. Axis 0 of every array is the batch. Of more rows than
    `max_samples`, as many at even distances are taken, of an iterator the first.

    Raises MissingInput, InvalidFile, MissingExtra, WrongUsage for `max_samples` below 2, and InputMismatch with the
    input's name: rows that do not fit, that hold NaN or infinity, or whose numbers are all the same.
    """
    if max_samples < _LEAST_GROUPS:
        raise WrongUsage(f"max_samples must be at least {_LEAST_GROUPS}, got {max_samples}")
    told = progress or (lambda *_: None)
    if isinstance(given, str | os.PathLike):
        samples = _from_file(given, manifest, max_samples, told)
    elif _is_iterator(given):
        samples = _from_batches(given, manifest, max_samples, told)  # type: ignore[arg-type]
    else:
        arrays = _checked(_named(given, manifest), manifest)
        rows = len(next(iter(arrays.values())))
        places = _even_places(rows, max_samples)
        if len(places) < rows:
            arrays = {name: array[places] for name, array in arrays.items()}
        samples = Samples(arrays=arrays, rows=places, given_rows=rows)
    for name, array in samples.arrays.items():
        _check_numbers(name, array)
    return samples


def read_labels(given: StrPath | npt.ArrayLike, samples: Samples) -> Array:
    """The labels of the samples, as an array with one entry a row.

    `given` has a label for every row that was given; it is an array, or a path to a file with one array. Raises
    MissingInput, InvalidFile, MissingExtra, and InputMismatch when the number is another or they are not finite
    numbers.
    """
    labels = _label_file(given) if isinstance(given, str | os.PathLike) else np.asarray(given)
    expected = samples.given_rows
    got = "a single value" if labels.ndim == 0 else f"{len(labels)}"
    if labels.ndim == 0 or (expected is not None and len(labels) != expected) or len(labels) <= samples.rows[-1]:
        rows = expected if expected is not None else f"at least {samples.rows[-1] + 1}"
        raise InputMismatch(f"there must be one label a row of the samples: {rows} rows, but {got} labels.")
    labels = labels[samples.rows]
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise InputMismatch(f"labels must be finite numbers, not {labels.dtype} with missing values or text.")
    return labels


def split(feed: Feed, inputs: Sequence[TensorSpec], batch: int) -> SplitSamples:
    """Split rows into those that choose and those held out, and both into batches.

    A file with a fixed batch size takes its rows in groups of that size; rows that fill no group are left out.
    Raises InputMismatch when there are too few rows for two groups.
    """
    fixed = {entry.axes[0] for entry in inputs if isinstance(entry.axes[0], int)}
    if len(fixed) > 1:
        raise InputMismatch(f"the file's inputs have different fixed lengths of axis 0: {sorted(map(str, fixed))}.")
    group = int(next(iter(fixed), 1))
    rows = len(next(iter(feed.values())))
    groups = rows // group
    if groups < _LEAST_GROUPS:
        needed = f"the file takes batches of {group} rows; " if fixed else ""
        raise InputMismatch(
            f"{needed}the samples have {rows} {'row' if rows == 1 else 'rows'}, and at least {_LEAST_GROUPS * group} "
            "are needed: some to choose by, others to check the choice. Give more, or cut a long series into several."
        )
    all_groups = np.arange(groups)
    is_held_out = all_groups % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    is_held_out[-1] |= groups < HELD_OUT_EVERY

    def part(which: npt.NDArray[np.intp]) -> Part:
        picked = (which[:, None] * group + np.arange(group)).reshape(-1)
        size = group if fixed else batch
        feeds = [
            {name: array[picked[start : start + size]] for name, array in feed.items()}
            for start in range(0, len(picked), size)
        ]
        return Part(feeds=tuple(feeds), rows=picked)

    return SplitSamples(
        chosen_on=part(all_groups[~is_held_out]),
        held_out=part(all_groups[is_held_out]),
        unused_rows=rows - groups * group,
    )


def _from_file(path: StrPath, manifest: Manifest, max_samples: int, told: Progress) -> Samples:
    found = open_rows(path, "samples")
    opened: Mapping[str, Rows] = _by_name(found, manifest)
    lengths = {name: rows.length for name, rows in opened.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        raise InputMismatch(f"every input needs as many rows as the others; in {os.fspath(path)} {counts}.")
    total = next(iter(lengths.values()))
    if not total:
        raise InputMismatch(f"{os.fspath(path)} holds no rows. No axis may be empty.")
    places = _even_places(total, max_samples)
    axes = {entry.name: entry.axes for entry in manifest.inputs}
    arrays = {}
    for index, (name, rows) in enumerate(opened.items()):

        def passed(count: int, before: int = index * total) -> None:
            told(_STAGE, before + count, total * len(opened))

        read = rows.read(places, passed)
        arrays[name] = _reshaped(name, read, axes[name]) if rows.is_flat and name in axes else read
    told(_STAGE, total * len(opened), total * len(opened))
    return Samples(arrays=_checked(_named(arrays, manifest), manifest), rows=places, given_rows=total)


def _from_batches(batches: Batches, manifest: Manifest, max_samples: int, told: Progress) -> Samples:
    parts: list[Feed] = []
    rows, is_whole = 0, True
    for batch in batches:
        made = _checked(_named(batch, manifest), manifest)
        count = len(next(iter(made.values())))
        for name, array in made.items():
            if parts and array.shape[1:] != parts[0][name].shape[1:]:
                raise InputMismatch(
                    f"batch {len(parts)} of the samples of input '{name}' has rows of shape {array.shape[1:]}, and the "
                    f"first of {parts[0][name].shape[1:]}. Pad them to one length.",
                    name,
                )
        parts.append({name: array[: max_samples - rows] for name, array in made.items()})
        is_whole = rows + count <= max_samples
        rows = min(rows + count, max_samples)
        told(_STAGE, rows, max_samples)
        if rows == max_samples:
            # One more batch would tell whether this was the last, but an endless iterator may take its time.
            is_whole = False
            break
    if not parts:
        raise InputMismatch("the iterator of samples gave no batch.")
    told(_STAGE, max_samples, max_samples)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Samples(arrays=joined, rows=np.arange(rows), given_rows=rows if is_whole else None)


def _is_iterator(given: object) -> bool:
    """Whether it gives batches one by one: an iterator, or an object such as a data loader, that is no array."""
    is_container = isinstance(given, Mapping | list | tuple) or hasattr(given, "__array__")
    return isinstance(given, Iterator) or (not is_container and hasattr(given, "__iter__"))


def _named(given: Any, manifest: Manifest) -> Any:
    names = [entry.name for entry in manifest.inputs]
    if isinstance(given, dict):
        return _by_name(given, manifest)
    if isinstance(given, list | tuple) and len(given) == len(names) > 1:
        return dict(zip(names, given, strict=True))
    return given


def _by_name(given: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    # The name of a single array says nothing: numpy.savez(path, x) calls it arr_0.
    if len(given) == len(manifest.inputs) == 1:
        return {manifest.inputs[0].name: next(iter(given.values()))}
    return given


def _checked(given: Any, manifest: Manifest) -> Feed:
    """Every input's array, rows counted alike."""
    # Rows may be many whatever the file's batch, and are as many in every input.
    inputs = [dataclasses.replace(entry, axes=(_ROWS, *entry.axes[1:])) for entry in manifest.inputs]
    checks = RuntimeFeed(inputs, manifest.input_structure)
    return checks.arrays(checks.by_name(given), {})


def _check_numbers(name: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise InputMismatch(
            f"the samples of input '{name}' hold NaN or infinite values. Fill or leave out those rows.", name
        )
    # A flag or a mask may be the same in all rows; numbers that are can show no error of a form.
    if array.dtype != bool and array.size > 1 and (array == array.flat[0]).all():
        raise InputMismatch(
            f"all samples of input '{name}' are {array.flat[0]:g}: nothing could be measured on them. Give real data.",
            name,
        )


def _reshaped(name: str, array: Array, axes: tuple[int | str, ...]) -> Array:
    """Rows of numbers in the shape of the input; Feed's own checks say what is wrong with what cannot be."""
    inner = axes[1:]
    if array.ndim != 2 or len(inner) == 1:
        return array
    columns, known = array.shape[1], int(np.prod([axis for axis in inner if isinstance(axis, int)], dtype=np.int64))
    free = [axis for axis in inner if not isinstance(axis, int)]
    outline = "(" + ", ".join(map(str, inner)) + ")"
    if len(free) > 1:
        raise InputMismatch(
            f"a row of {columns} numbers can have the shape {outline} of input '{name}' in several ways. "
            "Give an .npz or .npy file.",
            name,
        )
    if columns % known or (not free and columns != known):
        wanted = f"a multiple of {known}" if free else f"{known}"
        raise InputMismatch(
            f"a row of the samples has {columns} numbers; input '{name}' with rows of the shape {outline} takes "
            f"{wanted}.",
            name,
        )
    return array.reshape(len(array), *(axis if isinstance(axis, int) else columns // known for axis in inner))


def _even_places(total: int, most: int) -> Places:
    if total <= most:
        return np.arange(total)
    return np.linspace(0, total - 1, most).astype(np.intp)


def _label_file(path: StrPath) -> Array:
    found = open_rows(path, "labels")
    if len(found) > 1:
        raise InputMismatch(f"labels need one array; the file has {len(found)}: {', '.join(found)}.")
    [rows] = found.values()
    labels = rows.read(np.arange(rows.length), lambda _: None)
    # A table with one column holds numbers, not rows of them.
    return labels[:, 0] if rows.is_flat and labels.ndim == 2 and labels.shape[1] == 1 else labels
