"""Call a Keras model once, symbolically, with every recurrent layer replaced by a marker.

A marker is a `PyFuncStateless` op whose token names an entry in a `Trace`: it is never run and nothing is registered
for it; the graph converter carries it through, and the entry says what to put in its place. Large matrices leave
markers too, so that no converter copies them.

This is the one place that patches Keras. All patches go on and off together, under one lock.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow.core import name_scope

from edgeseq.conversion.layers import read_bidirectional, read_layer
from edgeseq.conversion.names import plain_name
from edgeseq.errors import EdgeseqError, UnsupportedLayer
from edgeseq.lowering.spec import STATES, Array, RecurrentSpec

LOCK = threading.RLock()
"""Held while anything of Keras's, TensorFlow's or tf2onnx's is patched or switched for the whole process."""

# A constant smaller than this is no burden to the converter.
_LARGE_WEIGHT_ELEMENTS = 1024


@dataclass(frozen=True, kw_only=True)
class RecurrentMarker:
    """What a marker stands for. Its inputs are x, then initial states, then the mask, as far as the spec has them;
    its outputs are the spec's outputs, then its states."""

    spec: RecurrentSpec
    layer_id: int
    """Which Keras layer to report it as: the outermost Bidirectional around it, or the layer itself."""
    layer: str
    """Name of that layer."""
    layer_type: str
    """Keras class name of that layer."""
    outputs: int
    """Number of outputs before the states."""
    state_shape: tuple[int, ...]
    """Of each state, batch left out."""
    carried: bool
    """Whether the states become inputs and outputs of the whole file."""


@dataclass(kw_only=True)
class Trace:
    """A traced model: the concrete function and what its markers stand for."""

    streaming: bool
    function: Any = None
    recurrent: dict[str, RecurrentMarker] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    carried_layers: set[int] = field(default_factory=set)
    around: list[Any] = field(default_factory=list)
    """Bidirectional and TimeDistributed layers that the tracing is inside of, outermost first."""
    refusal: EdgeseqError | None = None
    """What a replaced call raised: Keras puts an exception of its own in the place of any that passes through it."""

    def next_token(self, table: dict[str, Any], kind: str) -> str:
        """A token that no marker of this trace has yet."""
        return f"edgeseq/{kind}/{len(table):04d}"


def trace_model(call: Callable[..., Sequence[Any]], inputs: Sequence[tf.TensorSpec], *, streaming: bool) -> Trace:
    """Trace `call`, a function of flat tensors that returns a flat sequence of tensors, and collect its markers."""
    trace = Trace(streaming=streaming)

    def flat(*tensors: Any) -> Any:
        # An Identity gives every output a node of its own, also when an output is an input or appears twice.
        return tuple(tf.identity(tensor) for tensor in call(*tensors))

    with _patched(trace):
        try:
            trace.function = tf.function(flat, autograph=False).get_concrete_function(*inputs)
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
    makers: list[tuple[type, str, Callable[[Trace, Callable[..., Any]], Callable[..., Any]]]] = [
        (keras_layers.RNN, "call", _recurrent_call),
        (keras_layers.Bidirectional, "call", _bidirectional_call),
        # The fused cuDNN path would go around the inner layers' calls.
        (keras_layers.Bidirectional, "_can_attempt_fused_lstm", _never),
        (keras_layers.Bidirectional, "_can_attempt_fused_gru", _never),
        (keras_layers.TimeDistributed, "call", _time_distributed_call),
        (keras_layers.Embedding, "call", _embedding_call),
        (keras_layers.Dense, "call", _dense_call),
        # TensorFlow refuses scopes with spaces and umlauts, which Keras takes for names of layers.
        (name_scope, "__init__", _plain_scope),
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


def _marker(token: str, inputs: Sequence[Any], shapes: Sequence[tf.TensorShape], dtype: Any = tf.float32) -> list[Any]:
    outputs = tf.raw_ops.PyFuncStateless(input=list(inputs), token=token, Tout=[dtype] * len(shapes))
    # The converter needs shapes as part of the graph: shapes set from Python are lost when it is frozen.
    return [tf.ensure_shape(output, shape) for output, shape in zip(outputs, shapes, strict=True)]


def _place(
    trace: Trace, layer: Any, spec: RecurrentSpec, x: Any, states: Sequence[Any], mask: Any, outputs: int, carried: bool
) -> tuple[list[Any], list[Any]]:
    """Leave a marker for `spec`; return its outputs and its states."""
    token = trace.next_token(trace.recurrent, "recurrent")
    batch, time = x.shape[0], x.shape[1]
    if spec.convolution is None:
        state = [spec.units]
        output = [spec.units * (2 if spec.merge == "concat" else 1)]
    else:
        output = state = list(layer.cell.compute_output_shape((batch, *x.shape[2:]))[0][1:])
    output_shape = tf.TensorShape([batch, time, *output] if spec.return_sequences else [batch, *output])
    state_shape = tf.TensorShape([batch, *state])
    owner = next((outer for outer in trace.around if isinstance(outer, keras.layers.Bidirectional)), layer)
    trace.recurrent[token] = RecurrentMarker(
        spec=spec,
        layer_id=id(owner),
        layer=owner.name,
        layer_type=type(owner).__name__,
        outputs=outputs,
        state_shape=tuple(state),
        carried=carried,
    )
    count = len(STATES[spec.kind]) * len(spec.directions)
    results = _marker(
        token,
        [x, *states, *([] if mask is None else [mask])],
        [output_shape] * outputs + [state_shape] * count,
    )
    return results[:outputs], results[outputs:]


def _tensors(x: Any, initial_state: Any, mask: Any) -> tuple[Any, list[Any], Any]:
    """The arguments of a recurrent call as tensors of the dtypes a marker takes."""
    x = tf.cast(tf.convert_to_tensor(x), tf.float32)
    states = [] if initial_state is None else keras.tree.flatten(initial_state)
    states = [tf.cast(tf.convert_to_tensor(state), tf.float32) for state in states]
    if isinstance(mask, list | tuple):
        mask = mask[0]
    if mask is not None:
        mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
        if mask.shape.rank == 3:
            mask = tf.squeeze(mask, 2)
    return x, states, mask


def _carries(trace: Trace, layer: Any, initial_state: Any, mask: Any) -> bool:
    """Whether this call's states become inputs and outputs of the file; refuses what could not be exact."""
    if not (trace.streaming or layer.stateful):
        return False
    if initial_state is not None:
        if trace.streaming:
            raise UnsupportedLayer(layer.name, "its initial state is given in each call, so it cannot be carried along")
        return False
    if any(isinstance(outer, keras.layers.TimeDistributed) for outer in trace.around):
        raise UnsupportedLayer(layer.name, "it is inside a TimeDistributed, whose steps begin from zero each")
    if layer.go_backwards:
        raise UnsupportedLayer(layer.name, "it goes backwards, so it cannot carry a state from chunk to chunk")
    if mask is not None:
        raise UnsupportedLayer(
            layer.name, "it carries its state and has a mask; a chunk that starts on a masked step would differ"
        )
    if id(layer) in trace.carried_layers:
        raise UnsupportedLayer(layer.name, "it carries its state and is called more than once")
    trace.carried_layers.add(id(layer))
    return True


def _recurrent_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    def call(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = False) -> Any:  # noqa: ARG001
        carried = _carries(trace, self, initial_state, mask)
        x, states, mask = _tensors(sequences, initial_state, mask)
        spec = read_layer(self, masked=mask is not None, given_state=bool(states) or carried, time_steps=x.shape[1])
        outputs, finals = _place(trace, self, spec, x, states, mask, outputs=1, carried=carried)
        return (outputs[0], *finals) if self.return_state else outputs[0]

    return call


def _bidirectional_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        if trace.streaming or self.stateful:
            raise UnsupportedLayer(
                self.name, "a Bidirectional needs the whole sequence, so it cannot carry a state from chunk to chunk"
            )
        x, states, mask = _tensors(sequences, initial_state, mask)
        spec = read_bidirectional(self, masked=mask is not None, given_state=bool(states), time_steps=x.shape[1])
        if spec is None:
            with _inside(trace, self):
                return original(self, x, initial_state=initial_state, mask=mask, training=training)
        count = 2 if spec.merge == "none" else 1
        outputs, finals = _place(trace, self, spec, x, states, mask, outputs=count, carried=False)
        if not self.return_state:
            return tuple(outputs) if count == 2 else outputs[0]
        return (*outputs, *finals)

    return call


def _time_distributed_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    """One call of the inner layer on (batch × time) rows.

    Keras writes the layer out once a time step, or, with free time, uses a `vectorized_map` that no converter gets
    right. The rows do not know of each other, so putting them in one batch changes nothing.
    """

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        x = tf.convert_to_tensor(inputs)
        shape = tf.shape(x)
        kwargs: dict[str, Any] = {}
        if self.layer._call_has_mask_arg and mask is not None:
            mask = tf.convert_to_tensor(mask)
            kwargs["mask"] = tf.reshape(mask, tf.concat([[-1], tf.shape(mask)[2:]], 0))
        if self.layer._call_has_training_arg:
            kwargs["training"] = training
        batch, time = x.shape[0], x.shape[1]
        rows = tf.reshape(x, tf.concat([[-1], shape[2:]], 0))
        rows = tf.ensure_shape(rows, [None if None in (batch, time) else batch * time, *x.shape[2:]])
        with _inside(trace, self):
            y = self.layer.call(rows, **kwargs)
        result = tf.reshape(y, tf.concat([shape[:2], tf.shape(y)[1:]], 0))
        return tf.ensure_shape(result, [batch, time, *y.shape[1:]])

    return call


@contextlib.contextmanager
def _inside(trace: Trace, layer: Any) -> Iterator[None]:
    trace.around.append(layer)
    try:
        yield
    finally:
        trace.around.pop()


def _weight(trace: Trace, variable: Any) -> Any:
    """A weight as a marker when it is large, else as the constant that the converter will make of it."""
    if math.prod(variable.shape) < _LARGE_WEIGHT_ELEMENTS:
        return variable.value
    token = trace.next_token(trace.weights, "weight")
    with tf.init_scope():
        trace.weights[token] = np.asarray(variable.value)
    return _marker(token, [], [tf.TensorShape(variable.shape)])[0]


def _embedding_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, inputs: Any) -> Any:
        if not _plain(self, keras.layers.Embedding):
            return original(self, inputs)
        inputs = tf.convert_to_tensor(inputs)
        if inputs.dtype not in (tf.int32, tf.int64):
            inputs = tf.cast(inputs, tf.int32)
        return tf.gather(_weight(trace, self._embeddings), inputs)

    return call


def _dense_call(trace: Trace, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, inputs: Any, training: Any = None) -> Any:
        if not _plain(self, keras.layers.Dense):
            return original(self, inputs, training=training)
        x = tf.matmul(tf.convert_to_tensor(inputs), _weight(trace, self._kernel))
        if self.bias is not None:
            x = x + self.bias.value
        return x if self.activation is None else self.activation(x)

    return call


def _plain(layer: Any, kind: type) -> bool:
    """Whether a layer is exactly of `kind`, a Dense or Embedding, and neither quantized nor adapted by LoRA."""
    exact: bool = type(layer) is kind
    return exact and not layer.quantization_mode and not layer.lora_enabled
