"""Keras as the oracle: inputs that try a model's corners, and its answers to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.failures import reason_of, refusing, shapes_of
from edgeseq.conversion.load import load
from edgeseq.conversion.precision import in_float32
from edgeseq.conversion.signature import Input, Signature, to_structure
from edgeseq.errors import InputMismatch, Refused
from edgeseq.runtime.manifest import Structure

Array = npt.NDArray[Any]
Sizes = Mapping[str, int]

# Batches and lengths that are unlike each other, so that a mistaken axis shows. One step is the shortest sequence.
_BATCHES_AND_LENGTHS = ((1, 16), (2, 23), (7, 9), (2, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One batch of inputs and the model's answers, by tensor name."""

    inputs: dict[str, Array]
    """What was asked."""
    outputs: dict[str, Array]
    """What Keras answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """All trials of a model."""

    trials: tuple[Trial, ...]
    """At least one."""
    output_names: tuple[str, ...]
    """Names of the flat outputs."""
    output_structure: Structure
    """How the model nests them."""
    refused: tuple[str, ...]
    """Sizes at which Keras itself failed, with its reason."""


def open_keras(model_or_path: Any) -> tuple[Callable[[Any], Any], tuple[str, ...]]:
    """A function from what the model takes to what it returns, as numpy arrays, and the notes on loading the model.

    It is always asked from the initial state, and in float32 where it has mixed precision: so does its export compute.
    """
    loaded = load(model_or_path)
    model = loaded.model

    def ask(inputs: Any) -> Any:
        with kept_states(model), in_float32(model):
            reset_states(model)
            try:
                outputs = model(keras.tree.map_structure(np.asarray, inputs), training=False)
            except MemoryError:
                raise
            except Exception as error:
                raise InputMismatch(f"the Keras model does not take these inputs: {reason_of(error)}") from error
            return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    return ask, loaded.notes


def reset_states(model: Any) -> None:
    """Set every stateful layer back to zero."""
    for layer in model._flatten_layers(include_self=False):
        # Keras's own reset_state cannot do the nested states of a stack of cells.
        for state in keras.tree.flatten(getattr(layer, "states", None) or []):
            state.assign(keras.ops.zeros_like(state))


@contextlib.contextmanager
def kept_states(model: Any) -> Iterator[None]:
    """Put back afterwards whatever a call may change: states, seeds of random numbers, and what a layer counts.

    Keras draws the dropout masks of a recurrent cell in every call, used or not.
    """
    variables = list(model.non_trainable_variables)
    for layer in model._flatten_layers():
        variables += [generator.state for generator in layer._seed_generators]
        if getattr(layer, "stateful", False):
            variables += keras.tree.flatten(getattr(layer, "states", None) or [])
    before = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def keras_answers(model: Any, signature: Signature, given: Sequence[Array] | None, seed: int = 0) -> Answers:
    """Ask the model at several batches and lengths, and about the `given` flat inputs when there are any.

    A size that Keras itself refuses is told, not an error, unless none is left.
    """
    random = np.random.default_rng(seed)
    batches: list[list[Sequence[Array]]] = [] if given is None else [[given]]
    for choices in _all_sizes(signature):
        # A mean over the valid steps of a row that has none is NaN in Keras; such rows are left out then.
        batches.append(
            [
                [make_input(spec, sizes, random, empty_rows=empty_rows) for spec in signature.inputs]
                for sizes in choices
                for empty_rows in (True, False)
            ]
        )
    trials: list[Trial] = []
    refused: list[str] = []
    names: tuple[str, ...] = ()
    nest: Structure = None
    failures: list[Refused] = []
    for alternatives in batches:
        for arrays in alternatives:
            reset_states(model)
            failed = f"Keras itself fails on inputs of shape {shapes_of(arrays)}"
            try:
                with refusing(failed):
                    outputs = signature.call(*arrays)
            except Refused as caught:
                failures.append(caught)
                continue
            flat = keras.tree.flatten_with_path(outputs)
            if not names:
                names = signature.output_names or made_names(flat)
                nest = to_structure(outputs, names)
            values = [keras.ops.convert_to_numpy(value) for _, value in flat]
            if not all(value.size for value in values):
                # As a convolution's of fewer steps than its window; onnxruntime raises an error there.
                failures.append(Refused(f"{failed}: its answer is empty, as for a sequence shorter than a window"))
                continue
            if arrays is not alternatives[-1] and not all(np.isfinite(value).all() for value in values):
                continue
            trials.append(
                Trial(
                    inputs=dict(zip([spec.name for spec in signature.inputs], arrays, strict=True)),
                    outputs=dict(zip(names, values, strict=True)),
                )
            )
            break
        else:
            refused.append(str(failures[-1]))
    reset_states(model)
    if not trials:
        raise failures[0]
    return Answers(trials=tuple(trials), output_names=names, output_structure=nest, refused=tuple(refused))


def mixed_distance(model: Any, signature: Signature, trials: Sequence[Trial]) -> float:
    """How far the model in its own, mixed precision is from its answers in float32, as a part of their range.

    The largest |mixed - float32| / max(1, max |float32|) over all outputs of all trials.
    """
    worst = 0.0
    with kept_states(model):
        for trial in trials:
            reset_states(model)
            with refusing("the model fails in its own, mixed precision"):
                mixed = keras.tree.flatten(signature.call(*[trial.inputs[spec.name] for spec in signature.inputs]))
            for answer, exact in zip(mixed, trial.outputs.values(), strict=True):
                difference = np.abs(keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32")) - exact)
                worst = max(worst, float(difference.max(initial=0)) / max(1.0, float(np.abs(exact).max(initial=0))))
    return worst


def make_input(spec: Input, sizes: Sizes, random: np.random.Generator, *, empty_rows: bool = True) -> Array:
    """One input: ids within the vocabulary, noise of unit variance, Booleans; with masked steps where masks are read.

    Masked steps come in every pattern: before, after and between valid ones, and, with `empty_rows`, alone.
    """
    shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes)
    if spec.dtype == "bool":
        mask = random.random(shape) < 0.7
        if not empty_rows:
            mask[..., -1] = True
        return mask
    if np.dtype(spec.dtype).kind in "iu" or spec.vocabulary is not None:
        ids = spec.vocabulary or 2
        # Which steps are masked is decided below.
        array = random.integers(1 if spec.mask_value == 0 and ids > 1 else 0, ids, shape).astype(spec.dtype)
    else:
        array = random.standard_normal(shape).astype(spec.dtype)
    if spec.mask_value is not None and len(shape) >= 2:
        for row in range(shape[0]):
            array[row, _masked_steps(row, shape[1], random, empty_rows)] = spec.mask_value
    return array


def _masked_steps(row: int, length: int, random: np.random.Generator, empty_rows: bool) -> Array:
    steps = np.arange(length)
    patterns = (
        steps < length // 3,
        (steps >= length - length // 3) | (steps == length // 2),
        np.full(length, empty_rows),
        (random.random(length) < 0.5) & (steps > 0),
        np.zeros(length, bool),
    )
    masked = patterns[row % len(patterns)]
    if not empty_rows and masked.all():
        masked[-1] = False
    return masked


def _all_sizes(signature: Signature) -> list[list[Sizes]]:
    """Lengths of the free axes for each trial, equal trials only once.

    A trial has alternatives, to be tried in order: lengths of their own for unrelated axes, then equal ones for models
    that need their sequences equally long.
    """
    free = {axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
    others = sorted(free - {"batch", "time"})
    trials: list[list[Sizes]] = []
    for batch, length in _BATCHES_AND_LENGTHS:
        known = {axis: size for axis, size in (("batch", batch), ("time", length)) if axis in free}
        unlike = {axis: length + 2 * (index + 1) for index, axis in enumerate(others)}
        alternatives: list[Sizes] = [known | unlike]
        if others:
            alternatives.append(known | dict.fromkeys(others, length))
        if alternatives not in trials:
            trials.append(alternatives)
    return trials


def made_names(flat: Sequence[tuple[Any, Any]]) -> tuple[str, ...]:
    """Names for the outputs of a model that has none: dict keys, else numbers."""
    if len(flat) == 1 and not flat[0][0]:
        return ("output",)
    return tuple(
        "_".join(str(part) for part in path) if any(isinstance(p, str) for p in path) else f"output_{i}"
        for i, (path, _) in enumerate(flat)
    )
