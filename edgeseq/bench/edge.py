"""The search for the edge between the rates that keep a deadline and those that miss it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeseq.bench.arrivals import Arrivals, Rate

TRIES_OF_A_SEARCH = 40
"""Of the time for a search: some ten tries find the edge, six to nine make sure of either side, and of some rates they
disagree."""

# Steps of the search to a factor of 2, which makes them 4 % apart.
_OCTAVE = 16
_LOWEST_STEP = -6 * _OCTAVE


class _TimeUp(Exception):
    """No time is left for a try that could be judged."""


@dataclass(kw_only=True)
class Search:
    """For the edge between the rates that keep the deadline and those that miss it, on a ladder of rates."""

    arrivals: Arrivals
    capacity_per_s: float
    """What can be answered at most, by a guess: step 0."""
    end_ns: int
    rates: dict[int, Rate] = field(default_factory=dict)
    """Those that were tried, by their step."""

    def run(self) -> str:
        """How it ended, as `Served.searched` says."""
        try:
            kept = self._edge()
            return "hopeless" if kept is None else "found" if self._make_sure(kept) else "unsteady"
        except _TimeUp:
            return "limit"

    def _edge(self) -> int | None:
        """A step that seems to keep the deadline while the next seems to miss it; None where every one seems to."""
        low = high = None
        step = 0
        while low is None or high is None or high - low > 1:
            # A miss may be a disturbance.
            if self._try(step).kept or self._try(step).kept:
                low = step
            elif step <= _LOWEST_STEP:
                return None
            else:
                high = step
            if low is None:
                step -= _OCTAVE
            else:
                step = low + _OCTAVE if high is None else (low + high) // 2
        return low

    def _make_sure(self, low: int) -> bool:
        """Try both sides of the edge again, the lower first, each moved away until it is sure; False where none is."""
        high, down, up = low + 1, 1, 1
        while not self._rate(low).surely_kept:
            if self._try(low).missed > 1:
                low, down = low - down, 2 * down
                if low < _LOWEST_STEP:
                    return False
        while not self._rate(high).surely_missed:
            if self._try(high).kept > 1:
                high, up = high + up, 2 * up
        return True

    def _rate(self, step: int) -> Rate:
        return self.rates.get(step, Rate(per_s=self.capacity_per_s * 2 ** (step / _OCTAVE)))

    def _try(self, step: int) -> Rate:
        rate = self._rate(step)
        # A rate that cannot be judged in the time that is left is not begun.
        if not self.arrivals.fits(rate, self.end_ns):
            raise _TimeUp
        self.rates[step] = rate
        judged = rate.kept + rate.missed
        self.arrivals.try_once(rate, self.end_ns)
        if rate.kept + rate.missed == judged:
            raise _TimeUp
        return rate
