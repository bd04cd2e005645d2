"""Files of Keras 1 and 2 answer as the Keras that wrote them: tf_keras, numpy equations and stored predictions say."""

from __future__ import annotations

import json
import zipfile

import h5py
import keras
import numpy as np
import onnx
import pytest
from rich.console import Console

import edgeseq
from edgeseq import errors
from edgeseq.cli import check
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
    merged = [L.Add()([left, right]), L.Concatenate()([left, right]), L.Multiply()([left, plain])]
    outputs = [L.LSTM(3)(x) for x in [*merged, L.Concatenate()([left, plain])]]
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


def frozen():
    """Weights that are not trained lie in another order, here those of one layer and of a whole model."""
    half = sequential(L.BatchNormalization(trainable=False), L.LSTM(4, return_sequences=True), L.BatchNormalization())
    whole = sequential(L.BatchNormalization(), L.GRU(4, return_sequences=True), L.BatchNormalization())
    whole.trainable = False
    return sequential(half, whole, L.Bidirectional(L.LSTM(3), trainable=False))


def without_an_input():
    model = tk.Sequential([L.LSTM(3, return_sequences=True), L.GRU(2)])
    model(np.zeros((1, 7, 4), np.float32))
    return model


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
        L.ConvLSTM1D(2, 3, return_sequences=True), L.TimeDistributed(L.Reshape((4, 2, 1, 1))),
        L.ConvLSTM3D(2, (2, 1, 1)), shape=(3, 6, 2),
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
    "masked steps": lambda: sequential(
        L.Masking(), L.LSTM(3, return_sequences=True), L.SimpleRNN(3, go_backwards=True)
    ),
    "words in sentences": lambda: sequential(
        L.Embedding(9, 4, mask_zero=True), L.TimeDistributed(L.Bidirectional(L.LSTM(3))), L.GRU(3), shape=(5, 6)
    ),
    "stateful": lambda: tk.Sequential([
        tk.Input(batch_shape=(3, 7, 4), name="x"),
        L.LSTM(3, stateful=True, return_sequences=True), L.GRU(2, stateful=True),
    ]),
    "encoder and decoder": seq2seq,
    "Bidirectional with states": bidirectional_with_states,
    "merged masks": merged_masks,
    "shared and nested": shared_and_nested,
    "a mask out of a nested model": masked_nested,
    "a mask into a nested model": masked_into_nested,
    "a mask as an input": mask_as_an_input,
    "frozen": frozen,
    "without an input": without_an_input,
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
        L.ZeroPadding1D(2), L.Conv1D(3, 3, padding="causal", dilation_rate=2), L.SeparableConv1D(4, 2),
        L.UpSampling1D(2), L.MaxPooling1D(2, padding="same"), L.DepthwiseConv1D(2), L.Cropping1D(1),
        L.AveragePooling1D(2), L.GlobalMaxPooling1D(),
    ),
    "rank 2": lambda: sequential(
        L.ZeroPadding2D(1), L.Conv2D(3, 3, strides=2), L.DepthwiseConv2D(2), L.SeparableConv2D(3, 2),
        L.SpatialDropout2D(0.1), L.UpSampling2D(3), L.Cropping2D(1), L.AveragePooling2D(2), L.MaxPooling2D(1),
        L.GlobalAveragePooling2D(), shape=(12, 12, 2),
    ),
    "rank 3": lambda: sequential(
        L.ZeroPadding3D(1), L.Conv3D(3, 2), L.SpatialDropout3D(0.1), L.UpSampling3D(2), L.Cropping3D(1),
        L.AveragePooling3D(2), L.MaxPooling3D(1), L.GlobalMaxPooling3D(), shape=(4, 4, 4, 2),
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


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".h5") for name in MODELS), *((name, ".keras") for name in RECURRENT)]
)
def test_a_file_of_tf_keras_answers_the_same(name, suffix, tmp_path):
    model = shaken(MODELS[name]())
    model.save(tmp_path / f"old{suffix}")
    inputs = inputs_of(model)
    loaded = load(tmp_path / f"old{suffix}")
    assert_alike(loaded.model(inputs), model(inputs))
    assert "2.21" in loaded.notes[0]


class TestThroughOnnx:
    @pytest.mark.parametrize("name", ["GRU with hard gates", "ConvLSTM2D", "masked words", "encoder and decoder"])
    def test_the_exported_file_answers_as_tf_keras(self, name, tmp_path):
        model = shaken(MODELS[name]())
        model.save(tmp_path / "old.h5")
        report = edgeseq.export(tmp_path / "old.h5", tmp_path / "model.onnx")
        assert report.loops == 0
        assert report.notes[0].startswith("old.h5 was written by Keras 2.21")
        inputs = inputs_of(model)
        assert_alike(Model(tmp_path / "model.onnx")(inputs), model(inputs))
        parity = edgeseq.compare(tmp_path / "model.onnx", tmp_path / "old.h5", inputs)
        assert parity
        assert parity.notes
        assert parity.notes == report.notes[: len(parity.notes)]
        shown = Console(record=True, width=200)
        check._show(parity, shown)
        assert f"note: {parity.notes[0]}" in shown.export_text()

    def test_hard_gates_stay_one_op_with_the_old_slope(self, tmp_path):
        shaken(sequential(L.LSTM(3, recurrent_activation="hard_sigmoid", name="it"))).save(tmp_path / "old.h5")
        report = edgeseq.export(tmp_path / "old.h5", tmp_path / "model.onnx")
        assert [layer.op_types for layer in report.recurrent] == [("LSTM",)]
        assert "layer 'it': hard_sigmoid is clip(0.2 x + 0.5)" in report.notes[1]
        (node,) = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "LSTM"]
        attributes = {attribute.name: attribute for attribute in node.attribute}
        assert attributes["activations"].strings[0] == b"HardSigmoid"
        assert attributes["activation_alpha"].floats[0] == pytest.approx(0.2)
        assert attributes["activation_beta"].floats[0] == pytest.approx(0.5)

    def test_the_difference_is_not_a_small_one(self, tmp_path):
        """Else the tests above could not tell the two hard_sigmoids apart."""
        model = shaken(sequential(L.LSTM(3, recurrent_activation="hard_sigmoid")))
        model.save(tmp_path / "old.h5")
        loaded = load(tmp_path / "old.h5").model
        loaded.layers[-1].cell.recurrent_activation = keras.activations.hard_sigmoid
        assert np.abs(np.asarray(loaded(inputs_of(model))) - np.asarray(model(inputs_of(model)))).max() > 1e-3

    def test_the_turbofan_models_answer_as_their_author_stored(self, data_folder, tmp_path):
        folder = data_folder / "cmapss"
        windows, truth = turbofan(folder)
        assert len(windows) == 93
        answers = {}
        for name in ("regression_model", "binary_model"):
            report = edgeseq.export(folder / f"{name}.h5", tmp_path / f"{name}.onnx")
            assert [layer.op_types for layer in report.recurrent] == [("LSTM",), ("LSTM",)]
            assert "Keras 2.0.5" in report.notes[0]
            answers[name] = Model(tmp_path / f"{name}.onnx")(windows)[:, 0]
        stored = np.loadtxt(folder / "submit_test.csv", skiprows=1)
        # Answers of some hundred cycles in float32, by another implementation of its sums.
        np.testing.assert_allclose(answers["regression_model"], stored, atol=1e-4)
        assert np.abs(answers["regression_model"] - truth).mean() == pytest.approx(12.22, abs=0.005)
        failing = answers["binary_model"] > 0.5
        # The author stored the classes of this one, not the probabilities.
        np.testing.assert_array_equal(failing, np.loadtxt(folder / "binary_submit_test.csv", skiprows=1) == 1)
        assert (failing == (truth <= 30)).mean() == pytest.approx(0.978, abs=0.001)


def turbofan(folder):
    """The author's windows, (engines, 50, 25), and the cycles that each engine has left."""
    train, test = np.loadtxt(folder / "PM_train.txt"), np.loadtxt(folder / "PM_test.txt")

    def features(rows):
        return np.concatenate([rows[:, 2:5], rows[:, 1:2], rows[:, 5:26]], axis=1)

    low, high = features(train).min(axis=0), features(train).max(axis=0)
    engines = [test[test[:, 0] == engine] for engine in np.unique(test[:, 0])]
    long = [rows for rows in engines if len(rows) >= 50]
    windows = np.stack([((features(rows) - low) / np.where(high > low, high - low, 1))[-50:] for rows in long])
    truth = np.loadtxt(folder / "PM_truth.txt")
    return windows.astype(np.float32), np.array([truth[int(rows[0, 0]) - 1] for rows in long])


# Equations of Keras 1, in numpy: the second oracle, and the only one for files that tf_keras cannot read.


def hard(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def keras_1_lstm(x, w, activation=np.tanh, inner=hard):
    """`w` by names such as W_i, U_f, b_o."""
    h = c = np.zeros((len(x), w["U_i"].shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        gate = {g: x[:, t] @ w[f"W_{g}"] + h @ w[f"U_{g}"] + w[f"b_{g}"] for g in "ifco"}
        c = inner(gate["f"]) * c + inner(gate["i"]) * activation(gate["c"])
        h = inner(gate["o"]) * activation(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def keras_1_gru(x, w):
    h = np.zeros((len(x), w["U_z"].shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        z, r = (hard(x[:, t] @ w[f"W_{g}"] + h @ w[f"U_{g}"] + w[f"b_{g}"]) for g in "zr")
        candidate = np.tanh(x[:, t] @ w["W_h"] + (r * h) @ w["U_h"] + w["b_h"])
        h = z * h + (1 - z) * candidate
        outputs.append(h)
    return np.stack(outputs, axis=1)


def gates(names, features, units, seed=0):
    random = np.random.default_rng(seed)
    shapes = {"W": (features, units), "U": (units, units), "b": (units,)}
    return {f"{kind}_{g}": random.normal(0, 0.6, shapes[kind]).astype(np.float32) for g in names for kind in "WUb"}


def keras_1_file(path, config, weights, class_name="Sequential", tensorflow=True):
    """A file as `model.save` of Keras 1.2 wrote it: no version beside the weights, no backend anywhere."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps({"class_name": class_name, "config": config}).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            part = group.create_group(name)
            names = [f"{name}_{key}" + (":0" if tensorflow else "") for key in arrays]
            part.attrs["weight_names"] = [weight.encode() for weight in names]
            for weight, array in zip(names, arrays.values(), strict=True):
                part[weight] = array
    return path


COMMON = {"trainable": True, "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None}
RECURRENT_1 = {
    **COMMON, "U_regularizer": None, "init": "glorot_uniform", "inner_init": "orthogonal", "activation": "tanh",
    "inner_activation": "hard_sigmoid", "return_sequences": True, "go_backwards": False, "stateful": False,
    "unroll": False, "consume_less": "cpu", "dropout_W": 0.2, "dropout_U": 0.2, "input_dim": 4, "input_length": None,
}  # fmt: skip
LSTM_1 = {**RECURRENT_1, "name": "lstm_1", "output_dim": 3, "forget_bias_init": "one"}
DENSE_1 = {
    **COMMON, "name": "dense_1", "output_dim": 2, "activation": "linear", "bias": True, "init": "glorot_uniform",
    "W_constraint": None, "b_constraint": None, "input_dim": None,
}  # fmt: skip
INPUT_1 = {"batch_input_shape": [None, None, 4], "input_dtype": "float32"}
X = np.random.default_rng(3).normal(size=(3, 7, 4)).astype(np.float32)


class TestKeras1:
    def test_a_sequential_of_the_imdb_example(self, tmp_path):
        random = np.random.default_rng(1)
        table, lstm = random.normal(size=(9, 4)).astype(np.float32), gates("icfo", 4, 3)
        dense = {"W": random.normal(size=(3, 2)).astype(np.float32), "b": random.normal(size=2).astype(np.float32)}
        config = [
            {
                "class_name": "Embedding",
                "config": {
                    "name": "embedding_1", "input_dim": 9, "output_dim": 4, "input_length": 6, "mask_zero": False,
                    "dropout": 0.2, "init": "uniform", "batch_input_shape": [None, 6], "input_dtype": "int32",
                    "W_regularizer": None, "W_constraint": None, "activity_regularizer": None, "trainable": True,
                },
            },
            {"class_name": "Dropout", "config": {"name": "dropout_1", "p": 0.5, "trainable": True}},
            {"class_name": "LSTM", "config": {**LSTM_1, "return_sequences": False}},
            {"class_name": "Dense", "config": {**DENSE_1, "activation": "sigmoid"}},
        ]  # fmt: skip
        weights = {"embedding_1": {"W": table}, "dropout_1": {}, "lstm_1": lstm, "dense_1": dense}
        path = keras_1_file(tmp_path / "old.h5", config, weights)
        ids = random.integers(0, 9, (3, 6)).astype(np.int32)
        expected = 1 / (1 + np.exp(-(keras_1_lstm(table[ids], lstm)[:, -1] @ dense["W"] + dense["b"])))
        report = edgeseq.export(path, tmp_path / "model.onnx")
        assert "Keras 1.2.2" in report.notes[0]
        assert_alike(Model(tmp_path / "model.onnx")(ids), expected)

    def test_gru_bidirectional_and_time_distributed(self, tmp_path):
        forward, backward, gru = gates("icfo", 4, 3, 1), gates("icfo", 4, 3, 2), gates("zrh", 6, 2, 3)
        dense = {"W": np.ones((2, 2), np.float32), "b": np.array([0.5, -1], np.float32)}
        inner = {"class_name": "LSTM", "config": LSTM_1}
        config = [
            {
                "class_name": "Bidirectional",
                "config": {**INPUT_1, "name": "bi", "layer": inner, "merge_mode": "concat"},
            },
            {"class_name": "GRU", "config": {**RECURRENT_1, "name": "gru_1", "output_dim": 2}},
            {
                "class_name": "TimeDistributed",
                "config": {"name": "td", "trainable": True, "layer": {"class_name": "Dense", "config": DENSE_1}},
            },
        ]
        two_ways = {f"forward_{key}": w for key, w in forward.items()}
        two_ways |= {f"backward_{key}": w for key, w in backward.items()}
        weights = {"bi": two_ways, "gru_1": gru, "td": dense}
        both = np.concatenate([keras_1_lstm(X, forward), keras_1_lstm(X[:, ::-1], backward)[:, ::-1]], axis=-1)
        loaded = load(keras_1_file(tmp_path / "old.h5", config, weights))
        assert_alike(loaded.model(X), keras_1_gru(both, gru) @ dense["W"] + dense["b"])

    def test_gates_laid_side_by_side_for_a_gpu(self, tmp_path):
        lstm = gates("ifco", 4, 3)
        fused = {kind: np.concatenate([lstm[f"{kind}_{g}"] for g in "ifco"], axis=-1) for kind in "WUb"}
        config = [{"class_name": "LSTM", "config": {**LSTM_1, **INPUT_1, "consume_less": "gpu"}}]
        loaded = load(keras_1_file(tmp_path / "old.h5", config, {"lstm_1": fused}))
        assert_alike(loaded.model(X), keras_1_lstm(X, lstm))

    def test_a_functional_model(self, tmp_path):
        random = np.random.default_rng(2)
        rnn = {"W": random.normal(size=(4, 3)), "U": random.normal(size=(3, 3)), "b": random.normal(size=3)}
        norm = {key: random.uniform(0.5, 1, 3) for key in ("gamma", "beta", "running_mean", "running_std")}
        simple = {key: value for key, value in RECURRENT_1.items() if key != "inner_activation"}
        config = {
            "name": "model_1",
            "layers": [
                {
                    "class_name": "InputLayer", "name": "x", "inbound_nodes": [],
                    "config": {**INPUT_1, "sparse": False, "name": "x"},
                },
                {
                    "class_name": "SimpleRNN", "name": "rnn", "inbound_nodes": [[["x", 0, 0]]],
                    "config": {**simple, "name": "rnn", "output_dim": 3},
                },
                {
                    "class_name": "BatchNormalization", "name": "norm", "inbound_nodes": [[["rnn", 0, 0]]],
                    "config": {
                        "name": "norm", "mode": 0, "axis": -1, "epsilon": 1e-3, "momentum": 0.99, "trainable": True,
                        "gamma_regularizer": None, "beta_regularizer": None,
                    },
                },
            ],
            "input_layers": [["x", 0, 0]],
            "output_layers": [["norm", 0, 0], ["rnn", 0, 0]],
        }  # fmt: skip
        path = keras_1_file(tmp_path / "old.h5", config, {"x": {}, "rnn": rnn, "norm": norm}, "Model")
        h, steps = np.zeros((3, 3)), []
        for t in range(X.shape[1]):
            h = np.tanh(X[:, t] @ rnn["W"] + h @ rnn["U"] + rnn["b"])
            steps.append(h)
        y = np.stack(steps, axis=1)
        scaled = (y - norm["running_mean"]) / np.sqrt(norm["running_std"] + 1e-3) * norm["gamma"] + norm["beta"]
        assert_alike(load(path).model(X), [scaled, y])

    @pytest.mark.parametrize("form", ["1.2", "1.0"])
    def test_a_convolution_before_the_lstm(self, form, tmp_path):
        kernel = np.random.default_rng(4).normal(size=(2, 4, 5)).astype(np.float32)
        stored = kernel[:, None] if form == "1.2" else kernel.transpose(2, 1, 0)[..., None]
        config = [{"class_name": "Convolution1D", "config": CONVOLUTION_1}, {"class_name": "LSTM", "config": LSTM_1}]
        weights = {"conv": {"W": stored, "b": np.ones(5, np.float32)}, "lstm_1": gates("icfo", 5, 3)}
        loaded = load(keras_1_file(tmp_path / "old.h5", config, weights))
        y = np.maximum(X[:, :-1] @ kernel[0] + X[:, 1:] @ kernel[1] + 1, 0)
        assert_alike(loaded.model(X), keras_1_lstm(y, weights["lstm_1"]))


CONVOLUTION_1 = {
    **COMMON, **INPUT_1, "name": "conv", "nb_filter": 5, "filter_length": 2, "subsample_length": 1,
    "border_mode": "valid", "activation": "relu", "bias": True, "init": "uniform", "W_constraint": None,
    "b_constraint": None, "input_dim": 4, "input_length": None,
}  # fmt: skip


class TestCudnn:
    """Layers that only a GPU runs; Keras 2's own loader lays their weights out for layers that a CPU runs."""

    def models(self, kind):
        cudnn = {"LSTM": tk_rnn("cudnn_lstm").CuDNNLSTM, "GRU": tk_rnn("cudnn_gru").CuDNNGRU}[kind]
        plain = getattr(L, kind)
        mine = shaken(sequential(cudnn(3, return_sequences=True, name="one"), L.Bidirectional(cudnn(2, name="two"))))
        return mine, sequential(plain(3, return_sequences=True), L.Bidirectional(plain(2)))

    @pytest.mark.parametrize("suffix", [".h5", ".keras"])
    @pytest.mark.parametrize("kind", ["LSTM", "GRU"])
    def test_a_model_file(self, kind, suffix, tmp_path):
        mine, plain = self.models(kind)
        mine.save(tmp_path / f"old{suffix}")
        mine.save_weights(tmp_path / "weights.h5")
        plain.load_weights(tmp_path / "weights.h5")
        loaded = load(tmp_path / f"old{suffix}")
        assert_alike(loaded.model(X), plain(X))
        assert f"layer 'one': CuDNN{kind} became {kind}, which computes the same" in loaded.notes

    def test_weights_for_a_model_in_code(self, tmp_path):
        mine, plain = self.models("LSTM")
        mine.save_weights(tmp_path / "weights.h5")
        plain.load_weights(tmp_path / "weights.h5")
        L3 = keras.layers
        code = keras.Sequential([keras.Input((7, 4)), L3.LSTM(3, return_sequences=True), L3.Bidirectional(L3.LSTM(2))])
        assert_alike(load(code, tmp_path / "weights.h5").model(X), plain(X))


def tk_rnn(name):
    import importlib

    return importlib.import_module(f"tf_keras.src.layers.rnn.{name}")


class TestWeightsApart:
    def model(self):
        return shaken(sequential(
            L.Bidirectional(L.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid")), L.GRU(3), L.Dense(2)
        ))  # fmt: skip

    def code(self):
        L3 = keras.layers
        return keras.Sequential([
            keras.Input((7, 4), name="x"),
            L3.Bidirectional(L3.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid")),
            L3.GRU(3), L3.Dense(2),
        ])  # fmt: skip

    @pytest.mark.parametrize("name", ["weights.h5", "model.h5", "old.weights.h5"])
    def test_a_json_config(self, name, tmp_path):
        model = self.model()
        (tmp_path / "model.json").write_text(model.to_json())
        (model.save if name == "model.h5" else model.save_weights)(tmp_path / name)
        report = edgeseq.export(tmp_path / "model.json", tmp_path / "model.onnx", weights=tmp_path / name)
        assert any("hard_sigmoid" in note for note in report.notes)
        assert_alike(Model(tmp_path / "model.onnx")(inputs_of(model)), model(inputs_of(model)))

    @pytest.mark.parametrize("name", ["new.weights.h5", "new.h5"])
    def test_a_json_config_of_keras_3(self, name, tmp_path):
        model = self.code()
        (tmp_path / "model.json").write_text(model.to_json())
        (model.save if name == "new.h5" else model.save_weights)(tmp_path / name)
        loaded = load(tmp_path / "model.json", tmp_path / name)
        x = inputs_of(self.model())
        np.testing.assert_array_equal(loaded.model(x), model(x))
        assert loaded.notes == ()

    def test_a_model_in_code_stays_as_it_is(self, tmp_path):
        model, code = self.model(), self.code()
        model.save_weights(tmp_path / "weights.h5")
        x = inputs_of(model)
        before = np.asarray(code(x))
        report = edgeseq.export(code, tmp_path / "model.onnx", weights=tmp_path / "weights.h5")
        assert_alike(Model(tmp_path / "model.onnx")(x), model(x))
        assert report.notes[0] == "the weights weights.h5 were written by Keras 2.21.0"
        assert any("matched by their order" in note for note in report.notes)
        assert any("hard_sigmoid is clip" in note for note in report.notes)
        np.testing.assert_array_equal(code(x), before)
        assert code.layers[0].forward_layer.cell.recurrent_activation is keras.activations.hard_sigmoid

    def test_weights_that_do_not_tell_their_age(self, tmp_path):
        self.model().save_weights(tmp_path / "old.weights.h5")
        with pytest.raises(errors.Refused, match="does not tell whether Keras 2 or 3"):
            load(self.code(), tmp_path / "old.weights.h5")
        plain = shaken(sequential(L.LSTM(3), L.Dense(2)))
        plain.save_weights(tmp_path / "plain.weights.h5")
        code = keras.Sequential([keras.Input((7, 4)), keras.layers.LSTM(3), keras.layers.Dense(2)])
        assert_alike(load(code, tmp_path / "plain.weights.h5").model(X), plain(X))

    def test_a_mask_that_keras_3_would_lose_is_refused_in_code(self, tmp_path):
        model = shaken(seq2seq())
        model.save_weights(tmp_path / "weights.h5")
        L3 = keras.layers
        words, spoken = keras.Input((None,)), keras.Input((None,))
        _, h, c = L3.LSTM(5, return_state=True)(L3.Embedding(9, 4, mask_zero=True)(words))
        read = L3.Embedding(8, 3, mask_zero=True)(spoken)
        y = L3.LSTM(5, return_sequences=True, name="decoder")(read, initial_state=[h, c])
        code = keras.Model([words, spoken], L3.Dense(6)(L3.GRU(4, return_sequences=True)(y)))
        with pytest.raises(errors.UnsupportedLayer, match=r"'decoder'.*applied the mask of its input.*mask="):
            load(code, tmp_path / "weights.h5")

    def test_wrong_use(self, tmp_path):
        model = self.model()
        (tmp_path / "model.json").write_text(model.to_json())
        model.save_weights(tmp_path / "weights.h5")
        with pytest.raises(errors.WrongUsage, match="config without weights"):
            load(tmp_path / "model.json")
        with pytest.raises(errors.MissingInput, match="weights file not found"):
            load(tmp_path / "model.json", tmp_path / "nowhere.h5")
        with pytest.raises(errors.InvalidFile, match="not a file of weights"):
            load(tmp_path / "model.json", tmp_path / "model.json")
        with pytest.raises(errors.InvalidFile, match=r"holds weights and no model.*weights="):
            load(tmp_path / "weights.h5")
        with pytest.raises(errors.WrongUsage, match="no variables yet"):
            load(keras.Sequential([keras.layers.LSTM(3)]), tmp_path / "weights.h5")

        class Mine(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(errors.WrongUsage, match="Mine, whose code edgeseq cannot copy"):
            load(Mine(), tmp_path / "weights.h5")
        (tmp_path / "other.json").write_text('{"class_name": "Sequential", "config": []}')
        with pytest.raises(errors.InvalidFile, match="does not tell which Keras"):
            load(tmp_path / "other.json", tmp_path / "weights.h5")


def aged(path, version, **config):
    """The same file as another version of Keras would have written it; `config` changes its first recurrent layer."""
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = version
        document = json.loads(file.attrs["model_config"])
        for layer in document["config"]["layers"]:
            if layer["class_name"] in ("LSTM", "GRU"):
                for key, value in config.items():
                    del layer["config"][key]
                    if value is not None:
                        layer["config"][key] = value
                break
        file.attrs["model_config"] = json.dumps(document)
    return path


class TestAges:
    """What a config of another age means where it says nothing, and what masks did then."""

    @pytest.mark.parametrize(
        ("version", "gates"), [("2.0.5", "hard_sigmoid"), ("2.2.4", "hard_sigmoid"), ("2.3.1", "sigmoid")]
    )
    def test_gates_that_are_not_named(self, version, gates, tmp_path):
        model = shaken(sequential(L.LSTM(3, recurrent_activation=gates)))
        model.save(tmp_path / "old.h5")
        loaded = load(aged(tmp_path / "old.h5", version, recurrent_activation=None))
        assert_alike(loaded.model(X), model(X))

    def test_gates_that_tensorflow_1_and_2_read_in_two_ways_are_refused(self, tmp_path):
        sequential(L.LSTM(3, name="it")).save(tmp_path / "old.h5")
        with pytest.raises(errors.UnsupportedLayer, match=r"'it'.*no recurrent_activation.*two ways"):
            load(aged(tmp_path / "old.h5", "2.2.4-tf", recurrent_activation=None))

    def test_a_gru_without_reset_after(self, tmp_path):
        model = shaken(sequential(L.GRU(3, reset_after=False)))
        model.save(tmp_path / "old.h5")
        assert_alike(load(aged(tmp_path / "old.h5", "2.0.5", reset_after=None)).model(X), model(X))

    def test_masked_steps_of_a_bidirectional_repeat(self, tmp_path):
        model = shaken(sequential(L.Masking(), L.Bidirectional(L.LSTM(3, return_sequences=True), name="it")))
        model.save(tmp_path / "old.h5")
        x = inputs_of(model)
        assert_alike(load(tmp_path / "old.h5").model(x), model(x))
        both = model.layers[-1]
        both.forward_layer.zero_output_for_mask = both.backward_layer.zero_output_for_mask = False
        expected = model(x)
        edgeseq.export(aged(tmp_path / "old.h5", "2.2.4"), tmp_path / "model.onnx")
        assert_alike(Model(tmp_path / "model.onnx")(x), expected)
        assert "layer 'it': masked steps put out the output before them" in load(tmp_path / "old.h5").notes[-1]

    @pytest.mark.parametrize("version", ["2.2.4", "2.1.6-tf"])
    def test_masked_steps_before_the_first_with_a_state_are_refused(self, version, tmp_path):
        seq2seq().save(tmp_path / "old.h5")
        with pytest.raises(errors.UnsupportedLayer, match="has a mask and a state to begin with"):
            load(aged(tmp_path / "old.h5", version))

    def test_a_function_younger_than_the_file_is_its_authors_own(self, tmp_path):
        sequential(L.LSTM(3, activation="gelu", name="it")).save(tmp_path / "old.h5")
        with pytest.raises(errors.UnsupportedLayer, match=r"'it'.*'gelu' is not one of Keras 2.2.4's own"):
            load(aged(tmp_path / "old.h5", "2.2.4"))


class MyLayer(L.Layer):
    pass


def twice(x):
    return x * 2


def called_in_training():
    x = tk.Input((7, 4))
    return tk.Model(x, L.LSTM(3, name="it")(x, training=True))


def with_an_operator():
    x = tk.Input((7, 4))
    return tk.Model(x, L.LSTM(3)(x) * 2)


REFUSED = {
    "code in the file": (lambda: sequential(L.Lambda(lambda x: x * 2, name="it")), "'it'.*never run.*as weights"),
    "a class of the author's": (lambda: sequential(MyLayer(name="it")), "'it'.*MyLayer"),
    "a function of the author's": (lambda: sequential(L.LSTM(3, activation=twice, name="it")), "'it'.*twice"),
    "time before batch": (lambda: sequential(L.LSTM(3, time_major=True, name="it")), "'it'.*time_major=True"),
    "dropout while predicting": (called_in_training, "'it'.*training=True"),
    "an operator": (with_an_operator, "multiply.*TFOpLambda"),
    "a mask made inside": (
        lambda: sequential(L.TimeDistributed(L.Embedding(9, 3, mask_zero=True), name="it"), shape=(5, 6)), "'it'.*mask",
    ),
    "pictures enlarged smoothly": (
        lambda: sequential(L.UpSampling2D(interpolation="bilinear", name="it"), shape=(4, 4, 1)), "'it'.*bilinear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_not_known_is_refused_by_name(name, suffix, tmp_path):
    make, words = REFUSED[name]
    make().save(tmp_path / f"old{suffix}")
    with pytest.raises(errors.UnsupportedLayer, match=words) as caught:
        edgeseq.export(tmp_path / f"old{suffix}", tmp_path / "model.onnx")
    assert caught.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == [f"old{suffix}"]


class TestRefusedOfKeras1:
    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            (
                {"class_name": "Merge", "config": {"name": "it", "mode": "concat"}},
                "'it'.*Merge of Keras 1.*Concatenate",
            ),
            ({"class_name": "LSTM", "config": {**LSTM_1, **INPUT_1, "name": "it", "zoom": 2}}, "'it'.*zoom=2"),
            ({"class_name": "BatchNormalization", "config": {"name": "it", "mode": 2, **INPUT_1}}, "'it'.*mode=2"),
        ],
    )
    def test_by_name(self, entry, words, tmp_path):
        with pytest.raises(errors.UnsupportedLayer, match=words):
            load(keras_1_file(tmp_path / "old.h5", [entry], {}))

    def test_convolutions_that_did_not_run_on_tensorflow(self, tmp_path):
        config = [{"class_name": "Convolution1D", "config": CONVOLUTION_1}]
        weights = {"conv": {"W": np.zeros((2, 1, 4, 5)), "b": np.zeros(5)}}
        path = keras_1_file(tmp_path / "old.h5", config, weights, tensorflow=False)
        with pytest.raises(errors.UnsupportedLayer, match=r"'conv'.*not TensorFlow.*turned its kernels"):
            load(path)
        sequential(L.Conv1D(3, 2, name="it")).save(tmp_path / "theano.h5")
        with h5py.File(tmp_path / "theano.h5", "r+") as file:
            file["model_weights"].attrs["backend"] = "theano"
        with pytest.raises(errors.UnsupportedLayer, match=r"'it'.*on theano"):
            load(aged(tmp_path / "theano.h5", "2.1.0"))


class TestDamage:
    def file(self, tmp_path):
        shaken(sequential(L.LSTM(3, name="first", return_sequences=True), L.LSTM(3, name="second"))).save(
            tmp_path / "old.h5"
        )
        return tmp_path / "old.h5"

    def refused(self, path, words):
        with pytest.raises(errors.InvalidFile, match=words) as caught:
            load(path)
        assert caught.value.exit_code == 5

    def test_cut_short(self, tmp_path):
        path = self.file(tmp_path)
        path.write_bytes(path.read_bytes()[:3000])
        self.refused(path, "old.h5")

    def test_a_config_that_is_no_json(self, tmp_path):
        with h5py.File(self.file(tmp_path), "r+") as file:
            file.attrs["model_config"] = "{"
        self.refused(tmp_path / "old.h5", "damaged, or not as Keras writes it")

    def test_weights_of_another_shape(self, tmp_path):
        path = aged(self.file(tmp_path), "2.21.0", units=5)
        self.refused(path, r"weights of layer 'first' do not fit its config: their shapes are \(4, 12\).*\(4, 20\)")

    def test_a_layer_without_weights(self, tmp_path):
        with h5py.File(self.file(tmp_path), "r+") as file:
            file["model_weights"].attrs["layer_names"] = ["first"]
        self.refused(
            tmp_path / "old.h5", r"weights for 1 layers \(first\); the model has 2 with weights \(first, second\)"
        )

    def test_weights_in_another_order(self, tmp_path):
        with h5py.File(self.file(tmp_path), "r+") as file:
            group = file["model_weights/first"]
            group.attrs["weight_names"] = list(group.attrs["weight_names"])[::-1]
        self.refused(tmp_path / "old.h5", "layer 'first' do not fit: .*bias.* is where 'kernel' belongs")

    def test_weights_of_nested_layers_that_changed_places(self, tmp_path):
        inner = tk.Sequential([tk.Input((7, 4)), L.Dense(4, name="one"), L.Dense(4, name="two")], name="inner")
        shaken(sequential(inner, L.LSTM(2))).save(tmp_path / "old.h5")
        with h5py.File(tmp_path / "old.h5", "r+") as file:
            names = list(file["model_weights/inner"].attrs["weight_names"])
            file["model_weights/inner"].attrs["weight_names"] = [*names[2:], *names[:2]]
        self.refused(tmp_path / "old.h5", "weight 'two/kernel:0' is where one of layer 'one' belongs")

    def test_an_archive_without_its_config(self, tmp_path):
        sequential(L.LSTM(3)).save(tmp_path / "whole.keras")
        with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "part.keras", "w") as part:
            part.writestr("metadata.json", whole.read("metadata.json"))
        self.refused(tmp_path / "part.keras", "damaged")


def test_names_in_several_attributes(tmp_path):
    """Keras cuts a list of names above 64 KB into several attributes."""
    model = shaken(sequential(L.LSTM(3, name="a"), L.Dense(2, name="b")))
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        attributes = file["model_weights"].attrs
        for index, name in enumerate(attributes["layer_names"]):
            attributes[f"layer_names{index}"] = [name]
        del attributes["layer_names"]
    assert_alike(load(tmp_path / "old.h5").model(X), model(X))


def test_an_hdf5_file_named_keras(tmp_path):
    model = shaken(sequential(L.LSTM(3)))
    model.save(tmp_path / "old.h5")
    (tmp_path / "old.h5").rename(tmp_path / "old.keras")
    assert_alike(load(tmp_path / "old.keras").model(X), model(X))


def test_at_the_command_line(tmp_path, capsys):
    from edgeseq.__main__ import main

    model = shaken(sequential(L.GRU(3, recurrent_activation="hard_sigmoid", name="it")))
    model.save(tmp_path / "old.h5")
    model.save_weights(tmp_path / "weights.h5")
    (tmp_path / "model.json").write_text(model.to_json())
    assert main(["export", str(tmp_path / "old.h5"), "-o", str(tmp_path / "a.onnx")]) == 0
    assert "layer 'it': hard_sigmoid is clip(0.2 x + 0.5)" in " ".join(capsys.readouterr().out.split())
    assert main(["check", str(tmp_path / "a.onnx"), "-r", str(tmp_path / "old.h5")]) == 0
    config, weights = str(tmp_path / "model.json"), str(tmp_path / "weights.h5")
    assert main(["export", config, "--weights", weights, "-o", str(tmp_path / "b.onnx")]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert main(["export", config, "--weights", str(tmp_path / "no.h5"), "-o", str(tmp_path / "c.onnx")]) == 2
    assert main(["export", config, "-o", str(tmp_path / "c.onnx")]) == 2
    assert main(["export", str(tmp_path / "weights.h5"), "-o", str(tmp_path / "c.onnx")]) == 5
    assert "holds weights and no model" in " ".join(capsys.readouterr().err.split())
