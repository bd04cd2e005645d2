"""Files that carry their states: what Keras answers when it is fed in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.failures import refusing, shapes_of
from edgeseq.conversion.reference import Answers, Trial, keras_answers, made_names, make_input, reset_states
from edgeseq.conversion.signature import Signature, to_structure
from edgeseq.conversion.streamable import has_state
from edgeseq.errors import Refused
from edgeseq.runtime.manifest import TensorSpec, output_time_axes

Array = npt.NDArray[Any]

_SEGMENTS = 3
_FREE_LENGTH = 5


def answers(
    model: Any,
    signature: Signature,
    given: Sequence[Array] | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    multiple: int = 1,
) -> Answers:
    """What Keras answers: for a stateful model over several calls in a row, else as for any model.

    `inputs` and `outputs`, those of the graph, tell which answers are sequences, and so go end to end over the calls.
    Sequences are of a `multiple` of steps. Raises Refused where the model's own length, or that of the `given` flat
    inputs, is none.
    """
    _check_multiple(signature, given, multiple)
    if not has_state(model):
        return keras_answers(model, signature.with_one_time(), given, multiple=multiple)
    along = output_time_axes(inputs, outputs)
    random = np.random.default_rng(0)
    sizes = {axis: _FREE_LENGTH * multiple for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
    segments = [[make_input(spec, sizes, random) for spec in signature.inputs] for _ in range(_SEGMENTS)]
    for segment in segments[1:]:
        _begin_valid(signature, segment)
    if given is not None:
        segments.insert(0, list(given))
    for index, spec in enumerate(signature.inputs):
        if not signature.runs_over_time(spec):
            # It says something of the whole sequence, so it is the same in every call.
            for segment in segments[1:]:
                segment[index] = segments[0][index]
    reset_states(model)
    with refusing(
        f"the model fails on inputs of shape {shapes_of(segments[0])}, called {len(segments)} times in a row"
    ):
        called = [signature.call(*segment) for segment in segments]
    reset_states(model)
    names = signature.output_names or made_names(keras.tree.flatten_with_path(called[0]))
    flat = [[keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(result)] for result in called]
    asked = {
        spec.name: _end_to_end([segment[index] for segment in segments])
        if signature.runs_over_time(spec)
        else segments[0][index]
        for index, spec in enumerate(signature.inputs)
    }
    answered = {
        name: _end_to_end([values[index] for values in flat]) if spec.name in along else flat[-1][index]
        for index, (name, spec) in enumerate(zip(names, outputs, strict=True))
    }
    # The first call alone too: it has the shape that Keras takes.
    first = Trial(
        inputs=dict(zip([spec.name for spec in signature.inputs], segments[0], strict=True)),
        outputs=dict(zip(names, flat[0], strict=True)),
    )
    return Answers(
        trials=(first, Trial(inputs=asked, outputs=answered)),
        output_names=names,
        output_structure=to_structure(called[0], names),
        refused=(),
    )


def _check_multiple(signature: Signature, given: Sequence[Array] | None, multiple: int) -> None:
    for index, spec in enumerate(signature.inputs):
        if not signature.runs_over_time(spec):
            continue
        steps = spec.axes[1] if given is None else given[index].shape[1]
        if isinstance(steps, int) and steps % multiple:
            whose = "the model's own length" if given is None else "that of the samples"
            raise Refused(
                f"input '{spec.name}': a file of this model takes chunks of a multiple of {multiple} time steps, "
                f"because its strides put out one step for every {multiple} that go in; {whose} is {steps}. "
                f"Use {steps - steps % multiple or multiple} steps"
            )


def _begin_valid(signature: Signature, segment: list[Array]) -> None:
    """Let each row begin on a valid step, where a mask may be.

    Keras puts out zeros at masked steps at the beginning of a call, in which it has put out nothing yet; the file puts
    out what was put out last, as the whole sequence does. Elsewhere they must agree.
    """
    for spec, array in zip(signature.inputs, segment, strict=True):
        if array.ndim < 2:
            continue
        if array.dtype == bool:
            array[:, 0] = True
        elif spec.mask_value is not None:
            steps = array[:, 0]
            steps[steps == spec.mask_value] = 1 if spec.mask_value != 1 else 0


def _end_to_end(pieces: Sequence[Array]) -> Array:
    return np.concatenate(pieces, axis=1)
