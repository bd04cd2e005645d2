"""The report from what was measured and searched, or from a plan that was used again."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from edgeseq.bench.stats import Ratio
from edgeseq.bench.units import significant
from edgeseq.files import StrPath
from edgeseq.quantization.budget import Budget
from edgeseq.quantization.candidates import CANDIDATES, rows_independent
from edgeseq.quantization.finding import Searched
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.metrics import Metric, relative_rms
from edgeseq.quantization.plan import Plan
from edgeseq.quantization.replay import Replayed
from edgeseq.quantization.report import CandidateReport, LayerReport, QuantizationReport, SpeedRatio
from edgeseq.quantization.samples import SplitSamples
from edgeseq.quantization.search import Outcome, Tried
from edgeseq.quantization.source import Source
from edgeseq.quantization.write import Result

_FEW_ROWS = 8


def searched_report(source: Source, target: Path, found: Searched, result: Result) -> QuantizationReport:
    """Everything the user may want to know of a search, as data. What is written beside it is filled in later."""
    outcome, trial, plan = found.outcome, found.trial, found.plan
    quality, held_out = found.quality, found.held_out
    rows, held_out_rows = _rows(trial.samples)
    return QuantizationReport(
        path=os.fspath(target),
        source_path=os.fspath(source.path),
        quantized=bool(outcome.choices),
        size_bytes=len(result.content),
        source_size_bytes=source.size_bytes,
        error=quality.error,
        held_out_error=held_out.error if held_out else None,
        max_error=plan.budget.max_error,
        metric=plan.budget.metric,
        metric_before=quality.metric_before,
        metric_after=quality.metric_after,
        held_out_metric_before=held_out.metric_before if held_out else None,
        held_out_metric_after=held_out.metric_after if held_out else None,
        max_drop=plan.budget.max_drop,
        target=plan.target,
        goal=plan.budget.goal,
        max_size_bytes=plan.budget.max_size_bytes,
        max_latency_ms=plan.budget.max_latency_ms,
        speed=_speed(outcome.tuned.time if outcome.tuned else None),
        latency_ms=plan.result.latency_ms,
        source_latency_ms=plan.result.source_latency_ms,
        batch=plan.batch,
        threads=plan.threads,
        source_threads=trial.threads,
        rows=rows,
        held_out_rows=held_out_rows,
        rows_independent=rows_independent(outcome.choices),
        tolerance=_tolerance(source, plan),
        layers=tuple(_layer(layer, outcome, [*found.ruled_out, *outcome.tried]) for layer in source.layers),
        plan=None,
        saved_plan=None,
        pages=(),
        seconds=0.0,
        notes=(*source.notes, *_why_fp32(source, outcome), *_notes(source, plan, trial.samples, result), *found.notes),
    )


def replayed_report(
    source: Source,
    target: Path,
    plan: Plan,
    budget: Budget,
    made: Replayed,
    samples: SplitSamples | None,
    plan_path: StrPath,
    metric: Metric | None,
) -> QuantizationReport:
    """What a plan made, checked against `budget`, as data. What is written beside it is filled in later."""
    quality, held_out = made.quality, made.held_out
    rows, held_out_rows = _rows(samples)
    return QuantizationReport(
        path=os.fspath(target),
        source_path=os.fspath(source.path),
        quantized=bool(plan.forms),
        size_bytes=len(made.result.content),
        source_size_bytes=source.size_bytes,
        error=quality.error if quality else None,
        held_out_error=held_out.error if held_out else None,
        max_error=budget.max_error,
        metric=metric.name if metric else None,
        metric_before=quality.metric_before if quality else None,
        metric_after=quality.metric_after if quality else None,
        held_out_metric_before=held_out.metric_before if held_out else None,
        held_out_metric_after=held_out.metric_after if held_out else None,
        max_drop=budget.max_drop,
        target=plan.target,
        goal=plan.budget.goal,
        max_size_bytes=budget.max_size_bytes,
        max_latency_ms=plan.budget.max_latency_ms,
        speed=None,
        latency_ms=None,
        source_latency_ms=None,
        batch=plan.batch,
        threads=plan.threads,
        source_threads=None,
        rows=rows,
        held_out_rows=held_out_rows,
        rows_independent=rows_independent(plan.choices),
        tolerance=_tolerance(source, plan),
        layers=tuple(_planned_layer(layer, plan) for layer in source.layers),
        plan=os.fspath(plan_path),
        saved_plan=None,
        pages=(),
        seconds=0.0,
        notes=(*source.notes, *made.notes, _planned(plan), *_notes(source, plan, samples, made.result)),
    )


def _rows(samples: SplitSamples | None) -> tuple[int, int]:
    """How many rows were used, and how many of them were held out."""
    if samples is None:
        return 0, 0
    held_out = len(samples.held_out.rows) if samples.held_out else 0
    return len(samples.chosen_on.rows) + held_out, held_out


def _tolerance(source: Source, plan: Plan) -> float | None:
    if source.manifest is None:
        return None
    return source.manifest.tolerance if plan.tolerance is None else plan.tolerance


def _layer(layer: Layer, outcome: Outcome, tried: Sequence[Tried]) -> LayerReport:
    return LayerReport(
        name=layer.name,
        op_type=layer.op_type,
        nodes=len(layer.nodes),
        weight_bytes=layer.weight_bytes,
        chosen=outcome.choices.get(layer.name, "fp32"),
        candidates=tuple(_candidate(entry, outcome) for entry in tried if entry.layer == layer.name),
    )


def _planned_layer(layer: Layer, plan: Plan) -> LayerReport:
    return LayerReport(
        name=layer.name,
        op_type=layer.op_type,
        nodes=len(layer.nodes),
        weight_bytes=layer.weight_bytes,
        chosen=plan.choices.get(layer.name, "fp32"),
        candidates=(),
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


def _why_fp32(source: Source, outcome: Outcome) -> list[str]:
    """Why nothing was quantized; empty when something was, or for the goal that was needed to keep a limit."""
    if outcome.choices:
        return []
    if not source.layers:
        why = "it has no layer with constant float32 weights"
    elif outcome.reverted:
        why = "no combination keeps the budget without being slower"
    elif outcome.tried:
        why = "no form of any layer keeps the budget and makes the file smaller or faster"
    else:
        why = "its layers are too small to gain anything"
    return [f"Nothing was quantized, and the fp32 file was written as it is: {why}."]


def _planned(plan: Plan) -> str:
    """What the plan says of where it was made."""
    result = plan.result
    return (
        f"Where the plan was made: error {result.error:.2%}, {significant(result.latency_ms)} ms a call of "
        f"{plan.batch} row(s), fp32 {significant(result.source_latency_ms)} ms."
    )


def _golden_notes(plan: Plan, result: Result) -> list[str]:
    """That the golden samples are farther off than the budget, where they are."""
    golden = result.golden
    if golden is None or golden.own_outputs is None or plan.budget.max_error is None:
        return []
    names = list(golden.outputs)
    found = relative_rms([[golden.outputs[name] for name in names]], [[golden.own_outputs[name] for name in names]])
    if found <= plan.budget.max_error:
        return []
    return [
        f"On the golden samples the file is off by {found:.2%} (relative RMS), more than on yours: forms were chosen, "
        f"and ranges found, for data like yours. `edgeseq check` allows that (tolerance {plan.tolerance:g}). "
        "Export with samples= of your own to have such as golden samples."
    ]


def _notes(source: Source, plan: Plan, samples: SplitSamples | None, result: Result) -> list[str]:
    notes = []
    if not rows_independent(plan.choices):
        notes.append(
            "A row's answer depends a little on the rows beside it and on later steps: some activations have one scale "
            "for a whole call. Errors were measured with batches of the samples; a row far larger than its neighbours "
            "costs them accuracy. Rule such forms out with allow_row_leak=False (--forbid-row-leak)."
        )
    if samples is not None and _rows(samples)[0] < _FEW_ROWS:
        notes.append(
            f"There are {_rows(samples)[0]} rows of samples, too few to say much of others. Give at least {_FEW_ROWS}, "
            "better some hundred."
        )
    if samples is not None and samples.unused_rows:
        notes.append(f"The last {samples.unused_rows} row(s) were not used: they fill no batch of the file's size.")
    if plan.forms and source.manifest is None:
        notes.append(f"The file has no manifest to record it in: run it with {plan.threads} thread(s).")
    notes += _golden_notes(plan, result)
    if result.golden is None:
        notes.append("The fp32 file has no golden samples beside it, so the written file has none either.")
    return notes
