"""What a recipe hands to the training loop, and what training hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.errors import WrongUsage

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
"""``(stage, done, total)``: called often during long work."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs and targets of the same length; the first axis counts samples."""

    inputs: Array
    """What the model takes."""
    targets: Array
    """What it should answer."""

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good the trained model is on data it never saw."""

    metrics: Mapping[str, float]
    """Name -> value on the test data."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """The same measures for the plain guess that the model has to beat; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What the figures alone do not say."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compiled model, its data, and how to train it."""

    model: Any
    """Compiled Keras model with its weights initialised."""
    train: Samples
    """What the weights are fitted to."""
    validation: Samples | None
    """Part of the training data kept from fitting, for early stopping; None watches the training loss."""
    epochs: int
    """Passes over `train` at most."""
    batch_size: int
    """Samples a step."""
    evaluate: Callable[[Any], Evaluation]
    """Takes the trained model; called once, after training. The test data is used nowhere else."""
    source: str
    """Where the data came from, for people."""
    monitor: str = "val_loss"
    """The value of the history that early stopping watches; a higher one is better when it is an accuracy."""
    patience: int | None = None
    """Epochs without a better monitored value after which training stops; None never stops early."""
    best_weights: bool = True
    """Whether the weights of the best epoch are kept, or those of the last."""
    shuffle: bool = True
    """Whether every epoch has its own order of samples."""
    repeats: int = 1
    """How often an epoch goes through the samples; more than once where they are so few that epochs are too short."""
    preprocessing: Mapping[str, Any] | None = None
    """``{"inputs": {name: step}, "outputs": {name: step}}``: what turns raw data into what the model takes."""
    notes: tuple[str, ...] = ()
    """What a reader of the result should know."""


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split `samples` at random into (training, validation), the second holding `share` of them, one at least.

    Raises WrongUsage when nothing would be left to train on.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    cut = max(1, round(share * len(samples)))
    if cut >= len(samples):
        raise WrongUsage(f"{len(samples)} training samples are too few: {cut} are kept for validation")
    kept, held = order[cut:], order[:cut]
    return (
        Samples(inputs=samples.inputs[kept], targets=samples.targets[kept]),
        Samples(inputs=samples.inputs[held], targets=samples.targets[held]),
    )
