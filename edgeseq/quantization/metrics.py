"""How far answers are from others, and how good they are against labels: numbers from arrays, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import InputMismatch, WrongUsage

Array = npt.NDArray[Any]
Answers = Sequence[Sequence[Array]]
"""For each batch, the outputs in the file's order."""
MetricFunction = Callable[[Array, Any], float]

_TOLERANCE_MARGIN = 2.0
_LEAST_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good answers are."""

    name: str
    """Name shown in reports."""
    function: MetricFunction
    """Takes labels and predictions."""
    greater_is_better: bool
    """Whether more is better."""

    def drop(self, before: float, after: float) -> float:
        """By how much `after` is worse than `before`; negative when it is better."""
        return before - after if self.greater_is_better else after - before

    def __call__(self, labels: Array, answers: Answers) -> float:
        """The metric of `answers`. Raises WrongUsage when it gives no finite number."""
        outputs = [np.concatenate([batch[index] for batch in answers]) for index in range(len(answers[0]))]
        # A user's function gets what the model returns: an array, or a list of arrays for several outputs.
        value = float(self.function(labels, outputs[0] if len(outputs) == 1 else outputs))
        if not math.isfinite(value):
            raise WrongUsage(f"the metric '{self.name}' gives {value}, not a number, on the labels and the answers.")
        return value


def choose_metric(metric: str | MetricFunction, greater_is_better: bool | None) -> Metric:
    """The metric asked for: ``"accuracy"``, ``"mae"``, or a function (labels, predictions) with its direction."""
    if isinstance(metric, str):
        if metric not in _BUILT_IN:
            raise WrongUsage(f"unknown metric '{metric}'; allowed: {', '.join(_BUILT_IN)}, or a function.")
        function, direction = _BUILT_IN[metric]
        if greater_is_better not in (None, direction):
            raise WrongUsage(f"for the metric '{metric}', greater_is_better is {direction}.")
        return Metric(name=metric, function=function, greater_is_better=direction)
    if not callable(metric):
        raise WrongUsage(f"metric must be a name or a function (labels, predictions), not {type(metric).__name__}.")
    if greater_is_better is None:
        raise WrongUsage("a metric of your own needs greater_is_better=True or False.")
    return Metric(name=getattr(metric, "__name__", "metric"), function=metric, greater_is_better=greater_is_better)


def accuracy(labels: Array, predictions: Array) -> float:
    """Fraction of right classes.

    `predictions` are (rows..., classes) scores, of which the largest counts, or (rows..., 1) or (rows...)
    probabilities of class 1, with the threshold 0.5. `labels` (rows...) are class numbers, whole numbers from 0 to
    classes - 1. Raises InputMismatch for any others.
    """
    predictions = _single(predictions)
    if predictions.ndim > 1 and predictions.shape[-1] > 1:
        found, classes = predictions.argmax(axis=-1), predictions.shape[-1]
        wanted = f"class numbers, whole numbers from 0 to {classes - 1}"
    else:
        found, classes = predictions > 0.5, 2
        wanted = "0 or 1, because the answer is one probability"
    advice = f"For accuracy, labels are {wanted}, and there is one for each answer."
    if labels.size != found.size:
        shapes = f"of shape {labels.shape} for answers of shape {found.shape}"
        raise InputMismatch(f"got labels {shapes}. {advice} One-hot labels become class numbers by argmax(axis=-1).")
    wrong = labels[~np.isin(labels, np.arange(classes))]
    if wrong.size:
        raise InputMismatch(f"got labels such as {wrong.flat[0]}. {advice}")
    return float(np.mean(_alike(labels, found.shape) == found))


def mae(labels: Array, predictions: Array) -> float:
    """Mean absolute error, in the labels' unit."""
    predictions = _single(predictions)
    return float(np.mean(np.abs(_alike(labels, predictions.shape).astype(np.float64) - predictions)))


_BUILT_IN: dict[str, tuple[MetricFunction, bool]] = {"accuracy": (accuracy, True), "mae": (mae, False)}


def relative_rms(reference: Answers, answers: Answers) -> float:
    """RMS of the difference over RMS of the reference, of the worst output; infinite when an answer is not finite."""
    worst = 0.0
    for index in range(len(reference[0])):
        difference = scale = 0.0
        for ours, theirs in zip(answers, reference, strict=True):
            exact = theirs[index].astype(np.float64)
            if ours[index].shape != exact.shape or not np.isfinite(ours[index]).all():
                return math.inf
            difference += float(np.square(ours[index] - exact).sum())
            scale += float(np.square(exact).sum())
        if difference:
            worst = max(worst, math.sqrt(difference / scale) if scale else math.inf)
    return worst


def tolerance_for(reference: Answers, answers: Answers) -> float:
    """A tolerance that the answers keep with a margin of 2, rounded up to two digits and at least 1e-5.

    In the rule |a - b| ≤ tolerance × max(1, max |reference|), taken row by row, so that it holds for any of the rows
    alone.
    """
    measured = 0.0
    for ours, theirs in zip(answers, reference, strict=True):
        for mine, exact in zip(ours, theirs, strict=True):
            rows = exact.shape[0] if exact.ndim else 1
            difference = np.abs(mine.astype(np.float64) - exact).reshape(rows, -1).max(axis=1, initial=0)
            scale = np.abs(exact.astype(np.float64)).reshape(rows, -1).max(axis=1, initial=1)
            measured = max(measured, float((difference / scale).max(initial=0)))
    wanted = max(measured * _TOLERANCE_MARGIN, _LEAST_TOLERANCE)
    digit = 10.0 ** (math.floor(math.log10(wanted)) - 1)
    # Through text, so that the manifest shows 0.012 and not 0.012000000000000002.
    return float(f"{math.ceil(wanted / digit - 1e-9) * digit:.1e}")


def _single(predictions: Any) -> Array:
    if isinstance(predictions, list):
        raise WrongUsage(
            f"the file has {len(predictions)} outputs; accuracy and mae take one. Give metric= a function, which gets "
            "the outputs as a list, and greater_is_better=."
        )
    return np.asarray(predictions)


def _alike(labels: Array, shape: tuple[int, ...]) -> Array:
    """Labels in the predictions' shape: a trailing axis of length 1 may be there or not."""
    if labels.size != math.prod(shape):
        raise InputMismatch(f"labels of shape {labels.shape} do not fit answers of shape {shape}.")
    return labels.reshape(shape)
