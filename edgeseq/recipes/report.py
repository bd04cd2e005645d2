"""What a training gives back."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.recipes.registry import OptionValue


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """A finished training: the files it wrote and how good the model is."""

    recipe: str
    """Name of the recipe."""
    options: dict[str, OptionValue]
    """The recipe's own options, defaults filled in."""
    source: str
    """Where the data came from."""
    model_path: str
    """The trained model, a `.keras` file."""
    preprocessing_path: str | None
    """JSON of what turns raw data into inputs and outputs back; None where the model takes the data as it is."""
    history_path: str
    """JSON of every value of every epoch."""
    curves_path: str
    """PNG of the learning curves."""
    samples: int
    """Training samples, those kept for validation left out."""
    epochs: int
    """Epochs trained, those before a resume included."""
    best_epoch: int
    """The epoch, counted from 1, whose weights were kept."""
    resumed_epochs: int
    """Epochs taken over from the checkpoint of an interrupted training; 0 for a fresh one."""
    batch_size: int
    """Samples a step."""
    seed: int
    """Seed of the weights and of the order of the samples."""
    parameters: int
    """Keras's parameter count."""
    metrics: dict[str, float]
    """Name -> value on test data, which was used once, after training."""
    baseline: dict[str, float]
    """The same measures for the plain guess to beat, such as repeating the last value; empty where there is none."""
    seconds: float
    """Wall time of this call, reading the data and evaluation included."""
    notes: tuple[str, ...] = ()
    """What else a reader should know, such as a checkpoint that was taken up."""
