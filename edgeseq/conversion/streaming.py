"""Files that carry their states: which models can be fed in chunks, and what Keras answers when it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.reference import Answers, Trial, keras_answers, made_names, make_input, reset_states
from edgeseq.conversion.signature import Signature, to_structure
from edgeseq.errors import UnsupportedLayer
from edgeseq.runtime.manifest import TensorSpec

Array = npt.NDArray[Any]

_SEGMENTS = 3
_FREE_LENGTH = 5

# Layers whose answer at a step depends on that step alone, or, for the recurrent ones, on the state. By exact type:
# a subclass may look at the whole sequence.
_STEPWISE_NAMES = """
    InputLayer Dense EinsumDense Embedding Activation ReLU LeakyReLU PReLU ELU Softmax Dropout SpatialDropout1D
    GaussianNoise GaussianDropout AlphaDropout LayerNormalization BatchNormalization Normalization Rescaling Identity
    Add Subtract Multiply Average Maximum Minimum Concatenate TimeDistributed RNN SimpleRNN LSTM GRU SimpleRNNCell
    LSTMCell GRUCell ConvLSTM1D ConvLSTM2D ConvLSTM3D Masking
"""
_STEPWISE = frozenset(getattr(keras.layers, name) for name in _STEPWISE_NAMES.split())


def has_state(model: Any) -> bool:
    """Whether Keras keeps a state between calls of this model."""
    return any(getattr(layer, "stateful", False) for layer in _layers(model))


def refuse_what_cannot_stream(model: Any) -> None:
    """Raise UnsupportedLayer for the first layer that needs more of the sequence than the chunk at hand."""
    inside: set[int] = set()
    for layer in _layers(model):
        if isinstance(layer, keras.layers.TimeDistributed):
            inside.add(id(layer.layer))
        # Below a TimeDistributed, and in a ConvLSTM's cell, axes are those of one step.
        if id(layer) in inside or isinstance(layer, keras.Model) or type(layer).__name__ == "ConvLSTMCell":
            continue
        if type(layer) not in _STEPWISE:
            raise UnsupportedLayer(
                layer.name,
                f"a {type(layer).__name__} is not known to look at one time step at a time, so the file cannot be fed "
                "in chunks. Export without streaming, or leave this layer to the application",
            )


def answers(model: Any, signature: Signature, given: Sequence[Array] | None, outputs: Sequence[TensorSpec]) -> Answers:
    """What Keras answers: for a stateful model over several calls in a row, else as for any model.

    `outputs` tells which of the answers are sequences, and so go end to end over the calls.
    """
    if not has_state(model):
        return keras_answers(model, signature, given)
    random = np.random.default_rng(0)
    sizes = {axis: _FREE_LENGTH for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
    segments = [[make_input(spec, sizes, random) for spec in signature.inputs] for _ in range(_SEGMENTS)]
    if given is not None:
        segments.insert(0, list(given))
    reset_states(model)
    called = [signature.call(*segment) for segment in segments]
    reset_states(model)
    names = signature.output_names or made_names(keras.tree.flatten_with_path(called[0]))
    flat = [[keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(result)] for result in called]
    inputs = {
        spec.name: _end_to_end([segment[index] for segment in segments]) for index, spec in enumerate(signature.inputs)
    }
    length = next(iter(segments[0])).shape[1]
    answered = {
        name: _end_to_end([values[index] for values in flat]) if is_sequence(spec, length) else flat[-1][index]
        for index, (name, spec) in enumerate(zip(names, outputs, strict=True))
    }
    # The first call alone too: it has the shape that Keras takes.
    first = Trial(
        inputs=dict(zip([spec.name for spec in signature.inputs], segments[0], strict=True)),
        outputs=dict(zip(names, flat[0], strict=True)),
    )
    return Answers(
        trials=(first, Trial(inputs=inputs, outputs=answered)),
        output_names=names,
        output_structure=to_structure(called[0], names),
        refused=(),
    )


def is_sequence(spec: TensorSpec, time_steps: int) -> bool:
    """Whether a tensor's second axis is time: by its name, or, where lengths are fixed, by its length."""
    return len(spec.axes) > 1 and (spec.axes[1] == "time" or (len(spec.axes) > 2 and spec.axes[1] == time_steps))


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _end_to_end(pieces: Sequence[Array]) -> Array:
    return np.concatenate(pieces, axis=1)
