"""Run a finished file as a user would, and hold it against Keras before it gets its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.conversion.failures import shapes_of
from edgeseq.conversion.reference import Trial
from edgeseq.errors import InputMismatch, Refused
from edgeseq.files import StrPath
from edgeseq.parity import Parity, compare_answers
from edgeseq.runtime import Model, structure
from edgeseq.runtime.manifest import Manifest, output_time_axes

Array = npt.NDArray[Any]
Pair = tuple[dict[str, Array], dict[str, Array]]


def verify(path: StrPath, trials: Sequence[Trial], *, tolerance: float) -> tuple[Parity, tuple[str, ...]]:
    """Parity of the file at `path` with Keras's answers, whole and, where it has states, in chunks.

    Also what to tell of sizes smaller than a window of the model's, where TensorFlow makes an answer up and onnxruntime
    refuses, or makes up one of another shape: only the trial with the fewest steps may be among them.

    Raises Refused for a file that answers right as a whole and otherwise in chunks: a layer of it looks at more of the
    sequence than the chunk at hand.
    """
    model = Model(path)
    names = [spec.name for spec in model.outputs]
    pairs: list[Pair] = []
    refused: list[str] = []
    fewest = min(_steps(model.manifest, trial) for trial in trials)
    for trial in trials:
        may_differ = trial is not trials[0] and _steps(model.manifest, trial) == fewest
        expected = {name: trial.outputs[name] for name in names}
        if not model.manifest.states:
            shapes = shapes_of(trial.inputs.values())
            try:
                answers = structure.flatten(model(trial.inputs), model.manifest.output_structure)
            except InputMismatch as error:
                told = f"inputs of shape {shapes} are an error in the file, not in Keras: {error}"
                if not may_differ:
                    raise Refused(told) from error
                refused.append(told)
                continue
            other = [name for name in names if answers[name].shape != expected[name].shape]
            if other:
                told = (
                    f"output '{other[0]}' has shape {answers[other[0]].shape} in the file, "
                    f"{expected[other[0]].shape} in Keras"
                )
                if not may_differ:
                    raise Refused(f"inputs of shape {shapes}: {told}. The model's code looks at its inputs' sizes")
                refused.append(f"inputs of shape {shapes} are smaller than a window of the model's: {told}")
                continue
            pairs.append(({name: answers[name] for name in names}, expected))
            continue
        for lengths in _ways_to_cut(model.manifest, trial.inputs):
            try:
                pair = (_streamed(model, trial.inputs, lengths), expected)
            except InputMismatch as error:
                raise Refused(f"the model cannot be fed in chunks of {lengths[0]} time steps: {error}") from error
            if len(lengths) > 1 and not _alike(pair, tolerance):
                raise Refused(
                    "the model cannot be fed in chunks: its answers to the whole sequence and to parts of it differ. "
                    "Some layer looks at more than one time step"
                )
            pairs.append(pair)
        if model.inputs[0].axes[0] == "batch":
            # Rows do not know of each other, so the first one alone must answer the same.
            first = {name: array[:1] for name, array in trial.inputs.items()}
            whole = next(_ways_to_cut(model.manifest, trial.inputs))
            pairs.append((_streamed(model, first, whole), {name: array[:1] for name, array in expected.items()}))
    return compare_answers(pairs, tolerance=tolerance, provider="cpu", reference="keras"), tuple(refused)


def _steps(manifest: Manifest, trial: Trial) -> int:
    """The least number of time steps of a trial's sequences, where that is free; else 0."""
    axes = ((spec.name, spec.time_axis) for spec in manifest.inputs)
    return min((trial.inputs[name].shape[axis] for name, axis in axes if axis is not None), default=0)


def _alike(pair: Pair, tolerance: float) -> bool:
    mine, theirs = pair
    if any(mine[name].shape != theirs[name].shape for name in mine):
        return False
    return bool(compare_answers([pair], tolerance=tolerance, provider="cpu", reference="keras"))


def final_states(path: StrPath, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The states after the whole of `inputs`, by output name."""
    model = Model(path)
    stream = model.stream(batch=next(iter(inputs.values())).shape[0])
    for piece in _pieces(model, inputs, next(_ways_to_cut(model.manifest, inputs))):
        stream.step(piece)
    after = stream.state
    return {state.output: after[state.input] for state in model.manifest.states}


def _ways_to_cut(manifest: Manifest, inputs: Mapping[str, Array]) -> Iterator[list[int]]:
    """Chunk lengths that add up to the whole: all at once, as short as can be, and by chance; or as the file fixes
    them."""
    spec = next(spec for spec in manifest.inputs if spec.time_axis is not None)
    assert spec.time_axis is not None
    whole, axis = inputs[spec.name].shape[spec.time_axis], spec.axes[spec.time_axis]
    if isinstance(axis, int):
        yield [axis] * (whole // axis)
        return
    yield [whole]
    shortest = manifest.chunk_multiple
    count = whole // shortest
    if count > 1:
        yield [shortest] * count
    if count > 2:
        # The same cuts at every export.
        random = np.random.default_rng(whole)
        cuts = sorted(random.choice(np.arange(1, count), size=min(4, count - 2), replace=False).tolist())
        yield [shortest * (end - start) for start, end in zip([0, *cuts], [*cuts, count], strict=True)]


def _pieces(model: Model, inputs: Mapping[str, Array], lengths: Sequence[int]) -> Iterator[dict[str, Array]]:
    start = 0
    for length in lengths:
        yield {
            spec.name: inputs[spec.name][:, start : start + length] if spec.time_axis is not None else inputs[spec.name]
            for spec in model.inputs
        }
        start += length


def _streamed(model: Model, inputs: Mapping[str, Array], lengths: Sequence[int]) -> dict[str, Array]:
    """The answers put together from chunks: sequences end to end, anything else from the last chunk."""
    stream = model.stream(batch=next(iter(inputs.values())).shape[0])
    chunks = [
        structure.flatten(stream.step(piece), model.manifest.output_structure)
        for piece in _pieces(model, inputs, lengths)
    ]
    along = output_time_axes(model.inputs, model.outputs)
    return {
        spec.name: np.concatenate([chunk[spec.name] for chunk in chunks], axis=along[spec.name])
        if spec.name in along
        else chunks[-1][spec.name]
        for spec in model.outputs
    }
