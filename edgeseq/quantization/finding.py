"""From samples and a budget to a plan: the search with everything around it that knows files."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeseq.bench.machine import this_machine
from edgeseq.bench.units import significant, size
from edgeseq.errors import BudgetNotMet
from edgeseq.quantization.budget import Budget, Quality
from edgeseq.quantization.candidates import candidates_for, unsuited_for
from edgeseq.quantization.journal import Journal, hash_of_samples
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.metrics import Metric, tolerance_for
from edgeseq.quantization.plan import Plan, PlannedBudget, PlannedResult, planned_forms, versions_here
from edgeseq.quantization.samples import Progress, SplitSamples
from edgeseq.quantization.search import Choices, Outcome, Tried, search
from edgeseq.quantization.source import Source
from edgeseq.quantization.threads import thread_counts
from edgeseq.quantization.write import bytes_of_manifest, finish, golden_after

# Below this a layer's weights are smaller than the nodes that decode them, and too small to take measurable time.
_LEAST_WEIGHT_BYTES = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What is searched for, and on what."""

    samples: SplitSamples
    """The samples."""
    labels: npt.NDArray[Any] | None
    """The right answers, one a row; None without a metric."""
    metric: Metric | None
    """The metric; None without labels."""
    is_own_metric: bool
    """Whether the metric is a function of the caller's."""
    budget: Budget
    """What it may cost."""
    goal: str
    """What it should gain."""
    target: str
    """Where the file is to run, and where it is measured: a provider's name."""
    batch: int
    """Rows of a call."""
    threads: int | None
    """Threads of a call; None to find the best."""
    allow_row_leak: bool | None
    """Whether rows may depend on each other; None where a call has a single one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """What a search found, and how."""

    plan: Plan
    """What it decided."""
    trial: SampledTrial
    """What measured."""
    outcome: Outcome
    """All measurements."""
    ruled_out: tuple[Tried, ...]
    """Forms that were not measured, with the reason."""
    quality: Quality
    """Of the result, on the rows that chose."""
    held_out: Quality | None
    """Of the result, on the held-out rows."""
    notes: tuple[str, ...]
    """What else the user should know."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The combination that breaks the budget least."""

    choices: dict[str, str]
    """Layer to form; a layer that is not in it is in fp32."""
    size_bytes: int
    """Size of its file."""
    latency_ms: float | None
    """Time of one call, in milliseconds; None where no limit asked for it."""
    error: float
    """Relative RMS error against fp32."""


def search_plan(source: Source, request: Request, journal: Journal, progress: Progress | None) -> Searched:
    """Search for the best file within the budget. Raises BudgetNotMet when no file keeps its limits."""
    possible, ruled_out = _possible(source, request)
    if progress:
        progress("measure fp32", 0, 1)
    # A journal's times were measured with its number of threads.
    threads = journal.threads if journal.threads is not None else request.threads
    trial = SampledTrial(
        source.model,
        source.layers,
        request.samples,
        states=source.described.states,
        threads=thread_counts() if threads is None else threads,
        tune=thread_counts() if request.threads is None else (),
        batch=request.batch,
        provider=request.target,
        labels=request.labels,
        metric=request.metric,
        size_of=lambda choices, content: _size_of(source, choices, content),
    )
    journal.begin(trial.threads)
    budget = request.budget
    outcome = search(
        possible, trial, budget, goal=request.goal, known=journal.known, tell=journal.tell, progress=progress
    )
    if outcome.unmet:
        raise _not_met(source, trial, outcome, budget)
    quality, held_out = trial.quality(outcome.choices), trial.held_out_quality(outcome.choices)
    notes = (journal.note,) if journal.note else ()
    plan = _plan(source, request, trial, outcome, quality, held_out)
    return Searched(
        plan=plan,
        trial=trial,
        outcome=outcome,
        ruled_out=ruled_out,
        quality=quality,
        held_out=held_out,
        notes=notes,
    )


def _plan(
    source: Source,
    request: Request,
    trial: SampledTrial,
    outcome: Outcome,
    quality: Quality,
    held_out: Quality | None,
) -> Plan:
    choices, budget = outcome.choices, request.budget
    threads = outcome.tuned.threads if outcome.tuned else trial.threads
    latency_ms = trial.source_latency_ms()
    plan = Plan(
        source_sha256=source.sha256,
        forms=planned_forms(source, choices, trial.parameters(choices)),
        tolerance=_tolerance(source, trial, choices, threads) if choices else None,
        target=request.target,
        batch=request.batch,
        threads=threads,
        budget=PlannedBudget(
            goal=request.goal,
            max_error=budget.max_error,
            metric=request.metric.name if request.metric else None,
            max_drop=budget.max_drop,
            max_size_bytes=budget.max_size_bytes,
            max_latency_ms=budget.max_latency_ms,
        ),
        result=PlannedResult(
            error=quality.error,
            held_out_error=held_out.error if held_out else None,
            metric_before=quality.metric_before,
            metric_after=quality.metric_after,
            size_bytes=0,
            latency_ms=latency_ms * (outcome.tuned.time.value if outcome.tuned else 1.0),
            source_latency_ms=latency_ms,
            sha256="",
        ),
        versions=versions_here(),
        machine=this_machine(),
    )
    content = finish(source, plan).content
    result = dataclasses.replace(plan.result, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return dataclasses.replace(plan, result=result)


def _tolerance(source: Source, trial: SampledTrial, choices: dict[str, str], threads: int) -> float:
    """What the file's answers keep, on the samples and on the golden ones."""
    pairs = trial.answers_beside_reference(choices)
    golden = golden_after(source, trial.build(choices), trial.batch, threads, trial.provider)
    if golden is not None:
        assert golden.own_outputs is not None
        pairs = [*pairs, ([list(golden.outputs.values())], [list(golden.own_outputs.values())])]
    return max(tolerance_for(reference, answers) for reference, answers in pairs)


def _size_of(source: Source, choices: Choices, content: bytes) -> int:
    """Bytes of the file when it is written, where `content` has the forms chosen and still the fp32 file's manifest."""
    return len(content) + bytes_of_manifest(source.manifest, source.layers, choices) if choices else source.size_bytes


def _possible(source: Source, request: Request) -> tuple[dict[str, tuple[str, ...]], tuple[Tried, ...]]:
    """Names of the candidates to measure by layer, and those ruled out before, with the reason."""
    no_leak = reason_against_leak(source, batch=request.batch, allow_row_leak=request.allow_row_leak)
    possible: dict[str, tuple[str, ...]] = {}
    ruled_out: list[Tried] = []
    for layer in _large_enough(source.layers):
        fitting = candidates_for(layer, target=request.target)
        leaking = [entry.name for entry in fitting if no_leak and not entry.rows_independent]
        possible[layer.name] = tuple(entry.name for entry in fitting if entry.name not in leaking)
        ruled_out += [Tried(layer=layer.name, candidate=name, declined=no_leak) for name in leaking]
        unsuited = unsuited_for(layer) if request.target == "cpu" else {}
        ruled_out += [Tried(layer=layer.name, candidate=name, declined=reason) for name, reason in unsuited.items()]
    return possible, tuple(ruled_out)


def _large_enough(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.weight_bytes >= _LEAST_WEIGHT_BYTES]


def reason_against_leak(source: Source, *, batch: int, allow_row_leak: bool | None) -> str:
    """Why forms that make rows and steps depend on each other are not used; empty where they may be."""
    if source.streams:
        return "it makes steps depend on each other, and the file carries states from call to call"
    if allow_row_leak is False:
        return "it makes rows depend on each other, which allow_row_leak=False forbids"
    if allow_row_leak is None and batch > 1:
        return f"it makes the {batch} rows of a call depend on each other, which allow_row_leak=True would allow"
    return ""


def identity_of(source: Source, request: Request) -> dict[str, Any]:
    """All that a measurement depends on, by the name that people read."""
    possible, _ = _possible(source, request)
    samples = request.samples
    feeds = [*samples.chosen_on.feeds, *(samples.held_out.feeds if samples.held_out else ())]
    metric = request.metric.name if request.metric else None
    if request.is_own_metric:
        # Nothing tells whether a function is still the same, so its measurements are never used again.
        metric = f"{metric} {uuid.uuid4().hex}"
    return {
        "model": source.sha256,
        "samples": hash_of_samples(feeds, request.labels),
        "metric": metric,
        "budget": dataclasses.asdict(request.budget),
        "goal": request.goal,
        "target": request.target,
        "batch": request.batch,
        "threads": request.threads,
        "forms": possible,
        "versions": versions_here(),
        "machine": dataclasses.asdict(this_machine()),
    }


def _not_met(source: Source, trial: SampledTrial, outcome: Outcome, budget: Budget) -> BudgetNotMet:
    latency_ms = None
    if budget.max_latency_ms is not None:
        latency_ms = trial.source_latency_ms() * (outcome.tuned.time.value if outcome.tuned else 1.0)
    nearest = Nearest(
        choices=outcome.choices,
        size_bytes=trial.size_bytes(outcome.choices),
        latency_ms=latency_ms,
        error=trial.quality(outcome.choices).error,
    )
    forms = ", ".join(f"{layer} {form}" for layer, form in outcome.choices.items()) or "the fp32 file itself"
    time = "" if latency_ms is None else f", {significant(latency_ms)} ms"
    error = f"{nearest.error:.2%}" if math.isfinite(nearest.error) else "not finite"
    accuracy = [
        text for limit, text in ((budget.max_error, "max_error"), (budget.max_drop, "max_drop")) if limit is not None
    ]
    loosen = " or ".join([*accuracy, "the limit"])
    return BudgetNotMet(
        f"no quantized form of {source.path.name} keeps the budget, and nothing was written. The nearest is {forms}: "
        f"{size(nearest.size_bytes)}{time}, error {error}; but {outcome.unmet}. Allow more with {loosen}",
        nearest,
    )
