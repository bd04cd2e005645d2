"""Calls of layers with the masks that Keras 1 and 2 gave them, where Keras 3 would lose or change one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from edgeseq.conversion.old.age import Age
from edgeseq.errors import UnsupportedLayer

_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)
_MERGES = tuple(
    getattr(keras.layers, name)
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
)
_LISTS = (*_MERGES, keras.layers.Dot, keras.layers.Attention, keras.layers.AdditiveAttention)
# These do with a mask what they did before.
_SAME = (keras.layers.BatchNormalization, keras.layers.Attention, keras.layers.AdditiveAttention)


def call_layer(layer: Any, inputs: Sequence[Any], options: dict[str, Any], age: Age, notes: list[str]) -> list[Any]:
    """Call a layer on symbolic tensors; return its outputs, with masks as in Keras of that age.

    `options` may hold ``mask`` and ``initial_state``. Raises UnsupportedLayer where a mask would mean something else.
    """
    if isinstance(layer, _RECURRENT):
        return _call_recurrent(layer, inputs, options, age, notes)
    if "initial_state" in options:
        raise UnsupportedLayer(layer.name, "it is called with an initial state, but is not recurrent")
    masks = [_mask(x) for x in inputs] if "mask" not in options else [options["mask"]]
    _refuse_unknown_masks(layer, masks, age)
    together = isinstance(layer, _LISTS) or len(inputs) > 1
    outputs: list[Any] = keras.tree.flatten(layer(list(inputs) if together else inputs[0], **options))
    if isinstance(layer, _MERGES) and any(mask is not None for mask in masks):
        outputs[0]._keras_mask = _merged(layer, inputs, masks)
        if any(mask is not masks[0] for mask in masks):
            notes.append(_said(layer, "a step counts where it counts in every input that has a mask", age))
    if _reads_rows(layer, masks, age) and not layer.layer.return_sequences:
        outputs[0]._keras_mask = keras.ops.any(masks[0], axis=-1)
        notes.append(_said(layer, "a row counts where any step of it counts", age))
    return outputs


def _said(layer: Any, rule: str, age: Age) -> str:
    return f"layer '{layer.name}': {rule}, as in Keras {age.text}; Keras 3 has another rule"


def _mask(x: Any) -> Any:
    return getattr(x, "_keras_mask", None)


def _call_recurrent(
    layer: Any, inputs: Sequence[Any], options: dict[str, Any], age: Age, notes: list[str]
) -> list[Any]:
    x, *states = inputs
    states = states or options.get("initial_state", [])
    mask = options.get("mask", _mask(x))
    arguments: dict[str, Any] = {}
    if states:
        arguments["initial_state"] = list(states)
        if mask is not None and "mask" not in options:
            notes.append(
                f"layer '{layer.name}': the mask of its input counts, as in Keras {age.text}; Keras 3's own loader "
                "would leave it out, because initial states are given"
            )
    if mask is not None:
        arguments["mask"] = mask
    return list(keras.tree.flatten(layer(x, **arguments)))


def _merged(layer: Any, inputs: Sequence[Any], masks: Sequence[Any]) -> Any:
    """A step counts where it counts in every input that has a mask; Keras 3 takes any, or drops the mask."""
    given = [mask for mask in masks if mask is not None]
    rank = len(inputs[0].shape)
    if isinstance(layer, keras.layers.Concatenate) and layer.axis % rank != rank - 1:
        raise UnsupportedLayer(layer.name, "it joins masked inputs along an axis other than the last")
    merged = given[0]
    for mask in given[1:]:
        if mask is not merged:
            merged = keras.ops.logical_and(merged, mask)
    return merged


def _refuse_unknown_masks(layer: Any, masks: Sequence[Any], age: Age) -> None:
    """Refuse a layer whose use of a mask changed, or is not known, since that age."""
    masked = any(mask is not None for mask in masks)
    if isinstance(layer, keras.layers.TimeDistributed):
        inner = layer.layer
        if isinstance(inner, keras.Model):
            makes_mask, takes_mask = any(_mask(output) is not None for output in inner.outputs), True
        else:
            makes_mask = isinstance(inner, keras.layers.Masking) or getattr(inner, "mask_zero", False)
            takes_mask = inner._call_has_mask_arg and not isinstance(inner, keras.layers.BatchNormalization)
        if makes_mask or (masked and takes_mask and not _reads_rows(layer, masks, age)):
            raise UnsupportedLayer(
                layer.name,
                f"a mask goes to or comes from the layer '{inner.name}' inside it; Keras {age.text} and Keras 3 differ "
                "in that",
            )
    elif masked and layer._call_has_mask_arg and not isinstance(layer, _SAME):
        # Apart from TensorFlow's Keras 2.1, every Keras either took the mask here or refused to build the model.
        if isinstance(layer, keras.layers.GlobalAveragePooling1D) and (age.masks_like_keras_3 or not age.tensorflow):
            return
        raise UnsupportedLayer(layer.name, f"what a mask did to it in Keras {age.text} is not known")


def _reads_rows(layer: Any, masks: Sequence[Any], age: Age) -> bool:
    """Whether a TimeDistributed recurrent layer gets a mask of (batch, rows, steps): of words in sentences, say."""
    if not isinstance(layer, keras.layers.TimeDistributed) or not isinstance(layer.layer, _RECURRENT):
        return False
    return masks[0] is not None and len(masks[0].shape) > 2 and age.masks_like_keras_3
