"""Files of Keras 1 and 2 answer as the Keras that wrote them: tf_keras, numpy equations and stored predictions say."""

from __future__ import annotations

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

import edgeseq
from edgeseq import errors
from edgeseq.conversion.load import load
from edgeseq.runtime import Model

tk = pytest.importorskip("tf_keras", reason="tf_keras, of edgeseq[dev], is the oracle")
L = tk.layers

# Two implementations of the same float32 equations, over some ten steps.
TOLERANCE = 1e-5


def sequential(*layers, shape=(7, 4), **options):
    return tk.Sequential([tk.Input(shape, name="x", **options), *layers])


def seq2seq():
    """Keras's own tutorial: the decoder starts from the encoder's states; both read masked words."""
    words, spoken = tk.Input((None,), name="words"), tk.Input((None,), name="spoken")
    _, h, c = L.LSTM(5, return_state=True)(L.Embedding(9, 4, mask_zero=True)(words))
    y = L.LSTM(5, return_sequences=True)(L.Embedding(8, 3, mask_zero=True)(spoken), initial_state=[h, c])
    return tk.Model([words, spoken], L.Dense(6, activation="softmax")(L.GRU(4, return_sequences=True)(y)))


def bidirectional_with_states():
    x, h, g = tk.Input((None, 4), name="x"), tk.Input((3,), name="h"), tk.Input((3,), name="g")
    y, *states = L.Bidirectional(L.GRU(3, return_state=True, return_sequences=True))(x, initial_state=[h, g])
    return tk.Model([x, h, g], [y, *states])


def merged_masks():
    """Add takes a step that counts in both; Keras 3 one that counts in either."""
    a, b = tk.Input((7,), name="a"), tk.Input((7,), name="b")
    left, right = L.Embedding(9, 4, mask_zero=True)(a), L.Embedding(9, 4, mask_zero=True)(b)
    plain = L.Embedding(9, 4)(b)
    outputs = [L.LSTM(3)(merged) for merged in (
        L.Add()([left, right]), L.Concatenate()([left, right]), L.Concatenate()([left, plain]), L.Multiply()([left, plain])
    )]  # fmt: skip
    return tk.Model([a, b], outputs)


def shared_and_nested():
    """A nested model called twice, whose inner layer has the name of an outer one, and a layer called twice."""
    inner = sequential(L.LSTM(4, return_sequences=True, name="same"), L.BatchNormalization(), L.Dense(4), L.LSTM(4))
    x, y = tk.Input((7, 4), name="x"), tk.Input((7, 4), name="y")
    same, dense = L.GRU(4, return_sequences=True, name="same"), L.Dense(3)
    z = L.Concatenate()([inner(same(x)), inner(y)])
    return tk.Model([x, y], {"one": dense(z), "two": dense(L.Activation("tanh")(z))})


def masked_nested():
    words = tk.Input((None,))
    inner = tk.Model(words, L.LSTM(4, return_sequences=True)(L.Embedding(9, 4, mask_zero=True)(words)))
    return tk.Sequential([tk.Input((7,), name="x"), inner, L.LSTM(3), L.Dense(2)])


def masked_into_nested():
    inner = sequential(L.LSTM(4, return_sequences=True), L.LSTM(3))
    return tk.Sequential([tk.Input((7,), name="x"), L.Embedding(9, 4, mask_zero=True), inner])


def mask_as_an_input():
    x, mask = tk.Input((7, 4), name="x"), tk.Input((7,), name="mask", dtype="bool")
    return tk.Model([x, mask], L.LSTM(3)(x, mask=mask))


def attention():
    words, keys = tk.Input((7,), name="words"), tk.Input((6,), name="keys")
    query = L.LSTM(4, return_sequences=True)(L.Embedding(9, 4, mask_zero=True)(words))
    value = L.LSTM(4, return_sequences=True)(L.Embedding(9, 4, mask_zero=True)(keys))
    both = [L.Attention()([query, value]), L.AdditiveAttention()([query, value])]
    return tk.Model([words, keys], L.GlobalAveragePooling1D()(L.Concatenate()(both)))


def frames_with_a_model():
    frame = tk.Sequential([tk.Input((6, 6, 2)), L.Conv2D(3, 3, activation="relu"), L.MaxPooling2D(), L.Flatten()])
    return sequential(L.TimeDistributed(frame), L.LSTM(3), shape=(5, 6, 6, 2))


RECURRENT = {
    "LSTM": lambda: sequential(L.LSTM(3, return_sequences=True), L.LSTM(3, recurrent_activation="hard_sigmoid")),
    "LSTM options": lambda: sequential(
        L.LSTM(3, use_bias=False, dropout=0.1, recurrent_dropout=0.2, return_sequences=True, unroll=True),
        L.LSTM(3, unit_forget_bias=False, go_backwards=True, activation="elu", kernel_regularizer="l2"),
    ),
    "GRU": lambda: sequential(L.GRU(3, return_sequences=True), L.GRU(3, reset_after=False)),
    "GRU with hard gates": lambda: sequential(L.GRU(3, recurrent_activation="hard_sigmoid", activation="relu")),
    "SimpleRNN": lambda: sequential(L.SimpleRNN(3, return_sequences=True), L.SimpleRNN(2, activation="hard_sigmoid")),
    "RNN of cells": lambda: sequential(
        L.RNN(L.GRUCell(3), return_sequences=True), L.RNN([L.LSTMCell(3), L.GRUCell(2), L.SimpleRNNCell(4)])
    ),
    "Bidirectional": lambda: sequential(
        L.Bidirectional(L.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid")),
        L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum"),
        L.Bidirectional(L.SimpleRNN(3), backward_layer=L.GRU(2, go_backwards=True)),
    ),
    "Bidirectional that turns": lambda: sequential(
        L.Bidirectional(L.LSTM(3, go_backwards=True, return_sequences=True)), L.LSTM(2)
    ),
    "ConvLSTM2D": lambda: sequential(
        L.ConvLSTM2D(3, 3, padding="same", return_sequences=True), L.BatchNormalization(),
        L.ConvLSTM2D(2, 2, recurrent_activation="sigmoid"), shape=(4, 5, 5, 2),
    ),
    "ConvLSTM1D and 3D": lambda: sequential(
        L.ConvLSTM1D(2, 3, return_sequences=True), L.TimeDistributed(L.Reshape((4, 2, 1, 1))), L.ConvLSTM3D(2, (2, 1, 1)),
        shape=(3, 6, 2),
    ),
    "TimeDistributed": lambda: sequential(
        L.TimeDistributed(L.LSTM(3)), L.TimeDistributed(L.Dense(2, activation="relu")), L.GRU(2), shape=(5, 6, 4)
    ),
    "masked words": lambda: sequential(
        L.Embedding(9, 4, mask_zero=True, input_length=7),
        L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.Dropout(0.5), L.TimeDistributed(L.Dense(3, activation="relu")), L.LayerNormalization(),
        L.GRU(3, return_sequences=True), L.GlobalAveragePooling1D(), shape=(7,),
    ),
    "masked steps": lambda: sequential(L.Masking(), L.LSTM(3, return_sequences=True), L.SimpleRNN(3, go_backwards=True)),
    "words in sentences": lambda: sequential(
        L.Embedding(9, 4, mask_zero=True), L.TimeDistributed(L.Bidirectional(L.LSTM(3))), L.GRU(3), shape=(5, 6)
    ),
    "stateful": lambda: tk.Sequential(
        [tk.Input(batch_shape=(3, 7, 4), name="x"), L.LSTM(3, stateful=True, return_sequences=True), L.GRU(2, stateful=True)]
    ),
    "encoder and decoder": seq2seq,
    "Bidirectional with states": bidirectional_with_states,
    "merged masks": merged_masks,
    "shared and nested": shared_and_nested,
    "a mask out of a nested model": masked_nested,
    "a mask into a nested model": masked_into_nested,
    "a mask as an input": mask_as_an_input,
    "attention": attention,
    "a model on each frame": frames_with_a_model,
}  # fmt: skip

# Every other class of the table, so that none is there by its name alone.
OTHERS = {
    "activations": lambda: sequential(
        L.Dense(4, activation="selu"), L.LeakyReLU(0.1), L.PReLU(shared_axes=[1]), L.ELU(0.5), L.ReLU(max_value=1.0),
        L.Softmax(axis=1), L.Dense(4, activation=L.LeakyReLU(0.3)), L.Activation("hard_sigmoid"),
        L.Dense(3, activation="swish"), L.Dense(3, activation="gelu"), L.Dense(3, activation="exponential"),
        L.Activation("softsign"), L.Activation("softplus"),
    ),
    "noise": lambda: sequential(
        L.Dropout(0.1, noise_shape=(None, 1, 4)), L.SpatialDropout1D(0.1), L.GaussianNoise(0.1), L.GaussianDropout(0.1),
        L.AlphaDropout(0.1), L.ActivityRegularization(0.1), L.Dense(2),
    ),
    "shapes": lambda: sequential(
        L.Permute((2, 1)), L.Reshape((14, 2)), L.Flatten(), L.RepeatVector(3), L.Dense(2), L.Rescaling(2.0, offset=1.0)
    ),
    "rank 1": lambda: sequential(
        L.ZeroPadding1D(2), L.Conv1D(3, 3, padding="causal", dilation_rate=2), L.SeparableConv1D(4, 2), L.UpSampling1D(2),
        L.MaxPooling1D(2, padding="same"), L.DepthwiseConv1D(2), L.Cropping1D(1), L.AveragePooling1D(2), L.GlobalMaxPooling1D(),
    ),
    "rank 2": lambda: sequential(
        L.ZeroPadding2D(1), L.Conv2D(3, 3, strides=2), L.DepthwiseConv2D(2), L.SeparableConv2D(3, 2), L.SpatialDropout2D(0.1),
        L.UpSampling2D(3), L.Cropping2D(1), L.AveragePooling2D(2), L.MaxPooling2D(1), L.GlobalAveragePooling2D(), shape=(12, 12, 2),
    ),
    "rank 3": lambda: sequential(
        L.ZeroPadding3D(1), L.Conv3D(3, 2), L.SpatialDropout3D(0.1), L.UpSampling3D(2), L.Cropping3D(1), L.AveragePooling3D(2),
        L.MaxPooling3D(1), L.GlobalMaxPooling3D(), shape=(4, 4, 4, 2),
    ),
    "normalization": lambda: sequential(
        L.BatchNormalization(scale=False), L.LayerNormalization(axis=[1, 2]), L.BatchNormalization(axis=1, epsilon=0.1)
    ),
}  # fmt: skip


def merges():
    x, y = tk.Input((7, 4), name="x"), tk.Input((7, 4), name="y")
    kinds = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate)
    return tk.Model([x, y], [*(kind()([x, y]) for kind in kinds), L.Dot((2, 2), normalize=True)([x, y])])


def poolings():
    x, y, z = tk.Input((5, 3), name="x"), tk.Input((5, 6, 2), name="y"), tk.Input((4, 5, 6, 2), name="z")
    return tk.Model(
        [x, y, z],
        [
            L.GlobalAveragePooling1D()(x), L.GlobalMaxPooling2D()(y), L.GlobalAveragePooling3D()(z),
            L.AveragePooling1D(2, padding="same")(x), L.AveragePooling2D(2, padding="same")(y),
        ],
    )  # fmt: skip


OTHERS |= {"merges": merges, "poolings": poolings}
MODELS = RECURRENT | OTHERS


def shaken(model):
    """Every weight as a trained one might be: none at its start, where a mistaken order may not show."""
    random = np.random.default_rng(5)
    model.set_weights(
        [random.uniform(0.1, 0.6, w.shape) * random.choice([-1, 1], w.shape) for w in model.get_weights()]
    )
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance.numpy()))
    return model


def inputs_of(model):
    """One batch: words from 0 to 7 where an Embedding reads them, else noise with some empty steps."""
    random = np.random.default_rng(6)
    arrays = []
    for tensor in model.inputs:
        shape = [3, *(6 if axis is None else axis for axis in tensor.shape[1:])]
        if tensor.dtype == "bool":
            array = random.random(shape) < 0.6
        elif (len(shape) == 2 or shape[1:] == [5, 6]) and tensor.name not in ("h", "g"):
            array = random.integers(0, 8, shape).astype(np.float32)
        else:
            array = random.normal(size=shape).astype(np.float32)
            if len(shape) == 3:
                array[0, -2:], array[1, 0], array[1, 3] = 0, 0, 0
        arrays.append(array)
    return arrays[0] if len(arrays) == 1 else arrays


def assert_alike(mine, theirs):
    mine, theirs = keras.tree.flatten(mine), keras.tree.flatten(theirs)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=TOLERANCE * max(1, np.abs(other).max()), rtol=0)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_file_of_tf_keras_answers_the_same(name, suffix, tmp_path):
    model = shaken(MODELS[name]())
    model.save(tmp_path / f"old{suffix}")
    inputs = inputs_of(model)
    loaded = load(tmp_path / f"old{suffix}")
    assert_alike(loaded.model(inputs), model(inputs))
    assert "2.21" in loaded.notes[0]
