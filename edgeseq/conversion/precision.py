"""Models that compute in another precision than float32, and how each is exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from edgeseq.conversion.lock import LOCK
from edgeseq.errors import UnsupportedLayer

_HALVES = ("float16", "bfloat16")


def mixed_policy(model: Any) -> str | None:
    """The policy of the first layer that computes in half precision on float32 weights; None when there is none.

    Raises UnsupportedLayer for a layer that is in half precision with its weights, or would be had it any.
    """
    layers = list(model._flatten_layers(include_self=False))
    halves = [layer for layer in layers if layer.variable_dtype in _HALVES]
    if halves:
        # The policy of the whole model is on its inputs too, which have no weights to blame.
        layer = next((layer for layer in halves if layer.weights), halves[-1])
        raise UnsupportedLayer(
            layer.name,
            f"{'its weights are' if layer.weights else 'it computes in'} {layer.variable_dtype}, and no float32 model "
            f"says what they should compute. Train with the policy 'mixed_{layer.variable_dtype}', or rebuild the "
            "model with dtype='float32' and copy the weights",
        )
    return next((str(layer.dtype_policy.name) for layer in layers if layer.compute_dtype in _HALVES), None)


@contextlib.contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let every layer with a mixed policy compute in float32 meanwhile.

    Half precision rounds in other places on every machine: the float32 model is what the weights were trained as.
    """
    layers = [layer for layer in model._flatten_layers() if layer.compute_dtype in _HALVES]
    if not layers:
        yield
        return
    # Another thread must not put the policies back while this one relies on them.
    with LOCK:
        # Keras's own setter would write into a policy map that layers share.
        before = [layer._dtype_policy for layer in layers]
        try:
            for layer in layers:
                layer._dtype_policy = keras.DTypePolicy("float32")
            yield
        finally:
            for layer, policy in zip(layers, before, strict=True):
                layer._dtype_policy = policy
