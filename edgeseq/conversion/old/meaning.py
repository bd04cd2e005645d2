"""Give a Keras 3 model the meaning that its weights were trained with, where Keras 3 changed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from edgeseq.conversion.old.age import Age
from edgeseq.errors import UnsupportedLayer

_ACTIVATIONS = ("activation", "recurrent_activation")


@keras.saving.register_keras_serializable(package="edgeseq")  # type: ignore[untyped-decorator]
def hard_sigmoid_of_keras_2(x: Any) -> Any:
    """clip(0.2 x + 0.5, 0, 1), of x's shape: hard_sigmoid in Keras 1 and 2 (`keras/backend/tensorflow_backend.py`).

    Keras 3 has relu6(x + 3) / 6, a slope of 1/6, under the same name.
    """
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def give_old_meaning(model: Any, age: Age) -> list[str]:
    """Change `model`, in place, to what it means in Keras of that age; return what was changed, in words.

    Raises UnsupportedLayer where Keras 3 has no way to say the same.
    """
    notes = []
    for layer in _layers(model):
        for owner in _owners(layer):
            for name in _ACTIVATIONS:
                # A layer also shows the activations of its cell, under the same names.
                if vars(owner).get(name) is keras.activations.hard_sigmoid:
                    setattr(owner, name, hard_sigmoid_of_keras_2)
                    notes.append(layer.name)
    said = [
        f"layer '{name}': hard_sigmoid is clip(0.2 x + 0.5), as in Keras {age.text}; Keras 3's own loader would take "
        "x / 6 + 0.5"
        for name in dict.fromkeys(notes)
    ]
    for layer in _layers(model):
        if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
            said += _masked(layer, age)
    return said


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, those inside others included, but not the two of a Bidirectional: their names say less."""
    inside: set[int] = set()
    for layer in model._flatten_layers(include_self=False):
        if id(layer) in inside:
            continue
        if isinstance(layer, keras.layers.Bidirectional):
            inside |= {id(inner) for inner in layer._flatten_layers(include_self=False)}
        elif isinstance(layer, keras.layers.RNN):
            inside |= {id(inner) for inner in layer.cell._flatten_layers()}
        yield layer


def _owners(layer: Any) -> list[Any]:
    """The layer and the cells or directions in it: all that may hold an activation of its."""
    if isinstance(layer, keras.layers.Bidirectional | keras.layers.RNN):
        return [*layer._flatten_layers()]
    return [layer]


def _masked(layer: Any, age: Age) -> list[str]:
    """What masks change in a recurrent layer, by the calls of it in the model."""
    said = []
    for node in layer._inbound_nodes:
        arguments = node.arguments
        x = arguments.args[0] if arguments.args else arguments.kwargs["sequences"]
        states = arguments.kwargs.get("initial_state") or (arguments.args[1] if len(arguments.args) > 1 else None)
        mask = arguments.kwargs.get("mask")
        if mask is None and states is not None and getattr(x, "_keras_mask", None) is not None:
            raise UnsupportedLayer(
                layer.name,
                f"Keras {age.text} applied the mask of its input, and Keras 3 leaves it out where initial states are "
                "given. Call the layer with mask= and these states",
            )
        if mask is None or age.masks_like_keras_3:
            continue
        if states is not None or layer.stateful:
            raise UnsupportedLayer(
                layer.name,
                f"it has a mask and a state to begin with; where the first steps are masked, Keras {age.text} put out "
                "that state, and Keras 3 puts out zeros",
            )
        if isinstance(layer, keras.layers.Bidirectional) and layer.return_sequences:
            if age.tensorflow:
                raise UnsupportedLayer(
                    layer.name, f"what masked steps of a Bidirectional put out in Keras {age.text} is not known"
                )
            layer.forward_layer.zero_output_for_mask = layer.backward_layer.zero_output_for_mask = False
            said.append(
                f"layer '{layer.name}': masked steps put out the output before them, as in Keras {age.text}; in Keras "
                "3 they put out zeros"
            )
    return said[:1]
