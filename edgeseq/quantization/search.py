"""Which form each layer gets: measure every candidate alone, combine the best, take back what breaks the budget.

Nothing here knows ONNX: a `Trial` measures a choice, and tests hand in one that only calculates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgeseq.bench.stats import Ratio
from edgeseq.quantization.budget import GOALS, Budget, Quality
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.samples import Progress

Choices = Mapping[str, str]
"""Layer name to candidate name; a layer that is not in it stays in fp32."""

NOISE = 0.01
"""A time counts as slower, or as a gain, when its interval lies beyond this: two sessions of one file can differ by
1 %, because their weights lie elsewhere in memory."""
# Gains of at least this share of the largest are alike; the smaller error decides between them, then the time.
_ALIKE = 0.95


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A choice with the number of threads that suits it."""

    threads: int
    """Threads within an op."""
    time: Ratio
    """Time of one call over that of fp32 with the threads that suit fp32."""


class Trial(Protocol):
    """Measures choices. Every method may raise Declined when the choice cannot be built or run."""

    def quality(self, choices: Choices) -> Quality:
        """On the rows that choose."""

    def held_out_quality(self, choices: Choices) -> Quality | None:
        """On the held-out rows; None when there are none."""

    def size_bytes(self, choices: Choices) -> int:
        """Of the whole file."""

    def time_ratio(self, choices: Choices) -> Ratio:
        """Time of one call over fp32's, with as many threads."""

    def tuned(self, choices: Choices, time: Ratio) -> Tuned:
        """The choice with the best number of threads; `time` is its ratio with as many threads as fp32."""

    def source_latency_ms(self) -> float:
        """Time of one call of fp32, in milliseconds."""


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
    """Logarithms of how many times smaller and, beyond noise, faster the file is, weighed by the goal."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the search found."""

    choices: dict[str, str]
    """The plan; empty when fp32 is best."""
    tried: tuple[Tried, ...]
    """Everything measured alone, in the order given."""
    reverted: Mapping[tuple[str, str], str]
    """Layer and candidate to why it was taken back from the combination."""
    tuned: Tuned | None
    """Time and threads of the combination; None when it is empty."""
    goal: str
    """What the combination was made for: another goal than the one given where only that keeps the budget."""
    unmet: str = ""
    """How fp32 and every combination break the limits of size and time, and this one the least; empty when it does
    not."""


def search(
    layers: Mapping[str, Sequence[str]],
    trial: Trial,
    budget: Budget,
    *,
    goal: str = "balanced",
    known: Sequence[Tried] = (),
    tell: Callable[[Tried], None] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Choose a candidate for each layer. `layers` gives the names of those that apply, in order of preference.

    A form that makes the file slower is taken only where the size is the goal. Where what is best for `goal` is too
    large or too slow for the budget, the other goals are tried. `known` are measurements of an earlier search, and
    `tell` gets every new one.
    """
    measured = _measure(layers, trial, budget, goal, known, tell, progress)
    outcomes = []
    for aim in _aims(goal, budget):
        outcome = _combine(layers, measured, trial, budget, aim, progress)
        over = _over(outcome, trial, budget)
        if not over:
            return outcome
        outcomes.append((max(over.values()), replace(outcome, unmet="; ".join(over))))
    return min(outcomes, key=lambda pair: pair[0])[1]


def _aims(goal: str, budget: Budget) -> list[str]:
    limited = budget.max_size_bytes is not None or budget.max_latency_ms is not None
    return list(dict.fromkeys([goal, "size", "latency", "balanced"])) if limited else [goal]


def _over(outcome: Outcome, trial: Trial, budget: Budget) -> dict[str, float]:
    """How the outcome breaks the limits of size and time, in words, each with the share of the limit that it is."""
    over = {}
    if budget.max_size_bytes is not None:
        size_bytes = trial.size_bytes(outcome.choices)
        over[budget.size_broken_by(size_bytes)] = size_bytes / budget.max_size_bytes
    if budget.max_latency_ms is not None:
        latency_ms = trial.source_latency_ms() * (outcome.tuned.time.value if outcome.tuned else 1.0)
        over[budget.latency_broken_by(latency_ms)] = latency_ms / budget.max_latency_ms
    return {words: share for words, share in over.items() if words}


def _measure(
    layers: Mapping[str, Sequence[str]],
    trial: Trial,
    budget: Budget,
    goal: str,
    known: Sequence[Tried],
    tell: Callable[[Tried], None] | None,
    progress: Progress | None,
) -> list[Tried]:
    pairs = [(layer, candidate) for layer, names in layers.items() for candidate in names]
    measured = {(entry.layer, entry.candidate): entry for entry in known}
    found: list[Tried] = []
    for done, pair in enumerate(pairs):
        if progress:
            progress("measure candidates", done, len(pairs))
        entry = measured.get(pair)
        if entry is None:
            before = [other for other in found if other.layer == pair[0]]
            # Where only the size counts, time is not spent on what is both larger and worse than another.
            entry = _try_alone(*pair, trial, budget, before if _aims(goal, budget) == ["size"] else ())
            if tell:
                tell(entry)
        found.append(entry)
    if progress:
        progress("measure candidates", len(pairs), len(pairs))
    return found


def _try_alone(layer: str, candidate: str, trial: Trial, budget: Budget, rivals: Sequence[Tried]) -> Tried:
    """What can be measured of it; `rivals` are forms of the layer that rule out what is worse in size and error."""
    choices = {layer: candidate}
    tried = Tried(layer=layer, candidate=candidate, declined="")
    try:
        size_bytes, quality = trial.size_bytes(choices), trial.quality(choices)
        tried = replace(tried, size_bytes=size_bytes, quality=quality)
        # Times cost most, so they are taken only where the rest is good.
        broken = budget.broken_by(quality)
        if broken:
            return replace(tried, declined=broken)
        better = next((rival for rival in rivals if _dominates(rival, tried)), None)
        if better is not None:
            return replace(tried, declined=f"{better.candidate} is smaller and has less error")
        return replace(tried, time=_time_of(choices, trial))
    except Declined as reason:
        return replace(tried, declined=str(reason))


def _dominates(rival: Tried, tried: Tried) -> bool:
    if rival.time is None or rival.size_bytes is None or tried.size_bytes is None:
        return False
    return rival.size_bytes < tried.size_bytes and _error(rival) < _error(tried)


def _judged(tried: Tried, goal: str, source_bytes: int) -> Tried:
    """The measurement with its gain for this goal, declined when there is none."""
    if tried.declined:
        return tried
    size_bytes, time = tried.size_bytes, tried.time
    assert size_bytes is not None
    assert time is not None
    tried = replace(tried, gain=_gain(size_bytes, time, goal, source_bytes))
    if is_slower(time) and goal != "size":
        return replace(tried, declined=f"it is slower than fp32: {time.value:.2f} times its time")
    if tried.gain <= 0:
        return replace(tried, declined="it makes the file no smaller, and not measurably faster")
    return tried


def _gain(size_bytes: int, time: Ratio, goal: str, source_bytes: int) -> float:
    for_size, for_time = GOALS[goal]
    differs = is_slower(time) or is_faster(time)
    return for_size * math.log(source_bytes / size_bytes) - (for_time * math.log(time.value) if differs else 0.0)


def _time_of(choices: Choices, trial: Trial) -> Ratio:
    """The time ratio; measured again when it is bad, because one disturbance of the machine should not cost a layer."""
    time = trial.time_ratio(choices)
    return trial.time_ratio(choices) if is_slower(time) else time


def is_slower(time: Ratio) -> bool:
    """Whether a ratio of times is above 1 beyond noise."""
    return (time.value if time.interval is None else time.interval.low) > 1 + NOISE


def is_faster(time: Ratio) -> bool:
    """Whether a ratio of times is surely below 1 beyond noise."""
    return time.interval is not None and time.interval.high < 1 - NOISE


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
    layers: Mapping[str, Sequence[str]],
    measured: Sequence[Tried],
    trial: Trial,
    budget: Budget,
    goal: str,
    progress: Progress | None,
) -> Outcome:
    source_bytes = trial.size_bytes({})
    tried = tuple(_judged(entry, goal, source_bytes) for entry in measured)
    fitting = {layer: list(_best_first([entry for entry in tried if entry.layer == layer])) for layer in layers}
    combining = _Combining(trial, budget, goal, progress, steps=sum(map(len, fitting.values())))
    combining.step_down({layer: found for layer, found in fitting.items() if found})
    combining.put_back()
    choices, time = combining.choices, combining.time
    return Outcome(
        choices=choices,
        tried=tried,
        reverted={pair: reason for pair, (_, reason) in combining.reverted.items()},
        tuned=None if time is None else trial.tuned(choices, time),
        goal=goal,
    )


@dataclass
class _Combining:
    """The best forms of all layers together, changed until the whole keeps the budget and the speed."""

    trial: Trial
    budget: Budget
    goal: str
    progress: Progress | None
    steps: int
    current: dict[str, Tried] = field(default_factory=dict)
    time: Ratio | None = None
    reverted: dict[tuple[str, str], tuple[Tried, str]] = field(default_factory=dict)
    broken: set[frozenset[tuple[str, str]]] = field(default_factory=set)

    @property
    def choices(self) -> dict[str, str]:
        return {layer: entry.candidate for layer, entry in self.current.items()}

    def step_down(self, fitting: dict[str, list[Tried]]) -> None:
        """Start with every layer's best candidate, and step layers down until the whole stands."""
        while fitting:
            current = {layer: found[0] for layer, found in fitting.items()}
            broken, time = self._verify({layer: entry.candidate for layer, entry in current.items()})
            if not broken:
                self.current, self.time = current, time
                return
            if time is None:
                worst = max(current.values(), key=lambda entry: _error(entry) / entry.gain)
                steps_down = [entry for entry in fitting[worst.layer][1:] if _error(entry) <= _error(worst)]
            else:
                worst = max(current.values(), key=_alone)
                steps_down = [entry for entry in fitting[worst.layer][1:] if _alone(entry) <= _alone(worst)]
            for entry in fitting[worst.layer]:
                if entry not in steps_down:
                    self.reverted[entry.layer, entry.candidate] = entry, broken
            if steps_down:
                fitting[worst.layer] = steps_down
            else:
                del fitting[worst.layer]

    def put_back(self) -> None:
        """Give layers back what they lost, where it fits after all: what was taken back later made room for it."""
        for entry, _ in sorted(self.reverted.values(), key=lambda pair: -pair[0].gain):
            now = self.current.get(entry.layer)
            choices = {**self.choices, entry.layer: entry.candidate}
            if (now is not None and now.gain >= entry.gain) or frozenset(choices.items()) in self.broken:
                continue
            broken, time = self._verify(choices)
            if not broken:
                self.current[entry.layer], self.time = entry, time
                del self.reverted[entry.layer, entry.candidate]

    def _verify(self, choices: Choices) -> tuple[str, Ratio | None]:
        """Why the combination does not stand (empty when it does), and its time when it came to that."""
        if self.progress:
            self.progress("verify the combination", min(len(self.reverted), self.steps), self.steps)
        broken, time = _verify(choices, self.trial, self.budget, allow_slower=self.goal == "size")
        if broken:
            self.broken.add(frozenset(choices.items()))
        return broken, time


def _verify(choices: Choices, trial: Trial, budget: Budget, *, allow_slower: bool) -> tuple[str, Ratio | None]:
    try:
        broken = budget.broken_by(trial.quality(choices))
        if broken:
            return f"with the other layers, {broken}", None
        held_out = trial.held_out_quality(choices)
        broken = budget.broken_by(held_out) if held_out else ""
        if broken:
            return f"on the held-out rows, {broken}", None
        time = _time_of(choices, trial)
        if is_slower(time) and not allow_slower:
            return f"with the other layers, the file is slower than fp32: {time.value:.2f} times its time", time
    except Declined as reason:
        return f"with the other layers: {reason}", None
    return "", time
