"""`quantize`: read and check everything, search, verify the whole once more, write."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy.typing as npt

from edgeseq.errors import WrongUsage
from edgeseq.files import StrPath, check_input, check_output
from edgeseq.quantization.candidates import candidates_for
from edgeseq.quantization.layers import Layer, carries_states, find_layers, load_model, refuse_quantized
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.metrics import Metric, MetricFunction, choose_metric
from edgeseq.quantization.report import QuantizationReport
from edgeseq.quantization.samples import Given, SplitSamples, read_labels, read_samples, split
from edgeseq.quantization.search import Budget, Progress, Tried, search
from edgeseq.quantization.summary import make_report
from edgeseq.quantization.write import finish, write
from edgeseq.runtime.golden import check_golden
from edgeseq.runtime.manifest import Manifest, load_manifest
from edgeseq.runtime.model import Model

DEFAULT_MAX_ERROR = 0.02
DEFAULT_MAX_DROP = 0.005

# Rows of a batch while errors are measured: enough to be quick, and a fair size for forms that mix rows.
_BATCH = 32
# Below this a layer's weights are smaller than the nodes that decode them, and too small to take measurable time.
_LEAST_WEIGHT_BYTES = 1024


def quantize(
    source: StrPath,
    output: StrPath,
    *,
    samples: Given,
    labels: StrPath | npt.ArrayLike | None = None,
    metric: str | MetricFunction = "accuracy",
    greater_is_better: bool | None = None,
    max_error: float | None = None,
    max_drop: float | None = None,
    allow_row_leak: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Write a smaller and, where that is possible, faster form of an fp32 ONNX file, within a budget of accuracy.

    Each layer's possible forms are measured in place on this machine, on the samples; the best that keep the budget
    together are written. When none helps, the fp32 file is written as it is, and the report says why.

    `output` ends in ``.onnx``; the golden samples that belong to it lie in the folder of the same stem.

    `samples`: a path to an .npz file (an array for each input, by name) or an .npy file (for a single input), or an
    array, a dict by name, a list in the order of the inputs; axis 0 is the batch, the other axes are the file's. Every
    fourth row is not used to choose, but the budget must hold there too. Give real data of real length.

    The budget is `max_error`, the relative RMS error against the fp32 file of the worst output (above 0 and at most 1;
    0.02 unless labels are given); or with `labels` (a path to an .npy or .npz file, or an array; one a row) `max_drop`,
    by how much `metric` may get worse in its own unit (0.005 unless said). `metric` is ``"accuracy"`` (classes by the
    largest score, or by the threshold 0.5 for a single probability; labels are class numbers), ``"mae"``, or a function
    (labels, predictions) to a number, with `greater_is_better`. Given both, both must hold.

    Some forms quantize an activation with one scale for all rows and time steps of a call, so that a row's answer
    depends a little on its neighbours. They are never used in files that carry states from call to call; with
    `allow_row_leak=False`, nowhere.

    Raises MissingInput, OutputExists, WrongUsage (budget, metric, an output that is no .onnx or is also read, a file
    that is quantized already), InputMismatch (samples or labels that do not fit), InvalidFile, Refused (above 2 GB),
    MissingExtra.
    """
    chosen_metric, budget = _budget(labels, metric, greater_is_better, max_error, max_drop)
    path = check_input(source, "ONNX file")
    # Another suffix would share its golden samples' folder with the .onnx file of the same stem.
    if Path(output).suffix != ".onnx":
        raise WrongUsage(f"the output's name must end in .onnx, got {Path(output).name}")
    sources = [path, *(given for given in (samples, labels) if isinstance(given, str | os.PathLike))]
    target = check_output(output, overwrite=overwrite, sources=sources)
    check_golden(target, overwrite=overwrite)
    manifest = load_manifest(path)
    if manifest is not None and manifest.quantization is not None:
        raise WrongUsage(f"{path} is quantized already, as its manifest says. Give the file it was made from.")
    described = Model(path, threads=1).manifest
    model = load_model(path)
    refuse_quantized(model, path)

    feed = read_samples(samples, described)
    parts = split(feed, described.inputs, _BATCH)
    layers, notes = find_layers(model)
    trial = SampledTrial(
        model,
        layers,
        parts,
        states=described.states,
        threads=_threads(manifest, parts),
        labels=None if labels is None else read_labels(labels, len(next(iter(feed.values())))),
        metric=chosen_metric,
    )
    streams = bool(described.states) or carries_states(model)
    possible, ruled_out = _possible(layers, streams=streams, allow_row_leak=allow_row_leak)
    outcome = search(possible, trial, budget, progress=progress)

    if progress:
        progress("write", 0, 1)
    result = finish(trial, outcome.choices, path, manifest)
    write(target, result, manifest.model_hash if manifest else "", overwrite=overwrite)
    if progress:
        progress("write", 1, 1)
    return make_report(path, target, trial, budget, outcome, ruled_out, result, notes)


def _budget(
    labels: object,
    metric: str | MetricFunction,
    greater_is_better: bool | None,
    max_error: float | None,
    max_drop: float | None,
) -> tuple[Metric | None, Budget]:
    """The metric and the budget asked for; raises WrongUsage when they cannot mean anything."""
    if labels is None:
        if max_drop is not None or metric != "accuracy" or greater_is_better is not None:
            raise WrongUsage("metric, greater_is_better and max_drop need labels=. Without labels, give max_error.")
        max_error = DEFAULT_MAX_ERROR if max_error is None else max_error
    elif max_drop is None:
        max_drop = DEFAULT_MAX_DROP
    # An error of 1 is that of answering nothing but zeros.
    if max_error is not None and not (_is_number(max_error) and 0 < max_error <= 1):
        raise WrongUsage(f"max_error must be above 0 and at most 1 (100%), got {max_error!r}")
    if max_drop is not None and not (_is_number(max_drop) and 0 <= max_drop < math.inf):
        raise WrongUsage(f"max_drop must be 0 or a positive number, got {max_drop!r}")
    chosen = None if labels is None else choose_metric(metric, greater_is_better)
    return chosen, Budget(max_error=max_error, max_drop=max_drop)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _threads(manifest: Manifest | None, parts: SplitSamples) -> int:
    """What the runtime will use for a call as small as the file allows; one where the file does not say."""
    batch = len(next(iter(parts.first.values())))
    return manifest.threads_for(batch) if manifest and manifest.threads else 1


def _possible(
    layers: Sequence[Layer], *, streams: bool, allow_row_leak: bool
) -> tuple[dict[str, tuple[str, ...]], tuple[Tried, ...]]:
    """Names of the candidates to measure by layer, and those ruled out before, with the reason."""
    no_leak = ""
    if streams:
        no_leak = "it makes steps depend on each other, and the file carries states from call to call"
    elif not allow_row_leak:
        no_leak = "it makes rows depend on each other, which allow_row_leak=False forbids"
    possible: dict[str, tuple[str, ...]] = {}
    ruled_out: list[Tried] = []
    for layer in layers:
        if layer.weight_bytes < _LEAST_WEIGHT_BYTES:
            continue
        fitting = candidates_for(layer)
        leaking = [entry.name for entry in fitting if no_leak and not entry.rows_independent]
        possible[layer.name] = tuple(entry.name for entry in fitting if entry.name not in leaking)
        ruled_out += [Tried(layer=layer.name, candidate=name, declined=no_leak) for name in leaking]
    return possible, tuple(ruled_out)
