"""Keras models through `export`: Keras is the oracle, inside the export and again here from outside."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers as L

import edgeseq
from edgeseq.conversion.convert import convert
from edgeseq.conversion.signature import read_signature
from edgeseq.runtime import Model

# The rule of the design: |a - b| <= 1e-5 x max(1, max |reference|), for float32 on the CPU.
TOLERANCE = 1e-5


def sequential(*layers, shape=(None, 4), **options):
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


def encoder_decoder():
    source, target = keras.Input((None, 4), name="source"), keras.Input((None, 3), name="target")
    _, h, c = L.LSTM(6, return_state=True)(source)
    y = L.LSTM(6, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], L.Dense(3, activation="softmax", name="words")(y))


def dicts():
    ids, values = keras.Input((None,), name="ids", dtype="int32"), keras.Input((None, 4), name="values")
    a = L.GRU(5)(L.Embedding(30, 6, mask_zero=True)(ids))
    b = L.Bidirectional(L.SimpleRNN(5), merge_mode="ave")(values)
    return keras.Model({"ids": ids, "values": values}, {"left": L.Dense(2)(a), "both": L.Concatenate()([a, b])})


def added():
    a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
    y = L.Add()([L.GRU(6, return_sequences=True)(a), L.GRU(6, return_sequences=True)(b)])
    return keras.Model([a, b], [y, L.GlobalAveragePooling1D(name="mean")(y)])


def twice():
    shared = L.LSTM(4, return_sequences=True, name="shared")
    a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
    return keras.Model([a, b], L.Concatenate(axis=1)([shared(a), shared(b)]))


def nested():
    inner = keras.Sequential([keras.Input((None, 4)), L.GRU(5, return_sequences=True, name="inner_gru")], name="inner")
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, L.Dense(2)(L.LSTM(3)(inner(x))))


def states():
    x = keras.Input((None, 4), name="x")
    y, fh, fc, bh, bc = L.Bidirectional(L.LSTM(3, return_sequences=True, return_state=True))(x)
    return keras.Model(x, [y, fh, fc, bh, bc])


def unmerged():
    x = keras.Input((None, 4), name="x")
    forward, backward = L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode=None)(x)
    return keras.Model(x, [forward, backward])


def unequal():
    backward = L.GRU(3, go_backwards=True, return_sequences=True, activation="relu")
    return sequential(L.Bidirectional(L.LSTM(3, return_sequences=True), backward_layer=backward))


def mask_as_input():
    x, mask = keras.Input((6, 4), name="x"), keras.Input((6,), dtype="bool", name="mask")
    return keras.Model([x, mask], L.LSTM(3, return_sequences=True)(x, mask=mask))


def state_as_input():
    x, state = keras.Input((None, 4), name="x"), keras.Input((3,), name="state")
    return keras.Model([x, state], L.GRU(3)(L.Masking()(x), initial_state=state))


def attention():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Embedding(30, 8, mask_zero=True)(ids))
    return keras.Model(ids, L.Dense(2)(L.GlobalMaxPooling1D()(L.Attention()([h, h]))))


def passed_through_and_twice():
    x = keras.Input((None, 4), name="x")
    y = L.LSTM(3, name="y")(x)
    return keras.Model(x, [x, y, y])


def normalized():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32))
    return sequential(layer, L.LSTM(3))


class Branch(L.Layer):
    """Recurrent layers inside a condition on the data."""

    def __init__(self):
        super().__init__()
        self.one, self.other = L.LSTM(3), L.GRU(3)

    def build(self, shape):
        self.one.build(shape)
        self.other.build(shape)

    def call(self, x):
        return keras.ops.cond(keras.ops.sum(x) > 0, lambda: self.one(x), lambda: self.other(x))

    def compute_output_shape(self, shape):
        return shape[0], 3


CASES = {
    "a Boolean mask passed in": mask_as_input,
    "an initial state passed in": state_as_input,
    "masked attention": attention,
    "an input passed through, an output twice": passed_through_and_twice,
    "normalized": normalized,
    "inside a condition": lambda: sequential(Branch()),
    "convolutions in TimeDistributed": lambda: sequential(
        L.TimeDistributed(L.Conv2D(3, 3, activation="relu")),
        L.TimeDistributed(L.Flatten()),
        L.LSTM(5),
        shape=(4, 8, 8, 1),
    ),
    "embedding and LSTM": lambda: sequential(
        L.Embedding(50, 8), L.LSTM(6), L.Dense(1, activation="sigmoid"), shape=(20,), dtype="int32"
    ),
    "ids declared as floats, masked": lambda: sequential(
        L.Embedding(50, 8, mask_zero=True), L.LSTM(6), L.Dense(2), shape=(None,)
    ),
    "stacked GRU, both resets": lambda: sequential(L.GRU(5, return_sequences=True), L.GRU(3, reset_after=False)),
    "stacked SimpleRNN": lambda: sequential(L.SimpleRNN(5, return_sequences=True), L.SimpleRNN(3, activation="relu")),
    "RNN of stock cells": lambda: sequential(
        L.RNN(L.GRUCell(5), return_sequences=True),
        L.RNN(L.LSTMCell(4), return_sequences=True),
        L.RNN(L.SimpleRNNCell(3)),
    ),
    "no bias, Keras 3's hard sigmoid": lambda: sequential(
        L.LSTM(5, recurrent_activation="hard_sigmoid", use_bias=False, return_sequences=True),
        L.GRU(5, recurrent_activation="hard_sigmoid", use_bias=False),
    ),
    "going backwards": lambda: sequential(
        L.GRU(5, return_sequences=True, go_backwards=True), L.LSTM(3, go_backwards=True)
    ),
    "dropout and regularizers do nothing": lambda: sequential(
        L.LSTM(5, dropout=0.5, recurrent_dropout=0.5, kernel_regularizer="l2", return_sequences=True),
        L.GRU(3, dropout=0.3),
    ),
    "unrolled in Keras": lambda: sequential(L.LSTM(5, unroll=True), shape=(6, 4)),
    "one step, one unit": lambda: sequential(L.LSTM(1), shape=(1, 1)),
    "Bidirectional, concatenated": lambda: sequential(
        L.Bidirectional(L.GRU(5, return_sequences=True)), L.Bidirectional(L.LSTM(3))
    ),
    "Bidirectional, merged otherwise": lambda: sequential(
        L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="sum"),
        L.Bidirectional(L.LSTM(5, return_sequences=True), merge_mode="mul"),
        L.Bidirectional(L.SimpleRNN(5), merge_mode="ave"),
    ),
    "Bidirectional of unequal layers": unequal,
    "Bidirectional whose forward layer goes backwards": lambda: sequential(
        L.Bidirectional(
            L.LSTM(3, return_sequences=True, go_backwards=True), backward_layer=L.LSTM(3, return_sequences=True)
        )
    ),
    "Bidirectional with states": states,
    "Bidirectional, not merged": unmerged,
    "masked stack": lambda: sequential(
        L.Masking(),
        L.GRU(5, return_sequences=True),
        L.LSTM(4, return_sequences=True, go_backwards=True),
        L.Bidirectional(L.SimpleRNN(3, return_sequences=True)),
        L.LSTM(3),
    ),
    "masked, through dense and pooling": lambda: sequential(
        L.Masking(mask_value=-1.0), L.LSTM(5, return_sequences=True), L.Dense(3), L.GlobalAveragePooling1D()
    ),
    "masked with zero outputs": lambda: sequential(
        L.Masking(), L.LSTM(4, return_sequences=True, zero_output_for_mask=True), L.LSTM(3, zero_output_for_mask=True)
    ),
    "activations that ONNX's ops lack": lambda: sequential(
        L.LSTM(5, activation="gelu", return_sequences=True), L.GRU(3, activation="silu", recurrent_activation="relu6")
    ),
    "the same, masked": lambda: sequential(
        L.Masking(), L.LSTM(5, activation="gelu", return_sequences=True), L.GRU(3, activation="silu")
    ),
    "the same, few fixed steps": lambda: sequential(
        L.Masking(), L.LSTM(5, activation="mish", return_sequences=True), L.GRU(3, activation="selu"), shape=(6, 4)
    ),
    "ConvLSTM2D, fixed time": lambda: sequential(
        L.ConvLSTM2D(4, 3, padding="same", activation="relu", return_sequences=True),
        L.ConvLSTM2D(2, (3, 2), strides=2),
        L.Flatten(),
        L.Dense(2),
        shape=(5, 8, 9, 2),
    ),
    "ConvLSTM2D, strides and same padding": lambda: sequential(
        L.ConvLSTM2D(3, 3, strides=2, padding="same", return_sequences=True), shape=(None, 8, 9, 2)
    ),
    "ConvLSTM2D, free time": lambda: sequential(
        L.ConvLSTM2D(4, 3, padding="same", return_sequences=True),
        L.BatchNormalization(),
        L.Conv3D(1, 3, padding="same", activation="sigmoid"),
        shape=(None, 8, 9, 2),
    ),
    "ConvLSTM1D, dilated, backwards": lambda: sequential(
        L.ConvLSTM1D(4, 3, dilation_rate=2, return_sequences=True, go_backwards=True), shape=(None, 18, 2)
    ),
    "ConvLSTM3D": lambda: sequential(L.ConvLSTM3D(2, 2, padding="same"), shape=(3, 4, 5, 6, 1)),
    "ConvLSTM2D, Bidirectional": lambda: sequential(
        L.Bidirectional(L.ConvLSTM2D(2, 3, padding="same", return_sequences=True)), shape=(4, 6, 6, 1)
    ),
    "TimeDistributed, free time": lambda: sequential(
        L.TimeDistributed(L.LSTM(3)), L.TimeDistributed(L.Dense(2)), shape=(None, 5, 4)
    ),
    "TimeDistributed, fixed time": lambda: sequential(
        L.TimeDistributed(L.Conv1D(3, 2)), L.TimeDistributed(L.Flatten()), L.GRU(3), shape=(4, 5, 4)
    ),
    "TimeDistributed, masked": lambda: sequential(
        L.Masking(), L.TimeDistributed(L.Dense(3)), L.LSTM(4)
    ),
    "beside convolution, attention and normalisation": lambda: sequential(
        L.Conv1D(6, 3, padding="same"), L.BatchNormalization(), L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.LayerNormalization(), L.GRU(4, return_sequences=True), L.GlobalMaxPooling1D(),
        L.Dense(2, activation="softmax"),
    ),
    "several inputs and outputs, dicts": dicts,
    "equally long sequences": added,
    "one layer called twice": twice,
    "a model in a model": nested,
    "encoder and decoder": encoder_decoder,
    "rescaled": lambda: sequential(L.Rescaling(0.5, 1.0), L.LSTM(4)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_native_and_exact(name, tmp_path, randomized):
    model = randomized(CASES[name]())
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert report.parity
    assert report.loops == 0
    assert all(output.tolerance == TOLERANCE for output in report.parity.outputs)

    # From outside: a fresh batch, through the runtime, in the model's own nesting.
    runtime = Model(tmp_path / "model.onnx")
    random = np.random.default_rng(5)
    lengths = {"batch": 3, "time": 8, "time_2": 8}
    arrays = {}
    for spec in runtime.inputs:
        shape = [axis if isinstance(axis, int) else lengths[axis] for axis in spec.axes]
        arrays[spec.name] = (
            random.integers(0, 30, shape).astype(spec.dtype)
            if spec.dtype == "int32"
            else random.random(shape) < 0.6
            if spec.dtype == "bool"
            else random.normal(size=shape).astype(spec.dtype)
        )
    nested_inputs = edgeseq.runtime.structure.nest(arrays, runtime.manifest.input_structure)
    expected = model(nested_inputs, training=False)
    answers = runtime(nested_inputs)
    assert keras.tree.lists_to_tuples(keras.tree.map_structure(lambda _: 0, answers)) == keras.tree.lists_to_tuples(
        keras.tree.map_structure(lambda _: 0, expected)
    )
    for mine, theirs in zip(keras.tree.flatten(answers), keras.tree.flatten(expected), strict=True):
        theirs = np.asarray(theirs)
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


def test_every_recurrent_layer_is_in_the_report(tmp_path):
    model = sequential(
        L.Bidirectional(L.GRU(5, return_sequences=True), name="both"), L.LSTM(4, activation="gelu", name="last")
    )
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert [(r.name, r.layer_type, r.strategy, r.op_types) for r in report.recurrent] == [
        ("both", "Bidirectional", "fused", ("GRU",)),
        ("last", "LSTM", "scan", ("Scan",)),
    ]
    assert "gelu" in report.recurrent[1].reason
    # An application that only has the file can say why too.
    assert Model(tmp_path / "model.onnx").manifest.recurrent == report.recurrent
    assert report.parameters == model.count_params()


def test_the_imdb_graph_holds_nothing_but_its_work(tmp_path):
    model = sequential(L.Embedding(50, 8), L.LSTM(6), L.Dense(1, activation="sigmoid"), shape=(20,), dtype="int32")
    edgeseq.export(model, tmp_path / "model.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert ops == ["Transpose", "Gather", "LSTM", "Squeeze", "MatMul", "Sigmoid"] or ops == [
        "Transpose", "Gather", "LSTM", "Squeeze", "MatMul", "Add", "Sigmoid",
    ]  # fmt: skip


@pytest.mark.parametrize("lowering", ["fused", "scan", "unrolled"])
def test_a_lowering_can_be_forced(lowering, tmp_path, randomized):
    model = randomized(sequential(L.Masking(), L.GRU(5, return_sequences=True), L.LSTM(3), shape=(6, 4)))
    report = edgeseq.export(model, tmp_path / "model.onnx", lowering=lowering)
    assert {layer.strategy for layer in report.recurrent} == {lowering}


@pytest.mark.parametrize("opset", [15, 16, 17, 18])
def test_every_opset_that_can_be_written(opset, tmp_path):
    model = sequential(L.Masking(), L.Bidirectional(L.LSTM(5, return_sequences=True)), L.GRU(3, activation="gelu"))
    edgeseq.export(model, tmp_path / "model.onnx", opset=opset)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset


def test_axes_are_named_after_what_they_follow(tmp_path):
    edgeseq.export(encoder_decoder(), tmp_path / "model.onnx")
    model = Model(tmp_path / "model.onnx")
    assert [spec.axes for spec in model.inputs] == [("batch", "time", 4), ("batch", "time_2", 3)]
    assert [spec.axes for spec in model.outputs] == [("batch", "time_2", 3)]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_outputs()[0].shape == ["batch", "time_2", 3]


def every_step(x):
    return L.LSTM(2, return_sequences=True)(x)


@pytest.mark.parametrize(
    ("make", "axes"),
    [
        (lambda a, b, c, d: [L.Add()([a, b]), every_step(c), every_step(d)], ["time", "time_3", "time_4"]),
        (lambda a, b, c, d: [L.Add()([b, c]), every_step(a), every_step(d)], ["time_2", "time", "time_4"]),
        # Two pairs; an answer of a pair has either one's name.
        (lambda a, b, c, d: [L.Add()([a, c]), L.Add()([b, d]), every_step(d)], ["time", "time_2", "time_2"]),
        (lambda a, b, c, d: [L.Concatenate()([a, b, c]), every_step(d), every_step(c)], ["time", "time_4", "time"]),
        (lambda a, b, c, d: [L.Add()([a, b, d]), L.Attention()([a, c]), c], ["time", "time", "time_3"]),
        # As long as two of them, or as a part of one.
        (lambda a, b, c, d: [L.Concatenate(axis=1)([a, b]), c[:, ::2], L.MaxPooling1D(30, padding="same")(d)], None),
    ],
)  # fmt: skip
def test_axes_are_named_after_what_they_follow_where_others_must_be_equal(make, axes):
    a, b, c, d = (keras.Input((None, 2), name=name) for name in "abcd")
    options = {"opset": 18, "target": "cpu", "streaming": False, "lowering": "auto", "allow_loop": False}
    outputs = convert(read_signature(keras.Model([a, b, c, d], make(a, b, c, d))), **options).outputs
    expected = axes or [f"{spec.name}_1" for spec in outputs]
    assert [spec.axes[:2] for spec in outputs] == [("batch", axis) for axis in expected]


def test_a_mask_that_only_must_not_be_longer_is_still_as_long(tmp_path):
    # The graph takes fewer mask values than steps, which Keras does not.
    x, mask = keras.Input((None, 4), name="x"), keras.Input((None,), dtype="bool", name="mask")
    model = keras.Model([x, mask], L.SimpleRNN(3, return_sequences=True, go_backwards=True)(x, mask=mask))
    edgeseq.export(model, tmp_path / "model.onnx")
    (output,) = Model(tmp_path / "model.onnx").outputs
    assert output.axes in (("batch", "time", 3), ("batch", "time_2", 3))


def test_ids_are_int32_however_keras_declares_them(tmp_path):
    edgeseq.export(sequential(L.Embedding(50, 8), L.LSTM(3), shape=(None,)), tmp_path / "model.onnx")
    model = Model(tmp_path / "model.onnx")
    assert model.inputs[0].dtype == "int32"
    ids = np.array([[3, 4, 5]])
    np.testing.assert_array_equal(model(ids), model(ids.astype(np.float32)))


def test_golden_samples_hold_keras_answers_in_onnx_own_convention(tmp_path):
    model = dicts()
    edgeseq.export(model, tmp_path / "model.onnx")
    folder = tmp_path / "model.golden" / "test_data_set_0"
    graph = onnx.load(tmp_path / "model.onnx").graph
    arrays = {}
    for prefix, values in (("input", graph.input), ("output", graph.output)):
        for index, value in enumerate(values):
            tensor = onnx.load_tensor(folder / f"{prefix}_{index}.pb")
            assert tensor.name == value.name
            arrays[value.name] = onnx.numpy_helper.to_array(tensor)
    expected = model({"ids": arrays["ids"], "values": arrays["values"]}, training=False)
    for name in ("left", "both"):
        np.testing.assert_allclose(arrays[name], expected[name], atol=1e-6)


def test_samples_given_become_the_golden_ones(tmp_path):
    samples = np.random.default_rng(0).normal(size=(4, 6, 4)).astype(np.float32)
    edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx", samples=samples)
    tensor = onnx.load_tensor(tmp_path / "model.golden" / "test_data_set_0" / "input_0.pb")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), samples)


def test_a_subclassed_model_is_exported_from_samples(tmp_path):
    class Stack(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [L.GRU(5, return_sequences=True), L.LSTM(4)]
            self.out = L.Dense(2)

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return {"answer": self.out(x), "length": keras.ops.sum(x, axis=-1)}

    model = Stack()
    samples = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    report = edgeseq.export(model, tmp_path / "model.onnx", samples=samples)
    assert [layer.op_types for layer in report.recurrent] == [("GRU",), ("LSTM",)]
    answers = Model(tmp_path / "model.onnx")(samples)
    np.testing.assert_allclose(answers["answer"], model(samples)["answer"], atol=1e-6)


def test_a_model_without_inputs_asks_for_samples(tmp_path):
    with pytest.raises(edgeseq.errors.WrongUsage, match=r"the inputs of model .* are unknown.*samples="):
        edgeseq.export(keras.Sequential([L.LSTM(3)]), tmp_path / "model.onnx")


class Sum(L.Layer):
    def call(self, pair):
        return pair[0] + pair[1]


def test_a_sequential_that_takes_a_list_is_exported_from_samples(tmp_path):
    model = keras.Sequential([Sum(), L.LSTM(3)])
    samples = [np.ones((2, 5, 4), np.float32), np.full((2, 5, 4), 0.5, np.float32)]
    assert edgeseq.export(model, tmp_path / "model.onnx", samples=samples).parity
    np.testing.assert_allclose(Model(tmp_path / "model.onnx")(samples), model(samples), atol=1e-6)
