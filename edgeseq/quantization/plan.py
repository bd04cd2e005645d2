"""A plan: what a search decided, as a JSON document that makes the same file again without measuring."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseq import __version__, files
from edgeseq.bench.machine import Machine, installed_versions
from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.files import StrPath
from edgeseq.quantization.candidates import CANDIDATES, Parameters
from edgeseq.quantization.source import Source
from edgeseq.runtime import document
from edgeseq.runtime.providers import SHORT_NAMES

SCHEMA = "edgeseq quantization plan"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PlannedForm:
    """The form that one layer gets."""

    layer: str
    """Name of the layer."""
    candidate: str
    """Name of the form."""
    parameters: Parameters
    """What calibration found for it; empty for a form that needs none."""


@dataclass(frozen=True, kw_only=True)
class PlannedBudget:
    """What the search was asked for. None is no limit."""

    goal: str
    """``balanced``, ``latency`` or ``size``."""
    max_error: float | None
    """Largest relative RMS error against fp32."""
    metric: str | None
    """Name of the metric."""
    max_drop: float | None
    """By how much the metric may get worse."""
    max_size_bytes: int | None
    """Largest file."""
    max_latency_ms: float | None
    """Longest time of one call, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class PlannedResult:
    """What was measured where the plan was made."""

    error: float
    """Relative RMS error against fp32, of the worst output, on the rows that chose."""
    held_out_error: float | None
    """The same on the held-out rows."""
    metric_before: float | None
    """The metric of the fp32 file."""
    metric_after: float | None
    """The metric of the quantized file."""
    size_bytes: int
    """Size of the quantized file."""
    latency_ms: float
    """Time of one call, in milliseconds."""
    source_latency_ms: float
    """Time of one call of the fp32 file, in milliseconds."""
    sha256: str
    """Of the quantized file, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that, with the fp32 file, makes the quantized file."""

    source_sha256: str
    """Of the fp32 file, in hexadecimal: a plan is for one file."""
    forms: tuple[PlannedForm, ...]
    """The layers that are quantized, in graph order; empty when fp32 was best."""
    tolerance: float | None
    """The tolerance of the file's answers against the original model's; None when fp32 was best."""
    target: str
    """The provider that the file is for, and was measured on."""
    batch: int
    """Rows of a call that times were measured with."""
    threads: int
    """Threads that suit such a call, for the manifest; 0 means all cores."""
    budget: PlannedBudget
    """What was asked for."""
    result: PlannedResult
    """What was measured."""
    versions: Mapping[str, str]
    """Versions of the packages that made the plan."""
    machine: Machine
    """The machine that made it."""
    schema: str = SCHEMA
    """What kind of document this is."""
    schema_version: int = SCHEMA_VERSION
    """Version of its format."""

    @property
    def choices(self) -> dict[str, str]:
        """Layer name to candidate name."""
        return {form.layer: form.candidate for form in self.forms}

    @property
    def parameters(self) -> dict[str, Parameters]:
        """Of each calibrated form, by layer."""
        return {form.layer: form.parameters for form in self.forms if form.parameters}

    def to_json(self) -> str:
        """The plan as one indented JSON document."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def planned_forms(
    source: Source, choices: Mapping[str, str], parameters: Mapping[str, Parameters]
) -> tuple[PlannedForm, ...]:
    """The forms chosen, in graph order."""
    return tuple(
        PlannedForm(layer=layer.name, candidate=choices[layer.name], parameters=dict(parameters.get(layer.name, {})))
        for layer in source.layers
        if layer.name in choices
    )


def versions_here() -> dict[str, str]:
    """Versions of the packages that decide what a search finds."""
    return {"edgeseq": __version__, **installed_versions(["onnx", "onnxruntime", "onnxruntime-gpu", "numpy"])}


def check_plan_output(path: StrPath, *, overwrite: bool, sources: Sequence[StrPath]) -> Path:
    """`path` as a place for a plan. Raises OutputExists, or WrongUsage unless it ends in .json."""
    target = files.check_output(path, overwrite=overwrite, sources=sources)
    if target.suffix != ".json":
        raise WrongUsage(f"a plan is written as .json; got {target.name}")
    return target


def read_plan(path: StrPath) -> Plan:
    """Read a plan. Raises MissingInput, or InvalidFile when it is damaged, newer, or no plan."""
    content = files.read_json(files.check_input(path, "plan"))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InvalidFile(path, "it is no plan; `edgeseq quantize --save-plan` writes one")
    version = content.get("schema_version")
    if type(version) is not int or version > SCHEMA_VERSION:
        raise InvalidFile(
            path,
            f"its schema version is {version!r}; this edgeseq reads up to {SCHEMA_VERSION}. "
            "Upgrade with: pip install --upgrade edgeseq",
        )
    try:
        plan = document.read(Plan, content)
    except ValueError as error:
        raise InvalidFile(path, f"the plan is damaged: {error}") from error
    _check_whole(plan, path)
    return plan


def check_fits(plan: Plan, source: Source, path: StrPath) -> None:
    """Raise WrongUsage when the plan is for another file, InvalidFile when this file cannot be made by it."""
    if plan.source_sha256 != source.sha256:
        raise WrongUsage(
            f"the plan {path} was made for another file than {source.path}: it says {plan.source_sha256[:12]}..., and "
            f"the file is {source.sha256[:12]}... (SHA-256). Quantize this one with samples, to make a plan for it"
        )
    layers = {layer.name: layer for layer in source.layers}
    for form in plan.forms:
        layer = layers.get(form.layer)
        if layer is None:
            raise InvalidFile(path, f"the plan names the layer '{form.layer}', which the file does not have")
        candidate = CANDIDATES[form.candidate]
        if layer.op_type not in candidate.op_types:
            raise InvalidFile(path, f"the plan gives '{form.layer}' the form '{form.candidate}', which is not for it")
        if (candidate.calibration is not None) != bool(form.parameters):
            lacks = "lacks the" if candidate.calibration else "has"
            raise InvalidFile(path, f"the plan {lacks} parameters of '{form.candidate}' for '{form.layer}'")
        if source.streams and not candidate.rows_independent:
            raise InvalidFile(
                path, f"the plan gives '{form.layer}' the form '{form.candidate}', which is never for files with states"
            )


def _check_whole(plan: Plan, path: StrPath) -> None:
    """Raise InvalidFile for values that no search writes."""
    seen = set()
    for form in plan.forms:
        if form.candidate not in CANDIDATES:
            raise InvalidFile(
                path,
                f"the plan gives '{form.layer}' the form '{form.candidate}', which this edgeseq does not have. "
                f"It was written by edgeseq {plan.versions.get('edgeseq', 'of an unknown version')}",
            )
        if form.layer in seen:
            raise InvalidFile(path, f"the plan is damaged: it names the layer '{form.layer}' twice")
        seen.add(form.layer)
    if plan.forms and not (plan.tolerance is not None and plan.tolerance > 0):
        raise InvalidFile(path, f"the plan is damaged: its tolerance is {plan.tolerance}")
    budget = plan.budget
    limits = [budget.max_error, budget.max_size_bytes, budget.max_latency_ms]
    if any(limit is not None and not limit > 0 for limit in limits) or (budget.max_drop or 0) < 0:
        raise InvalidFile(path, "the plan is damaged: its budget has a limit that is not above 0")
    if budget.max_error is None and budget.metric is None:
        raise InvalidFile(path, "the plan is damaged: its budget has neither an error nor a metric")
    if plan.target not in SHORT_NAMES:
        raise InvalidFile(path, f"the plan is damaged: its target is '{plan.target}'")
    if plan.forms and "onnxruntime" not in plan.versions:
        raise InvalidFile(path, "the plan is damaged: versions.onnxruntime is missing")
    if plan.batch < 1 or plan.threads < 0:
        raise InvalidFile(path, f"the plan is damaged: batch {plan.batch}, threads {plan.threads}")
