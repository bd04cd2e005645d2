"""Cleaning removes litter and nothing else: the same bits before and after, in as few nodes as the work takes."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from keras import layers as L
from onnx import TensorProto, helper, numpy_helper

import edgeseq
from edgeseq.conversion import convert as conversion
from edgeseq.conversion.cleaning.rules import clean
from edgeseq.conversion.signature import read_signature

FLOAT, INT64, INT32, BOOL, DOUBLE = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.DOUBLE,
)


def sequential(*layers, shape=(None, 4), **options):
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


def functional(make, shape=(None, 4), **options):
    x = keras.Input(shape, name="x", **options)
    return keras.Model(x, make(x))


def attention(x):
    y = L.LSTM(8, return_sequences=True)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 4)(y, y)]))
    return L.Dense(2)(L.GlobalAveragePooling1D()(y))


def masked_attention(x):
    y = L.LSTM(8, return_sequences=True)(L.Embedding(50, 8, mask_zero=True)(x))
    return L.Dense(1)(L.GlobalAveragePooling1D()(L.Attention()([y, y])))


def residual(x):
    y = L.Add()([x, L.LSTM(4, return_sequences=True)(x)])
    y = L.ReLU()(L.Add()([y, L.LSTM(4, return_sequences=True)(y)]))
    return L.LSTM(3)(y)


class Taken(L.Layer):
    def build(self, _):
        self.table = self.add_weight(shape=(50, 8), name="table")

    def call(self, ids):
        return keras.ops.take(self.table, ids, axis=0)


# The nodes that are left, or only their number where most of them are a layer's own work.
MODELS = {
    "imdb": (
        lambda: sequential(
            L.Embedding(10_000, 128), L.LSTM(128), L.Dense(1, activation="sigmoid"), shape=(None,), dtype="int32"
        ),
        "Transpose Gather LSTM Squeeze Gemm Sigmoid",
    ),
    "stack": (
        lambda: sequential(L.LSTM(8, return_sequences=True), L.GRU(8, return_sequences=True), L.LSTM(6), L.Dense(3)),
        "Transpose LSTM Squeeze GRU Squeeze LSTM Squeeze Gemm",
    ),
    "dense layers": (
        lambda: sequential(L.LSTM(6), L.Dense(8, activation="relu"), L.Dense(2)),
        "Transpose LSTM Squeeze Gemm Relu Gemm",
    ),
    "normalised batches between": (
        lambda: sequential(L.LSTM(6, return_sequences=True), L.BatchNormalization(), L.LSTM(6), L.Dense(1)),
        "Transpose LSTM Squeeze Transpose Mul Transpose LSTM Squeeze Gemm",
    ),
    "residual": (
        lambda: functional(residual),
        "Transpose LSTM Squeeze Transpose Add Transpose LSTM Squeeze Transpose Add Relu Transpose LSTM Squeeze",
    ),
    "the last step, by index": (
        lambda: functional(lambda x: L.Dense(1)(L.LSTM(6, return_sequences=True)(x)[:, -1, :])),
        "Transpose LSTM Squeeze Transpose Gather Gemm",
    ),
    "the last step, taken": (
        lambda: functional(lambda x: L.Dense(1)(keras.ops.take(L.GRU(6, return_sequences=True)(x), -1, axis=1))),
        "Transpose GRU Squeeze Transpose Gather Gemm",
    ),
    "the first step": (
        lambda: functional(lambda x: L.Dense(1)(L.LSTM(6, return_sequences=True)(x)[:, 0])),
        "Transpose LSTM Squeeze Transpose Gather Gemm",
    ),
    "rows of a table, taken": (
        lambda: functional(lambda x: L.LSTM(4)(Taken()(x)), shape=(None,), dtype="int32"),
        "Transpose Gather LSTM Squeeze",
    ),
    "permuted": (
        lambda: sequential(L.Permute((2, 1)), L.LSTM(6, return_sequences=True), L.Permute((2, 1)), shape=(5, 4)),
        "Transpose LSTM Squeeze Transpose",
    ),
    "convolutions": (
        lambda: sequential(L.Conv1D(8, 3, activation="relu"), L.MaxPooling1D(2), L.LSTM(6), L.Dense(1)),
        "Unsqueeze Transpose Conv Relu MaxPool Squeeze Transpose LSTM Squeeze Gemm",
    ),
    "distributed over time": (
        lambda: sequential(L.LSTM(6, return_sequences=True), L.TimeDistributed(L.LayerNormalization()), L.LSTM(3)),
        25,
    ),
    "images over time": (
        lambda: sequential(
            L.TimeDistributed(L.Conv2D(4, 3)), L.TimeDistributed(L.Flatten()), L.LSTM(6), shape=(None, 8, 8, 1)
        ),
        12,
    ),
    "attention": (lambda: functional(attention), 39),
    "masked attention": (lambda: functional(masked_attention, shape=(None,), dtype="int32"), 45),
    "masks, stacked": (
        lambda: sequential(L.Masking(), L.LSTM(8, return_sequences=True), L.Bidirectional(L.GRU(6)), L.Dense(2)),
        42,
    ),
    "scan": (lambda: sequential(L.GRU(4, activation="gelu"), L.Dense(1)), None),
    "steps written out": (lambda: sequential(L.GRU(4, activation="gelu"), shape=(3, 4)), None),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_models_are_clean_and_answer_with_the_same_bits(name, monkeypatch, randomized):
    make, left = MODELS[name]
    signature = read_signature(randomized(make()))
    options = {"opset": 18, "target": "cpu", "streaming": False, "lowering": "auto", "allow_loop": False}
    cleaned = conversion.convert(signature, **options)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "clean", lambda _: None)
        littered = conversion.convert(signature, **options)
    ops = [node.op_type for node in cleaned.graph.graph]
    if isinstance(left, str):
        assert sorted(ops) == sorted(left.split())
    elif left is not None:
        assert len(ops) <= left, ops
    random = np.random.default_rng(3)
    for batch, time in ((1, 6), (3, 11)):
        sizes = {"batch": batch, "time": time}
        (spec,) = cleaned.inputs
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes]
        x = random.standard_normal(shape) if spec.dtype == "float32" else random.integers(0, 50, shape)
        feeds = {"x": x.astype(spec.dtype)}
        ours, theirs = run(ir.to_proto(cleaned.graph), feeds), run(ir.to_proto(littered.graph), feeds)
        for mine, other in zip(ours, theirs, strict=True):
            # Gemm, a convolution with its bias, and Einsum as a product may round sums otherwise: a few units of the
            # last place of float32 (6e-8), for sums of at most 128 products.
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)
            if not {"Gemm", "Conv", "MatMul"} & set(ops):
                np.testing.assert_array_equal(mine, other)


def test_infinity_that_a_mask_leaves_out_stays_out(tmp_path):
    # tf2onnx multiplies what is masked with zero, and infinity x 0 is NaN.
    model = functional(lambda x: keras.ops.where(x > 0, 1 / x, 0.0))
    edgeseq.export(model, tmp_path / "model.onnx")
    x = np.array([[[0.0, -0.0, 2.0, -4.0]]], np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[[0, 0, 0.5, 0]]])


def run(model, feeds):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def graph(nodes, inputs, outputs, constants, opset=18):
    """A model of `nodes`, (op type, inputs, output, attributes) each."""
    made = [helper.make_node(op, names.split(), [output], **attributes) for op, names, output, attributes in nodes]
    return helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        ),
        ir_version=9,
        opset_imports=[helper.make_opsetid("", opset)],
    )


def after_cleaning(model, feeds):
    """The ops that are left, after a look that the answers are the same."""
    cleaned = ir.from_proto(model)
    clean(cleaned)
    ir.passes.common.TopologicalSortPass()(cleaned)
    proto = ir.to_proto(cleaned)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.output] == [value.name for value in model.graph.output]
    for mine, other in zip(run(proto, feeds), run(model, feeds), strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)
    return [node.op_type for node in cleaned.graph]


RANDOM = np.random.default_rng(0)
CUBE = RANDOM.standard_normal((3, 3, 3)).astype(np.float32)
X = {"x": (FLOAT, ["batch", "time", 3])}


class TestTranspositions:
    def test_that_are_not_inverse_become_one(self):
        nodes = [("Transpose", "x", "t", {"perm": [1, 2, 0]}), ("Transpose", "t", "y", {"perm": [1, 2, 0]})]
        assert after_cleaning(graph(nodes, X, {"y": FLOAT}, {}), {"x": CUBE[:2]}) == ["Transpose"]

    def test_that_name_no_order_are_left(self):
        nodes = [("Transpose", "x", "t", {}), ("Transpose", "t", "y", {})]
        assert after_cleaning(graph(nodes, X, {"y": FLOAT}, {}), {"x": CUBE[:2]}) == ["Transpose", "Transpose"]

    def test_of_rows_of_a_table_are_of_their_ids(self):
        def rows(perm, **more):
            nodes = [("Gather", "table i", "g", {}), ("Transpose", "g", "y", {"perm": perm})]
            model = graph(nodes, {"i": (INT64, ["batch", "time"])}, {"y": FLOAT, **more}, {"table": CUBE[0]})
            return after_cleaning(model, {"i": np.array([[0, 1, 2, 1], [2, 2, 0, 1]])})

        assert rows([1, 0, 2]) == ["Transpose", "Gather"]
        # The vectors themselves are reordered, or wanted as they were as well.
        assert rows([0, 2, 1]) == ["Gather", "Transpose"]
        assert rows([1, 0, 2], g=FLOAT) == ["Gather", "Transpose"]
        # A table of matrices.
        nodes = [("Gather", "table i", "g", {}), ("Transpose", "g", "y", {"perm": [1, 0, 2]})]
        model = graph(nodes, {"i": (INT64, ["batch"])}, {"y": FLOAT}, {"table": CUBE})
        assert after_cleaning(model, {"i": np.array([0, 2])}) == ["Gather", "Transpose"]


class TestShapes:
    def test_lengths_of_the_input_in_their_places_make_a_constant_target(self):
        nodes = [
            ("Relu", "x", "r", {}),
            ("Shape", "r", "s", {}),
            ("Cast", "s", "i", {"to": INT32}),
            ("Slice", "i zero one zero", "b", {}),
            ("Concat", "b rest", "c", {"axis": 0}),
            ("Cast", "c", "t", {"to": INT64}),
            ("Reshape", "r t", "y", {}),
        ]
        constants = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1], np.int32)}
        ops = after_cleaning(graph(nodes, X, {"y": FLOAT}, constants), {"x": CUBE[:2]})
        assert ops == ["Relu", "Reshape"]

    def test_two_free_lengths_are_one_shape(self):
        nodes = [
            ("Reshape", "x rows", "r", {}),
            ("Shape", "x", "s", {}),
            ("Cast", "s", "i", {"to": INT32}),
            ("Gather", "i zero", "b", {}),
            ("Gather", "i one", "t", {}),
            ("Concat", "b t three", "c", {"axis": 0}),
            ("Cast", "c", "w", {"to": INT64}),
            ("Reshape", "r w", "y", {}),
        ]
        constants = {
            "rows": np.array([-1, 3]),
            "zero": np.array([0]),
            "one": np.array([1]),
            "three": np.array([3], np.int32),
        }
        ops = after_cleaning(graph(nodes, X, {"y": FLOAT}, constants), {"x": CUBE[:2]})
        assert sorted(ops) == ["Concat", "Reshape", "Reshape", "Shape"]

    def test_other_lengths_are_not_taken_for_the_inputs(self):
        nodes = [("Shape", "z", "s", {}), ("Reshape", "x s", "y", {})]
        inputs = {"x": (FLOAT, ["batch", "time"]), "z": (FLOAT, ["time", "batch"])}
        model = graph(nodes, inputs, {"y": FLOAT}, {})
        ops = after_cleaning(model, {"x": CUBE[0, :2], "z": CUBE[0, :, :2]})
        assert ops == ["Shape", "Reshape"]

    def test_known_lengths_are_constants(self):
        nodes = [
            ("Shape", "x", "s", {"start": 2}),
            ("Mul", "s two", "m", {}),
            ("Concat", "minus m", "t", {"axis": 0}),
            ("Reshape", "d t", "y", {}),
            ("Concat", "x x", "d", {"axis": 0}),
        ]
        nodes = [nodes[0], nodes[1], nodes[2], nodes[4], nodes[3]]
        model = graph(nodes, X, {"y": FLOAT}, {"two": np.array([2]), "minus": np.array([-1])})
        assert after_cleaning(model, {"x": CUBE[:2]}) == ["Concat", "Reshape"]

    def test_numbers_of_the_callers_are_not_lengths(self):
        nodes = [("Concat", "n three", "t", {"axis": 0}), ("Reshape", "x t", "y", {})]
        inputs = X | {"n": (INT64, [1])}
        model = graph(nodes, inputs, {"y": FLOAT}, {"three": np.array([3])})
        assert after_cleaning(model, {"x": CUBE[:2], "n": np.array([6])}) == ["Concat", "Reshape"]


class TestIndices:
    def wrapped(self, length, bound=0.0):
        nodes = [
            ("Cast", "i", "f", {"to": FLOAT}),
            ("Less", "f bound", "n", {}),
            ("Add", "i length", "a", {}),
            ("Where", "n a i", "w", {}),
            ("Gather", "x w", "y", {"axis": 0}),
        ]
        inputs = {"x": (FLOAT, [5, 3]), "i": (INT32, ["n"])}
        return graph(nodes, inputs, {"y": FLOAT}, {"bound": np.float32(bound), "length": np.int32(length)})

    def test_below_zero_need_no_help(self):
        feeds = {"x": np.arange(15, dtype=np.float32).reshape(5, 3), "i": np.array([-5, 4, -1, 0], np.int32)}
        assert after_cleaning(self.wrapped(5), feeds) == ["Gather"]
        # By another length, or from another bound on, it is something else.
        feeds["i"] = np.array([-4, 4, -1, 0], np.int32)
        assert len(after_cleaning(self.wrapped(4), feeds)) == 5
        feeds["i"] = np.array([-2, 3], np.int32)
        assert len(after_cleaning(self.wrapped(5, -1.0), feeds)) == 5

    def test_a_cut_of_one_step_is_a_gather_and_of_more_is_not(self):
        def cut(start, end, step=1):
            nodes = [("Slice", "x starts ends axes steps", "s", {}), ("Squeeze", "s one", "y", {})]
            constants = {
                "starts": np.array([0, start, 0]),
                "ends": np.array([2**31 - 1, end, 2**31 - 1]),
                "axes": np.array([0, 1, 2]),
                "steps": np.array([1, step, 1]),
                "one": np.array([1]),
            }
            return graph(nodes, X, {"y": FLOAT}, constants)

        for start, end in ((-1, 2**31 - 1), (0, 1), (1, 2), (-2, -1)):
            assert after_cleaning(cut(start, end), {"x": CUBE[:2]}) == ["Gather"], (start, end)
        assert after_cleaning(cut(2, 0, -2), {"x": CUBE[:2]}) == ["Slice", "Squeeze"]
        assert after_cleaning(cut(2, 9), {"x": CUBE[:2]}) == ["Slice", "Squeeze"]


class TestSingleOps:
    def one(self, nodes, feeds, inputs=None, output=FLOAT, **constants):
        return after_cleaning(graph(nodes, inputs or X, {"y": output}, constants), feeds)

    def test_casts_go_where_they_lose_nothing(self):
        def casts(first, second, dtype=FLOAT, array=CUBE * 300):
            nodes = [("Cast", "x", "c", {"to": first}), ("Cast", "c", "y", {"to": second})]
            return self.one(nodes, {"x": array}, {"x": (dtype, ["batch", "time", 3])}, second)

        whole = (CUBE * 3e9).astype(np.int64)
        assert casts(DOUBLE, FLOAT) == ["Identity"]
        assert casts(INT32, FLOAT) == ["Cast", "Cast"]
        assert casts(TensorProto.INT8, INT64, INT64, whole) == ["Cast", "Cast"]
        assert casts(FLOAT, INT64, INT64, whole) == ["Cast", "Cast"]
        assert casts(INT32, FLOAT, BOOL, CUBE > 0) == ["Cast"]

    def test_a_product_of_sequences_or_with_another_sum_is_no_gemm(self):
        matrix, bias = CUBE[0], CUBE[0, 0]
        nodes = [("MatMul", "x m", "p", {}), ("Add", "b p", "y", {})]
        rows = {"x": (FLOAT, ["batch", 3])}
        assert self.one(nodes, {"x": CUBE[0]}, rows, m=matrix, b=bias) == ["Gemm"]
        assert self.one(nodes, {"x": CUBE}, m=matrix, b=bias) == ["MatMul", "Add"]
        assert self.one(nodes, {"x": CUBE[0]}, rows, m=matrix, b=CUBE[1]) == ["MatMul", "Add"]
        assert self.one(nodes, {"x": CUBE[0, :1]}, rows, m=matrix[:, :1], b=bias) == ["MatMul", "Add"]
        again = [*nodes, ("Mul", "p y", "z", {})]
        model = graph(again, rows, {"y": FLOAT, "z": FLOAT}, {"m": matrix, "b": bias})
        assert after_cleaning(model, {"x": CUBE[0]}) == ["MatMul", "Add", "Mul"]

    def test_reshapes_of_reshapes_and_to_what_is_there(self):
        nodes = [("Reshape", "x a", "r", {}), ("Reshape", "r b", "y", {})]
        assert self.one(nodes, {"x": CUBE}, a=np.array([-1]), b=np.array([9, 3])) == ["Reshape"]
        # A zero means the length of the input in that place.
        assert self.one(nodes, {"x": CUBE}, a=np.array([9, 3]), b=np.array([0, 3, 1])) == ["Reshape", "Reshape"]
        nodes = [("Relu", "x", "r", {}), ("Reshape", "r b", "y", {})]
        assert self.one(nodes, {"x": CUBE}, b=np.array([0, -1, 3])) == ["Relu"]
        assert self.one(nodes, {"x": CUBE}, b=np.array([-1, 0, 3])) == ["Relu"]
        assert self.one(nodes, {"x": CUBE}, b=np.array([-1, 3, 3])) == ["Relu", "Reshape"]
        # With `allowzero` it means zero, which only what is empty can be reshaped to.
        nodes[1][3]["allowzero"] = 1
        empty = {"x": (FLOAT, ["batch", 0])}
        assert self.one(nodes, {"x": CUBE[0, :2, :0]}, empty, b=np.array([0, 0])) == ["Relu", "Reshape"]

    @pytest.mark.parametrize(
        ("equation", "shapes", "ops"),
        [
            ("abcd,aecd->acbe", [(2, 5, 3, 4), (2, 6, 3, 4)], ["Transpose", "Transpose", "MatMul"]),
            ("acbe,aecd->abcd", [(2, 3, 5, 6), (2, 6, 3, 4)], ["Transpose", "MatMul", "Transpose"]),
            ("ab,bc->ac", [(2, 5), (5, 3)], ["MatMul"]),
            ("ab,cb->ca", [(2, 5), (3, 5)], ["Transpose", "MatMul", "Transpose"]),
            ("bt,btf->bf", [(2, 5), (2, 5, 3)], ["Einsum"]),
            ("ab,bc->a", [(2, 5), (5, 3)], ["Einsum"]),
            ("aab,bc->ac", [(2, 2, 5), (5, 3)], ["Einsum"]),
            ("abc,adc->abd", [(2, 5, 3), (2, 4, 3)], ["Transpose", "MatMul"]),
            ("ab,ab->ab", [(2, 5), (2, 5)], ["Einsum"]),
        ],
    )
    def test_einsum_that_is_a_product(self, equation, shapes, ops):
        x, z = (RANDOM.standard_normal(shape).astype(np.float32) for shape in shapes)
        inputs = {"x": (FLOAT, list(shapes[0])), "z": (FLOAT, list(shapes[1]))}
        found = self.one([("Einsum", "x z", "y", {"equation": equation})], {"x": x, "z": z}, inputs)
        assert sorted(found) == sorted(ops)

    @pytest.mark.parametrize(
        ("equation", "shapes", "ops"),
        [
            ("abc,cde->abde", [(2, 5, 3), (3, 4, 6)], ["MatMul", "Reshape"]),
            ("abc,dce->abde", [(2, 5, 3), (4, 3, 6)], ["MatMul", "Reshape"]),
            ("abcd,cde->abe", [(2, 5, 3, 4), (3, 4, 6)], ["Reshape", "MatMul"]),
            ("abcd,dce->abe", [(2, 5, 3, 4), (4, 3, 6)], ["Reshape", "MatMul"]),
            ("abc,cde->abed", [(2, 5, 3), (3, 4, 6)], ["Einsum"]),
        ],
    )
    def test_einsum_with_a_constant(self, equation, shapes, ops):
        x, constant = (RANDOM.standard_normal(shape).astype(np.float32) for shape in shapes)
        inputs = {"x": (FLOAT, ["batch", "time", *shapes[0][2:]])}
        assert self.one([("Einsum", "x c", "y", {"equation": equation})], {"x": x}, inputs, c=constant) == ops


def test_the_kernels_of_a_convolutional_scan_lie_in_its_body(tmp_path):
    # Where onnxruntime looks for them to lay them out for its convolutions; outside, a step takes an eighth longer.
    model = keras.Sequential([keras.Input((None, 5, 5, 2), name="x"), L.ConvLSTM2D(3, 3, padding="same")])
    edgeseq.export(model, tmp_path / "model.onnx")
    [scan] = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Scan"]
    [body] = [attribute.g for attribute in scan.attribute if attribute.HasField("g")]
    kept = {tensor.name for tensor in body.initializer}
    assert all(set(node.input[1:]) <= kept for node in body.node if node.op_type == "Conv")
    assert len(kept) == 3
