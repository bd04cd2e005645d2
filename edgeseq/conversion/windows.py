"""Layers that look at a window of time steps: which of them can be fed in chunks, and what stands in for their calls.

A causal convolution keeps its last inputs as a state: they are put in front of the next chunk, and the layer's own
convolution, without padding, does the rest. A window no longer than its stride needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edgeseq.conversion.markers import Trace, WindowMarker, leave_marker
from edgeseq.errors import UnsupportedLayer

Method = Callable[..., Any]

# By exact type: a subclass may look elsewhere. In Keras 3 only a Conv1D takes padding="causal"; the other two become
# causal behind ZeroPadding1D((n, 0)).
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.SeparableConv1D, keras.layers.DepthwiseConv1D)
POOLINGS = (keras.layers.MaxPooling1D, keras.layers.AveragePooling1D)
WINDOWED = (*CONVOLUTIONS, *POOLINGS, keras.layers.ZeroPadding1D)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time steps that one answer of a layer looks at."""

    steps: int
    """From the first to the last of them, both counted."""
    stride: int
    """Time steps from one answer to the next."""
    padding: str
    """``causal``, ``valid`` or ``same``."""

    @property
    def is_apart(self) -> bool:
        """Whether windows do not overlap: then each lies in one chunk, whatever the padding, and nothing is kept."""
        return self.steps <= self.stride and (self.steps == 1 or self.padding != "causal")


def window_of(layer: Any) -> Window:
    """The window of a convolution or pooling."""
    if type(layer) in CONVOLUTIONS:
        steps = (layer.kernel_size[0] - 1) * layer.dilation_rate[0] + 1
    else:
        steps = layer.pool_size[0]
    return Window(steps=steps, stride=layer.strides[0], padding=layer.padding)


def why_not(layer: Any, models: Sequence[Any]) -> str:
    """Why a layer of WINDOWED cannot be fed in chunks; empty when it can. `models` are those that it may be a part of.

    It reads as the rest of a sentence that begins with the layer.
    """
    if layer.data_format != "channels_last":
        return "has data_format='channels_first', where the second axis is not time. Use channels_last"
    if type(layer) is keras.layers.ZeroPadding1D:
        return _why_not_padding(layer, models)
    window = window_of(layer)
    if window.is_apart or window.padding == "causal" or _lead(layer, models) == window.steps - 1:
        return ""
    if type(layer) in POOLINGS:
        return (
            f"looks at {window.steps} time steps every {window.stride}, so that its windows overlap; those with "
            "pool_size no longer than strides can be fed in chunks"
        )
    instead = (
        "Use padding='causal'"
        if type(layer) is keras.layers.Conv1D
        else f"Put a ZeroPadding1D(({window.steps - 1}, 0)) before it and use padding='valid'"
    )
    if window.padding == "same":
        return f"with padding='same' looks {(window.steps - 1) // 2} or more steps ahead. {instead}"
    return (
        f"with padding='valid' gives no answer for the first {window.steps - 1} steps of a sequence, so that chunks "
        f"would have fewer answers than steps. {instead}"
    )


def _why_not_padding(layer: Any, models: Sequence[Any]) -> str:
    before, after = layer.padding
    if after:
        return f"adds {after} steps behind the last one, and a stream has no last one"
    readers = _readers(layer, models)
    if readers and all(type(reader) in CONVOLUTIONS for reader in readers):
        windows = [window_of(reader) for reader in readers]
        if all(window.padding == "valid" and window.steps == before + 1 for window in windows):
            return ""
    return (
        f"adds {before} steps in front of the first one; it can be fed in chunks only right before convolutions with "
        f"padding='valid' whose windows are {before + 1} steps long, which are causal then"
    )


def _lead(layer: Any, models: Sequence[Any]) -> int | None:
    """Number of steps that the ZeroPadding1D before a layer puts in front of its input; None where there is none."""
    for model in models:
        for operation in model.operations:
            if type(operation) is keras.layers.ZeroPadding1D and layer in _readers(operation, [model]):
                return int(operation.padding[0])
    return None


def _readers(layer: Any, models: Sequence[Any]) -> list[Any]:
    """The operations of `models` that read what `layer` puts out."""
    known = [operation for model in models for operation in model.operations]
    found = [node.operation for node in layer._outbound_nodes]
    return [operation for operation in found if any(operation is other for other in known)]


def windowed_call(trace: Trace, original: Method) -> Method:
    """In place of the calls of WINDOWED: markers for what is kept and for the stride, around the layer's own call."""

    def call(self: Any, inputs: Any) -> Any:
        # Inside another layer's steps the second axis is not that of the stream.
        if not trace.streaming or trace.around or type(self) not in WINDOWED:
            return original(self, inputs)
        if inputs.shape.rank != 3:
            raise UnsupportedLayer(
                self.name, f"its input has the shape {inputs.shape}; (batch, time, channels) is what can be streamed"
            )
        if type(self) is keras.layers.ZeroPadding1D:
            return _window(trace, self, inputs, history=self.padding[0], stride=1)
        window = window_of(self)
        history = window.steps - 1 if window.padding == "causal" else 0
        inputs = _window(trace, self, inputs, history=history, stride=window.stride)
        # All padding there is has been put in front, and windows that lie apart have none at these lengths.
        return original(_without_padding(self), inputs)

    return call


def _window(trace: Trace, layer: Any, inputs: Any, *, history: int, stride: int) -> Any:
    """(batch, history + time, channels): the inputs before these, then these."""
    if not history and stride == 1:
        return inputs
    batch, time, channels = inputs.shape
    token = trace.next_token(trace.windows, "window")
    trace.windows[token] = WindowMarker(
        layer=layer.name, history=history, stride=stride, channels=channels, dtype=inputs.dtype.name
    )
    shape = tf.TensorShape([batch, None if time is None else history + time, channels])
    return leave_marker(token, [inputs], [shape], inputs.dtype)[0]


def _without_padding(layer: Any) -> Any:
    """The same layer, weights and all, with padding ``valid``; the layer itself may be in use in another thread."""
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin.__dict__["padding"] = "valid"
    return twin
