"""`Stream`: the states of one run through a streaming file, carried from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime import structure
from edgeseq.runtime.feed import Lengths, check_shape

if TYPE_CHECKING:
    from edgeseq.runtime.model import Model


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
        self._outputs = [*(spec.name for spec in model.outputs), *(spec.output for spec in specs)]
        self._states: dict[str, np.ndarray] | None = None  # None until the first step: the initial ones

    def step(self, x: Any) -> Any:
        """Answers for the next steps of the sequence, `x` of shape (batch, time, ...) with at least one step.

        Takes and returns what the model does; the arrays returned are the caller's. When it raises, the state is
        that of before.

        Raises InputMismatch for inputs that do not fit.
        """
        lengths = self._lengths.copy()
        feed = self._model.feed.arrays(self._model.feed.by_name(x), lengths)
        if self._states is None:
            feed.update(self._model.initial_states(lengths))
        else:
            feed.update(self._states)
        results = self._model.run(self._outputs, feed)
        count = len(self._outputs) - len(self._specs)
        if self._states is None:
            self._lengths = self._known(lengths)
        self._states = dict(zip(self._specs, results[count:], strict=True))
        return self._model.nested(results[:count])

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Back to the initial state, all rows or those given (0 to batch - 1)."""
        if rows is None:
            self._states, self._lengths = None, self._start
            return
        chosen = list(rows)
        whole = all(isinstance(row, (int, np.integer)) and not isinstance(row, bool) for row in chosen)
        if not whole or not all(0 <= row < self.batch for row in chosen):
            raise WrongUsage(f"rows must be integers from 0 to {self.batch - 1}; got {chosen}")
        for name, array in (self._states or {}).items():
            array[chosen] = self._specs[name].initial

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Copies of the states by name. Set it to go on from states read before.

        Raises WrongUsage when read before the first step of a file whose states take their size from the input.
        """
        if self._states is not None:
            return {name: array.copy() for name, array in self._states.items()}
        axes = {axis for spec in self._specs.values() for axis in spec.axes if isinstance(axis, str)}
        if free := axes - set(self._lengths):
            raise WrongUsage(f"the states' size ({', '.join(sorted(free))}) is known only after the first step")
        return self._model.initial_states(self._lengths)

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        structure.check_keys(states, list(self._specs), "the state")
        lengths = self._start.copy()
        found = {}
        for name, spec in self._specs.items():
            array = np.array(states[name])
            if array.dtype != spec.dtype:
                raise InputMismatch(f"state '{name}' is {spec.dtype}; got {array.dtype}", name)
            check_shape(name, array, spec.axes, lengths, kind="state")
            found[name] = array
        self._states, self._lengths = found, self._known(lengths)

    def _known(self, lengths: Lengths) -> Lengths:
        """The lengths of the states' axes, which no later step may change."""
        return {axis: lengths[axis] for spec in self._specs.values() for axis in spec.axes if isinstance(axis, str)}
