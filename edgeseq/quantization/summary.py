"""The report from what was measured and searched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from edgeseq.bench.stats import Ratio
from edgeseq.quantization.candidates import CANDIDATES, rows_independent
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.report import CandidateReport, LayerReport, QuantizationReport, SpeedRatio
from edgeseq.quantization.search import Budget, Outcome, Tried
from edgeseq.quantization.write import Result


def make_report(
    source: Path,
    target: Path,
    trial: SampledTrial,
    budget: Budget,
    outcome: Outcome,
    ruled_out: Sequence[Tried],
    result: Result,
    notes: Sequence[str],
) -> QuantizationReport:
    """Everything the user may want to know, as data."""
    quality, held_out = trial.quality(outcome.choices), trial.held_out_quality(outcome.choices)
    held_out_rows = trial.samples.held_out.rows if trial.samples.held_out else ()
    return QuantizationReport(
        path=os.fspath(target),
        source_path=os.fspath(source),
        quantized=bool(outcome.choices),
        size_bytes=len(result.content),
        # Weights in files of their own count as well.
        source_size_bytes=max(source.stat().st_size, trial.model.ByteSize()),
        error=quality.error,
        held_out_error=held_out.error if held_out else None,
        max_error=budget.max_error,
        metric=trial.metric.name if trial.metric else None,
        metric_before=quality.metric_before,
        metric_after=quality.metric_after,
        held_out_metric_before=held_out.metric_before if held_out else None,
        held_out_metric_after=held_out.metric_after if held_out else None,
        max_drop=budget.max_drop,
        speed=_speed(outcome.time),
        threads=trial.threads,
        rows=len(trial.samples.chosen_on.rows) + len(held_out_rows),
        held_out_rows=len(held_out_rows),
        rows_independent=rows_independent(outcome.choices),
        tolerance=result.tolerance,
        layers=tuple(_layer(layer, outcome, [*ruled_out, *outcome.tried]) for layer in trial.layers),
        notes=(*notes, *_notes(trial, outcome, result)),
    )


def _layer(layer: Layer, outcome: Outcome, tried: Sequence[Tried]) -> LayerReport:
    return LayerReport(
        name=layer.name,
        op_type=layer.op_type,
        nodes=len(layer.nodes),
        weight_bytes=layer.weight_bytes,
        chosen=outcome.choices.get(layer.name, "fp32"),
        candidates=tuple(_candidate(entry, outcome) for entry in tried if entry.layer == layer.name),
    )


def _candidate(tried: Tried, outcome: Outcome) -> CandidateReport:
    taken_back = outcome.reverted.get((tried.layer, tried.candidate), "")
    if tried.declined:
        verdict, reason = "declined", tried.declined
    elif outcome.choices.get(tried.layer) == tried.candidate:
        verdict, reason = "chosen", "the most gained within the budget"
    elif taken_back:
        verdict, reason = "reverted", taken_back
    else:
        verdict, reason = (
            "not chosen",
            f"{outcome.choices.get(tried.layer, 'fp32')} gains more, or the same at less error",
        )
    return CandidateReport(
        name=tried.candidate,
        rows_independent=CANDIDATES[tried.candidate].rows_independent,
        verdict=verdict,
        reason=reason,
        # JSON has no infinity, which is the error of answers that are no numbers.
        error=tried.quality.error if tried.quality and math.isfinite(tried.quality.error) else None,
        drop=tried.quality.drop if tried.quality else None,
        speed=_speed(tried.time),
        size_bytes=tried.size_bytes,
    )


def _speed(time: Ratio | None) -> SpeedRatio | None:
    """A ratio of times as a ratio of speeds: upside down."""
    if time is None:
        return None
    low, high = (None, None) if time.interval is None else (1 / time.interval.high, 1 / time.interval.low)
    return SpeedRatio(value=1 / time.value, low=low, high=high)


def _notes(trial: SampledTrial, outcome: Outcome, result: Result) -> list[str]:
    notes = []
    if not outcome.choices:
        if not trial.layers:
            why = "it has no layer with constant float32 weights"
        elif outcome.reverted:
            why = "no combination keeps the budget without being slower"
        elif outcome.tried:
            why = "no form of any layer keeps the budget and makes the file smaller or faster"
        else:
            why = "its layers are too small to gain anything"
        notes.append(f"Nothing was quantized, and the fp32 file was written as it is: {why}.")
    if not rows_independent(outcome.choices):
        notes.append(
            "A row's answer depends a little on the rows beside it and on later steps: some activations have one scale "
            "for a whole call. Errors were measured with batches of the samples; a row far larger than its neighbours "
            "costs them accuracy. Rule such forms out with allow_row_leak=False."
        )
    if trial.samples.held_out is None:
        notes.append("No rows were held out, because there are too few. Give at least 8, better some hundred.")
    if trial.samples.unused_rows:
        notes.append(
            f"The last {trial.samples.unused_rows} row(s) were not used: they fill no batch of the file's size."
        )
    if result.golden is None:
        notes.append("The fp32 file has no golden samples beside it, so the written file has none either.")
    return notes
