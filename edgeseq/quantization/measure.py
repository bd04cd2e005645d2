"""Measuring one choice of forms in place: build the file in memory, run it on the samples, time it beside fp32."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeseq.bench.sample import Settings, interleave
from edgeseq.bench.stats import Ratio, paired_ratio
from edgeseq.errors import InputMismatch, InvalidFile
from edgeseq.quantization.calibration import observe
from edgeseq.quantization.candidates import CANDIDATES, Parameters, apply
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.metrics import Answers, Metric, relative_rms
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.runs import run_all, serialize, with_states
from edgeseq.quantization.samples import Part, SplitSamples
from edgeseq.quantization.search import Choices, Quality
from edgeseq.runtime.manifest import StateSpec
from edgeseq.runtime.providers import open_session

# Twenty rounds give the paired ratio an interval of about a percent on a quiet machine; the limits keep a large model's
# search to some seconds a candidate.
_TIMING = Settings(min_runs=20, min_seconds=0.3, max_seconds=8.0, rounds=20, warm_up_max_seconds=0.5)


class SampledTrial:
    """A `search.Trial` on real samples; fp32's own answers are computed once.

    Errors and times are measured with the same number of threads: onnxruntime's quantized LSTM shares the rows of a
    batch out to its threads, each share gets scales of its own, and so the answers depend on their number.

    Raises InputMismatch when the fp32 file cannot run on the samples or gives answers that are not finite.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Sequence[Layer],
        samples: SplitSamples,
        *,
        states: Sequence[StateSpec] = (),
        threads: int = 1,
        labels: npt.NDArray[Any] | None = None,
        metric: Metric | None = None,
    ):
        self.model, self.layers, self.samples = model, layers, samples
        self.states, self.threads, self.metric = states, threads, metric
        self._labels = labels
        self._source = serialize(model)
        self._built: tuple[dict[str, str], bytes] = ({}, self._source)
        self._calibrated: dict[tuple[str, str], Parameters] = {}
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
            key = layer.name, choices[layer.name]
            if key not in self._calibrated:
                seen = observe(self.model, calibration.observed(layer), self.samples.chosen_on.feeds, self.states)
                self._calibrated[key] = calibration.calibrate(layer, seen)
            found[layer.name] = self._calibrated[key]
        return found

    def size_bytes(self, choices: Choices) -> int:
        """Bytes of the whole file."""
        return len(self.build(choices))

    def quality(self, choices: Choices) -> Quality:
        """On the rows that choose."""
        return self._quality(choices, 0)

    def held_out_quality(self, choices: Choices) -> Quality | None:
        """On the held-out rows; None when there are none."""
        return self._quality(choices, 1) if len(self._parts) > 1 else None

    def time_ratio(self, choices: Choices) -> Ratio:
        """Time of a call on the first row over fp32's, both in turns."""
        feed = with_states(self.samples.first, self.states)
        ours, theirs = (open_session(content, threads=self.threads) for content in (self.build(choices), self._source))
        sampled = interleave([lambda: ours.run(None, feed), lambda: theirs.run(None, feed)], _TIMING)
        for entry in sampled:
            if entry.error is not None:
                raise Declined(f"it does not run: {entry.error}")
        mine, reference = ([statistics.median(block) for block in entry.rounds] for entry in sampled)
        return paired_ratio(mine, reference)

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
        after = self._measured(answers, part)
        assert after is not None
        drop = self.metric.drop(before, after)
        return Quality(error=error, metric_before=before, metric_after=after, drop=drop)

    def _answers(self, choices: Choices, part: Part) -> Answers:
        try:
            return run_all(self.build(choices), part.feeds, self.states, threads=self.threads)
        except (InvalidFile, InputMismatch) as error:
            raise Declined(f"it does not run: {getattr(error, 'reason', error)}") from error

    def _fp32_answers(self, part: Part) -> Answers:
        answers = run_all(self._source, part.feeds, self.states, threads=self.threads)
        if not all(np.isfinite(output).all() for batch in answers for output in batch):
            raise InputMismatch("the fp32 file's own answers to the samples are not finite: check the samples.")
        return answers

    def _measured(self, answers: Answers, part: Part) -> float | None:
        if self.metric is None or self._labels is None:
            return None
        return self.metric(self._labels[part.rows], answers)
