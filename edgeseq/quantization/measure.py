"""Measuring one choice of forms in place: build the file in memory, run it on the samples, time it beside fp32."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeseq.bench.sample import SETTLE_NS, Settings, interleave
from edgeseq.bench.stats import Ratio, paired_ratio
from edgeseq.errors import InputMismatch, InvalidFile, WrongUsage
from edgeseq.quantization.budget import Quality
from edgeseq.quantization.calibration import observe
from edgeseq.quantization.candidates import CANDIDATES, Parameters, apply, rows_independent
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.metrics import Answers, Metric, relative_rms
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.runs import run_session, serialize, with_states
from edgeseq.quantization.samples import Feed, Part, SplitSamples
from edgeseq.quantization.search import Choices, Tuned
from edgeseq.quantization.threads import fastest
from edgeseq.runtime.manifest import StateSpec
from edgeseq.runtime.providers import open_session

# Twenty rounds give the paired ratio an interval of about a percent on a quiet machine; the limits keep a large model's
# search to some seconds a candidate. They are shared out to sessions opened anew: one session of a file can be 5 %
# slower than another, because its weights lie elsewhere in memory, and the interval must hold that, too.
_OPENINGS = 4
_TIMING = Settings(min_runs=5, min_seconds=0.075, max_seconds=2.0, rounds=5, warm_up_max_seconds=0.15, precision=None)
# Six rounds are the least that have an interval. What is slower in all of them, and by more than a disturbance makes,
# needs no more.
_GLANCE = Settings(min_runs=6, min_seconds=0.03, max_seconds=2.0, rounds=6, warm_up_max_seconds=0.1, precision=None)
_CLEARLY_SLOWER = 1.2


class SampledTrial:
    """A `search.Trial` on real samples; fp32's own answers are computed once.

    Errors and times are measured with the same number of threads: onnxruntime's quantized LSTM shares the rows of a
    batch out to its threads, each share gets scales of its own, and so the answers depend on their number.

    Times are those of a call with `batch` rows on `provider`; fp32's own answers are always the CPU's. `threads` is a
    number, or the numbers of which the one that suits fp32 best is taken; `tune` are those of which the one that suits
    a choice best may be taken. `calibrated` are parameters of forms by layer that are known already; `size_of` says
    how large the written file will be.

    Raises InputMismatch when the fp32 file cannot run on the samples or gives answers that are not finite.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Sequence[Layer],
        samples: SplitSamples,
        *,
        states: Sequence[StateSpec] = (),
        threads: int | Sequence[int] = 1,
        tune: Sequence[int] = (),
        batch: int = 1,
        provider: str = "cpu",
        labels: npt.NDArray[Any] | None = None,
        metric: Metric | None = None,
        calibrated: Mapping[str, Parameters] | None = None,
        size_of: Callable[[Choices, bytes], int] = lambda _, content: len(content),
    ):
        self.model, self.layers, self.samples = model, layers, samples
        self.states, self.metric, self.batch, self.provider = states, metric, batch, provider
        self._labels = labels
        self._source = serialize(model)
        self._built: tuple[dict[str, str], bytes] = ({}, self._source)
        self._opened: dict[tuple[tuple[str, str], ...], Any] = {}
        self._calibrated: dict[tuple[str, str], Parameters] = {}
        self._known, self._size_of = calibrated or {}, size_of
        self._source_latency_ms: float | None = None
        self._timed_feed = with_states(_rows(samples.chosen_on.feeds[0], batch), states)
        self._tune = tune
        counts = (threads,) if isinstance(threads, int) else threads
        self.threads = counts[0]
        # What fp32 itself refuses is said as that, and not as a form that does not run.
        run_session(self._session({}), [self._timed_feed])
        best = self._best_threads({}, counts)
        if best != self.threads:
            self.threads = best
            self._opened.clear()
        self._parts = [part for part in (samples.chosen_on, samples.held_out) if part]
        self._reference = [self._fp32_answers(part) for part in self._parts]
        self._metric_before = [
            self._measured(answers, part) for answers, part in zip(self._reference, self._parts, strict=True)
        ]

    def build(self, choices: Choices) -> bytes:
        """The file with these choices; Declined when they do not fit."""
        if not choices:
            return self._source
        if self._built[0] != choices:
            made = apply(self.model, self.layers, choices, self.parameters(choices))
            self._built = (dict(choices), serialize(made))
        return self._built[1]

    def parameters(self, choices: Choices) -> dict[str, Parameters]:
        """Of each chosen form that is calibrated, by layer: found once, on the rows that choose, in the fp32 file."""
        found = {}
        for layer in self.layers:
            calibration = CANDIDATES[choices[layer.name]].calibration if layer.name in choices else None
            if calibration is None:
                continue
            if layer.name in self._known:
                found[layer.name] = self._known[layer.name]
                continue
            key = layer.name, choices[layer.name]
            if key not in self._calibrated:
                seen = observe(self.model, calibration.observed(layer), self.samples.chosen_on.feeds, self.states)
                # Plain numbers, which a plan holds as they are.
                self._calibrated[key] = {
                    name: float(value) for name, value in calibration.calibrate(layer, seen).items()
                }
            found[layer.name] = self._calibrated[key]
        return found

    def size_bytes(self, choices: Choices) -> int:
        """Bytes of the whole file."""
        return self._size_of(choices, self.build(choices))

    def quality(self, choices: Choices) -> Quality:
        """On the rows that choose."""
        return self._quality(choices, 0)

    def held_out_quality(self, choices: Choices) -> Quality | None:
        """On the held-out rows; None when there are none."""
        return self._quality(choices, 1) if len(self._parts) > 1 else None

    def time_ratio(self, choices: Choices) -> Ratio:
        """Time of a call over fp32's, both in turns."""
        return self._in_turns((choices, self.threads), ({}, self.threads))

    def tuned(self, choices: Choices, time: Ratio) -> Tuned:
        """The choice with the number of threads that suits it best; `time` is its ratio with fp32's.

        A form whose answers depend on the number of threads keeps the one with which its error was measured.
        """
        threads = self._best_threads(choices, self._tune) if rows_independent(choices) else self.threads
        if threads == self.threads:
            return Tuned(threads=threads, time=time)
        return Tuned(threads=threads, time=self._in_turns((choices, threads), ({}, self.threads)))

    def source_latency_ms(self) -> float:
        """Median time of a call of fp32, in milliseconds; measured once."""
        if self._source_latency_ms is None:
            medians: list[float] = []
            for _ in range(_OPENINGS):
                [sampled] = interleave([self._call({}, self.threads)], _TIMING)
                if sampled.error is not None:
                    raise sampled.error
                medians += [statistics.median(block) for block in sampled.rounds]
            self._source_latency_ms = statistics.median(medians) / 1e6
        return self._source_latency_ms

    def answers_beside_reference(self, choices: Choices) -> list[tuple[Answers, Answers]]:
        """For each part of the samples, fp32's answers and those with these choices."""
        return [
            (reference, self._answers(choices, part))
            for reference, part in zip(self._reference, self._parts, strict=True)
        ]

    def _quality(self, choices: Choices, index: int) -> Quality:
        part, reference, before = self._parts[index], self._reference[index], self._metric_before[index]
        answers = self._answers(choices, part)
        error = relative_rms(reference, answers)
        # A metric says nothing of answers that are no numbers.
        if self.metric is None or before is None or not math.isfinite(error):
            return Quality(error=error, metric_before=before)
        try:
            after = self._measured(answers, part)
        except WrongUsage as reason:
            # fp32 has a metric, so it is this form's answers that have none.
            raise Declined(str(reason)) from reason
        assert after is not None
        drop = self.metric.drop(before, after)
        return Quality(error=error, metric_before=before, metric_after=after, drop=drop)

    def _answers(self, choices: Choices, part: Part) -> Answers:
        try:
            return run_session(self._session(choices), part.feeds, self.states)
        except (InvalidFile, InputMismatch) as error:
            raise Declined(f"it does not run: {getattr(error, 'reason', error)}") from error

    def _fp32_answers(self, part: Part) -> Answers:
        # On a GPU they could come from TF32.
        session = self._session({}) if self.provider == "cpu" else open_session(self._source, threads=self.threads)
        answers = run_session(session, part.feeds, self.states)
        if not all(np.isfinite(output).all() for batch in answers for output in batch):
            raise InputMismatch("the fp32 file's own answers to the samples are not finite: check the samples.")
        return answers

    def _measured(self, answers: Answers, part: Part) -> float | None:
        if self.metric is None or self._labels is None:
            return None
        return self.metric(self._labels[part.rows], answers)

    def _best_threads(self, choices: Choices, counts: Sequence[int]) -> int:
        """Of the present number and `counts`; the present one where others measure alike."""
        return fastest(
            [self.threads, *(count for count in counts if count != self.threads)],
            lambda count, other: self._in_turns((choices, count), (choices, other)),
        )

    def _session(self, choices: Choices) -> Any:
        """A session with the threads of this trial; that of fp32 and the last one of another stay open."""
        key = tuple(sorted(choices.items()))
        if key not in self._opened:
            content = self.build(choices)
            self._opened = {kept: session for kept, session in self._opened.items() if not kept}
            self._opened[key] = open_session(content, threads=self.threads, provider=self.provider)
        return self._opened[key]

    def _call(self, choices: Choices, threads: int) -> Callable[[], object]:
        """One call to time, in a session of its own."""
        try:
            session = open_session(self.build(choices), threads=threads, provider=self.provider)
        except InvalidFile as error:
            raise Declined(f"it does not run: {error.reason}") from error
        return lambda: session.run(None, self._timed_feed)

    def _in_turns(self, ours: tuple[Choices, int], theirs: tuple[Choices, int]) -> Ratio:
        """Time of one choice with its threads over that of another. Raises Declined when one does not run."""
        mine: list[float] = []
        reference: list[float] = []
        # Threads of one file that still spin would slow down the other.
        settle_ns = 0 if ours[1] == theirs[1] == 1 else SETTLE_NS
        for opening in range(_OPENINGS):
            # Memory is given out in order, so each is opened first as often as the other.
            if opening % 2:
                second = self._call(*theirs)
                calls = [self._call(*ours), second]
            else:
                calls = [self._call(*ours), self._call(*theirs)]
            if not opening:
                glance = paired_ratio(*_medians(calls, _GLANCE, settle_ns))
                if glance.interval is not None and glance.interval.low > _CLEARLY_SLOWER:
                    return glance
            for kept, more in zip((mine, reference), _medians(calls, _TIMING, settle_ns), strict=True):
                kept += more
        return paired_ratio(mine, reference)


def _medians(calls: Sequence[Callable[[], object]], settings: Settings, settle_ns: int) -> tuple[list[float], ...]:
    """Of each call the median time in each round."""
    sampled = interleave(calls, settings, settle_ns=settle_ns)
    for entry in sampled:
        if entry.error is not None:
            raise Declined(f"it does not run: {entry.error}")
    # A deadline may end a round for one call and not for another.
    rounds = min(len(entry.rounds) for entry in sampled)
    return tuple([statistics.median(block) for block in entry.rounds[:rounds]] for entry in sampled)


def _rows(feed: Feed, batch: int) -> Feed:
    """The first `batch` rows, from the start again where there are fewer."""
    return {name: array[np.arange(batch) % len(array)] for name, array in feed.items()}
