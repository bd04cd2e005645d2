"""A plan used again: checked as far as the samples at hand allow, and never taken on trust in silence."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeseq.bench.machine import this_machine
from edgeseq.bench.units import size
from edgeseq.errors import BudgetNotMet, InvalidFile
from edgeseq.files import StrPath
from edgeseq.parity import compare_answers
from edgeseq.quantization.budget import Budget, Quality
from edgeseq.quantization.candidates import CANDIDATES
from edgeseq.quantization.forms.processors import reason_against, sums_of
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.metrics import Metric
from edgeseq.quantization.plan import Plan
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.samples import SplitSamples
from edgeseq.quantization.source import Source
from edgeseq.quantization.write import Result, finish


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """What a plan made here, and what is known of it."""

    result: Result
    """The file and its samples."""
    quality: Quality | None
    """On the rows that would choose; None without samples."""
    held_out: Quality | None
    """On the held-out rows."""
    notes: tuple[str, ...]
    """What was checked, and what was not."""


def replay(
    source: Source,
    plan: Plan,
    path: StrPath,
    *,
    budget: Budget,
    samples: SplitSamples | None,
    labels: npt.NDArray[Any] | None,
    metric: Metric | None,
) -> Replayed:
    """Make the file of a plan that fits the source, and check it on the samples, or on the golden ones.

    Raises BudgetNotMet when the file breaks the budget or the plan's tolerance here, InvalidFile when the plan makes no
    file.
    """
    try:
        result = finish(source, plan)
    except Declined as reason:
        raise InvalidFile(path, f"the plan cannot be carried out: {reason}") from reason
    notes = [*_differences(plan, result)]
    over = budget.size_broken_by(len(result.content))
    if over:
        raise BudgetNotMet(f"the file of the plan breaks the budget, and nothing was written: {over}")
    quality = held_out = None
    if samples is not None:
        quality, held_out = _check_samples(source, plan, budget, samples, labels, metric)
        notes += _unchecked(plan, budget, labels)
    elif result.golden is not None and plan.forms:
        _check_golden(plan, result)
        notes.append(
            f"The plan was checked on the golden samples, with its tolerance {plan.tolerance:g}. Its budget was not: "
            "that needs samples."
        )
    elif plan.forms:
        notes.append(
            "The plan was not checked here: there are neither samples nor golden samples. Give samples to check it."
        )
    return Replayed(result=result, quality=quality, held_out=held_out, notes=tuple(notes))


def _check_samples(
    source: Source,
    plan: Plan,
    budget: Budget,
    samples: SplitSamples,
    labels: npt.NDArray[Any] | None,
    metric: Metric | None,
) -> tuple[Quality, Quality | None]:
    trial = SampledTrial(
        source.model,
        source.layers,
        samples,
        states=source.described.states,
        threads=plan.threads,
        batch=plan.batch,
        provider=plan.target,
        labels=labels,
        metric=metric,
        calibrated=plan.parameters,
    )
    try:
        quality, held_out = trial.quality(plan.choices), trial.held_out_quality(plan.choices)
    except Declined as reason:
        raise BudgetNotMet(f"the file of the plan does not run here, and nothing was written: {reason}") from reason
    # Without labels a metric cannot break anything.
    checked = budget if metric is not None else Budget(max_error=budget.max_error, max_drop=None)
    for where, found in (("", quality), (" on the held-out rows", held_out)):
        broken = checked.broken_by(found) if found is not None else ""
        if broken or (found is not None and not math.isfinite(found.error)):
            why = broken or "its answers are not finite"
            raise BudgetNotMet(
                f"the file of the plan breaks the budget here{where}, and nothing was written: {why}. "
                "Search again without the plan"
            )
    return quality, held_out


def _check_golden(plan: Plan, result: Result) -> None:
    assert result.golden is not None
    assert result.golden.own_outputs is not None
    assert plan.tolerance is not None
    pair = (result.golden.own_outputs, result.golden.outputs)
    parity = compare_answers([pair], tolerance=plan.tolerance, provider="cpu", reference="golden")
    if not parity:
        worst = max(parity.outputs, key=lambda output: math.inf if math.isnan(output.max_rel) else output.max_rel)
        raise BudgetNotMet(
            f"the file of the plan does not keep its tolerance here, and nothing was written: output '{worst.name}' is "
            f"off by {worst.max_rel:.2g}, and the plan says {plan.tolerance:g}. Search again without the plan",
            parity,
        )


def _unchecked(plan: Plan, budget: Budget, labels: npt.NDArray[Any] | None) -> list[str]:
    if not plan.forms or labels is not None or budget.max_drop is None:
        return []
    return [f"The budget of the metric '{plan.budget.metric}' was not checked: that needs labels."]


def _differences(plan: Plan, result: Result) -> list[str]:
    """What is other here than where the plan was made."""
    notes = []
    here = this_machine()
    if hashlib.sha256(result.content).hexdigest() != plan.result.sha256:
        made = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
        notes.append(
            f"The file is not byte for byte the one that the plan was made with ({size(plan.result.size_bytes)}; made "
            f"with {made})."
        )
    for form in plan.forms:
        reason = reason_against(CANDIDATES[form.candidate].sums, sums_of(here.architecture, here.cpu_features))
        if reason:
            notes.append(f"{form.layer}, {form.candidate}: {reason}.")
    if plan.machine != here:
        notes.append(
            f"The plan was made on another machine ({plan.machine.cpu_model}, {plan.machine.cores} cores): what is "
            "fastest there need not be here. A search tells."
        )
    return notes
