"""Cells and activations that are not Keras's own: traced once, and put into the body of a Scan."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.runtime import Model


@keras.saving.register_keras_serializable("tests")
class Minimal(L.Layer):
    """The cell in Keras's own documentation of `RNN`."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")

    def call(self, x, states):
        output = keras.ops.matmul(x, self.kernel) + keras.ops.matmul(states[0], self.recurrent_kernel)
        return keras.ops.tanh(output), [output]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Normalized(L.Layer):
    """A layer-normalised LSTM whose output is neither of its states, and which does not begin at zero."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units, self.state_size, self.output_size = units, [units, units], 2 * units
        self.gates, self.normalize, self.out = L.Dense(4 * units), L.LayerNormalization(), L.Dense(2 * units)

    def build(self, shape):
        self.gates.build((None, shape[-1] + self.units))
        self.normalize.build((None, 4 * self.units))
        self.out.build((None, self.units))

    def call(self, x, states, training=False):  # noqa: ARG002  (Keras hands it to cells that take it)
        gates = self.normalize(self.gates(keras.ops.concatenate([x, states[0]], -1)))
        i, f, g, o = keras.ops.split(gates, 4, axis=-1)
        c = keras.ops.sigmoid(f) * states[1] + keras.ops.sigmoid(i) * keras.ops.tanh(g)
        h = keras.ops.sigmoid(o) * keras.ops.tanh(c)
        return self.out(h), [h, c]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.ones((batch_size, self.units)), keras.ops.zeros((batch_size, self.units))]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Doubled(L.LSTMCell):
    """A subclass of one of Keras's own cells may compute anything."""

    def call(self, x, states, training=False):
        output, states = super().call(x, states, training=training)
        return output * 2, states


@keras.saving.register_keras_serializable("tests")
class Matrix(L.Layer):
    """A state of more than one axis: a memory that is written to and read from."""

    def __init__(self, **options):
        super().__init__(**options)
        self.state_size, self.output_size = [3, 2], 3

    def call(self, x, states):
        memory = states[0] * 0.9 + x[:, :3, None] * x[:, None, :2]
        return keras.ops.sum(memory, axis=2), [memory]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.zeros((batch_size, 3, 2))]


def own_function(x):
    return 0.7 * keras.ops.tanh(x) + 0.1 * keras.ops.sin(x)


def sequential(*layers, shape=(None, 4)):
    return keras.Sequential([keras.Input(shape, name="x"), *layers])


def stack():
    return [L.LSTMCell(5), L.GRUCell(6), L.SimpleRNNCell(3)]


def states_of_a_stack():
    x = keras.Input((None, 4))
    y, first, second = L.RNN([L.LSTMCell(5), L.GRUCell(6)], return_state=True)(x)
    return keras.Model(x, [y, *first, second])


def given_states():
    x, h = keras.Input((None, 4)), keras.Input((5,))
    return keras.Model([x, h], L.RNN(Minimal(5))(x, initial_state=[h]))


@keras.saving.register_keras_serializable("tests")
class FromOnes(L.LSTM):
    """A layer that says itself what its states begin with."""

    def get_initial_state(self, batch_size):
        return [keras.ops.ones((batch_size, self.units)) for _ in range(2)]


# name -> model, strategies
CASES = {
    "Keras's own example": (lambda: sequential(L.RNN(Minimal(5))), ["scan"]),
    "all steps": (lambda: sequential(L.RNN(Minimal(5), return_sequences=True)), ["scan"]),
    "one step": (lambda: sequential(L.RNN(Minimal(5), return_sequences=True), shape=(1, 4)), ["scan"]),
    "backwards": (lambda: sequential(L.RNN(Minimal(5), return_sequences=True, go_backwards=True)), ["scan"]),
    "an output of its own": (lambda: sequential(L.RNN(Normalized(6))), ["scan"]),
    "masked": (lambda: sequential(L.Masking(), L.RNN(Normalized(6))), ["scan"]),
    "masked, zeros": (lambda: sequential(L.Masking(), L.RNN(Normalized(6), zero_output_for_mask=True)), ["scan"]),
    "masked, all steps": (lambda: sequential(L.Masking(), L.RNN(Normalized(6), return_sequences=True)), ["scan"]),
    "masked, backwards": (
        lambda: sequential(L.Masking(), L.RNN(Normalized(6), return_sequences=True, go_backwards=True)),
        ["scan"],
    ),
    "both directions": (
        lambda: sequential(L.Masking(), L.Bidirectional(L.RNN(Normalized(6), return_sequences=True))),
        ["scan"],
    ),
    "a layer with a beginning of its own": (lambda: sequential(L.Masking(), FromOnes(5)), ["fused"]),
    "the same, both ways": (lambda: sequential(L.Bidirectional(FromOnes(5, return_sequences=True))), ["fused"]),
    "a large kernel": (lambda: sequential(L.RNN(Normalized(64))), ["scan"]),
    "a subclass of a stock cell": (lambda: sequential(L.RNN(Doubled(6), return_sequences=True)), ["scan"]),
    "a state of two axes": (lambda: sequential(L.Masking(), L.RNN(Matrix(), return_sequences=True)), ["scan"]),
    "states given": (given_states, ["scan"]),
    "inside TimeDistributed": (lambda: sequential(L.TimeDistributed(L.RNN(Minimal(5))), shape=(None, 6, 4)), ["scan"]),
    "a stack": (lambda: sequential(L.RNN(stack())), ["fused"]),
    "a stack, masked, backwards": (
        lambda: sequential(L.Masking(), L.RNN(stack(), return_sequences=True, go_backwards=True)),
        ["fused"],
    ),
    "a stack of one": (lambda: sequential(L.RNN([L.LSTMCell(5)])), ["fused"]),
    "a stack with a custom cell": (
        lambda: sequential(L.Masking(), L.RNN([L.LSTMCell(5), Normalized(4), L.GRUCell(6)], return_sequences=True)),
        ["scan"],
    ),
    "a stack both ways": (lambda: sequential(L.Bidirectional(L.RNN([L.LSTMCell(5), L.GRUCell(6)]))), ["fused"]),
    "states of a stack": (states_of_a_stack, ["fused"]),
    "an own function": (lambda: sequential(L.LSTM(5, activation=own_function)), ["scan"]),
    "an own function, few steps": (lambda: sequential(L.GRU(5, activation=own_function), shape=(4, 4)), ["unrolled"]),
    "softmax over the units, not over two gates": (
        lambda: sequential(L.GRU(5, recurrent_activation="softmax", activation="softmax", reset_after=False)),
        ["scan"],
    ),
    "softmax over the channels": (
        lambda: sequential(L.ConvLSTM2D(3, 2, activation="softmax", padding="same"), shape=(3, 5, 6, 2)),
        ["unrolled"],
    ),
    "softmax over the last axis, channels first": (
        lambda: sequential(
            L.ConvLSTM1D(3, 2, activation="softmax", data_format="channels_first"), shape=(3, 2, 6)
        ),
        ["unrolled"],
    ),
    "an activation with weights": (lambda: sequential(L.LSTM(5, activation=L.PReLU())), ["scan"]),
    "made of an op that the converter lacks": (
        lambda: sequential(L.LSTM(5, activation=lambda x: keras.activations.celu(x, alpha=0.5))),
        ["scan"],
    ),
    "known by what they compute": (
        lambda: sequential(L.LSTM(5, activation=L.LeakyReLU(0.3), recurrent_activation=tf.sigmoid)),
        ["fused"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_native_and_exact(name, tmp_path, randomized):
    make, strategies = CASES[name]
    report = edgeseq.export(randomized(make()), tmp_path / "model.onnx")
    assert report.loops == 0
    assert report.parity
    assert [layer.strategy for layer in report.recurrent] == strategies


def test_the_reason_is_told(tmp_path):
    (layer,) = edgeseq.export(sequential(L.RNN(Minimal(5), name="mine")), tmp_path / "model.onnx").recurrent
    assert (layer.name, layer.op_types) == ("mine", ("Scan",))
    assert "no recurrent op" in layer.reason


def test_a_custom_cell_cannot_be_forced_into_a_fused_op(tmp_path):
    with pytest.raises(errors.UnsupportedLayer, match=r"mine.*fused.*no recurrent op"):
        edgeseq.export(sequential(L.RNN(Minimal(5), name="mine")), tmp_path / "model.onnx", lowering="fused")


def test_a_custom_cell_can_be_unrolled_on_request(tmp_path):
    model = sequential(L.RNN(Normalized(5), return_sequences=True), shape=(4, 4))
    report = edgeseq.export(model, tmp_path / "model.onnx", lowering="unrolled")
    assert report.recurrent[0].strategy == "unrolled"
    # The weights of the step are there once, not once a step.
    shapes = [tuple(tensor.dims) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert shapes.count((9, 20)) == 1


def test_a_custom_cell_streams(tmp_path):
    model = sequential(L.RNN(Minimal(5), return_sequences=True))
    edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    stream = Model(tmp_path / "model.onnx").stream(batch=2)
    chunks = np.concatenate([stream.step(x[:, :1]), stream.step(x[:, 1:4]), stream.step(x[:, 4:])], axis=1)
    np.testing.assert_allclose(chunks, model(x), atol=1e-6)


def test_a_stream_begins_with_the_states_that_the_cell_begins_with(tmp_path):
    model = sequential(L.RNN([Normalized(3), L.GRUCell(2)], return_sequences=True))
    edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    file = Model(tmp_path / "model.onnx")
    assert [state.initial for state in file.manifest.states] == [1.0, 0.0, 0.0]
    x = np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32)
    stream = file.stream(batch=1)
    np.testing.assert_allclose(np.concatenate([stream.step(x[:, :2]), stream.step(x[:, 2:])], 1), model(x), atol=1e-6)


class Endless(Normalized):
    """Begins with what no maximum is below, which JSON has no word for."""

    def get_initial_state(self, batch_size=None):
        return [keras.ops.full((batch_size, self.units), -np.inf), keras.ops.zeros((batch_size, self.units))]


class Varied(Normalized):
    """Begins with a ramp, which a manifest cannot say in one number."""

    def get_initial_state(self, batch_size=None):
        ramp = keras.ops.tile(keras.ops.arange(self.units, dtype="float32")[None], (batch_size, 1))
        return [ramp, keras.ops.zeros((batch_size, self.units))]


@pytest.mark.parametrize(("cell", "reason"), [(Varied, "not one number"), (Endless, "NaN or infinity")])
def test_a_stream_begins_with_one_finite_number(cell, reason, tmp_path):
    model = sequential(L.RNN(cell(3), return_sequences=True, name="mine"))
    if cell is Varied:
        assert edgeseq.export(model, tmp_path / "whole.onnx").parity
    with pytest.raises(errors.UnsupportedLayer, match=f"mine.*{reason}"):
        edgeseq.export(model, tmp_path / "model.onnx", streaming=True)


def test_the_model_is_as_before(tmp_path):
    model = sequential(L.RNN([Normalized(5), L.LSTMCell(3)]), L.Dense(1))
    model.compile("adam", "mse")
    x, y = np.ones((4, 5, 4), np.float32), np.ones((4, 1), np.float32)
    before = model.predict(x, verbose=0)
    edgeseq.export(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.fit(x, y, verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)
