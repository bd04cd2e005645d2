"""Keras as the oracle: inputs that try a model's corners, and its answers to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.failures import reason_of, refusing, shapes_of
from edgeseq.conversion.lengths import ADVICE, Sizes, in_words, quick_candidates
from edgeseq.conversion.load import load
from edgeseq.conversion.precision import in_float32
from edgeseq.conversion.signature import Input, Signature, to_structure
from edgeseq.errors import InputMismatch, Refused
from edgeseq.runtime import structure
from edgeseq.runtime.manifest import Structure

Array = npt.NDArray[Any]

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


def keras_answers(
    model: Any,
    signature: Signature,
    given: Sequence[Array] | None,
    seed: int = 0,
    *,
    lengths: Sequence[Sizes] = (),
    strict: bool = False,
    multiple: int = 1,
) -> Answers:
    """Ask the model at several batches and lengths, and about the `given` flat inputs when there are any.

    A size that Keras itself refuses is told, not an error, unless none is left; other lengths are tried in its place,
    first those of `lengths`.

    With `strict` Keras is asked first which sizes of the answers it foresees: TensorFlow makes up an answer for fewer
    steps than a convolution's window has, where Keras knows of none.

    Free lengths are a `multiple` of steps, but for that of a batch.
    """
    asking = _Asking(model, signature, strict)
    random = np.random.default_rng(seed)
    trials = [] if given is None else asking.first([given])
    known = None if given is None else sizes_of(signature, given)
    free = sorted({axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)} - {"batch"})
    refused: list[str] = [str(failure) for failure in asking.failures]
    ways = [{axis: multiple * way[axis] for axis in free} for way in [*lengths, *quick_candidates(free, known)] if free]
    ways = [way for index, way in enumerate(ways) if way not in ways[:index]]
    not_taken: list[Sizes] = []
    for choices in _all_sizes(signature, multiple):
        # A mean over the valid steps of a row that has none is NaN in Keras; such rows are left out then.
        found = asking.first(_batches(signature, choices, random))
        trials += found
        if found:
            continue
        refused.append(str(asking.failures[-1]))
        # One step is there to be refused.
        while ways and not found and choices[0].get("time") != multiple:
            way = ways.pop(0)
            found = asking.first(_batches(signature, [{**choices[0], **way}], np.random.default_rng(seed)))
            if not found:
                not_taken.append(way)
        trials += found
    reset_states(model)
    if not trials:
        failure = asking.failures[0]
        if not not_taken:
            raise failure
        told = f"{failure}. It refuses these lengths as well: {in_words(not_taken)}. {ADVICE}"
        raise Refused(told) from failure.__cause__
    if not_taken:
        refused.append(f"Keras refuses these lengths as well, tried instead: {in_words(not_taken)}")
    return Answers(
        trials=tuple(trials), output_names=asking.names, output_structure=asking.nest, refused=tuple(refused)
    )


class _Asking:
    """A model that is asked again and again: what its outputs are called, and why it failed."""

    def __init__(self, model: Any, signature: Signature, strict: bool):
        self._model, self._signature, self._strict = model, signature, strict
        self.names: tuple[str, ...] = ()
        self.nest: Structure = None
        self.failures: list[Refused] = []

    def first(self, alternatives: Sequence[Sequence[Array]]) -> list[Trial]:
        """A trial of the first of some batches that the model answers, with numbers; none where it refuses all."""
        for arrays in alternatives:
            reset_states(self._model)
            failed = f"Keras itself fails on inputs of shape {shapes_of(arrays)}"
            try:
                with refusing(failed):
                    if self._strict:
                        self._foresee(arrays)
                    outputs = self._signature.call(*arrays)
            except Refused as caught:
                self.failures.append(caught)
                continue
            flat = keras.tree.flatten_with_path(outputs)
            if not self.names:
                self.names = self._signature.output_names or made_names(flat)
                self.nest = to_structure(outputs, self.names)
            values = [keras.ops.convert_to_numpy(value) for _, value in flat]
            if not all(value.size for value in values):
                # As a convolution's of fewer steps than its window; onnxruntime raises an error there.
                told = f"{failed}: its answer is empty, as for a sequence shorter than a window"
                self.failures.append(Refused(told))
                continue
            if arrays is not alternatives[-1] and not all(np.isfinite(value).all() for value in values):
                continue
            return [
                Trial(
                    inputs=dict(zip([spec.name for spec in self._signature.inputs], arrays, strict=True)),
                    outputs=dict(zip(self.names, values, strict=True)),
                )
            ]
        return []

    def _foresee(self, arrays: Sequence[Array]) -> None:
        names = [spec.name for spec in self._signature.inputs]
        symbols = {name: keras.KerasTensor(a.shape, a.dtype.name) for name, a in zip(names, arrays, strict=True)}
        self._model.compute_output_spec(structure.nest(symbols, self._signature.input_structure), training=False)


def keras_fails(signature: Signature, known: Sizes | None = None) -> Refused | None:
    """Keras's reason not to run a model at any of the lengths that are tried; None for a model that runs."""
    free = sorted({axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)} - {"batch"})
    failure = None
    with kept_states(signature.model):
        for way in quick_candidates(free, known):
            arrays = _batches(signature, [{"batch": 2, **way}], np.random.default_rng(0))[0]
            try:
                with refusing(f"Keras itself fails on inputs of shape {shapes_of(arrays)}"):
                    signature.call(*arrays)
            except Refused as caught:
                failure = failure or caught
            else:
                return None
    return failure


def sizes_of(signature: Signature, arrays: Sequence[Array]) -> dict[str, int]:
    """The lengths of a signature's free axes in one batch of flat inputs."""
    return {
        axis: length
        for spec, array in zip(signature.inputs, arrays, strict=True)
        for axis, length in zip(spec.axes, array.shape, strict=True)
        if isinstance(axis, str)
    }


def _batches(signature: Signature, choices: Sequence[Sizes], random: np.random.Generator) -> list[list[Array]]:
    return [
        [make_input(spec, sizes, random, empty_rows=empty_rows) for spec in signature.inputs]
        for sizes in choices
        for empty_rows in (True, False)
    ]


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


def _all_sizes(signature: Signature, multiple: int) -> list[list[Sizes]]:
    """Lengths of the free axes for each trial, equal trials only once.

    A trial has alternatives, to be tried in order: lengths of their own for unrelated axes, then equal ones for models
    that need their sequences equally long.
    """
    free = {axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
    others = sorted(free - {"batch", "time"})
    trials: list[list[Sizes]] = []
    for batch, length in _BATCHES_AND_LENGTHS:
        length *= multiple
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
