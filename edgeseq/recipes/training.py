"""The training loop that every recipe shares: Keras's `fit`, one epoch at a time.

Between epochs lies all that `fit` cannot give together: an order of samples that depends on the seed and the epoch
alone, a checkpoint after every epoch, early stopping that survives a restart, and states of stateful layers that are
reset before every pass. So an interrupted training that is resumed ends where an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edgeseq.conversion.reference import reset_states
from edgeseq.errors import NegativeResult
from edgeseq.recipes import checkpoint
from edgeseq.recipes.checkpoint import TrainingState
from edgeseq.recipes.interrupts import interrupts_between_steps
from edgeseq.recipes.plan import Plan, Progress, Samples


def fit(plan: Plan, state: TrainingState, *, output: Path, settings: dict[str, Any], progress: Progress | None) -> None:
    """Train `plan.model` from `state` on, both in place, with a checkpoint beside `output` after every epoch.

    Afterwards the model holds the weights that the plan asks for. Raises NegativeResult when the monitored value is
    not a finite number.
    """
    with interrupts_between_steps() as check_interrupt:
        while state.epoch < plan.epochs and not state.stopped:
            watcher = _Watcher(check_interrupt, progress, state.epoch, plan.epochs)
            _train_epoch(plan, state, settings["seed"], watcher)
            checkpoint.write(output, settings, state, plan.model)
            check_interrupt()
    if plan.best_weights:
        plan.model.set_weights(state.best_weights)


def _train_epoch(plan: Plan, state: TrainingState, seed: int, watcher: _Watcher) -> None:
    started = time.perf_counter()
    samples = _arranged(plan, (seed, state.epoch))
    reset_states(plan.model)
    fitted = plan.model.fit(
        samples.inputs,
        samples.targets,
        batch_size=plan.batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[watcher],
    )
    values = {name: series[-1] for name, series in fitted.history.items()}
    if plan.validation is not None:
        values |= {f"val_{name}": value for name, value in score(plan, plan.validation, watcher).items()}
    values["seconds"] = time.perf_counter() - started
    for name, value in values.items():
        state.history.setdefault(name, []).append(float(value))
    state.epoch += 1
    _judge(plan, state)


def score(plan: Plan, samples: Samples, *callbacks: keras.callbacks.Callback) -> dict[str, float]:
    """Loss and metrics of the model on `samples`, stateful layers starting from their initial state."""
    reset_states(plan.model)
    values = plan.model.evaluate(
        samples.inputs,
        samples.targets,
        batch_size=plan.batch_size,
        verbose=0,
        callbacks=list(callbacks),
        return_dict=True,
    )
    return {name: float(value) for name, value in values.items()}


def _judge(plan: Plan, state: TrainingState) -> None:
    """Note whether the epoch just finished is the best so far, and whether patience has run out."""
    value = state.history[plan.monitor][-1]
    if not math.isfinite(value):
        raise NegativeResult(
            f"the training diverged: {plan.monitor} is {value} in epoch {state.epoch}. Another seed, a larger batch or "
            "other options may keep it stable."
        )
    sign = 1.0 if "accuracy" in plan.monitor else -1.0
    if state.best_value is None or sign * value > sign * state.best_value:
        state.best_value, state.best_epoch = value, state.epoch
        if plan.best_weights:
            state.best_weights = plan.model.get_weights()
    elif plan.patience is not None and state.epoch - state.best_epoch >= plan.patience:
        state.stopped = True


def _arranged(plan: Plan, key: tuple[int, int]) -> Samples:
    """The samples of one epoch in the order in which they are trained on."""
    if not plan.shuffle and plan.repeats == 1:
        return plan.train
    random = np.random.default_rng(key)
    each = np.arange(len(plan.train))
    order = np.concatenate([random.permutation(each) if plan.shuffle else each for _ in range(plan.repeats)])
    return Samples(inputs=plan.train.inputs[order], targets=plan.train.targets[order])


class _Watcher(keras.callbacks.Callback):  # type: ignore[misc]
    """Between steps: lets Ctrl-C through, and reports steps so that one bar runs over the whole training."""

    def __init__(self, check_interrupt: Callable[[], None], progress: Progress | None, epoch: int, epochs: int):
        super().__init__()
        self._check_interrupt, self._progress, self._epoch, self._epochs = check_interrupt, progress, epoch, epochs

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._check_interrupt()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._check_interrupt()
        if self._progress is None:
            return
        steps = self.params["steps"]
        self._progress(
            f"epoch {self._epoch + 1} of {self._epochs}", self._epoch * steps + batch + 1, self._epochs * steps
        )
