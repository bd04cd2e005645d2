"""Do subjects measured side by side answer the same? A time means nothing for a model that computes something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Answers = tuple[npt.NDArray[Any], ...]

REFERENCE, COMPARED, NO_REFERENCE = "reference", "compared", "the reference has no answers"
"""What is said of answers that others are compared with, of those that agree with them, and of those without any."""

MOST_DIFFERENCE = 0.1
"""Largest relative RMS difference of the same model: weights of eight bits come to a hundredth or a few, another model
to about 1."""


def flatten(outputs: object) -> Answers:
    """The arrays in what a model returned: lists in order, dicts by sorted key, as Keras flattens them."""
    if isinstance(outputs, Mapping):
        return tuple(array for key in sorted(outputs) for array in flatten(outputs[key]))
    if isinstance(outputs, (list, tuple)):
        return tuple(array for item in outputs for array in flatten(item))
    return (np.asarray(outputs),)


def compare_answers(answers: Answers, reference: Answers) -> tuple[float | None, str]:
    """Largest absolute difference over all outputs, None where there is none; and `COMPARED`, or why they are no
    answers of the same model: among others an output that differs by more than `MOST_DIFFERENCE` of its RMS."""
    if len(answers) != len(reference):
        return None, f"not comparable: {len(answers)} outputs, the reference has {len(reference)}"
    largest, said = 0.0, COMPARED
    for number, (mine, other) in enumerate(zip(answers, reference, strict=True)):
        if mine.shape != other.shape:
            return None, f"not comparable: output {number} has shape {mine.shape}, the reference's {other.shape}"
        if mine.dtype.kind not in "biuf" or other.dtype.kind not in "biuf":
            return None, f"not comparable: output {number} is {mine.dtype}, the reference's {other.dtype}"
        difference = np.abs(mine.astype(np.float64) - other.astype(np.float64))
        if not np.isfinite(difference).all():
            return None, f"wrong: output {number} has values that are not finite"
        largest = max(largest, float(difference.max(initial=0.0)))
        # Norms' ratio is that of the RMS; a reference of zeros alone is left by any difference.
        apart, whole = np.linalg.norm(difference), np.linalg.norm(other.astype(np.float64))
        if apart > MOST_DIFFERENCE * whole:
            by = f"by {apart / whole:.0%} of the reference's RMS" if whole else "from a reference of zeros"
            said = f"other answers: output {number} differs {by}, and {MOST_DIFFERENCE:.0%} is the most allowed"
    return largest, said
