"""Runs of as many rows as the last one had: their memory stays, and states are gathered into it where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeseq.runtime.bound import Bound
from edgeseq.runtime.feed import Lengths, check_shape
from edgeseq.runtime.manifest import TensorSpec
from edgeseq.runtime.pool_rows import Index, Rows

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model

_MOST = 4


class BoundRun:
    """A run at fixed shapes; not to be used by two threads at once."""

    def __init__(self, bound: Bound, inputs: dict[str, np.ndarray], states: dict[str, np.ndarray], model: Model):
        self._bound, self._inputs, self._states = bound, inputs, states
        answers = [answer for answer in bound.arrays()[1] if answer is not None]
        count = len(model.outputs)
        self._outputs = answers[:count]
        self._after = dict(zip(states, answers[count:], strict=True))

    @classmethod
    def of(cls, model: Model, feed: Mapping[str, np.ndarray]) -> BoundRun | None:
        """For arrays like those of `feed`; None where an output's length is known only after a run."""
        lengths: Lengths = {}
        for spec in model.inputs:
            check_shape(spec.name, feed[spec.name], spec.axes, lengths)
        specs = model.manifest.states
        before = [TensorSpec(name=spec.input, dtype=spec.dtype, axes=spec.axes) for spec in specs]
        after = [TensorSpec(name=spec.output, dtype=spec.dtype, axes=spec.axes) for spec in specs]
        bound = Bound(model.runner, [*model.inputs, *before], [*model.outputs, *after], lengths)
        places, answers = bound.arrays()
        if any(answer is None for answer in answers):
            return None
        named = dict(zip([spec.name for spec in (*model.inputs, *before)], places, strict=True))
        states = {spec.input: named.pop(spec.input) for spec in specs}
        return cls(bound, named, states, model)

    def run(
        self, feed: Mapping[str, np.ndarray], rows: Index, held: Rows
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """The outputs, new arrays, and the states that follow, which the next run writes over."""
        for name, place in self._inputs.items():
            place[...] = feed[name]
        held.gather_into(self._states, rows)
        self._bound.runner.run_bound(self._bound.bindings[0], None)
        return [output.copy() for output in self._outputs], self._after


class BoundRuns:
    """The last used ones, made where a shape comes a second time in a row."""

    def __init__(self, model: Model):
        self._model = model
        self._last: tuple[tuple[int, ...], ...] = ()
        self._made: dict[tuple[tuple[int, ...], ...], BoundRun | None] = {}

    def find(self, feed: Mapping[str, np.ndarray]) -> BoundRun | None:
        """None where the run is of other shapes than the last, or is more than a run: on a device, or to be proven."""
        if not self._model.runner.is_plain:
            return None
        shapes = tuple(array.shape for array in feed.values())
        if shapes in self._made:
            # The last used is the last of the dict.
            self._made[shapes] = found = self._made.pop(shapes)
            return found
        found = None
        if shapes == self._last:
            if len(self._made) == _MOST:
                del self._made[next(iter(self._made))]
            self._made[shapes] = found = BoundRun.of(self._model, feed)
        self._last = shapes
        return found
