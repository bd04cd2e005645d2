"""Names, reports, streams and files at their corners."""

from __future__ import annotations

import contextlib
import logging
import threading

import keras
import numpy as np
import pytest
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.conversion.bridge import working_tf2onnx
from edgeseq.runtime import Model


def sequential(*layers, shape=(None, 4), name="x"):
    return keras.Sequential([keras.Input(shape, name=name), *layers])


class TestNames:
    @pytest.mark.parametrize("name", ["weight_000", "Transpose_0", "node", "state_in.00.y.h"])
    def test_a_users_name_never_meets_one_of_ours(self, name, tmp_path):
        model = sequential(L.LSTM(3), L.Dense(2, name="weight_001"), name=name)
        edgeseq.export(model, tmp_path / "model.onnx")
        x = np.ones((2, 5, 4), np.float32)
        np.testing.assert_allclose(Model(tmp_path / "model.onnx")(x), model(x), atol=1e-6)

    def test_layers_may_be_called_anything(self, tmp_path):
        model = sequential(L.LSTM(3, name="mein lstm ü", stateful=False), L.Dense(2, name="größe [mm]"))
        report = edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
        assert report.recurrent[0].name == "mein lstm ü"
        assert report.states[0] == "state_in.00.mein_lstm__.h"
        assert Model(tmp_path / "model.onnx").outputs[0].name == "gr__e__mm_"


class TestReport:
    def test_layers_of_one_name_in_two_models_are_two(self, tmp_path):
        def part(kind):
            rnn = kind(4, return_sequences=True, name="rnn")
            return keras.Sequential([keras.Input((None, 4)), rnn], name=kind.__name__)

        parts = [part(L.LSTM), part(L.GRU)]
        report = edgeseq.export(sequential(*parts), tmp_path / "model.onnx")
        assert [(layer.name, layer.layer_type, layer.op_types) for layer in report.recurrent] == [
            ("rnn", "LSTM", ("LSTM",)),
            ("rnn", "GRU", ("GRU",)),
        ]

    def test_a_bidirectional_in_two_parts_is_one(self, tmp_path):
        both = L.Bidirectional(L.LSTM(3), backward_layer=L.GRU(5, go_backwards=True, activation="gelu"), name="both")
        report = edgeseq.export(sequential(both), tmp_path / "model.onnx")
        assert [(layer.name, layer.layer_type, layer.strategy) for layer in report.recurrent] == [
            ("both", "Bidirectional", "scan")
        ]
        assert set(report.recurrent[0].op_types) == {"LSTM", "Scan"}

    def test_training_is_no_part_of_what_a_model_is(self, tmp_path):
        model = sequential(L.LSTM(3))
        edgeseq.export(model, tmp_path / "one.onnx")
        model.compile("adam", "mse")
        edgeseq.export(model, tmp_path / "two.onnx")
        assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


class TestStreams:
    @pytest.mark.parametrize("static_first", [False, True])
    def test_a_static_input_beside_a_sequence(self, static_first, tmp_path):
        static, sequence = keras.Input((3,), name="about"), keras.Input((None, 4), name="steps")
        h = L.Concatenate()([L.LSTM(5)(sequence), static])
        inputs = [static, sequence] if static_first else [sequence, static]
        model = keras.Model(inputs, L.Dense(2, name="y")(h))
        edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
        random = np.random.default_rng(0)
        arrays = {
            "about": random.normal(size=(2, 3)).astype(np.float32),
            "steps": random.normal(size=(2, 7, 4)).astype(np.float32),
        }
        stream = Model(tmp_path / "model.onnx").stream(batch=2)
        for start in range(7):
            answer = stream.step({"about": arrays["about"], "steps": arrays["steps"][:, start : start + 1]})
        whole = model([arrays[tensor.name] for tensor in model.inputs], training=False)
        np.testing.assert_allclose(answer, whole, atol=1e-6)

    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (L.Softmax(axis=1, name="it"), "axis=1 works along the time axis"),
            (L.LayerNormalization(axis=1, name="it"), r"axis=\[?1\]? works along the time axis"),
            (L.PReLU(name="it"), "weights of its own for each time step"),
        ],
    )
    def test_layers_over_the_time_axis_are_refused(self, layer, reason, tmp_path):
        model = sequential(L.LSTM(3, return_sequences=True), layer, shape=(6, 4))
        with pytest.raises(errors.UnsupportedLayer, match=f"layer 'it'.*{reason}"):
            edgeseq.export(model, tmp_path / "model.onnx", streaming=True)

    def test_operations_over_the_time_axis_are_refused(self, tmp_path):
        x = keras.Input((None, 4), name="x")
        h = L.LSTM(3, return_sequences=True)(x)
        over_time = "one time step at a time", "axis=1 works along the time axis"
        for y, reason in zip((keras.ops.flip(h, axis=1), L.Concatenate(axis=1)([h, h])), over_time, strict=True):
            with pytest.raises(errors.UnsupportedLayer, match=reason):
                edgeseq.export(keras.Model(x, y), tmp_path / "model.onnx", streaming=True)

    def test_elementwise_operations_stream(self, tmp_path):
        x = keras.Input((None, 4), name="x")
        h = L.LSTM(4, return_sequences=True)(x)
        assert edgeseq.export(keras.Model(x, h * 2.0 + x), tmp_path / "model.onnx", streaming=True).parity

    def test_recurrent_layers_below_a_time_distributed_begin_from_zero_in_each_step(self, tmp_path):
        model = sequential(L.TimeDistributed(L.LSTM(3, name="it")), L.GRU(2, name="over"), shape=(None, 5, 4))
        assert edgeseq.export(model, tmp_path / "model.onnx", streaming=True).states == ("state_in.00.over.h",)
        x = keras.Input(batch_shape=(2, 3, 5, 4), name="x")
        stateful = keras.Model(x, L.TimeDistributed(L.LSTM(3, name="it", stateful=True))(x))
        with pytest.raises(errors.UnsupportedLayer, match=r"layer 'it'.*inside a TimeDistributed"):
            edgeseq.export(stateful, tmp_path / "stateful.onnx")

    @pytest.mark.parametrize("as_stateful", [False, True])
    def test_a_length_built_into_the_weights_is_refused(self, as_stateful, tmp_path):
        x = keras.Input(batch_shape=(2, 6, 4), name="x") if as_stateful else keras.Input((6, 4), name="x")
        steps = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
        y = L.LSTM(4, return_sequences=True, stateful=as_stateful)(x + steps)
        with pytest.raises(errors.Refused, match="cannot be fed in chunks"):
            edgeseq.export(keras.Model(x, y), tmp_path / "model.onnx", streaming=not as_stateful)

    def test_the_states_of_the_users_model_stay(self, tmp_path):
        model = keras.Sequential([keras.Input(batch_shape=(2, 4, 3), name="x"), L.LSTM(3, stateful=True)])
        model(np.ones((2, 4, 3)))
        before = [np.asarray(state) for state in model.layers[0].states]
        assert np.abs(before[0]).max() > 0
        edgeseq.export(model, tmp_path / "model.onnx")
        edgeseq.compare(tmp_path / "model.onnx", model)
        for state, kept in zip(model.layers[0].states, before, strict=True):
            np.testing.assert_array_equal(state, kept)

    def test_nothing_to_carry_is_refused(self, tmp_path):
        with pytest.raises(errors.Refused, match="nothing to stream"):
            edgeseq.export(sequential(L.Dense(3)), tmp_path / "model.onnx", streaming=True)
        x, state = keras.Input((None, 4), name="x"), keras.Input((3,), name="state")
        model = keras.Model([x, state], L.GRU(3, name="it")(x, initial_state=state))
        with pytest.raises(errors.UnsupportedLayer, match=r"layer 'it'.*initial state is given"):
            edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
        assert not list(tmp_path.iterdir())


class TestFiles:
    def test_a_folder_in_the_place_of_the_samples_is_left_alone(self, tmp_path):
        folder = tmp_path / "model.golden"
        folder.mkdir()
        (folder / "precious.txt").write_text("mine")
        with pytest.raises(errors.OutputExists, match=r"model\.golden"):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx")
        with pytest.raises(errors.WrongUsage, match="holds none"):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx", overwrite=True)
        assert (folder / "precious.txt").read_text() == "mine"

    @pytest.mark.parametrize("content", [b"", b"PK", b"not a model at all"])
    def test_a_damaged_keras_file_is_told(self, content, tmp_path):
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(errors.InvalidFile, match="damaged, or not a Keras model"):
            edgeseq.export(tmp_path / "bad.keras", tmp_path / "model.onnx")

    @pytest.mark.parametrize(
        ("step", "reason"),
        [
            ({"kind": "scale", "offset": [0, 0], "scale": [1, 1]}, "scales 2 features of 'x', which has 4"),
            (
                {
                    "kind": "text", "lowercase": True, "filters": "", "split": " ", "vocabulary": ["a"], "first_id": 4,
                    "pad_id": 0, "start_id": 1, "unknown_id": 2, "length": 5, "padding": "pre", "truncating": "pre",
                },
                "makes word ids for 'x', which takes float32",
            ),
        ],
    )  # fmt: skip
    def test_preprocessing_that_cannot_work_is_refused(self, step, reason, tmp_path):
        with pytest.raises(errors.WrongUsage, match=reason):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "m.onnx", preprocessing={"inputs": {"x": step}})

    @pytest.mark.parametrize("bad", [np.ones((0, 5, 4)), np.full((1, 5, 4), np.nan)])
    def test_samples_that_tell_nothing_are_refused(self, bad, tmp_path):
        with pytest.raises(errors.InputMismatch, match="are empty, or hold NaN"):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx", samples=bad)

    def test_samples_may_be_a_file_or_rows_of_numbers(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
        np.save(tmp_path / "x.npy", rows)
        for name, samples in (("file", tmp_path / "x.npy"), ("rows", rows.tolist())):
            report = edgeseq.export(sequential(L.LSTM(3)), tmp_path / f"{name}.onnx", samples=samples)
            assert report.parity.samples > 3

    def test_samples_by_a_wrong_name_are_refused(self, tmp_path):
        with pytest.raises(errors.InputMismatch, match="samples are named y; the model takes x"):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx", samples={"y": np.ones((1, 2, 4))})


def test_nan_in_the_weights_is_told(tmp_path):
    model = sequential(L.Dense(3))
    model.layers[0].bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(errors.ParityFailed, match="Keras's own answers hold NaN or infinity"):
        edgeseq.export(model, tmp_path / "model.onnx")


class Doubled(L.Dense):
    """Its weights are not what a Dense of that name has."""

    @property
    def kernel(self):
        return 2.0 * super().kernel


def test_a_subclass_of_dense_keeps_its_own_weights(tmp_path):
    model = sequential(L.LSTM(40), Doubled(40))
    assert edgeseq.export(model, tmp_path / "model.onnx").parity


def test_unequal_directions_are_two_ops_for_tensorrt(tmp_path):
    backward = L.LSTM(3, go_backwards=True, activation="relu")
    model = sequential(L.Bidirectional(L.LSTM(3), backward_layer=backward))
    assert edgeseq.export(model, tmp_path / "cpu.onnx").recurrent[0].strategy == "fused"
    report = edgeseq.export(model, tmp_path / "trt.onnx", target="tensorrt")
    assert report.recurrent[0].strategy == "scan"
    assert "TensorRT" in report.recurrent[0].reason


def test_what_is_patched_for_the_process_is_put_back_by_every_thread():
    logger = logging.getLogger("tf2onnx")
    before, had_object = logger.level, "object" in vars(np)

    def work():
        for _ in range(50):
            with working_tf2onnx():
                assert np.object is object

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (logger.level, "object" in vars(np)) == (before, had_object)


def test_fewer_steps_than_a_convolution_takes_are_told(tmp_path):
    model = sequential(L.LSTM(4, return_sequences=True), L.Conv1D(4, 3))
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert report.parity
    assert any("(2, 1, 4)" in note for note in report.notes)
    with pytest.raises(errors.InputMismatch):
        Model(tmp_path / "model.onnx")(np.zeros((2, 1, 4), np.float32))


def test_argmax_tells_zeros_apart_as_keras_does(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, [keras.ops.argmax(x, -1), keras.ops.argmin(x, -1)])
    edgeseq.export(model, tmp_path / "model.onnx")
    values = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, 1.0], [-3.0, -2.0, -1.0]], np.float32)
    for mine, keras_answer in zip(Model(tmp_path / "model.onnx")(values), model(values), strict=True):
        np.testing.assert_array_equal(mine, keras_answer)


class Sized(keras.Model):
    """Built by its first call, for as many steps as that has."""

    def __init__(self):
        super().__init__()
        self.lstm, self.flat, self.out = L.LSTM(4, return_sequences=True), L.Flatten(), L.Dense(2)

    def call(self, x):
        return self.out(self.flat(self.lstm(x)))


class Counting(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1)
        return x


def test_an_unbuilt_model_is_built_by_the_samples(tmp_path):
    model = Sized()
    x = np.ones((2, 5, 3), np.float32)
    assert edgeseq.export(model, tmp_path / "model.onnx", samples=x).parity
    assert model(x).shape == (2, 2)


def test_what_a_layer_counts_is_as_before(tmp_path):
    counting = Counting()
    model = sequential(L.LSTM(3), counting)
    before = float(counting.calls.value)
    with contextlib.suppress(errors.Refused):
        edgeseq.export(model, tmp_path / "model.onnx")
    assert float(counting.calls.value) == before
