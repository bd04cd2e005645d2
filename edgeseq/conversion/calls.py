"""What stands in for the calls of Keras's recurrent layers while a model is traced: each leaves markers.

Every function here takes the trace and the original method, and returns the method that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edgeseq.conversion.layers import (
    Call,
    begins_in_its_own_way,
    call_of,
    calls_in_its_own_way,
    is_stock,
    read_bidirectional,
    read_stock,
    read_traced,
    zeroes_in_time,
)
from edgeseq.conversion.markers import RecurrentMarker, Trace, leave_marker
from edgeseq.errors import UnsupportedLayer
from edgeseq.lowering.spec import RecurrentSpec
from edgeseq.runtime.manifest import RecurrentLayer

Method = Callable[..., Any]


def recurrent_call(trace: Trace, original: Method) -> Method:
    """In place of `RNN.call`, which all of Keras's recurrent layers reach."""

    def call(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = False) -> Any:  # noqa: ARG001
        carried = _carries(trace, self, initial_state)
        try:
            output, states = _place_layer(trace, self, sequences, initial_state, mask, carried)
        except UnsupportedLayer as error:
            if carried:
                raise
            if not trace.allow_loop:
                error.add_note("With allow_loop=True (--allow-loop) it may be exported as an ONNX Loop.")
                raise
            owner = _owner(trace, self)
            trace.loops[id(owner)] = RecurrentLayer(
                name=owner.name,
                layer_type=type(owner).__name__,
                strategy="loop",
                op_types=("Loop",),
                reason=error.reason,
            )
            return original(self, sequences, initial_state=initial_state, mask=mask, training=False)
        return (output, *states) if self.return_state else output

    return call


def _place_layer(
    trace: Trace, layer: Any, sequences: Any, initial_state: Any, mask: Any, carried: bool
) -> tuple[Any, list[Any]]:
    """Markers for one layer, one a cell; return its output and its states, nested as Keras has them."""
    dtype = layer.cell.compute_dtype
    x, mask = tf.cast(tf.convert_to_tensor(sequences), dtype), _mask(mask, layer)
    mask_in_time = mask
    given = initial_state is not None
    begins = given or begins_in_its_own_way(layer)
    # Also where nothing is given it tells how the states are nested, and what a custom cell begins with.
    nest = _nest(initial_state) if given else layer.get_initial_state(batch_size=tf.shape(x)[0])
    nest = keras.tree.map_structure(lambda state: tf.cast(tf.convert_to_tensor(state), dtype), nest)
    # A stack of cells is a stack of layers: a masked step leaves all of their states alone.
    stacked = type(layer.cell) is keras.layers.StackedRNNCells
    cells = layer.cell.cells if stacked else [layer.cell]
    finals: list[Any] = []
    for index, cell in enumerate(cells):
        states = nest[index] if stacked else nest
        call = call_of(
            layer,
            x,
            masked=mask is not None,
            given_state=begins or carried,
            opset=trace.opset,
            allow_loop=trace.allow_loop,
        )
        call = _within_stack(call, first=index == 0, last=index == len(cells) - 1)
        if is_stock(cell):
            spec = read_stock(cell, call)
            flat = keras.tree.flatten(states) if begins else []
        else:
            states = list(states) if keras.tree.is_nested(states) else [states]
            with trace.inside(layer):
                spec = read_traced(cell, call, x, states)
            flat = keras.tree.flatten(states)
        beginning = _beginning(layer, index if stacked else None, spec) if carried else None
        if beginning is not None and spec.masked and spec.masked_output == "repeat":
            # Keras's own cells put their first state out, which begins with zeros, as what masked steps repeat does.
            spec = replace(spec, first_output="state" if spec.traced is None and beginning[0] == 0 else "given")
            beginning += (0.0,) * (len(spec.state_names) - len(beginning))
        outputs, after = _place(trace, layer, spec, x, [] if carried else flat, mask, outputs=1, carried=beginning)
        x = outputs[0]
        finals += after[: len(spec.pass_states)]
        if index == 0 and mask is not None and layer.go_backwards:
            # A backward pass puts its steps out in the order it computed them.
            mask = tf.reverse(mask, [1])
    if mask_in_time is not None and zeroes_in_time(layer):
        for _ in x.shape[2:]:
            mask_in_time = tf.expand_dims(mask_in_time, -1)
        x = tf.where(mask_in_time, x, tf.zeros_like(x))
    return x, list(keras.tree.pack_sequence_as(nest, finals))


def _within_stack(call: Call, *, first: bool, last: bool) -> Call:
    if not last:
        # The cell above ignores masked steps.
        call = replace(call, return_sequences=True, masked_output="zero")
    return call if first else replace(call, backwards=False)


def _nest(states: Any) -> Any:
    return list(states) if keras.tree.is_nested(states) else [states]


def _mask(mask: Any, layer: Any) -> Any:
    """A mask as a Boolean tensor (batch, time), or None; raises UnsupportedLayer for one of another shape."""
    if isinstance(mask, list | tuple):
        mask = mask[0]
    if mask is None:
        return None
    mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
    if mask.shape.rank == 2:
        return mask
    if mask.shape.rank == 3 and mask.shape[2] == 1:
        return tf.squeeze(mask, 2)
    raise UnsupportedLayer(
        layer.name, f"its mask is of shape {mask.shape}; (batch, time) is what says which steps count"
    )


def _owner(trace: Trace, layer: Any) -> Any:
    """The layer to report: the outermost Bidirectional around it, or itself."""
    return next((outer for outer in trace.around if isinstance(outer, keras.layers.Bidirectional)), layer)


def _place(
    trace: Trace,
    layer: Any,
    spec: RecurrentSpec,
    x: Any,
    states: Sequence[Any],
    mask: Any,
    *,
    outputs: int,
    carried: tuple[float, ...] | None,
) -> tuple[list[Any], list[Any]]:
    """Leave a marker for `spec`; return its outputs and its states."""
    token = trace.next_token(trace.recurrent, "recurrent")
    batch, time = x.shape[0], x.shape[1]
    if spec.traced is not None:
        output, state_shapes = list(spec.traced.output_shape), spec.traced.state_shapes
    else:
        if spec.convolution is None:
            state = [spec.units]
            output = [spec.units * (2 if spec.merge == "concat" else 1)]
        else:
            output = state = list(layer.cell.compute_output_shape((batch, *x.shape[2:]))[0][1:])
        state_shapes = (tuple(state),) * len(spec.pass_states) * len(spec.passes)
    if spec.first_output == "given":
        state_shapes = (*state_shapes, tuple(output))
    owner = _owner(trace, layer)
    trace.recurrent[token] = RecurrentMarker(
        spec=spec,
        layer_id=id(owner),
        layer=owner.name,
        layer_type=type(owner).__name__,
        outputs=outputs,
        state_shapes=state_shapes,
        carried=carried,
    )
    output_shape = tf.TensorShape([batch, time, *output] if spec.return_sequences else [batch, *output])
    results = leave_marker(
        token,
        [x, *states, *([] if mask is None else [mask])],
        [output_shape] * outputs + [tf.TensorShape([batch, *shape]) for shape in state_shapes],
        spec.dtype,
    )
    return results[:outputs], results[outputs:]


def _carries(trace: Trace, layer: Any, initial_state: Any) -> bool:
    """Whether this call's states become inputs and outputs of the file; refuses what could not be exact."""
    if not (trace.streaming or layer.stateful):
        return False
    inside = [type(outer).__name__ for outer in trace.around if not isinstance(outer, keras.layers.Bidirectional)]
    if inside and not layer.stateful:
        # It runs over a sequence within one step of the stream, from its own beginning.
        return False
    if inside:
        raise UnsupportedLayer(layer.name, f"it is inside a {inside[-1]}, each step of which begins from zero")
    if initial_state is not None:
        if trace.streaming:
            raise UnsupportedLayer(layer.name, "its initial state is given in each call, so it cannot be carried along")
        return False
    if layer.go_backwards:
        raise UnsupportedLayer(layer.name, "it goes backwards, so it cannot carry a state from chunk to chunk")
    if id(layer) in trace.carried_layers:
        raise UnsupportedLayer(layer.name, "it carries its state and is called more than once")
    trace.carried_layers.add(id(layer))
    return True


def _beginning(layer: Any, index: int | None, spec: RecurrentSpec) -> tuple[float, ...]:
    """What each state of a file that carries them begins with: one number a state."""
    if spec.traced is None and not begins_in_its_own_way(layer):
        return (0.0,) * len(spec.state_names)
    with tf.init_scope():
        nest = layer.get_initial_state(batch_size=1)
        states = [np.asarray(state) for state in keras.tree.flatten(nest if index is None else nest[index])]
    for state in states:
        if state.size and (state != state.flat[0]).any():
            raise UnsupportedLayer(layer.name, "its cell begins with states that are not one number all over")
        if not np.isfinite(state).all():
            raise UnsupportedLayer(
                layer.name, "its cell begins with a state of NaN or infinity, which a file cannot tell. Use a number"
            )
        if layer.stateful and state.any():
            raise UnsupportedLayer(
                layer.name, "its cell begins with states other than zero, and reset_state() zeroes them"
            )
    return tuple(float(state.flat[0]) if state.size else 0.0 for state in states)


def bidirectional_call(trace: Trace, original: Method) -> Method:
    """In place of `Bidirectional.call`: one marker for both directions where they can be one op."""

    def call(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        if (trace.streaming and not trace.around) or self.stateful:
            raise UnsupportedLayer(
                self.name, "a Bidirectional needs the whole sequence, so it cannot carry a state from chunk to chunk"
            )
        spec = _read_bidirectional(trace, self, sequences, initial_state, mask)
        if spec is None:
            with trace.inside(self):
                return original(self, sequences, initial_state=initial_state, mask=mask, training=training)
        x = tf.cast(tf.convert_to_tensor(sequences), spec.dtype)
        states = [] if initial_state is None else keras.tree.flatten(initial_state)
        states = [tf.cast(tf.convert_to_tensor(state), spec.dtype) for state in states]
        count = 2 if spec.merge == "none" else 1
        outputs, finals = _place(trace, self, spec, x, states, _mask(mask, self), outputs=count, carried=None)
        if not self.return_state:
            return tuple(outputs) if count == 2 else outputs[0]
        return (*outputs, *finals)

    return call


def _read_bidirectional(
    trace: Trace, layer: Any, sequences: Any, initial_state: Any, mask: Any
) -> RecurrentSpec | None:
    """One spec for both directions, or None where each is better left to its own layer's call."""
    inner_layers = (layer.forward_layer, layer.backward_layer)
    if any(begins_in_its_own_way(inner) or calls_in_its_own_way(inner) for inner in inner_layers):
        return None
    try:
        forward, backward = (
            call_of(
                inner,
                sequences,
                masked=mask is not None,
                given_state=initial_state is not None,
                opset=trace.opset,
                allow_loop=trace.allow_loop,
            )
            for inner in inner_layers
        )
        return read_bidirectional(layer, forward, backward)
    except UnsupportedLayer:
        # The inner layer's own call says it again, or leaves it to a loop.
        return None


def time_distributed_call(trace: Trace, original: Method) -> Method:  # noqa: ARG001
    """In place of `TimeDistributed.call`: one call of the inner layer on (batch × time) rows.

    Keras writes the layer out once a time step, or, with free time, uses a `vectorized_map` that no converter gets
    right. The rows do not know of each other, so putting them in one batch changes nothing.
    """

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        x = tf.convert_to_tensor(inputs)
        if type(self.layer) is keras.layers.Dense:
            # It works on the last axis, whatever is in front.
            return self.layer.call(x)
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
        with trace.inside(self):
            y = self.layer.call(rows, **kwargs)
        result = tf.reshape(y, tf.concat([shape[:2], tf.shape(y)[1:]], 0))
        return tf.ensure_shape(result, [batch, time, *y.shape[1:]])

    return call
