"""`quantize`: read and check everything, search or replay a plan, report, write."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from edgeseq.errors import WrongUsage
from edgeseq.files import StrPath, check_input, check_output, whole_file
from edgeseq.quantization.budget import (
    Budget,
    accuracy_limits,
    check_accuracy,
    check_goal,
    latency_limit,
    size_limit,
)
from edgeseq.quantization.finding import Request, identity_of, search_plan
from edgeseq.quantization.journal import journal_beside
from edgeseq.quantization.metrics import MetricFunction, choose_metric
from edgeseq.quantization.plan import Plan, check_fits, check_plan_output, read_plan
from edgeseq.quantization.replay import replay
from edgeseq.quantization.report import QuantizationReport
from edgeseq.quantization.samples import DEFAULT_MAX_SAMPLES, Given, Progress, read_labels, read_samples, split
from edgeseq.quantization.source import Source, read_source
from edgeseq.quantization.summary import replayed_report, searched_report
from edgeseq.quantization.write import Result, finish, write
from edgeseq.runtime.golden import check_golden
from edgeseq.runtime.providers import SHORT_NAMES

# Rows of a batch while errors are measured: enough to be quick, and a fair size for forms that mix rows.
_BATCH = 32
PAGES = (".html", ".png", ".svg")


def quantize(
    source: StrPath,
    output: StrPath,
    *,
    samples: Given | None = None,
    labels: StrPath | npt.ArrayLike | None = None,
    metric: str | MetricFunction | None = None,
    greater_is_better: bool | None = None,
    max_error: float | None = None,
    max_drop: float | None = None,
    max_size: int | str | None = None,
    max_latency_ms: float | None = None,
    goal: str = "balanced",
    target: str = "cpu",
    batch: int | None = None,
    threads: int | None = None,
    max_samples: int = DEFAULT_MAX_SAMPLES,
    allow_row_leak: bool | None = None,
    plan: StrPath | None = None,
    save_plan: StrPath | None = None,
    report: StrPath | Sequence[StrPath] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Write a smaller and, where that is possible, faster form of an fp32 ONNX file, within a budget.

    Each layer's possible forms are measured in place on this machine, on the samples; the best that keep the budget
    together are written. When none helps, the fp32 file is written as it is, and the report says why.

    `output` ends in ``.onnx``; the golden samples that belong to it lie in the folder of the same stem.

    `samples`: a path to an .npz file (an array for each input, by name) or an .npy, .csv or .parquet file; an array, a
    dict by name, a list in the order of the inputs; or an iterator of batches of these. Axis 0 is the batch, the other
    axes are the file's. Of more rows than `max_samples` as many are taken at even distances. Every fourth row is not
    used to choose, but the budget must hold there too. Give real data of real length.

    The budget is `max_error`, the relative RMS error against the fp32 file of the worst output (above 0 and at most 1;
    0.02 unless labels are given); or with `labels` (a path to an .npy or .npz file, or an array; one a row) `max_drop`,
    by how much `metric` may get worse in its own unit (0.005 unless said). `metric` is ``"accuracy"`` (classes by the
    largest score, or by the threshold 0.5 for a single probability; labels are class numbers), ``"mae"``, or a function
    (labels, predictions) to a number, with `greater_is_better`; None is the plan's, else accuracy. Given both, both
    must hold.

    `max_size` (bytes, or a text such as ``"500kB"``, ``"2.5MB"`` or ``"30%"`` of the fp32 file) and `max_latency_ms`
    (of one call with `batch` rows) are limits besides: where no file keeps them, BudgetNotMet names the nearest one,
    and nothing is written. `goal` says what gain counts: ``"balanced"``, ``"latency"`` or ``"size"``. No form is taken
    that makes the file slower, unless the size is the goal or a limit asks for it.

    `target` is ``cpu``, ``cuda`` or ``tensorrt``: where the file is to run. It is measured there, so that provider must
    be able to start here; only forms all of whose ops run there are tried (half precision for GPUs, and for TensorRT
    int8 between QuantizeLinear and DequantizeLinear).

    Times are those of a call with `batch` rows (1, or what the file fixes) and `threads` threads. When `threads` is
    None the best of a few numbers is found for fp32 and for the result, and recorded in the file for the runtime.

    Some forms quantize an activation with one scale for all rows and time steps of a call, so that a row's answer
    depends a little on its neighbours. They are never used in files that carry states from call to call, with `batch`
    above 1 only when `allow_row_leak` is True, and nowhere when it is False.

    `save_plan`, a .json file, gets what was decided. `plan`, such a file, makes the same file again without measuring.
    It is checked: with samples against its budget (`max_error`, `max_drop` and `max_size` replace parts of it), else on
    the golden samples with its tolerance. `report` names pages (.html) and pictures (.png, .svg) to write of all that
    was measured.

    What a search has measured is kept in ``<output>.search.json`` until it is done: one that was interrupted goes on.

    Raises MissingInput, OutputExists, WrongUsage (budget, metric, an output that is no .onnx or is also read, a file
    that is quantized already, a plan for another file), InputMismatch (samples or labels that do not fit),
    BudgetNotMet, InvalidFile, Refused (above 2 GB), ProviderUnavailable, MissingExtra.
    """
    started = time.monotonic()
    has_labels = labels is not None
    if not has_labels and (max_drop is not None or metric is not None or greater_is_better is not None):
        raise WrongUsage("metric, greater_is_better and max_drop need labels=. Without labels, give max_error.")
    check_accuracy(max_error, max_drop)
    check_goal(goal)
    if target not in SHORT_NAMES:
        raise WrongUsage(f"target must be {', '.join(SHORT_NAMES)}; got {target!r}")
    max_latency_ms = latency_limit(max_latency_ms)
    _check_calls(batch, threads)
    if plan is not None:
        _check_beside_plan(
            goal=None if goal == "balanced" else goal,
            target=None if target == "cpu" else target,
            max_latency_ms=max_latency_ms,
            batch=batch,
            threads=threads,
            allow_row_leak=allow_row_leak,
        )
    elif samples is None:
        raise WrongUsage("samples= are needed to measure on (--samples), unless a plan= is given (--plan)")
    if samples is None and has_labels:
        raise WrongUsage("labels= need samples=, of which they are the right answers")
    if samples is None and max_error is not None:
        raise WrongUsage("max_error= needs samples= to be checked on (--samples); without them, leave it out")

    path = check_input(source, "ONNX file")
    # Another suffix would share its golden samples' folder with the .onnx file of the same stem.
    if Path(output).suffix != ".onnx":
        raise WrongUsage(f"the output's name must end in .onnx, got {Path(output).name}")
    read = [path, *(given for given in (samples, labels, plan) if isinstance(given, str | os.PathLike))]
    destination = check_output(output, overwrite=overwrite, sources=read)
    check_golden(destination, overwrite=overwrite)
    pages = _check_pages(report, read, overwrite=overwrite)
    plan_target = None if save_plan is None else check_plan_output(save_plan, overwrite=overwrite, sources=read)
    _check_different([destination, *pages, *([plan_target] if plan_target else [])])
    planned = None if plan is None else read_plan(plan)
    chosen_metric = choose_metric(_metric(metric, planned, max_drop), greater_is_better) if has_labels else None

    found = read_source(path)
    if planned is not None:
        assert plan is not None
        check_fits(planned, found, plan)
    max_size_bytes = size_limit(max_size, found.size_bytes)
    batch = _batch(found, batch)
    parts = answers = None
    if samples is not None:
        taken = read_samples(samples, found.described, max_samples=max_samples, progress=progress)
        parts = split(taken.arrays, found.described.inputs, max(_BATCH, batch))
        answers = None if labels is None else read_labels(labels, taken)
    writing = _Writing(
        source=found,
        target=destination,
        pages=pages,
        plan_target=plan_target,
        overwrite=overwrite,
        started=started,
        progress=progress,
    )
    if planned is not None:
        assert plan is not None
        checked = _budget_with(planned, max_error, max_drop, max_size_bytes)
        made = replay(
            found,
            planned,
            plan,
            budget=checked,
            samples=parts,
            labels=answers,
            metric=chosen_metric,
        )
        document = replayed_report(found, destination, planned, checked, made, parts, plan, chosen_metric)
        return writing.write(document, planned, made.result)
    assert parts is not None
    limits = accuracy_limits(has_labels=has_labels, max_error=max_error, max_drop=max_drop)
    request = Request(
        samples=parts,
        labels=answers,
        metric=chosen_metric,
        is_own_metric=callable(metric),
        budget=Budget(
            max_error=limits[0], max_drop=limits[1], max_size_bytes=max_size_bytes, max_latency_ms=max_latency_ms
        ),
        goal=goal,
        target=target,
        batch=batch,
        threads=threads,
        allow_row_leak=allow_row_leak,
    )
    with journal_beside(destination, identity_of(found, request)) as journal:
        searched = search_plan(found, request, journal, progress)
        result = finish(found, searched.plan)
        return writing.write(searched_report(found, destination, searched, result), searched.plan, result)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Writing:
    """Where everything goes."""

    source: Source
    target: Path
    pages: Sequence[Path]
    plan_target: Path | None
    overwrite: bool
    started: float
    progress: Progress | None

    def write(self, report: QuantizationReport, plan: Plan, result: Result) -> QuantizationReport:
        """Write the pages, the plan and last the file, which completes the whole; the report with what was written."""
        report = dataclasses.replace(
            report,
            seconds=time.monotonic() - self.started,
            saved_plan=None if self.plan_target is None else os.fspath(self.plan_target),
            pages=tuple(os.fspath(page) for page in self.pages),
        )
        # All are made before the first is written.
        contents = {page: _drawn(report, page) for page in self.pages}
        if self.plan_target is not None:
            contents[self.plan_target] = plan.to_json().encode()
        if self.progress:
            self.progress("write", 0, 1)
        manifest = self.source.manifest
        written: list[Path] = []
        try:
            for path, content in contents.items():
                with whole_file(path, overwrite=self.overwrite) as temporary:
                    temporary.write_bytes(content)
                written.append(path)
            write(self.target, result, manifest.model_hash if manifest else "", overwrite=self.overwrite)
        except BaseException:
            # They tell of a file that is not there.
            for path in written:
                path.unlink(missing_ok=True)
            raise
        if self.progress:
            self.progress("write", 1, 1)
        return report


def _drawn(report: QuantizationReport, page: Path) -> bytes:
    # Only here: matplotlib is in an extra of its own.
    from edgeseq.quantization.page import draw

    return draw(report, page.suffix.lower())


def _check_pages(given: StrPath | Sequence[StrPath], sources: Sequence[StrPath], *, overwrite: bool) -> list[Path]:
    """The pages and pictures to write, in places that are free, where this machine can draw."""
    pages = [given] if isinstance(given, str | os.PathLike) else list(given)
    found = [check_output(page, overwrite=overwrite, sources=sources) for page in pages]
    for page in found:
        if page.suffix.lower() not in PAGES:
            raise WrongUsage(f"a report is written as {', '.join(PAGES)}; got {page.name}")
    if found:
        # Raises MissingExtra now and not after the search.
        import edgeseq.quantization.page  # noqa: F401
    return found


def _check_different(targets: Sequence[Path]) -> None:
    resolved = [target.resolve() for target in targets]
    if len(set(resolved)) < len(resolved):
        raise WrongUsage("two of the outputs have the same name: each needs one of its own")


def _check_calls(batch: int | None, threads: int | None) -> None:
    if batch is not None and (type(batch) is not int or batch < 1):
        raise WrongUsage(f"batch must be at least 1, got {batch!r}")
    if threads is not None and (type(threads) is not int or threads < 0):
        raise WrongUsage(f"threads must be 0 (all cores) or more, got {threads!r}")


def _check_beside_plan(**given: object) -> None:
    """Raise WrongUsage for what only a search takes."""
    for name, value in given.items():
        if value is not None:
            raise WrongUsage(f"{name} is for a search, and a plan is used without one: leave out {name}, or the plan")


def _metric(given: str | MetricFunction | None, plan: Plan | None, max_drop: float | None) -> str | MetricFunction:
    """The metric asked for, or that of the plan. Raises WrongUsage for another, which the plan's limit is not of."""
    planned = plan.budget.metric if plan else None
    if given is None:
        return planned or "accuracy"
    name = given if isinstance(given, str) else getattr(given, "__name__", "metric")
    if planned is not None and name != planned and max_drop is None:
        raise WrongUsage(
            f"the plan's max_drop is of the metric '{planned}', and metric is '{name}': leave out metric, or give a "
            "max_drop for it"
        )
    return given


def _batch(source: Source, batch: int | None) -> int:
    fixed = source.fixed_batch
    if fixed is not None and batch not in (None, fixed):
        raise WrongUsage(f"the file takes a batch of exactly {fixed}, not {batch}: leave out batch")
    return fixed or batch or 1


def _budget_with(plan: Plan, max_error: float | None, max_drop: float | None, max_size_bytes: int | None) -> Budget:
    """The plan's budget, with what was given in its place. Times are not measured when a plan is used."""
    asked = plan.budget
    return Budget(
        max_error=asked.max_error if max_error is None else max_error,
        max_drop=asked.max_drop if max_drop is None else max_drop,
        max_size_bytes=asked.max_size_bytes if max_size_bytes is None else max_size_bytes,
    )
