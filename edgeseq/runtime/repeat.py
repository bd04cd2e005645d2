"""What comes again and again, arrays like the last ones on the CPU: the memory of their runs stays, and of one like the
last little more than the run is left.

Where a run takes a few microseconds, what Python does around it is a third of a step: so nothing is made, looked up or
checked here that the last step has settled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeseq.runtime import providers
from edgeseq.runtime.bound import Bound, Runner, States
from edgeseq.runtime.feed import Feed, Lengths, shape_of
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.states import initial

# Of arrays larger than this together, the run takes so long that nobody finds the checks, and copies would cost.
_MOST_BYTES = 1 << 20
_MOST_THREADS = 16
# Making a repeat takes as long as five calls by it save: who has that many of a shape may well have as many more, and
# what comes in many lengths pays at most twice.
_PAYS_AFTER = 5


def is_kept(manifest: Manifest, lengths: Lengths) -> bool:
    """Whether memory is kept for what goes in and out at these `lengths` when they come again.

    It is not for large arrays, nor where the length of an output is known only after the run.
    """
    specs = (*manifest.inputs, *manifest.outputs)
    if not all(isinstance(axis, int) or axis in lengths for spec in specs for axis in spec.axes):
        return False
    sizes = (math.prod(shape_of(spec.axes, lengths)) * np.dtype(spec.dtype).itemsize for spec in specs)
    return sum(sizes) <= _MOST_BYTES


class Repeat:
    """Runs by `bound`, whose lengths are all known, for a file of one input that is checked by `feed`."""

    def __init__(self, bound: Bound, feed: Feed):
        assert feed.only is not None
        [place], answers = bound.arrays()
        self._bindings, self._session = bound.bindings, bound.runner.session
        self._states = bound.states
        self._feed, (self._name, self._dtype, _, self._vocabulary) = feed, feed.only
        self._place, self._shape = place, place.shape
        self._answers = [answer for answer in answers if answer is not None]
        self._numbers = place.reshape(-1) if feed.takes_finite_only(self._dtype) else None

    @classmethod
    def of(cls, bound: Bound, feed: Feed) -> Repeat | None:
        """None where a run is more than a run: on a device, with its proof or a CUDA graph, or with several inputs."""
        return cls(bound, feed) if feed.only is not None and bound.runner.is_plain else None

    def step(self, x: Any) -> list[np.ndarray] | None:
        """As `Bound.run`, for the one input; None, and nothing done, for anything but an array like the last step's.

        Raises InputMismatch for numbers that the input does not take.
        """
        states = self._states
        assert states is not None
        source = states.current
        found = self.run(x, source)
        if found is not None:
            states.current = 1 - source
        return found

    def run(self, x: Any, source: int = 0) -> list[np.ndarray] | None:
        """As `step`, from the states in the set `source`; those after the run are in the other one."""
        if type(x) is not np.ndarray or x.shape != self._shape or x.dtype != self._dtype:
            return None
        self._place[...] = x
        numbers = self._numbers
        # Most often one look is enough: see `Feed.check_finite`.
        if numbers is None or not math.isfinite(np.vdot(numbers, numbers)):
            self._feed.check_values(self._name, x, self._vocabulary)
        providers.run_bound(self._session, self._bindings[source])
        return [answer.copy() for answer in self._answers]


class Calls:
    """Calls of a model, each from the initial state, by any number of threads: each takes a `Repeat` while it runs."""

    def __init__(self, runner: Runner, manifest: Manifest, feed: Feed):
        self._runner, self._manifest, self._feed = runner, manifest, feed
        self._last: tuple[int, ...] | None = None
        self._long = 0
        self._free: list[Repeat] = []

    def again(self, x: Any) -> list[np.ndarray] | None:
        """As `Repeat.run`; None also while there is nothing to repeat."""
        # A list whose entries another call replaces gets nothing back from this one.
        free = self._free
        try:
            repeat = free.pop()
        except IndexError:
            return None
        try:
            return repeat.run(x)
        finally:
            free.append(repeat)

    def settle(self, feed: Mapping[str, np.ndarray], lengths: Lengths) -> None:
        """Take note of a call that went the long way: `_PAYS_AFTER` of a shape in a row promise more.

        Each after those, while none is free, comes from another thread; while one is, from what never goes the short
        way, as lists.
        """
        if self._feed.only is None or not self._runner.is_plain:
            return
        shape = feed[self._feed.only[0]].shape
        if shape != self._last:
            self._last, self._long, self._free = shape, 0, []
        free = self._free
        if not free:
            self._long += 1
            if 0 <= self._long - _PAYS_AFTER < _MOST_THREADS and is_kept(self._manifest, lengths):
                free.append(self._repeat(lengths))

    def _repeat(self, lengths: Lengths) -> Repeat:
        manifest, states = self._manifest, None
        if manifest.states:
            states = States(self._runner, manifest.states, lengths)
            # Into the set that every run reads: the other one is written over.
            states.current = 1
            states.write(initial(manifest.states, lengths))
        return Repeat(Bound(self._runner, manifest.inputs, manifest.outputs, lengths, states), self._feed)
