"""Call a Keras model once, symbolically, with every recurrent layer replaced by a marker.

Large matrices leave markers too, so that no converter copies them. This is the one place that patches Keras. All
patches go on and off together, under one lock.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import numpy as keras_numpy
from keras.src.backend.tensorflow.core import name_scope

from edgeseq.conversion.calls import bidirectional_call, recurrent_call, time_distributed_call
from edgeseq.conversion.lock import LOCK
from edgeseq.conversion.markers import Trace, weight
from edgeseq.conversion.names import plain_name
from edgeseq.conversion.pieces import concrete_function
from edgeseq.conversion.windows import WINDOWED, windowed_call
from edgeseq.errors import EdgeseqError


def trace_model(
    call: Callable[..., Sequence[Any]],
    inputs: Sequence[tf.TensorSpec],
    *,
    streaming: bool,
    opset: int,
    allow_loop: bool,
) -> Trace:
    """Trace `call`, a function of flat tensors that returns a flat sequence of tensors, and collect its markers."""
    trace = Trace(streaming=streaming, opset=opset, allow_loop=allow_loop)
    with _patched(trace):
        try:
            trace.function = concrete_function(call, inputs)
        except Exception:
            if trace.refusal is not None:
                raise trace.refusal from None
            raise
    return trace


@contextlib.contextmanager
def _patched(trace: Trace) -> Iterator[None]:
    """Replace the calls of Keras's layers, in this thread, for the time of one trace.

    Meanwhile functions run eagerly in the whole process: another thread's `predict` is slower, and its answers are the
    same.
    """
    keras_layers = keras.layers
    makers: list[tuple[Any, str, Callable[[Trace, Callable[..., Any]], Callable[..., Any]]]] = [
        (keras_layers.RNN, "call", recurrent_call),
        (keras_layers.Bidirectional, "call", bidirectional_call),
        # The fused cuDNN path would go around the inner layers' calls.
        (keras_layers.Bidirectional, "_can_attempt_fused_lstm", _never),
        (keras_layers.Bidirectional, "_can_attempt_fused_gru", _never),
        (keras_layers.TimeDistributed, "call", time_distributed_call),
        *((owner, "call", windowed_call) for owner in dict.fromkeys(map(_caller, WINDOWED))),
        (keras_layers.Embedding, "call", _embedding_call),
        (keras_layers.Dense, "call", _dense_call),
        # TensorFlow refuses scopes with spaces and umlauts, which Keras takes for names of layers.
        (name_scope, "__init__", _plain_scope),
        # Keras looks at the bits of a number here, in argmax too, and ONNX has no op for that.
        (keras_numpy, "signbit", _signbit),
    ]
    with LOCK:
        originals = [(owner, name, owner.__dict__[name]) for owner, name, _ in makers]
        eager = tf.config.functions_run_eagerly()
        thread = threading.get_ident()
        try:
            for (owner, name, make), (_, _, original) in zip(makers, originals, strict=True):
                setattr(owner, name, _in_thread(thread, trace, make(trace, original), original))
            # A model's own tf.function would keep our markers in its cache, and break afterwards.
            tf.config.run_functions_eagerly(True)
            yield
        finally:
            tf.config.run_functions_eagerly(eager)
            for owner, name, original in originals:
                setattr(owner, name, original)


def _caller(layer: type) -> type:
    """The class that has the `call` of a layer."""
    return next(base for base in layer.__mro__ if "call" in vars(base))


def _in_thread(
    thread: int, trace: Trace, replacement: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    """`replacement` in one thread and `original` in all others, where a model may be predicting meanwhile."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        try:
            return replacement(*args, **kwargs)
        except EdgeseqError as error:
            trace.refusal = error
            raise

    return call


def _plain_scope(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    return lambda self, name, **kwargs: original(self, "/".join(map(plain_name, name.split("/"))), **kwargs)


def _never(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    return lambda *_, **__: False


def _signbit(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    def call(x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        if not x.dtype.is_floating:
            return original(x)
        # The reciprocal of a zero is an infinity of its sign.
        return tf.where(tf.equal(x, 0), 1 / x, x) < 0

    return call


def _embedding_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, inputs: Any) -> Any:
        if not _plain(self, keras.layers.Embedding):
            return original(self, inputs)
        inputs = tf.convert_to_tensor(inputs)
        if inputs.dtype not in (tf.int32, tf.int64):
            inputs = tf.cast(inputs, tf.int32)
        return tf.cast(tf.gather(weight(trace, self.embeddings), inputs), self.compute_dtype)

    return call


def _dense_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, inputs: Any, training: Any = None) -> Any:
        if not _plain(self, keras.layers.Dense):
            return original(self, inputs, training=training)
        x = tf.matmul(tf.convert_to_tensor(inputs), weight(trace, self.kernel))
        if self.bias is not None:
            x = x + self.bias.value
        return x if self.activation is None else self.activation(x)

    return call


def _plain(layer: Any, kind: type) -> bool:
    """Whether a layer is exactly of `kind`, a Dense or Embedding, and neither quantized nor adapted by LoRA."""
    exact: bool = type(layer) is kind
    return exact and not layer.quantization_mode and not layer.lora_enabled
