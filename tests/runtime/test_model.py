"""`Model` against numpy, as Keras is called, and against inputs that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseq.errors import InputMismatch, InvalidFile, WrongUsage
from edgeseq.runtime import Model
from edgeseq.runtime.manifest import Manifest, RecurrentLayer, StateSpec, TensorSpec, ThreadAdvice

# float32 against the equations in float64, a few steps.
CLOSE = {"rtol": 0, "atol": 1e-6}


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_an_lstm_answers_like_its_equations(make_lstm: Callable[..., Any]):
    lstm = make_lstm()
    model = Model(lstm.path)
    for x in (some(1, 1, 3), some(2, 5, 3)):
        y = model(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, lstm.answer(x), **CLOSE)


def test_attributes(make_lstm: Callable[..., Any]):
    model = Model(str(make_lstm().path), threads=2)
    assert model.inputs == model.manifest.inputs
    assert model.outputs[0].axes == ("batch", "time", 4)
    assert (model.provider, model.threads, model.path.name) == ("cpu", 2, "model.onnx")
    assert model.session.get_session_options().intra_op_num_threads == 2


def test_threads_come_from_the_manifest_for_the_batch_told(make_lstm: Callable[..., Any]):
    advice = (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=2))
    path = make_lstm(threads=advice).path
    assert [Model(path, batch=batch).threads for batch in (None, 1, 8)] == [1, 1, 2]
    assert Model(path, batch=8, threads=1).threads == 1
    assert Model(path, threads=0).threads == 0
    assert Model(make_lstm().path).threads == 0


def test_states_start_anew_on_every_call(make_lstm: Callable[..., Any]):
    lstm = make_lstm(streaming=True, initial=0.5)
    model, x = Model(lstm.path), some(2, 4, 3)
    first = model(x)
    np.testing.assert_allclose(first, lstm.answer(x, 0.5, 0.5), **CLOSE)
    assert np.array_equal(first, model(x))


# --- nesting


@pytest.mark.parametrize("structure", ["x", ["x"], {"tuple": ["x"]}, {"dict": {"x": "x"}}])
def test_a_single_input_is_taken_bare_wrapped_or_by_name(make_lstm: Callable[..., Any], structure: Any):
    model, x = Model(make_lstm(input_structure=structure).path), some(1, 2, 3)
    expected = model(x)
    for given in ([x], (x,), {"x": x}, x.tolist(), [x[0]], list(x)):
        assert np.array_equal(model(given), expected)


A = np.array([[1.0, 2.0]], np.float32)
KEEP = np.array([[True, False]])


@pytest.mark.parametrize(
    ("structure", "given"),
    [
        (["a", "keep"], [A, KEEP]),
        (["a", "keep"], (A, KEEP)),
        (["a", "keep"], {"keep": KEEP, "a": A}),
        ({"tuple": ["keep", "a"]}, (KEEP, A)),
        ({"dict": {"a": "keep", "b": "a"}}, {"a": KEEP, "b": A}),
        (["a", {"dict": {"k": "keep"}}], [A, {"k": KEEP}]),
    ],
)
def test_inputs_nested_as_for_keras(make_pair: Callable[..., Path], structure: Any, given: Any):
    total, kept = Model(make_pair(structure))(given)
    assert (total.tolist(), kept.tolist()) == ([[2.0, 3.0]], [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (["kept", "total"], [[[1.0, 0.0]], [[2.0, 3.0]]]),
        ({"tuple": ["total", "kept"]}, ([[2.0, 3.0]], [[1.0, 0.0]])),
        ({"dict": {"k": "kept", "t": ["total"]}}, {"k": [[1.0, 0.0]], "t": [[[2.0, 3.0]]]}),
    ],
)
def test_outputs_nested_as_by_keras(make_pair: Callable[..., Path], structure: Any, expected: Any):
    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else type(value)(listed(item) for item in value)

    assert listed(Model(make_pair(None, structure))([A, KEEP])) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (A, r"the input is a list of 2, \[a, keep\]; got one array of shape \(1, 2\)"),
        ([A], "got a list of 1. A dict by input name is taken as well"),
        ({"a": A}, "the input is a dict with the keys 'a', 'keep'; missing 'keep'"),
        ({"a": A, "keep": KEEP, "mask": KEEP}, "unexpected 'mask'"),
        ({"A": A, "keep": KEEP}, "missing 'a' and unexpected 'A'"),
        ([A, KEEP[[0, 0]]], r"input 'keep' has the shape \(batch=1, 2\); got \(2, 2\)"),
    ],
)
def test_wrong_nesting_and_unequal_batches(make_pair: Callable[..., Path], given: Any, message: str):
    with pytest.raises(InputMismatch, match=message):
        Model(make_pair())(given)


def test_equal_names_are_equal_lengths_and_others_are_free(write: Callable[..., Path]):
    axes = {"a": ("batch", "time"), "b": ("batch", "time_2"), "c": ("batch", "time")}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in axes.items()]
    nodes = [helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=1)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "all"])]
    manifest = Manifest(
        inputs=tuple(TensorSpec(name=name, dtype="float32", axes=shape) for name, shape in axes.items()),
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", "all")),),
        input_structure=["a", "b", "c"],
        output_structure="y",
    )
    model = Model(write(nodes, inputs, outputs, {}, manifest))
    assert model([some(1, 2), some(1, 5), some(1, 2)]).shape == (1, 9)
    with pytest.raises(InputMismatch, match=r"input 'c' has the shape \(batch=1, time=2\); got \(1, 3\)") as caught:
        model([some(1, 2), some(1, 5), some(1, 3)])
    assert caught.value.name == "c"


# --- shapes and dtypes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 3), r"input 'x' has the shape \(batch, time, 3\); got \(5, 3\). An axis is missing: one sample needs"),
        ((1, 5, 3, 1), r"got \(1, 5, 3, 1\)$"),
        ((1, 5, 2), r"\(batch=1, time=5, 3\); got \(1, 5, 2\)"),
        ((0, 5, 3), r"got \(0, 5, 3\). No axis may be empty"),
        ((2, 0, 3), r"got \(2, 0, 3\). No axis may be empty"),
        ((), r"got \(\)"),
    ],
)
def test_wrong_shapes(make_lstm: Callable[..., Any], shape: tuple[int, ...], message: str):
    with pytest.raises(InputMismatch, match=message) as caught:
        Model(make_lstm().path)(np.zeros(shape, np.float32))
    assert caught.value.name == "x"


def test_fixed_axes(make_lstm: Callable[..., Any]):
    lstm = make_lstm(batch=2, time=4)
    model = Model(lstm.path)
    np.testing.assert_allclose(model(some(2, 4, 3)), lstm.answer(some(2, 4, 3)), **CLOSE)
    for shape in ((1, 4, 3), (2, 5, 3)):
        with pytest.raises(InputMismatch, match=r"\(2, 4, 3\); got"):
            model(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint32", "bool", ">f4"])
def test_float_inputs_take_any_real_number(make_lstm: Callable[..., Any], dtype: str):
    model = Model(make_lstm().path)
    x = np.round(some(2, 3, 3) * 10).clip(0, 100).astype(dtype)
    assert np.array_equal(model(x), model(x.astype(np.float32)))


def test_strided_and_read_only_arrays(make_lstm: Callable[..., Any]):
    model, x = Model(make_lstm().path), some(3, 4, 3)
    turned = x[::-1].transpose(0, 1, 2)[:, ::2]
    turned.flags.writeable = False
    assert np.array_equal(model(turned), model(turned.copy()))


@pytest.mark.parametrize(
    "ids",
    [[[1, 7]], np.array([[1.0, 7.0]]), np.array([[1, 7]], np.uint64), np.array([[1, 7]], np.int8), [[1.0, 7]]],
)
def test_ids_of_any_whole_type(embedding: tuple[Path, np.ndarray], ids: Any):
    path, table = embedding
    assert np.array_equal(Model(path)(ids), table[[1, 7]].mean(axis=0, keepdims=True))


WHOLE = r"input 'ids' takes int32 \(whole numbers from -2147483648 to 2147483647\); got "


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1.5]], WHOLE + "1.5"),
        ([[np.nan]], WHOLE + "nan"),
        ([[np.inf]], WHOLE + "inf"),
        ([[2**31]], WHOLE + "2147483648"),
        ([[float(2**31)]], WHOLE + "2147483648.0"),
        (np.array([[2**64 - 1]], np.uint64), WHOLE + "18446744073709551615"),
        ([["word"]], WHOLE + "dtype <U4. Text goes in with raw=True"),
        ([[1j]], WHOLE + "dtype complex128"),
        ([[None]], WHOLE + "dtype object"),
        ([[1], [1, 2]], "a list that is no array .*Rows of unequal lengths must be padded first"),
        (np.array([["2020-01-01"]], "datetime64[D]"), WHOLE + "dtype datetime64"),
    ],
)
def test_ids_that_are_none(embedding: tuple[Path, np.ndarray], ids: Any, message: str):
    with pytest.raises(InputMismatch, match=message) as caught:
        Model(embedding[0])(ids)
    assert caught.value.name == "ids"


@pytest.mark.parametrize("keep", [[[True, False]], [[1, 0]], np.array([[1, 0]], np.uint8)])
def test_bool_inputs(make_pair: Callable[..., Path], keep: Any):
    assert Model(make_pair())([A, keep])[1].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("keep", [[[2, 0]], [[1.0, 0.0]], [["a", "b"]]])
def test_bool_inputs_that_are_none(make_pair: Callable[..., Path], keep: Any):
    with pytest.raises(InputMismatch, match=r"input 'keep' takes bool \(or the integers 0 and 1\); got"):
        Model(make_pair())([A, keep])


def test_a_float_beyond_the_dtype_is_refused_but_not_a_nan(make_pair: Callable[..., Path]):
    model = Model(make_pair())
    with pytest.raises(InputMismatch, match=r"input 'a' takes float32 \(real numbers up to ±3.4e\+38\); got 1e\+200"):
        model([[[1e200, 0.0]], KEEP])
    assert np.isnan(model([np.array([[np.nan, np.inf]]), KEEP])[1]).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("strategy", "op_types", "refused"),
    [
        ("fused", ("LSTM",), True),
        ("fused", ("LSTM", "GRU"), True),
        ("fused", ("DynamicQuantizeLSTM",), True),
        ("fused", ("RNN",), True),
        ("scan", ("Scan",), False),
        ("unrolled", ("MatMul",), False),
    ],
)
def test_nan_and_infinity_are_refused_where_a_fused_op_would_lose_them(
    make_pair: Callable[..., Path], strategy: str, op_types: tuple[str, ...], refused: bool
):
    plain = RecurrentLayer(name="rnn", layer_type="SimpleRNN", strategy="scan", op_types=("Scan",))
    layer = RecurrentLayer(name="layer", layer_type="LSTM", strategy=strategy, op_types=op_types)
    model = Model(make_pair(recurrent=(plain, layer)))
    for lost in (np.nan, np.inf, -np.inf):
        values = [np.array([[0, lost]], np.float32), KEEP]
        if refused:
            with pytest.raises(InputMismatch, match=r"input 'a' holds NaN or infinity, first at \[0, 1\]"):
                model(values)
        else:
            np.testing.assert_array_equal(model(values)[0], [[1, lost]])


# --- raw values


def test_raw_text_in_and_raw_units_out(embedding: tuple[Path, np.ndarray]):
    path, table = embedding
    model = Model(path)
    expected = (model([[1, 4, 5], [0, 1, 6]]) * [1.0, 10.0] + [100.0, 0.0]).astype(np.float32)
    for texts in (["The good", "bad!"], ("the good", "bad")):
        y = model(texts, raw=True)
        assert y.dtype == np.float32
        assert y.tolist() == expected.tolist()
    # "bad" is the rows 1 and 6 of the table, whose mean is (7, 8).
    assert table[[1, 6]].mean(axis=0).tolist() == [7.0, 8.0]
    assert model(["bad"], raw=True).tolist() == [[107.0, 80.0]]
    with pytest.raises(InputMismatch, match="Put it in a list"):
        model("the good", raw=True)


def test_raw_values_keep_the_nesting(make_pair: Callable[..., Path]):
    step = {"kind": "scale", "offset": [1.0], "scale": [2.0]}
    path = make_pair(
        None, {"dict": {"t": "total", "k": "kept"}}, preprocessing={"inputs": {"a": step}, "outputs": {"kept": step}}
    )
    found = Model(path)([[[3.0, 5.0]], KEEP], raw=True)
    # a is (3 - 1) / 2 = 1 and 2; total adds 1; kept is 1 and 0, in raw units 3 and 1.
    assert {key: value.tolist() for key, value in found.items()} == {"t": [[2.0, 3.0]], "k": [[3.0, 1.0]]}


def test_raw_without_preprocessing_is_refused(make_lstm: Callable[..., Any]):
    with pytest.raises(WrongUsage, match=r"carries no preprocessing, so raw=True cannot be used. Export it with"):
        Model(make_lstm().path)(some(1, 2, 3), raw=True)


def test_damaged_preprocessing_is_an_invalid_file(make_lstm: Callable[..., Any]):
    model = Model(make_lstm(preprocessing={"inputs": {"x": {"kind": "stem"}}}).path)
    assert model(some(1, 2, 3)).shape == (1, 2, 4)
    with pytest.raises(InvalidFile, match="'kind' is one of text, scale"):
        model(some(1, 2, 3), raw=True)


# --- files that are not ours, and manifests that do not fit


def test_a_file_without_a_manifest_opens(make_lstm: Callable[..., Any]):
    lstm = make_lstm(manifest=False)
    model, x = Model(lstm.path), some(2, 5, 3)
    assert model.manifest == Manifest(
        inputs=(TensorSpec(name="x", dtype="float32", axes=("batch", "time", 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", "time", 4)),),
        input_structure="x",
        output_structure="y",
    )
    np.testing.assert_allclose(model(x), lstm.answer(x), **CLOSE)


def test_nameless_axes_get_names_of_their_own(write: Callable[..., Path]):
    """tf2onnx calls them unk__7; None has no name at all, and may differ from any other."""
    shapes = {"a": ["unk__7", "unk__8", 3], "b": ["unk__7", None, 3], "c": [None, None, None]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    model = Model(write(nodes, inputs, outputs, {}, None))
    assert [spec.axes for spec in model.inputs] == [
        ("batch", "time", 3),
        ("batch", "time_2", 3),
        ("batch_2", "time_3", "axis_2"),
    ]
    assert model.manifest.input_structure == ["a", "b", "c"]
    a, b, c = model([some(2, 4, 3), some(2, 5, 3), some(1, 1, 1)])
    assert (a.shape, b.shape, c.shape) == ((2, 4, 3), (2, 5, 3), (1, 1, 1))
    with pytest.raises(InputMismatch, match="input 'b'"):
        model([some(2, 4, 3), some(1, 5, 3), some(1, 1, 1)])


def test_a_tensor_of_text_is_refused(write: Callable[..., Path]):
    values = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy"]
    path = write([helper.make_node("Identity", ["x"], ["y"])], values[:1], values[1:], {}, None)
    with pytest.raises(InvalidFile, match=r"'x' is a tensor\(string\); edgeseq runs tensors of numbers and Booleans"):
        Model(path)


SPEC = TensorSpec(name="x", dtype="float32", axes=("batch", "time", 3))
STATE = StateSpec(input="h", output="y", dtype="float32", axes=("batch", 4))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": (TensorSpec(name="z", dtype="float32", axes=()),)}, "names the input 'z', which the graph has not"),
        ({"inputs": (), "input_structure": []}, "does not name the input 'x' of the graph"),
        (
            {"inputs": (TensorSpec(name="x", dtype="int32", axes=SPEC.axes),)},
            "'x' is int32 with 3 axes; .*float32 with 3",
        ),
        ({"inputs": (TensorSpec(name="x", dtype="float32", axes=("batch",)),)}, "'x' is float32 with 1 axes"),
        ({"outputs": (SPEC,)}, "names the output 'x', which the graph has not"),
        ({"states": (STATE,)}, "names the input 'h', which the graph has not"),
        ({"input_structure": ["x", "z"]}, r"input structure holds \['x', 'z'\], not the inputs' names"),
        ({"output_structure": 3}, "output structure is damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_the_graph(make_lstm: Callable[..., Any], changes: dict[str, Any], reason: str):
    with pytest.raises(InvalidFile, match=reason):
        Model(make_lstm(**changes).path)


def test_a_state_with_an_axis_of_no_input(make_lstm: Callable[..., Any]):
    path = make_lstm(streaming=True).path
    model = onnx.load(path)
    text = model.metadata_props[0].value.replace('"axes":["batch",4]', '"axes":["rows",4]')
    helper.set_model_props(model, {"edgeseq": text})
    onnx.save(model, path)
    with pytest.raises(InvalidFile, match=r"the axis 'rows' of the state 'state_in\.00\.lstm\.h' is of no input"):
        Model(path)


# --- threads


def test_threads_share_a_model_without_mixing_answers(make_lstm: Callable[..., Any]):
    model = Model(make_lstm(streaming=True).path, threads=1)
    inputs = [some(1 + i, 2 + i, 3) * (i + 1) for i in range(6)]
    expected = [model(x) for x in inputs]
    faults: list[int] = []
    start = threading.Barrier(len(inputs))

    def work(i: int) -> None:
        start.wait()
        for _ in range(150):
            if not np.array_equal(model(inputs[i]), expected[i]):
                faults.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert faults == []


def test_outputs_are_the_callers(make_lstm: Callable[..., Any]):
    model, x = Model(make_lstm().path), some(1, 2, 3)
    first = model(x)
    copy = first.copy()
    model(x * 2)
    assert np.array_equal(first, copy)
    first[:] = 0
    assert np.array_equal(model(x), copy)


def test_ids_beyond_the_table_are_named(write: Callable[..., Path]):
    manifest = Manifest(
        inputs=(TensorSpec(name="tokens", dtype="int32", axes=("batch", "time"), vocabulary_size=8),),
        outputs=(TensorSpec(name="row", dtype="float32", axes=("batch", "time", 2)),),
        input_structure="tokens",
        output_structure="row",
    )
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    path = write(
        [helper.make_node("Gather", ["table", "tokens"], ["row"])],
        [helper.make_tensor_value_info("tokens", TensorProto.INT32, ["batch", "time"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["batch", "time", 2])],
        {"table": table},
        manifest,
    )
    model = Model(path)
    # Ids below 0 count from the end, in Keras as in ONNX.
    np.testing.assert_array_equal(model([[0, 7, -1, -8]]), table[[[0, 7, 7, 0]]])
    for wrong in (8, 12345, -9):
        message = rf"input 'tokens' takes ids 0 to 7; got {wrong} at \[1, 2\]"
        with pytest.raises(InputMismatch, match=message) as caught:
            model([[0, 1, 2, 3], [4, 5, wrong, wrong]])
        assert caught.value.name == "tokens"


def test_a_dict_by_input_name_is_taken_where_keras_has_other_keys(make_pair: Callable[..., Path]):
    values = [np.array([[1, 2]], np.float32), KEEP]
    renamed = Model(make_pair({"dict": {"series": "a", "valid": "keep"}}))
    expected = renamed(dict(zip(("series", "valid"), values, strict=True)))
    for mine, other in zip(renamed(dict(zip(("a", "keep"), values, strict=True))), expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(InputMismatch, match="keys 'series', 'valid'; missing 'valid' and unexpected 'keep'"):
        renamed({"series": values[0], "keep": values[1]})
    # What Keras calls them comes first where the keys could be either.
    crossed = Model(make_pair({"dict": {"keep": "a", "a": "keep"}}))
    np.testing.assert_array_equal(crossed({"keep": values[0], "a": values[1]})[0], expected[0])
