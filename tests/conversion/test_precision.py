"""Mixed precision is exported in float32 and the distance told; double precision is exact in double."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.conversion.describe import _all_double
from edgeseq.runtime import Model
from edgeseq.runtime.manifest import TensorSpec


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def sequential(*layers, shape=(None, 4), **options):
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


def attention():
    x = keras.Input((None, 8))
    return keras.Model(x, L.LSTM(4)(L.MultiHeadAttention(2, 4)(x, x)))


# A model in each precision must be made anew: Keras reads the policy when a layer is made.
CASES = {
    "words": lambda: sequential(
        L.Embedding(50, 32, mask_zero=True), L.LSTM(32, return_sequences=True), L.Bidirectional(L.GRU(8)), L.Dense(3),
        shape=(None,), dtype="int32",
    ),
    "normalised": lambda: sequential(
        L.LayerNormalization(), L.BatchNormalization(), L.GRU(8, return_sequences=True, activation="elu"),
        L.TimeDistributed(L.Dense(2)), L.GlobalAveragePooling1D(),
    ),
    "stateful": lambda: keras.Sequential(
        [keras.Input(batch_shape=(2, 4, 3)), L.LSTM(5, stateful=True), L.Dense(1)]
    ),
    "other activations": lambda: sequential(
        L.SimpleRNN(5, activation="relu", return_sequences=True),
        L.LSTM(4, activation="hard_sigmoid", recurrent_activation="softsign", return_sequences=True),
        L.GRU(4, activation="selu", recurrent_activation="leaky_relu"),
    ),
    "a stack": lambda: sequential(L.Masking(), L.RNN([L.LSTMCell(4), L.GRUCell(5)], return_sequences=True)),
    "attention": attention,
}  # fmt: skip
CONVOLUTIONS = {
    "convolution": lambda: sequential(L.Conv1D(8, 3, padding="same"), L.LSTM(4)),
    "images": lambda: sequential(L.ConvLSTM2D(3, 3), shape=(4, 6, 6, 2)),
}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("name", [*CASES, *CONVOLUTIONS])
def test_mixed_precision_is_exported_in_float32(policy, name, tmp_path, randomized):
    model = randomized((CASES | CONVOLUTIONS)[name]())
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    report = edgeseq.export(model, tmp_path / "model.onnx")
    # Exact to the model computed in float32 ...
    assert report.parity
    assert all(tensor.data_type != onnx.TensorProto.FLOAT16 for tensor in onnx.load(report.path).graph.initializer)
    # ... and as far from the mixed one as 11 bits (float16) or 8 bits (bfloat16) of a number go.
    assert 0 < report.mixed_precision_distance < (0.005 if policy == "mixed_float16" else 0.05)
    assert policy in report.notes[0]
    assert [layer.dtype_policy.name for layer in model._flatten_layers()] == policies
    assert edgeseq.compare(report.path, model)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_a_mixed_model_is_as_before_after_a_failure(policy, tmp_path):
    model = sequential(L.LSTM(3), L.Lambda(lambda x: keras.ops.fori_loop(0, 3, lambda _, y: y * 2, x)))
    x = np.ones((2, 5, 4), np.float32)
    before = model.predict(x, verbose=0)
    assert before.dtype == np.float16
    with pytest.raises(errors.LoopRefused):
        edgeseq.export(model, tmp_path / "model.onnx")
    after = model.predict(x, verbose=0)
    assert after.dtype == np.float16
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("policy", ["float64"], indirect=True)
@pytest.mark.parametrize("name", list(CASES))
def test_double_precision_is_exact_in_double(policy, name, tmp_path, randomized):
    model = randomized(CASES[name]())
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert all(layer.strategy in ("scan", "unrolled") for layer in report.recurrent)
    assert all("double precision" in layer.reason for layer in report.recurrent)
    # Keras's LayerNormalization computes in float32 under any policy; all else has seven digits more than that.
    tolerance = 1e-5 if name == "normalised" else 1e-12
    assert all(output.tolerance == tolerance and output.within for output in report.parity.outputs)
    file = Model(report.path)
    assert all(spec.dtype == "float64" for spec in file.outputs)


@pytest.mark.parametrize("policy", ["float64"], indirect=True)
@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_what_onnxruntime_cannot_compute_in_double_is_refused(policy, name, tmp_path):
    with pytest.raises(errors.Refused, match=r"double precision|Conv"):
        edgeseq.export(CONVOLUTIONS[name](), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_cast_to_double_is_seen_behind_its_other_attributes():
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"]),
        onnx.helper.make_node("Cast", ["r"], ["y"], saturate=1, to=11),
    ]
    assert [attribute.name for attribute in nodes[1].attribute] == ["saturate", "to"]
    values = [onnx.helper.make_tensor_value_info(name, dtype, [2]) for name, dtype in (("x", 1), ("y", 11))]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    assert not _all_double(ir.from_proto(model), [TensorSpec(name="y", dtype="float64", axes=(2,))])
