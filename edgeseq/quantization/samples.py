"""Reading samples and labels, checking them against the file's inputs, and keeping a part of them held out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.arrays import read_arrays
from edgeseq.errors import InputMismatch
from edgeseq.files import StrPath
from edgeseq.runtime.feed import Feed as RuntimeFeed
from edgeseq.runtime.manifest import Manifest, TensorSpec

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Given = StrPath | npt.ArrayLike | Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]

# Every HELD_OUT_EVERY-th row is held out, once there are rows enough for both parts to say something.
HELD_OUT_EVERY = 4
LEAST_ROWS_TO_HOLD_OUT = 8
_ROWS = "rows"


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
    """Every fourth row; None when there are fewer than 8 rows (or groups of rows, for a fixed batch size)."""
    first: Feed
    """The first row alone (or the first group, for a fixed batch size): what times are measured on."""
    unused_rows: int
    """Rows at the end that fill no batch of a fixed size."""


def read_samples(given: Given, manifest: Manifest) -> Feed:
    """The samples as one array an input, each of the input's dtype, rank and fixed lengths, all with as many rows.

    `given` is a path to an .npz file with an array for each input by name, or to an .npy file for a single input; or
    an array, a dict by name, or a list in the order of the inputs. Axis 0 of every array is the batch.
    Raises MissingInput, InvalidFile, and InputMismatch with the input's name.
    """
    loaded = read_arrays(given, "samples") if isinstance(given, str | os.PathLike) else given
    names = [entry.name for entry in manifest.inputs]
    if isinstance(loaded, dict) and len(loaded) == len(names) == 1:
        # The name says nothing then: numpy.savez(path, x) calls it arr_0.
        loaded = {names[0]: next(iter(loaded.values()))}
    elif isinstance(loaded, list | tuple) and len(loaded) == len(names) > 1:
        loaded = dict(zip(names, loaded, strict=True))
    # Rows may be many whatever the file's batch, and are as many in every input.
    inputs = [dataclasses.replace(entry, axes=(_ROWS, *entry.axes[1:])) for entry in manifest.inputs]
    checks = RuntimeFeed(inputs, manifest.input_structure)
    feed = checks.arrays(checks.by_name(loaded), {})
    for name, array in feed.items():
        if not np.isfinite(array).all():
            raise InputMismatch(f"the samples of input '{name}' hold NaN or infinite values.", name)
    return feed


def read_labels(given: StrPath | npt.ArrayLike, rows: int) -> Array:
    """The labels as an array with one entry a row.

    `given` is an array, or a path to an .npy file or to an .npz file with one array. Raises MissingInput, InvalidFile,
    and InputMismatch when their number is not `rows` or they are not finite numbers.
    """
    loaded = read_arrays(given, "labels") if isinstance(given, str | os.PathLike) else given
    if isinstance(loaded, dict):
        raise InputMismatch(f"labels need one array; the file has {len(loaded)}: {', '.join(loaded)}.")
    labels = np.asarray(loaded)
    if labels.ndim == 0 or len(labels) != rows:
        got = "a single value" if labels.ndim == 0 else f"{len(labels)}"
        raise InputMismatch(f"there must be one label a row of the samples: {rows} rows, but {got} labels.")
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise InputMismatch(f"labels must be finite numbers, not {labels.dtype} with missing values or text.")
    return labels


def split(feed: Feed, inputs: Sequence[TensorSpec], batch: int) -> SplitSamples:
    """Split rows into those that choose and those held out, and both into batches.

    A file with a fixed batch size takes its rows in groups of that size; rows that fill no group are left out.
    Raises InputMismatch when there are too few rows for one group.
    """
    fixed = {entry.axes[0] for entry in inputs if isinstance(entry.axes[0], int)}
    if len(fixed) > 1:
        raise InputMismatch(f"the file's inputs have different fixed lengths of axis 0: {sorted(map(str, fixed))}.")
    group = int(next(iter(fixed), 1))
    rows = len(next(iter(feed.values())))
    groups = rows // group
    if groups == 0:
        raise InputMismatch(f"the file takes batches of {group} rows; the samples have {rows}.")
    all_groups = np.arange(groups)
    is_held_out = (all_groups % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) & (groups >= LEAST_ROWS_TO_HOLD_OUT)

    def part(which: npt.NDArray[np.intp]) -> Part:
        picked = (which[:, None] * group + np.arange(group)).reshape(-1)
        size = group if fixed else batch
        feeds = [
            {name: array[picked[start : start + size]] for name, array in feed.items()}
            for start in range(0, len(picked), size)
        ]
        return Part(feeds=tuple(feeds), rows=picked)

    held_out = all_groups[is_held_out]
    return SplitSamples(
        chosen_on=part(all_groups[~is_held_out]),
        held_out=part(held_out) if len(held_out) else None,
        first={name: array[:group] for name, array in feed.items()},
        unused_rows=rows - groups * group,
    )
