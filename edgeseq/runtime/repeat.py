"""The step that comes again and again, an array like the last one's on the CPU: little more than the run is left of it.

Where a run takes a few microseconds, what Python does around it is a third of a step: so nothing is made, looked up or
checked here that the last step has settled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.runtime import providers
from edgeseq.runtime.bound import Bound
from edgeseq.runtime.feed import Feed


class Repeat:
    """Steps of a stream by `bound`, for a file of one input that is checked by `feed`."""

    def __init__(self, bound: Bound, feed: Feed, place: np.ndarray, answers: list[np.ndarray]):
        assert feed.only is not None
        assert bound.states is not None
        self._states, self._bindings, self._session = bound.states, bound.bindings, bound.runner.session
        self._feed, (self._name, self._dtype, _, self._vocabulary) = feed, feed.only
        self._place, self._shape, self._answers = place, place.shape, answers
        self._numbers = place.reshape(-1) if feed.takes_finite_only(self._dtype) else None

    @classmethod
    def of(cls, bound: Bound, feed: Feed) -> Repeat | None:
        """None where a run is more than a run: on a device, with its proof or a CUDA graph, or with several inputs."""
        places, answers = bound.arrays()
        alone = feed.only is not None and len(places) == 1 and bound.runner.is_plain
        known = [answer for answer in answers if answer is not None]
        return cls(bound, feed, places[0], known) if alone and len(known) == len(answers) else None

    def step(self, x: Any) -> list[np.ndarray] | None:
        """As `Bound.run`, for the one input; None, and nothing done, for anything but an array like the last step's.

        Raises InputMismatch for numbers that the input does not take.
        """
        if type(x) is not np.ndarray or x.shape != self._shape or x.dtype != self._dtype:
            return None
        self._place[...] = x
        numbers = self._numbers
        # Most often one look is enough: see `Feed.check_finite`.
        if numbers is None or not math.isfinite(np.vdot(numbers, numbers)):
            self._feed.check_values(self._name, x, self._vocabulary)
        states = self._states
        source = states.current
        providers.run_bound(self._session, self._bindings[source])
        found = [answer.copy() for answer in self._answers]
        states.current = 1 - source
        return found
