"""Chunks of many streams as few runs: checked, put together where they are alike, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime.feed import Lengths, check_chunk
from edgeseq.runtime.pool_rows import Rows, index_of
from edgeseq.runtime.ranges import check_lengths

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model

Key = tuple[Any, ...]
_MOST_KNOWN = 64


class Chunk(NamedTuple):
    """What one stream is fed, checked."""

    key: Key
    """Shapes of the arrays, and whether they came bare: chunks with the same one fit into one run."""
    arrays: tuple[np.ndarray, ...]
    """By the order of inputs, as they came: each with a batch axis of one, or each bare."""

    def copied(self) -> Chunk:
        """One that does not change when the caller's arrays do."""
        return Chunk(self.key, tuple(array.copy() for array in self.arrays))


class Batch(NamedTuple):
    """What one run takes."""

    places: range | list[int]
    """Places of the chunks among all that were given."""
    bare: bool
    """Whether they came without a batch axis, as their answers will."""
    feed: dict[str, np.ndarray]
    """The chunks by input name, one after the other along the batch axis."""


class Runs:
    """The checks and runs of a model whose every row is a stream. Checking is safe in many threads, a step is not."""

    def __init__(self, model: Model, max_batch: int):
        self._model = model
        self._feed, self._inputs = model.feed, model.inputs
        self.axis = self._batch_axis()
        self.max_batch = self._most_rows(max_batch)
        """The most rows of a run: fewer than were asked for where the file, or its engine, takes no more."""
        self._state_names = [spec.input for spec in model.manifest.states]
        self._wanted = [spec.name for spec in model.outputs] + [spec.output for spec in model.manifest.states]
        self._known: dict[tuple[int, ...], Key] = {}
        """Shapes that passed all checks, and the key of theirs; only for a file of one input."""

    def _batch_axis(self) -> str | int:
        model = self._model
        if not model.manifest.states:
            raise WrongUsage(f"{model.path} has no states to carry. Export the model with streaming=True.")
        axis = model.manifest.states[0].axes[0]
        for what, name, axes in (
            *(("input", spec.name, spec.axes) for spec in model.inputs),
            *(("output", spec.name, spec.axes) for spec in model.outputs),
            *(("state", spec.input, spec.axes) for spec in model.manifest.states),
        ):
            if not axes or axes[0] != axis:
                raise WrongUsage(
                    f"{model.path} has no row for each stream in the {what} '{name}', whose axes are "
                    f"{axes}: a pool needs '{axis}' first. Use model.stream()"
                )
            free = [at for at in axes[1:] if isinstance(at, str)]
            if what == "state" and free:
                raise WrongUsage(
                    f"the size of the state '{name}' is known only after the first step ({', '.join(free)}), and those "
                    "of a pool lie in one array. Export the model with fixed lengths, or use model.stream()"
                )
        if isinstance(axis, int) and axis != 1:
            raise WrongUsage(
                f"{model.path} has a fixed batch of {axis}, and a pool runs as many rows as there are. Export the "
                f"model with a free batch, or use model.stream(batch={axis})"
            )
        return axis

    def _most_rows(self, max_batch: int) -> int:
        if isinstance(self.axis, int):
            return 1
        if self.axis not in self._model.ranges:
            return max_batch
        shortest, *_, longest = self._model.ranges[self.axis]
        if shortest > 1:
            raise WrongUsage(
                f"the engine of {self._model.path} takes {shortest} rows or more, and a pool may have one to run. Give "
                f"ranges={{'{self.axis}': (1, {longest})}}"
            )
        return min(max_batch, longest)

    def check(self, x: Any) -> Chunk:
        """`x`, for one stream: nested as the model takes it, each array with a batch axis of one or all without.

        Raises InputMismatch for inputs that do not fit.
        """
        only = self._feed.only
        if only is not None and type(x) is np.ndarray and x.dtype == only[1]:
            key = self._known.get(x.shape)
            if key is not None:
                self._feed.check_values(only[0], x, only[3])
                return Chunk(key, (x,))
        values = {}
        bare = []
        for name, value in self._feed.by_name(x).items():
            ndim = np.ndim(value) if isinstance(value, np.ndarray) else _ndim(value)
            rank = next(len(spec.axes) for spec in self._inputs if spec.name == name)
            bare.append(ndim == rank - 1)
            values[name] = np.asarray(value)[np.newaxis] if bare[-1] else value
        if any(bare) and not all(bare):
            raise InputMismatch("either all inputs of a stream have a batch axis, or none has")
        lengths: Lengths = {self.axis: 1} if isinstance(self.axis, str) else {}
        arrays = self._feed.arrays(values, lengths)
        check_lengths({name: length for name, length in lengths.items() if name != self.axis}, self._model.ranges)
        check_chunk(arrays, self._inputs, self._model.manifest.chunk_multiple)
        found = tuple(arrays[spec.name][0] if bare[0] else arrays[spec.name] for spec in self._inputs)
        key = (bare[0], *(array.shape for array in found))
        if only is not None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[found[0].shape] = key
        return Chunk(key, found)

    def batches(self, xs: Sequence[Any], streams: Sequence[object]) -> list[Batch]:
        """`xs`, checked, for as many `streams`, in as few runs as may be.

        Raises InputMismatch, naming the stream, for inputs that do not fit.
        """
        alike = self._alike(xs)
        if alike is not None:
            return alike
        chunks = []
        for x, stream in zip(xs, streams, strict=True):
            try:
                chunks.append(self.check(x))
            except InputMismatch as error:
                raise InputMismatch(f"{stream}: {error}", error.name, stream) from error
        places: dict[Key, list[int]] = {}
        for place, chunk in enumerate(chunks):
            places.setdefault(chunk.key, []).append(place)
        pieces = (
            found[start : start + self.max_batch]
            for found in places.values()
            for start in range(0, len(found), self.max_batch)
        )
        return [self.together([chunks[place] for place in piece], piece) for piece in pieces]

    def _alike(self, xs: Sequence[Any]) -> list[Batch] | None:
        """Arrays of one shape that passed before, looked at as one; None where they are not that, or hold bad numbers.

        Looked at one by one they would take as long as their run.
        """
        if self._feed.only is None or not xs or set(map(type, xs)) != {np.ndarray}:
            return None
        name, dtype, _, vocabulary = self._feed.only
        shape = xs[0].shape
        key = self._known.get(shape)
        if key is None or not shape:
            return None
        bare = key[0]
        found = []
        for start in range(0, len(xs), self.max_batch):
            several = xs[start : start + self.max_batch]
            stacked = np.empty((len(several), *(shape if bare else shape[1:])), dtype)
            try:
                # The other axes and the dtypes are looked at where the arrays are put together.
                if set(map(len, several)) != {shape[0]}:
                    return None
                np.concatenate(several, out=stacked.reshape(-1, *shape[1:]), casting="no")
                self._feed.check_values(name, stacked, vocabulary)
            except (ValueError, TypeError):
                return None
            found.append(Batch(range(start, start + len(several)), bare, {name: stacked}))
        return found

    def together(self, chunks: Sequence[Chunk], places: range | list[int]) -> Batch:
        """Chunks of the same key, at most `max_batch` of them, as one run."""
        bare, *shapes = chunks[0].key
        feed = {}
        for place, (spec, shape) in enumerate(zip(self._inputs, shapes, strict=True)):
            arrays = [chunk.arrays[place] for chunk in chunks]
            feed[spec.name] = _joined(arrays, shape if bare else shape[1:])
        return Batch(places, bare, feed)

    def step(self, batches: Sequence[Batch], rows: list[int], held: Rows) -> list[Any]:
        """The answers by place, and the states of `rows` (by place) one step on, all of them or, when it raises, none.

        Raises InputMismatch and PlacementRefused.
        """
        ran = []
        for batch in batches:
            chosen = index_of([rows[place] for place in batch.places] if len(batches) > 1 else rows)
            ran.append((batch, chosen, self._model.run(self._wanted, {**batch.feed, **held.gather(chosen)})))
        answers: list[Any] = [None] * len(rows)
        for batch, chosen, results in ran:
            states = results[len(self._model.outputs) :]
            held.scatter(chosen, dict(zip(self._state_names, states, strict=True)))
            apart = self._apart(results[: len(self._model.outputs)], batch.bare)
            if len(batches) == 1 and isinstance(batch.places, range):
                return apart
            for place, answer in zip(batch.places, apart, strict=True):
                answers[place] = answer
        return answers

    def _apart(self, results: list[np.ndarray], bare: bool) -> list[Any]:
        """The answers row by row: each is a part of an array that it shares with the others, and overlaps none."""
        rows = [list(array if bare else array[:, np.newaxis]) for array in results]
        if len(rows) == 1 and self._model.answers_alone:
            return rows[0]
        return [self._model.nested(list(answer)) for answer in zip(*rows, strict=True)]


def _joined(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of one row each, or each a row of that `shape`, as one with an axis of rows."""
    # np.stack takes three times as long, but a number has no axis to be put together along.
    joined = np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays)
    return joined.reshape(len(arrays), *shape)


def _ndim(value: Any) -> int:
    try:
        return np.ndim(value)
    except (TypeError, ValueError, RuntimeError):
        return -1  # for the check, which says what is wrong with it
