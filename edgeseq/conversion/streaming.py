"""Files that carry their states: which models can be fed in chunks, and what Keras answers when it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.failures import article, refusing, shapes_of
from edgeseq.conversion.reference import Answers, Trial, keras_answers, made_names, make_input, reset_states
from edgeseq.conversion.signature import Signature, to_structure
from edgeseq.errors import UnsupportedLayer
from edgeseq.runtime.manifest import TensorSpec, output_time_axes

Array = npt.NDArray[Any]

_SEGMENTS = 3
_FREE_LENGTH = 5

# Layers whose answer at a step depends on that step alone, or, for the recurrent ones, on the state. By exact type:
# a subclass may look at the whole sequence.
_STEPWISE_NAMES = """
    InputLayer Dense Embedding Activation ReLU LeakyReLU ELU Softmax Dropout SpatialDropout1D GaussianNoise
    GaussianDropout AlphaDropout LayerNormalization BatchNormalization Normalization Rescaling Identity Add Subtract
    Multiply Average Maximum Minimum Concatenate TimeDistributed RNN SimpleRNN LSTM GRU
    ConvLSTM1D ConvLSTM2D ConvLSTM3D Masking
"""
_STEPWISE = frozenset(getattr(keras.layers, name) for name in _STEPWISE_NAMES.split())
# Operations of a functional model that are no layers: those that work on each number alone, and those by which Keras
# makes masks, because a recurrent layer with a mask is refused by its own name.
_ELEMENTWISE_NAMES = """
    Add Subtract Multiply Divide TrueDivide Negative Absolute Exp Tanh Sigmoid Relu NotEqual Any
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
# Of these, the axis must be the last one.
_WITH_AXIS = tuple(
    getattr(keras.layers, name) for name in ("Softmax", "Concatenate", "LayerNormalization", "BatchNormalization")
)


def has_state(model: Any) -> bool:
    """Whether Keras keeps a state between calls of this model."""
    return any(getattr(layer, "stateful", False) for layer in _layers(model))


def refuse_what_cannot_stream(model: Any) -> None:
    """Raise UnsupportedLayer for the first layer that needs more of the sequence than the chunk at hand."""
    below_time: set[int] = set()
    # What a cell is made of sees one time step at a time, whatever it is.
    in_cells = {
        id(part)
        for layer in _layers(model)
        if isinstance(layer, keras.layers.RNN) and isinstance(layer.cell, keras.layers.Layer)
        for part in layer.cell._flatten_layers()
    }
    mixed = has_state(model)
    for layer in _layers(model):
        if mixed and isinstance(layer, keras.layers.RNN) and not layer.stateful:
            raise UnsupportedLayer(
                layer.name,
                "it starts from zero in each call while other layers keep their state, so its answers depend on how "
                "the sequence is cut. Give it stateful=True, or no layer",
            )
        if isinstance(layer, keras.layers.TimeDistributed):
            # Axes below are those of one step; recurrent layers there are refused while tracing.
            below_time |= {id(layer.layer), *(id(inner) for inner in layer.layer._flatten_layers())}
        if isinstance(layer, keras.Model):
            for operation in getattr(getattr(layer, "_functional", layer), "operations", []):
                if not isinstance(operation, keras.layers.Layer) and type(operation).__name__ not in _ELEMENTWISE:
                    _refuse(operation, mixed)
            continue
        if id(layer) in below_time or id(layer) in in_cells:
            continue
        if type(layer) not in _STEPWISE or (isinstance(layer, _WITH_AXIS) and not _on_last_axis(layer)):
            _refuse(layer, mixed)


def _refuse(operation: Any, stateful: bool) -> None:
    kind = type(operation).__name__
    instead = "Give the recurrent layers stateful=False" if stateful else "Export without streaming"
    raise UnsupportedLayer(
        operation.name,
        f"{article(kind)} {kind} like this one is not known to look at one time step at a time, so a file that carries "
        f"states cannot have it. {instead}, or leave this layer to the application",
    )


def _on_last_axis(layer: Any) -> bool:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    rank = len(layer.output.shape) if layer._inbound_nodes else None
    return all(axis == -1 or (rank is not None and axis == rank - 1) for axis in axes)


def answers(
    model: Any,
    signature: Signature,
    given: Sequence[Array] | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Answers:
    """What Keras answers: for a stateful model over several calls in a row, else as for any model.

    `inputs` and `outputs`, those of the graph, tell which answers are sequences, and so go end to end over the calls.
    """
    if not has_state(model):
        return keras_answers(model, signature, given)
    along = output_time_axes(inputs, outputs)
    random = np.random.default_rng(0)
    sizes = {axis: _FREE_LENGTH for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
    segments = [[make_input(spec, sizes, random) for spec in signature.inputs] for _ in range(_SEGMENTS)]
    if given is not None:
        segments.insert(0, list(given))
    for index, spec in enumerate(signature.inputs):
        if not spec.is_sequence:
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
        spec.name: _end_to_end([segment[index] for segment in segments]) if spec.is_sequence else segments[0][index]
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


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())


def _end_to_end(pieces: Sequence[Array]) -> Array:
    return np.concatenate(pieces, axis=1)
