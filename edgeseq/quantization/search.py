"""Which form each layer gets: measure every candidate alone, combine the best, take back what breaks the budget.

Nothing here knows ONNX: a `Trial` measures a choice, and tests hand in one that only calculates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgeseq.bench.stats import Ratio
from edgeseq.quantization.rewriting import Declined

Progress = Callable[[str, int, int], None]
Choices = Mapping[str, str]
"""Layer name to candidate name; a layer that is not in it stays in fp32."""

# A time counts as slower, or as a gain, when its interval lies beyond this: two sessions of one file can differ by 1 %,
# because their weights lie elsewhere in memory.
_NOISE = 0.01
# Gains of at least this share of the largest are alike; the smaller error decides between them, then the time.
_ALIKE = 0.95


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a choice costs, on one part of the samples."""

    error: float
    """Relative RMS error against fp32, of the worst output."""
    metric_before: float | None = None
    """The metric of fp32; None without labels."""
    metric_after: float | None = None
    """The metric with this choice; None without labels, or when the answers are no numbers."""
    drop: float | None = None
    """By how much it is worse."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a choice may cost."""

    max_error: float | None
    """Largest `Quality.error`."""
    max_drop: float | None
    """Largest `Quality.drop`."""

    def broken_by(self, quality: Quality) -> str:
        """How `quality` breaks the budget, in words; empty when it keeps it. NaN breaks every budget."""
        if self.max_error is not None and not quality.error <= self.max_error:
            return f"error {quality.error:.2%} is over the budget of {self.max_error:.2%}"
        if self.max_drop is not None and quality.drop is None:
            return "the answers are not finite"
        if self.max_drop is not None and quality.drop is not None and not quality.drop <= self.max_drop:
            return f"the metric drops by {quality.drop:.4g}, over the budget of {self.max_drop:.4g}"
        return ""


class Trial(Protocol):
    """Measures choices. Every method may raise Declined when the choice cannot be built or run."""

    def quality(self, choices: Choices) -> Quality:
        """On the rows that choose."""

    def held_out_quality(self, choices: Choices) -> Quality | None:
        """On the held-out rows; None when there are none."""

    def size_bytes(self, choices: Choices) -> int:
        """Of the whole file."""

    def time_ratio(self, choices: Choices) -> Ratio:
        """Time of one call over fp32's."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One candidate, measured alone on one layer."""

    layer: str
    """Name of the layer."""
    candidate: str
    """Name of the candidate."""
    declined: str
    """Why it does not fit; empty when it does."""
    quality: Quality | None = None
    """What it costs alone."""
    size_bytes: int | None = None
    """Size of the file with it alone."""
    time: Ratio | None = None
    """Time of the file with it alone, over fp32's."""
    gain: float = 0.0
    """Logarithm of how many times smaller, plus that of how many times faster beyond noise."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the search found."""

    choices: dict[str, str]
    """The plan; empty when fp32 is best."""
    tried: tuple[Tried, ...]
    """Everything measured alone, in the order given."""
    reverted: Mapping[tuple[str, str], str]
    """Layer and candidate to why it was taken back from the combination."""
    time: Ratio | None
    """Time of the combination over fp32's; None when it is empty."""


def search(
    layers: Mapping[str, Sequence[str]], trial: Trial, budget: Budget, *, progress: Progress | None = None
) -> Outcome:
    """Choose a candidate for each layer. `layers` gives the names of those that apply, in order of preference."""
    pairs = [(layer, candidate) for layer, names in layers.items() for candidate in names]
    tried = []
    for done, (layer, candidate) in enumerate(pairs):
        if progress:
            progress("measure candidates", done, len(pairs))
        tried.append(_try_alone(layer, candidate, trial, budget))
    if progress:
        progress("measure candidates", len(pairs), len(pairs))
    fitting = {layer: list(_best_first([t for t in tried if t.layer == layer])) for layer in layers}
    return _combine({layer: found for layer, found in fitting.items() if found}, tuple(tried), trial, budget, progress)


def _try_alone(layer: str, candidate: str, trial: Trial, budget: Budget) -> Tried:
    choices = {layer: candidate}
    tried = Tried(layer=layer, candidate=candidate, declined="")
    try:
        size_bytes, quality = trial.size_bytes(choices), trial.quality(choices)
        tried = replace(tried, size_bytes=size_bytes, quality=quality)
        # Times cost most, so they are taken only where the rest is good.
        broken = budget.broken_by(quality)
        if broken:
            return replace(tried, declined=broken)
        time = _time_of(choices, trial)
    except Declined as reason:
        return replace(tried, declined=str(reason))
    tried = replace(tried, time=time, gain=_gain(size_bytes, time, trial.size_bytes({})))
    if _is_slower(time):
        return replace(tried, declined=f"it is slower than fp32: {time.value:.2f} times its time")
    if tried.gain <= 0:
        return replace(tried, declined="it makes the file no smaller, and not measurably faster")
    return tried


def _gain(size_bytes: int, time: Ratio, source_size_bytes: int) -> float:
    faster = time.interval is not None and time.interval.high < 1 - _NOISE
    return math.log(source_size_bytes / size_bytes) - (math.log(time.value) if faster else 0.0)


def _time_of(choices: Choices, trial: Trial) -> Ratio:
    """The time ratio; measured again when it is bad, because one disturbance of the machine should not cost a layer."""
    time = trial.time_ratio(choices)
    return trial.time_ratio(choices) if _is_slower(time) else time


def _is_slower(time: Ratio) -> bool:
    return (time.value if time.interval is None else time.interval.low) > 1 + _NOISE


def _best_first(tried: Sequence[Tried]) -> Iterator[Tried]:
    """The candidates that fit, the largest gain first; among those alike in it the smallest error, then the time."""
    left = [entry for entry in tried if not entry.declined]
    while left:
        most = max(entry.gain for entry in left)
        alike = [entry for entry in left if entry.gain >= most * _ALIKE]
        best = min(alike, key=lambda entry: (_error(entry), _alone(entry)))
        left.remove(best)
        yield best


def _error(tried: Tried) -> float:
    assert tried.quality is not None
    return tried.quality.error


def _alone(tried: Tried) -> float:
    assert tried.time is not None
    return tried.time.value


def _combine(
    fitting: dict[str, list[Tried]],
    tried: tuple[Tried, ...],
    trial: Trial,
    budget: Budget,
    progress: Progress | None,
) -> Outcome:
    """Start with every layer's best candidate, and step layers down until the whole keeps the budget and the speed."""
    reverted: dict[tuple[str, str], str] = {}
    steps = sum(map(len, fitting.values()))
    while fitting:
        if progress:
            progress("verify the combination", len(reverted), steps)
        current = {layer: found[0] for layer, found in fitting.items()}
        choices = {layer: entry.candidate for layer, entry in current.items()}
        broken, time = _verify(choices, trial, budget)
        if not broken:
            return Outcome(choices=choices, tried=tried, reverted=reverted, time=time)
        if time is None:
            worst = max(current.values(), key=lambda entry: _error(entry) / entry.gain)
            steps_down = [entry for entry in fitting[worst.layer][1:] if _error(entry) <= _error(worst)]
        else:
            worst = max(current.values(), key=_alone)
            steps_down = [entry for entry in fitting[worst.layer][1:] if _alone(entry) <= _alone(worst)]
        reverted[worst.layer, worst.candidate] = broken
        for entry in fitting[worst.layer][1:]:
            if entry not in steps_down:
                reverted[entry.layer, entry.candidate] = broken
        if steps_down:
            fitting[worst.layer] = steps_down
        else:
            del fitting[worst.layer]
    return Outcome(choices={}, tried=tried, reverted=reverted, time=None)


def _verify(choices: Choices, trial: Trial, budget: Budget) -> tuple[str, Ratio | None]:
    """Why the combination does not stand (empty when it does), and its time when it was the time that decided."""
    try:
        broken = budget.broken_by(trial.quality(choices))
        if broken:
            return f"with the other layers, {broken}", None
        held_out = trial.held_out_quality(choices)
        broken = budget.broken_by(held_out) if held_out else ""
        if broken:
            return f"on the held-out rows, {broken}", None
        time = _time_of(choices, trial)
        if _is_slower(time):
            return f"with the other layers, the file is slower than fp32: {time.value:.2f} times its time", time
    except Declined as reason:
        return f"with the other layers: {reason}", None
    return "", time
