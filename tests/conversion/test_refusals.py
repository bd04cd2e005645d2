"""What cannot be exact or native is refused by name; nothing is left behind, and the model works as before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.runtime import Model


def sequential(*layers, shape=(None, 4), **options):
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


class OwnLoop(L.LSTM):
    def inner_loop(self, sequences, initial_state, mask, training=False):
        return super().inner_loop(sequences * 2, initial_state, mask, training)


class OwnLoopGRU(L.GRU):
    def inner_loop(self, sequences, initial_state, mask, training=False):
        return super().inner_loop(sequences * 2, initial_state, mask, training)


class Odd(keras.layers.Layer):
    """Computes something else for one length, which no graph with free time can."""

    def call(self, x):
        return x[:, :5] if x.shape[1] == 23 else x

    def compute_output_shape(self, shape):
        return shape


class Untraceable(keras.layers.Layer):
    """Uses an op that ONNX has no equal of."""

    state_size = output_size = 3

    def call(self, x, states):
        after = states[0] + tf.math.igamma(1.0, tf.abs(x[:, :3]))
        return after, [after]


class LoopCell(keras.layers.Layer):
    state_size = output_size = 3

    def call(self, x, states):
        after = states[0] + keras.ops.fori_loop(0, 3, lambda _, y: y * 0.5, x[:, :3])
        return after, [after]


CASES = {
    "a layer with a loop of its own": (
        lambda: sequential(OwnLoop(3, name="mine")),
        errors.UnsupportedLayer,
        "mine.*OwnLoop",
    ),
    "a cell that no trace can follow": (
        lambda: sequential(L.RNN(Untraceable(), name="mine")),
        errors.UnsupportedLayer,
        "mine.*Untraceable",
    ),
    "a cell with a while-loop": (
        lambda: sequential(L.RNN(LoopCell(), name="mine")),
        errors.LoopRefused,
        "mine.*LoopCell.*while-loop",
    ),
    "an activation of another shape": (
        lambda: sequential(L.LSTM(3, activation=lambda x: x[:, :1], name="mine")),
        errors.UnsupportedLayer,
        "mine.*shape",
    ),
    "code that looks at the sizes of its inputs": (
        lambda: sequential(L.LSTM(3, return_sequences=True), Odd(name="mine")),
        errors.Refused,
        r"\(2, 23, 4\).*sizes",
    ),
    "weights in half precision": (
        lambda: sequential(L.LSTM(3, dtype="float16", name="mine")),
        errors.UnsupportedLayer,
        "mine.*float16",
    ),
    "a convolution in double precision": (
        lambda: sequential(L.ConvLSTM1D(3, 2, dtype="float64", name="mine"), shape=(4, 5, 2)),
        errors.UnsupportedLayer,
        "mine.*double precision",
    ),
    "a stateful Bidirectional": (
        lambda: keras.Sequential(
            [keras.Input(batch_shape=(2, 4, 1)), L.Bidirectional(L.LSTM(3, stateful=True), name="mine")]
        ),
        errors.UnsupportedLayer,
        "mine",
    ),
    "a while-loop of the user's own": (
        lambda: sequential(
            L.Lambda(
                lambda x: tf.while_loop(lambda i, y: i < tf.shape(y)[1], lambda i, y: (i + 1, y * 0.9), [0, x])[1],
                name="mine",
            )
        ),
        errors.LoopRefused,
        "layer 'mine'.*Loop",
    ),
    "a vocabulary inside the model": (
        lambda: sequential(
            L.StringLookup(vocabulary=["a", "b"], name="mine"),
            L.Embedding(4, 3),
            L.LSTM(2),
            shape=(None,),
            dtype="string",
        ),
        errors.UnsupportedLayer,
        "mine.*StringLookup.*preprocessing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_refused_by_name(name, tmp_path):
    make, kind, words = CASES[name]
    with pytest.raises(kind, match=f"(?s){words}") as caught:
        edgeseq.export(make(), tmp_path / "model.onnx")
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


class Failing(L.Layer):
    """Raises when it computes numbers, or already when it is traced."""

    def __init__(self, error, *, traced=False):
        super().__init__()
        self.error, self.traced = error, traced

    def call(self, x):
        if self.traced or (tf.executing_eagerly() and not isinstance(x, keras.KerasTensor)):
            raise self.error
        return x

    def compute_output_shape(self, shape):
        return shape


class Subclassed(keras.Model):
    def __init__(self, error):
        super().__init__()
        self.failing = Failing(error)

    def call(self, x):
        return self.failing(x)


SAMPLES = np.ones((2, 5, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda error: sequential(L.LSTM(3), Failing(error, traced=True)), {}, "(traced|Keras itself fails.*): "),
        (lambda error: sequential(L.LSTM(3), Failing(error)), {}, r"Keras itself fails on .* \(1, 16, 4\): "),
        (Subclassed, {"samples": SAMPLES}, r"the model fails on samples of shape \(2, 5, 4\): "),
        (
            lambda error: keras.Sequential(
                [keras.Input(batch_shape=(2, 5, 4)), L.LSTM(3, stateful=True), L.Activation(Failing(error).call)]
            ),
            {},
            r"the model fails on inputs of shape \(2, 5, 4\), called 3 times in a row: ",
        ),
    ],
    ids=["traced", "asked", "samples", "stateful"],
)  # fmt: skip
def test_what_the_models_own_code_raises_is_named_and_kept(make, options, words, tmp_path):
    for error, reason in (
        (ValueError("no idea\nmore"), r"ValueError: no idea($|\. )"),
        (KeyError("shape"), r"KeyError: shape($|\. )"),
        (RuntimeError(), r"RuntimeError($|\. )"),
    ):
        with pytest.raises(errors.Refused, match=words + reason) as caught:
            edgeseq.export(make(error), tmp_path / "model.onnx", **options)
        assert type(caught.value.__cause__) is type(error)
    for error in (MemoryError("all of it"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            edgeseq.export(make(error), tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_what_onnxruntime_raises_is_refused_for_what_it_is(tmp_path, monkeypatch):
    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, L.LSTM(3)(x + np.ones((1, 6, 4), np.float32)))
    with pytest.raises(errors.Refused, match=r"fails at other lengths.*6 by 24"):
        edgeseq.export(model, tmp_path / "model.onnx")

    def closed(*_, **__):
        raise errors.InvalidFile("a model in memory", "no such thing")

    # Nothing about lengths, whether or not the file carries states.
    monkeypatch.setattr("edgeseq.conversion.axes.open_session", closed)
    for streaming in (False, True):
        with pytest.raises(errors.Refused, match=r"^onnxruntime cannot open the converted graph: no such thing$"):
            edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx", streaming=streaming)


def test_a_vocabulary_of_one_word_can_be_fed_in_chunks(tmp_path):
    model = sequential(L.Embedding(1, 3), L.LSTM(3), shape=(None,))
    assert edgeseq.export(model, tmp_path / "model.onnx", streaming=True).parity


def test_a_loop_can_be_allowed(tmp_path):
    make, _, _ = CASES["a while-loop of the user's own"]
    report = edgeseq.export(make(), tmp_path / "model.onnx", allow_loop=True)
    assert report.loops == 1
    assert report.parity


@pytest.mark.parametrize(
    ("make", "strategy"),
    [
        (lambda: sequential(L.RNN(LoopCell(), name="mine")), "loop"),
        (lambda: sequential(OwnLoopGRU(3, name="mine")), "loop"),
        # The converter knows a plain LSTM's loop for what it is.
        (lambda: sequential(OwnLoop(3, name="mine")), "fused"),
    ],
)
def test_with_a_loop_allowed_the_report_says_what_became_of_a_layer(make, strategy, tmp_path):
    report = edgeseq.export(make(), tmp_path / "model.onnx", allow_loop=True)
    assert bool(report.loops) == (strategy == "loop")
    assert report.parity
    (layer,) = report.recurrent
    assert (layer.name, layer.strategy) == ("mine", strategy)


def test_the_model_works_as_before_after_a_failure(tmp_path):
    model = sequential(L.Embedding(9, 4), L.LSTM(4), Block(), shape=(5,), dtype="int32")
    model.compile("adam", "mse")
    x, y = np.ones((4, 5), np.int32), np.ones((4, 1), np.float32)
    before = model.predict(x, verbose=0)
    with pytest.raises(errors.UnsupportedLayer):
        edgeseq.export(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.fit(x, y, verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)
    assert not tf.config.functions_run_eagerly()


class Block(L.Layer):
    def __init__(self):
        super().__init__()
        self.inner = OwnLoop(1)

    def call(self, x):
        return self.inner(x[:, None, :])


def test_a_tf_function_inside_the_model_survives_the_export(tmp_path):
    lstm = L.LSTM(3)

    class Wrapped(keras.Model):
        @tf.function
        def inside(self, x):
            return lstm(x)

        def call(self, x):
            return self.inside(x)

    model = Wrapped()
    samples = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    model.inside(tf.constant(samples))  # already traced: its cache must not hide the layer
    report = edgeseq.export(model, tmp_path / "model.onnx", samples=samples)
    assert [layer.op_types for layer in report.recurrent] == [("LSTM",)]
    np.testing.assert_allclose(model.inside(tf.constant(samples)), Model(tmp_path / "model.onnx")(samples), atol=1e-6)


def test_threads_do_not_disturb_each_other(tmp_path):
    models = [sequential(L.LSTM(3)), sequential(L.GRU(5), shape=(6, 2)), sequential(L.Bidirectional(L.LSTM(2)))]
    failures = []
    predicting = sequential(L.LSTM(3), L.Dense(2))
    x = np.ones((2, 5, 4), np.float32)
    expected = np.asarray(predicting(x))
    done = threading.Event()

    def export(index):
        try:
            assert edgeseq.export(models[index], tmp_path / f"{index}.onnx").parity
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    def predict():
        while not done.is_set():
            if not np.allclose(predicting(x), expected):
                failures.append("another thread's model gave another answer during an export")

    watcher = threading.Thread(target=predict)
    watcher.start()
    threads = [threading.Thread(target=export, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert not failures


def test_a_difference_from_keras_is_never_written(tmp_path, monkeypatch):
    from edgeseq.lowering import fused

    # A plausible mistake: ONNX's LSTM has its gates in another order than Keras.
    monkeypatch.setitem(fused.ONNX_GATES, "lstm", ("input", "forget", "cell", "output"))
    with pytest.raises(errors.ParityFailed, match="differs from Keras") as caught:
        edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx")
    assert not caught.value.parity
    assert not list(tmp_path.iterdir())


def test_an_old_output_survives_a_failed_overwrite(tmp_path):
    path = tmp_path / "model.onnx"
    edgeseq.export(sequential(L.LSTM(3)), path)
    before = path.read_bytes()
    with pytest.raises(errors.OutputExists):
        edgeseq.export(sequential(L.LSTM(3)), path)
    with pytest.raises(errors.UnsupportedLayer):
        edgeseq.export(sequential(OwnLoop(3)), path, overwrite=True)
    assert path.read_bytes() == before
    assert edgeseq.compare(path)


def test_what_is_not_a_model(tmp_path):
    text = tmp_path / "text.keras"
    text.write_text("not a model")
    with pytest.raises(errors.InvalidFile, match="damaged, or not a Keras model"):
        edgeseq.export(text, tmp_path / "model.onnx")
    with pytest.raises(errors.InvalidFile, match="not a Keras model file"):
        edgeseq.export(tmp_path, tmp_path / "model.onnx")
    with pytest.raises(errors.MissingInput, match=r"nowhere\.keras"):
        edgeseq.export(tmp_path / "nowhere.keras", tmp_path / "model.onnx")
    with pytest.raises(errors.WrongUsage, match="expected a Keras model or a path"):
        edgeseq.export(42, tmp_path / "model.onnx")


class NotInAnyFile(L.Layer):
    def call(self, x):
        return x * 2


def not_in_any_file(x):
    return x * 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (NotInAnyFile, r"needs the (class|layer) 'NotInAnyFile'.*custom_objects=\{'NotInAnyFile': NotInAnyFile\}"),
        (lambda: L.Dense(2, activation=not_in_any_file), "needs the function 'not_in_any_file'.*register_keras_ser"),
        (lambda: L.Lambda(lambda x: x * 2), "holds a Lambda layer.*safe_mode=False"),
    ],
    ids=["class", "function", "Lambda"],
)
@pytest.mark.filterwarnings("ignore:.*lambda")
def test_code_that_a_file_does_not_hold_is_named(layer, words, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    sequential(layer(), L.LSTM(3)).save(path)
    with pytest.raises(errors.Refused, match=words) as caught:
        edgeseq.export(path, tmp_path / "model.onnx")
    assert "call edgeseq.export(model" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*lambda")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_innermost_reason_is_told_of_what_keras_cannot_load(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    sequential(L.Dense(2, activation=lambda x: x * 2), L.LSTM(3)).save(path)
    with pytest.raises(errors.InvalidFile, match=r"cannot load it \(TypeError: Could not interpret activation"):
        edgeseq.export(path, tmp_path / "model.onnx")


def test_a_model_without_layers(tmp_path):
    with pytest.raises(errors.Refused, match="'empty' has no layers"):
        edgeseq.export(keras.Sequential(name="empty"), tmp_path / "model.onnx")


def test_the_layer_with_the_weights_is_blamed_for_their_precision(tmp_path):
    keras.config.set_dtype_policy("float16")
    try:
        model = sequential(L.Dropout(0.5), L.LSTM(3, name="mine"))
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(errors.UnsupportedLayer, match="its weights are float16") as caught:
        edgeseq.export(model, tmp_path / "model.onnx")
    assert caught.value.layer == "mine"


def test_a_layer_without_weights_is_not_blamed_for_any(tmp_path):
    model = sequential(L.Dropout(0.5, dtype="float16", name="mine"), L.LSTM(3))
    with pytest.raises(errors.UnsupportedLayer, match=r"mine.*it computes in float16"):
        edgeseq.export(model, tmp_path / "model.onnx")


def test_what_to_do_about_states_fits_what_was_asked(tmp_path):
    stateful = keras.Sequential([keras.Input(batch_shape=(2, 4, 1)), L.Bidirectional(L.LSTM(3, stateful=True))])
    with pytest.raises(errors.UnsupportedLayer, match="Give the recurrent layers stateful=False"):
        edgeseq.export(stateful, tmp_path / "model.onnx")
    whole = sequential(L.LSTM(3, return_sequences=True), L.EinsumDense("abc,cd->abd", (None, 2)))
    with pytest.raises(errors.UnsupportedLayer, match=r"an EinsumDense.*Export without streaming"):
        edgeseq.export(whole, tmp_path / "model.onnx", streaming=True)


def test_the_reason_behind_a_printed_array_is_kept(tmp_path):
    edgeseq.export(sequential(L.LSTM(3)), tmp_path / "model.onnx")
    other = keras.Sequential([keras.Input((7,)), L.Dense(3)])
    with pytest.raises(errors.InputMismatch, match=r"input \[\.\.\.\] .*Expected shape \(None, 7\)"):
        edgeseq.compare(tmp_path / "model.onnx", other)


@keras.saving.register_keras_serializable(package="edgeseq_tests")
class OwnCallLSTM(L.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(sequences * 2, initial_state=initial_state, mask=mask, training=training) + 1


@keras.saving.register_keras_serializable(package="edgeseq_tests")
class PlainGRU(L.GRU):
    pass


def test_a_call_of_a_subclass_counts_inside_bidirectional(tmp_path):
    for name, layer in (("own", OwnCallLSTM(5, return_sequences=True)), ("plain", PlainGRU(5, return_sequences=True))):
        model = sequential(L.Bidirectional(layer))
        report = edgeseq.export(model, tmp_path / f"{name}.onnx")
        # With a call of its own each direction is an op of its own; without, both are one.
        assert len(report.recurrent[0].op_types) == (2 if name == "own" else 1)
        x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
        # As every file is checked against Keras.
        np.testing.assert_allclose(Model(tmp_path / f"{name}.onnx")(x), model(x), atol=1e-5)


# Each of these is Keras's own name of a backend; jax is not installed where the tests run, or need not be.
@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_another_backend_is_refused_and_the_command_line_needs_none(backend, tmp_path):
    sequential(L.LSTM(3)).save(tmp_path / "model.keras")
    program = (
        "import edgeseq\n"
        "from edgeseq.errors import Unavailable\n"
        "try:\n"
        "    edgeseq.export('model.keras', 'python.onnx')\n"
        "except Unavailable as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    said = subprocess.run([sys.executable, "-c", program], **options)
    assert (said.returncode, f"backend '{backend}'" in said.stdout) == (0, True), said.stderr
    assert "KERAS_BACKEND=tensorflow before keras is imported" in said.stdout
    command = [sys.executable, "-m", "edgeseq", "export", "model.keras", "-o", "command.onnx"]
    ran = subprocess.run(command, **options)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (tmp_path / "python.onnx").exists()


def test_arguments_that_mean_nothing(tmp_path):
    model = sequential(L.LSTM(3))
    for options, words in (
        ({"target": "tpu"}, "allowed: cpu, cuda, tensorrt"),
        ({"opset": 9}, "from 15 to 18; got 9"),
        ({"opset": "18"}, "an integer from 15 to 18; got .18."),
        ({"lowering": "magic"}, "allowed: auto"),
        ({"samples": np.ones((2, 4))}, r"expected \('batch', 'time', 4\)"),
        ({"samples": [np.ones((2, 3, 4)), np.ones(2)]}, "hold 2 arrays; the model takes 1"),
        ({"preprocessing": {"inputs": {"y": {"kind": "scale", "offset": [0], "scale": [1]}}}}, "y"),
    ):
        with pytest.raises(errors.WrongUsage, match=words):
            edgeseq.export(model, tmp_path / "model.onnx", **options)
    with pytest.raises(errors.WrongUsage, match=r"must end in \.onnx"):
        edgeseq.export(model, tmp_path / "model.txt")
    with pytest.raises(errors.WrongUsage, match="folder of the output does not exist"):
        edgeseq.export(model, tmp_path / "nowhere" / "model.onnx")


SCRIPT = """
import sys
from keras import layers as L
import edgeseq
noise = [L.LSTM(2) for i in range(int(sys.argv[3]))]  # other counters, so other names inside TensorFlow
edgeseq.export(sys.argv[1], sys.argv[2])
"""


def test_the_same_model_gives_the_same_bytes_in_every_process(tmp_path):
    model = sequential(
        L.Masking(),
        L.Bidirectional(L.GRU(5, return_sequences=True)),
        L.LSTM(4, activation="gelu", return_sequences=True),
        L.LSTM(3),
        L.Dense(2),
    )
    model.save(tmp_path / "model.keras")
    for index in range(2):
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "model.keras", tmp_path / f"{index}.onnx", str(index * 3)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(index + 1)},
        )
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


@pytest.mark.parametrize("streaming", [False, True])
def test_nan_is_refused_because_onnxruntime_would_lose_it(streaming, tmp_path):
    model = sequential(L.LSTM(3))
    edgeseq.export(model, tmp_path / "model.onnx", streaming=streaming)
    runtime = Model(tmp_path / "model.onnx")
    x = np.ones((2, 5, 4), np.float32)
    x[1, 3, 2] = np.nan
    assert np.isnan(model(x)[1]).all()
    with pytest.raises(errors.InputMismatch, match=r"input 'x' holds NaN or infinity, first at \[1, 3, 2\]"):
        runtime.stream(batch=2).step(x) if streaming else runtime(x)
