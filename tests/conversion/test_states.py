"""Files that carry their states, against Keras's own stateful layers and against the whole sequence."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import edgeseq
from edgeseq.errors import UnsupportedLayer
from edgeseq.runtime import Model


def stateful(*layers, steps=4):
    return keras.Sequential([keras.Input(batch_shape=(4, steps, 1), name="x"), *layers])


@pytest.mark.parametrize("cell", [L.LSTM, L.GRU, L.SimpleRNN])
@pytest.mark.parametrize("sequences", [False, True])
def test_a_stateful_model_keeps_its_state(cell, sequences, tmp_path, randomized):
    first = cell(6, stateful=True, return_sequences=True)
    model = randomized(stateful(first, cell(3, stateful=True, return_sequences=sequences), L.Dense(2)))
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert len(report.states) == (4 if cell is L.LSTM else 2)
    stream = Model(tmp_path / "model.onnx").stream(batch=4)
    random = np.random.default_rng(0)
    for call in range(6):
        if call == 4:
            stream.reset()
            for layer in model.layers[:2]:
                layer.reset_state()
        x = random.normal(size=(4, 4, 1)).astype(np.float32)
        np.testing.assert_allclose(stream.step(x), model(x, training=False), atol=1e-6)


def test_calling_the_model_always_starts_from_zero(tmp_path):
    model = stateful(L.LSTM(6, stateful=True))
    edgeseq.export(model, tmp_path / "model.onnx")
    runtime = Model(tmp_path / "model.onnx")
    x = np.ones((4, 4, 1), np.float32)
    np.testing.assert_array_equal(runtime(x), runtime(x))


def test_batch_and_chunk_are_free_though_keras_fixed_them(tmp_path):
    edgeseq.export(stateful(L.LSTM(6, stateful=True, return_sequences=True)), tmp_path / "model.onnx")
    model = Model(tmp_path / "model.onnx")
    assert model.inputs[0].axes == ("batch", "time", 1)
    x = np.random.default_rng(0).normal(size=(1, 11, 1)).astype(np.float32)
    whole = model(x)
    stream = model.stream(batch=1)
    pieces = [stream.step(x[:, a:b]) for a, b in ((0, 1), (1, 7), (7, 11))]
    # One fused op over the same numbers, cut elsewhere: sums are the same, so nothing may differ.
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-7)


def test_a_layer_that_needs_all_steps_is_refused(tmp_path):
    frozen = stateful(L.LSTM(6, stateful=True, return_sequences=True), L.Dense(2), L.Reshape((8,)), L.Dense(1))
    with pytest.raises(UnsupportedLayer, match=r"reshape.*puts all time steps together"):
        edgeseq.export(frozen, tmp_path / "model.onnx")


def test_streaming_makes_states_of_stateless_layers(tmp_path, randomized):
    one, two = L.GRU(5, return_sequences=True, name="one"), L.LSTM(4, name="two")
    model = randomized(keras.Sequential([keras.Input((None, 3), name="x"), one, two]))
    report = edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    assert report.states == ("state_in.00.one.h", "state_in.01.two.h", "state_in.02.two.c")
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    stream = Model(tmp_path / "model.onnx").stream(batch=2)
    for t in range(9):
        answer = stream.step(x[:, t : t + 1])
    np.testing.assert_allclose(answer, model(x, training=False), atol=1e-6)


def test_a_convolutional_state_streams(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 6, 6, 1), name="x"), L.ConvLSTM2D(3, 3, padding="same", return_sequences=True)]
    )
    report = edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    manifest = Model(tmp_path / "model.onnx").manifest
    assert [state.axes for state in manifest.states] == [("batch", 6, 6, 3)] * 2
    assert report.parity


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (L.Bidirectional(L.LSTM(3), name="it"), "Bidirectional"),
        (L.LSTM(3, go_backwards=True, name="it"), "goes backwards"),
    ],
)
def test_what_needs_the_whole_sequence_is_refused_by_name(layer, reason, tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="x"), layer])
    with pytest.raises(UnsupportedLayer, match=f"layer 'it'.*{reason}"):
        edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("streaming", [False, True])
def test_stateful_and_stateless_layers_do_not_mix(streaming, tmp_path):
    model = stateful(L.LSTM(4, stateful=True, return_sequences=True), L.LSTM(3, name="forgets"))
    with pytest.raises(UnsupportedLayer, match=r"layer 'forgets'.*starts from zero in each call"):
        edgeseq.export(model, tmp_path / "model.onnx", streaming=streaming)
