"""`Stream`: the states of one run through a streaming file, carried from step to step."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.runtime import saved_state
from edgeseq.runtime.bound import Bound, Runner, States
from edgeseq.runtime.feed import Feed, Lengths, check_chunk, check_shape
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.ranges import check_lengths
from edgeseq.runtime.repeat import Repeat, is_kept
from edgeseq.runtime.states import checked, to_bytes

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model

_MOST_BOUNDS = 4


class Lane:
    """The memory of one stream on the device that computes: its states, and what a step of some shapes needs."""

    def __init__(self, runner: Runner, manifest: Manifest, feed: Feed, lengths: Lengths):
        self.states = States(runner, manifest.states, lengths)
        self._runner, self._manifest, self._feed = runner, manifest, feed
        self._wanted = [*(spec.name for spec in manifest.outputs), *(spec.output for spec in manifest.states)]
        self._bounds: dict[tuple[tuple[int, ...], ...], tuple[Bound, Repeat | None] | None] = {}
        self.again: Repeat | None = None
        """What makes another step like the last one short; None where nothing was kept for it."""

    @classmethod
    def take(cls, runner: Runner, manifest: Manifest, feed: Feed, lengths: Lengths) -> Lane:
        """One that a stream has left, with the graphs captured for it, or a new one."""
        with runner.lock:
            for place, lane in enumerate(runner.spare):
                if lane.states.lengths == lengths:
                    found: Lane = runner.spare.pop(place)
                    return found
        return cls(runner, manifest, feed, lengths)

    def step(self, feed: Mapping[str, np.ndarray], lengths: Lengths) -> list[np.ndarray]:
        """As `Bound.run`. Chunks of a few shapes are remembered, the last used ones.

        A device needs memory for each of them; on the CPU it is made where a shape comes again, and is small.
        """
        shapes = tuple(array.shape for array in feed.values())
        seen, kept = shapes in self._bounds, self._bounds.pop(shapes, None)
        if kept is None and (self._runner.device[0] != "cpu" or (seen and is_kept(self._manifest, lengths))):
            bound = Bound(self._runner, self._manifest.inputs, self._manifest.outputs, lengths, self.states)
            kept = bound, Repeat.of(bound, self._feed)
        # Graphs are counted, and stay: onnxruntime would not free them with their buffers.
        if len(self._bounds) == _MOST_BOUNDS and not self._runner.graphs:
            del self._bounds[next(iter(self._bounds))]
        self._bounds[shapes] = kept
        self.again = kept[1] if kept is not None else None
        return self._once(feed) if kept is None else kept[0].run(feed)

    def _once(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `Bound.run`, by arrays where they lie on the CPU."""
        specs, held = self._manifest.states, self.states.sets[self.states.current]
        given = {name: buffer.array for name, buffer in held.items() if buffer.array is not None}
        results = self._runner.run(self._wanted, {**feed, **given})
        after = results[len(results) - len(specs) :]
        for spec, array in zip(specs, after, strict=True):
            check_shape(spec.output, array, spec.axes, self.states.lengths, kind="state")
        self.states.write(dict(zip(held, after, strict=True)))
        return results[: len(results) - len(specs)]


class Stream:
    """States of `batch` rows; made by `Model.stream`. Not to be shared between threads: a stream is one sequence."""

    def __init__(self, model: Model, batch: int = 1):
        specs = model.manifest.states
        if not specs:
            raise WrongUsage(f"{model.path} has no states to carry. Export the model with streaming=True.")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise WrongUsage(f"batch must be a positive integer; got {batch!r}")
        axis = specs[0].axes[0]
        if isinstance(axis, int) and axis != batch:
            raise WrongUsage(f"{model.path} has a fixed batch of {axis}; got {batch}. Use: model.stream(batch={axis})")
        self.batch = batch
        self._model = model
        self._start: Lengths = {axis: batch} if isinstance(axis, str) else {}
        self._lengths = self._start
        self._specs = {spec.input: spec for spec in specs}
        self._lane: Lane | None = None
        self._leave: Callable[[], Any] = lambda: None
        self._started = False  # until the first step after a reset the states are the initial ones, not the lane's
        self._again: Repeat | None = None

    def step(self, x: Any) -> Any:
        """Answers for the next steps of the sequence, `x` of shape (batch, time, ...) with at least one step.

        A file with strides takes chunks of a multiple of `Manifest.chunk_multiple` steps.

        Takes and returns what the model does; the arrays returned are the caller's. When it raises, the state is
        that of before.

        Raises InputMismatch for inputs that do not fit.
        """
        if self._again is not None and (found := self._again.step(x)) is not None:
            return self._model.nested(found)
        lengths = self._lengths.copy()
        feed = self._model.feed.arrays(self._model.feed.by_name(x), lengths)
        check_lengths(lengths, self._model.ranges)
        check_chunk(feed, self._model.inputs, self._model.manifest.chunk_multiple)
        if self._started and self._lane is not None:
            lane = self._lane
            results = lane.step(feed, lengths)
        else:
            known = self._known(lengths)
            lane = self._begin(known, self._model.initial_states(known))
            results = lane.step(feed, lengths)
            self._lengths, self._started = known, True
        self._again = lane.again
        return self._model.nested(results)

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Back to the initial state, all rows or those given (0 to batch - 1)."""
        if rows is None:
            if self._started and self._lane is not None and self._lengths == self._start:
                # The size of the states is known whatever comes next: the lane, and what repeats on it, stay.
                self._lane.states.write(self._initial)
            else:
                self._lengths, self._started, self._again = self._start, False, None
            return
        try:
            chosen = list(rows)
        except TypeError:
            raise WrongUsage(f"rows must be a list of integers; got {rows!r}") from None
        whole = all(isinstance(row, (int, np.integer)) and not isinstance(row, bool) for row in chosen)
        if not whole or not all(0 <= row < self.batch for row in chosen):
            raise WrongUsage(f"rows must be integers from 0 to {self.batch - 1}; got {chosen}")
        if self._started and self._lane is not None:
            states = self._lane.states.read()
            for name, array in states.items():
                array[chosen] = self._specs[name].initial
            self._lane.states.write(states)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Copies of the states by name. Set it to go on from states read before.

        Raises WrongUsage when read before the first step of a file whose states take their size from the input.
        """
        if self._started and self._lane is not None:
            return self._lane.states.read()
        axes = {axis for spec in self._specs.values() for axis in spec.axes if isinstance(axis, str)}
        if free := axes - set(self._lengths):
            raise WrongUsage(f"the states' size ({', '.join(sorted(free))}) is known only after the first step")
        return self._model.initial_states(self._lengths)

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        lengths = self._start.copy()
        found = checked(states, self._model.manifest.states, lengths, self._model.feed)
        known = self._known(lengths)
        self._begin(known, found)
        self._lengths, self._started = known, True

    def to_bytes(self) -> bytes:
        """The states as bytes, for `restore` in any process and on any machine with the same model.

        Raises WrongUsage before the first step of a file whose states take their size from the input, and for a state
        that overflowed, which `restore` would not take.
        """
        return to_bytes(self.state, self._model, self.batch)

    def restore(self, data: bytes) -> None:
        """Go on from the states that `to_bytes` gave; a quantized form of the same model takes them too.

        Raises InvalidState for bytes that are none or damaged, NewerState for a newer format, StateMismatch for those
        of another model or batch, and InputMismatch for shapes or numbers that the file does not take. The states are
        then those of before.
        """
        self.state = saved_state.unpack(data, model_hash=self._model.manifest.model_hash, batch=self.batch)

    @functools.cached_property
    def _initial(self) -> dict[str, np.ndarray]:
        """The initial states, where their size is known from the start."""
        return self._model.initial_states(self._start)

    def _known(self, lengths: Lengths) -> Lengths:
        """The lengths of the states' axes, which no later step may change."""
        return {axis: lengths[axis] for spec in self._specs.values() for axis in spec.axes if isinstance(axis, str)}

    def _begin(self, lengths: Lengths, states: Mapping[str, np.ndarray]) -> Lane:
        """The memory for states of these lengths, with `states` in it."""
        self._again = None
        if self._lane is not None and self._lane.states.lengths == lengths:
            self._lane.states.write(states)
            return self._lane
        runner = self._model.runner
        lane = Lane.take(runner, self._model.manifest, self._model.feed, lengths)
        lane.states.write(states)
        self._leave()
        if runner.graphs:
            self._leave = weakref.finalize(self, runner.spare.append, lane)
        self._lane = lane
        return lane
