"""Models fed in chunks, causal convolutions and masks among them, against Keras on the whole sequence."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as L

import edgeseq
from edgeseq.errors import InputMismatch, Refused, UnsupportedLayer
from edgeseq.runtime import Model
from edgeseq.runtime.feed import check_chunk
from edgeseq.runtime.manifest import output_time_axes

# Two implementations of tanh and sigmoid, and sums in another order, in float32: the tolerance of every export.
TOLERANCE = 1e-5


def sequential(*layers, steps=None, features=4):
    return keras.Sequential([keras.Input((steps, features), name="x"), *layers])


def functional(build, steps=None, features=4):
    x = keras.Input((steps, features), name="x")
    return keras.Model(x, build(x))


def export(model, folder, **options):
    path = folder / "model.onnx"
    assert edgeseq.export(model, path, streaming=True, overwrite=True, **options).parity
    return Model(path)


def some_sequence(model, *, batch=2, steps=24, seed=0):
    """One array an input, with masked steps in any place: ids of zero, steps of zeros, Booleans."""
    random = np.random.default_rng(seed)
    arrays = []
    for spec in model.inputs:
        shape = [{"batch": batch, "time": steps}.get(axis, axis) for axis in spec.axes]
        if spec.dtype == "bool":
            arrays.append(random.random(shape) < 0.5)
        elif spec.dtype == "int32":
            arrays.append(random.integers(0, spec.vocabulary_size, shape).astype(np.int32))
        else:
            array = random.normal(size=shape).astype(np.float32)
            array[random.random(shape[:2]) < 0.4] = 0
            arrays.append(array)
    return arrays


def ways_to_cut(steps, multiple=1, seed=0):
    """All at once, as short as can be, and by chance."""
    count = steps // multiple
    random = np.random.default_rng(seed)
    cuts = np.sort(random.choice(np.arange(1, count), size=min(4, count - 1), replace=False)) if count > 1 else []
    return [[steps], [multiple] * count, (np.diff([0, *cuts, count]) * multiple).tolist()]


def streamed(model, arrays, lengths):
    """The flat answers to chunks: sequences end to end, others from the last chunk."""
    stream = model.stream(batch=arrays[0].shape[0])
    along = output_time_axes(model.inputs, model.outputs)
    answers, start = [], 0
    for length in lengths:
        chunk = [
            array[:, start : start + length] if spec.time_axis is not None else array
            for spec, array in zip(model.inputs, arrays, strict=True)
        ]
        check_chunk(
            dict(zip([s.name for s in model.inputs], chunk, strict=True)), model.inputs, model.manifest.chunk_multiple
        )
        answers.append(keras.tree.flatten(stream.step(chunk if len(chunk) > 1 else chunk[0])))
        start += length
    return [
        np.concatenate(pieces, axis=along[spec.name]) if spec.name in along else pieces[-1]
        for spec, pieces in zip(model.outputs, zip(*answers, strict=True), strict=True)
    ]


def assert_chunks_equal_keras(keras_model, model, *, steps=24, batch=2, seed=0):
    arrays = some_sequence(model, batch=batch, steps=steps, seed=seed)
    wanted = keras_model(arrays if len(arrays) > 1 else arrays[0], training=False)
    wanted = [np.asarray(value) for value in keras.tree.flatten(wanted)]
    for lengths in ways_to_cut(steps, model.manifest.chunk_multiple, seed):
        for got, want in zip(streamed(model, arrays, lengths), wanted, strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=TOLERANCE * max(1, np.abs(want).max()))


def tcn(x):
    for dilation in (1, 2, 4):
        y = L.Conv1D(6, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        y = L.SpatialDropout1D(0.1)(L.LayerNormalization()(y))
        y = L.Conv1D(6, 3, padding="causal", dilation_rate=dilation)(y)
        x = L.ReLU()(L.Add()([y, x if x.shape[-1] == 6 else L.Conv1D(6, 1)(x)]))
    return L.Dense(2)(L.LSTM(5)(x))


def wavenet(x):
    x, skips = L.Conv1D(6, 1, padding="causal")(x), []
    for dilation in (1, 2, 4):
        signal = L.Conv1D(6, 2, padding="causal", dilation_rate=dilation, activation="tanh")(x)
        gate = L.Conv1D(6, 2, padding="causal", dilation_rate=dilation)(x)
        y = L.Conv1D(6, 1)(L.Multiply()([signal, keras.ops.sigmoid(gate)]))
        skips.append(y)
        x = x + y
    return keras.ops.silu(L.Add()(skips))


def split_gates(x):
    signal, gate = keras.ops.split(L.Conv1D(6, 2, padding="causal")(x), 2, axis=-1)
    return signal * keras.ops.sigmoid(gate)


def unlike_delays(x):
    long, short = L.Conv1D(3, 5, padding="causal", dilation_rate=2)(x), L.Conv1D(3, 2, padding="causal")(x)
    return L.GRU(4, return_sequences=True)(L.Concatenate()([long, short, x]))


def several_strides(x):
    two = L.MaxPooling1D(2)(L.Conv1D(4, 3, padding="causal", strides=2)(x))
    four = L.Conv1D(4, 6, padding="causal", strides=4)(x)
    return [two + four, L.AveragePooling1D(3)(x)]


def a_shared_convolution(x):
    convolution = L.Conv1D(4, 3, padding="causal")
    return convolution(convolution(x))


def a_nested_model(x):
    inner = keras.Sequential([keras.Input((None, 4)), L.ZeroPadding1D((2, 0)), L.DepthwiseConv1D(3)], name="inner")
    return L.LSTM(3)(inner(x))


def features_apart(x):
    return L.LSTM(3, return_sequences=True)(L.Concatenate()([x[:, :, 1:3], keras.ops.mean(x, axis=-1, keepdims=True)]))


def after_the_last_step(x):
    y = L.Reshape((3, 4))(L.LSTM(12)(x))
    return [L.GlobalAveragePooling1D()(y), L.Flatten()(keras.ops.transpose(y, (0, 2, 1)))]


def frames(x):
    return L.LSTM(3)(L.TimeDistributed(L.Dense(3))(L.BatchNormalization()(L.Rescaling(0.5)(x))))


def sequences_within_steps():
    x = keras.Input((None, 5, 2), name="x")
    y = L.TimeDistributed(L.Bidirectional(L.LSTM(3)))(x)
    z = L.TimeDistributed(keras.Sequential([L.Conv1D(3, 3, padding="causal"), L.GlobalMaxPooling1D()]))(x)
    step = keras.Input((5, 2))
    turned = keras.Model(step, L.Flatten()(keras.ops.flip(step, axis=1)))
    return keras.Model(x, L.LSTM(3)(L.Concatenate()([y, z, L.TimeDistributed(turned)(x)])))


def images():
    x = keras.Input((None, 5, 5, 2), name="x")
    return keras.Model(
        x, L.LayerNormalization(axis=[2, 3, 4])(L.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x))
    )


def the_last_image():
    x = keras.Input((None, 5, 5, 2), name="x")
    y = L.Conv2D(2, 3)(L.ConvLSTM2D(3, 3, padding="same")(x))
    return keras.Model(x, [y, L.Dense(2)(L.Flatten()(y))])


def sequence(x, units=3):
    return L.LSTM(units, return_sequences=True)(x)


def a_number_a_step(x):
    score = L.Activation("tanh")(L.Add()([sequence(x)[:, :, 0], keras.ops.mean(sequence(x), axis=-1)]))
    return [keras.ops.sigmoid(score), L.Multiply()([sequence(x), L.Softmax()(sequence(x))])]


def states_as_answers(x):
    y, h, c = L.LSTM(3, return_sequences=True, return_state=True)(x)
    return [y, L.Softmax()(L.Concatenate()([h, c]))]


def the_last_step_of_a_nested_model(x):
    inner = keras.Sequential([keras.Input((None, 4)), L.LSTM(6)])
    head = keras.Sequential([keras.Input((6,)), L.Reshape((3, 2)), L.GlobalMaxPooling1D(), L.Dense(2, "softmax")])
    last = inner(x)
    return [L.Flatten()(L.Reshape((3, 2))(last)), head(last)]


def a_context():
    x, context = keras.Input((None, 4), name="x"), keras.Input((5,), name="context")
    given = L.Dense(3, activation="softmax")(L.UnitNormalization()(context))
    return keras.Model([x, context], [L.Add()([sequence(x), given]), L.Concatenate()([L.LSTM(3)(x), given])])


def two_sequences():
    # Of one step, either is as good as any length to Keras, which repeats it.
    x, other = keras.Input((None, 4), name="x"), keras.Input((None, 4), name="other")
    return keras.Model([x, other], [L.GRU(3)(L.Add()([x, other])), L.Multiply()([sequence(x), L.Dense(3)(other)])])


MODELS = {
    "causal": lambda: sequential(L.Conv1D(3, 4, padding="causal")),
    "dilated": lambda: sequential(L.Conv1D(3, 3, padding="causal", dilation_rate=3), L.GRU(3)),
    "grouped": lambda: sequential(L.Conv1D(6, 3, padding="causal", groups=2)),
    "strided": lambda: sequential(L.Conv1D(3, 3, padding="causal", strides=2), L.LSTM(3, return_sequences=True)),
    "strides above the window": lambda: sequential(L.Conv1D(3, 2, padding="causal", strides=3)),
    "patches": lambda: sequential(L.Conv1D(3, 4, strides=4), L.SimpleRNN(3, return_sequences=True)),
    "separable": lambda: sequential(L.ZeroPadding1D((4, 0)), L.SeparableConv1D(3, 3, dilation_rate=2)),
    "depthwise": lambda: sequential(L.ZeroPadding1D((2, 0)), L.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise, strided": lambda: sequential(L.ZeroPadding1D((2, 0)), L.DepthwiseConv1D(3, strides=2)),
    "padded apart": lambda: sequential(L.ZeroPadding1D((2, 0)), L.Conv1D(3, 3), L.LSTM(3)),
    "pooled": lambda: sequential(
        L.MaxPooling1D(2), L.LSTM(3, return_sequences=True), L.AveragePooling1D(2, padding="same")
    ),
    "own shared axes": lambda: sequential(L.PReLU(shared_axes=[1]), L.LSTM(3)),
    "fixed length": lambda: sequential(L.Conv1D(3, 3, padding="causal"), L.LSTM(3, return_sequences=True), steps=24),
    "tcn": lambda: functional(tcn),
    "wavenet": lambda: functional(wavenet),
    "split gates": lambda: functional(split_gates),
    "unlike delays": lambda: functional(unlike_delays),
    "several strides": lambda: functional(several_strides),
    "a shared convolution": lambda: functional(a_shared_convolution),
    "a nested model": lambda: functional(a_nested_model),
    "features apart": lambda: functional(features_apart),
    "after the last step": lambda: functional(after_the_last_step),
    "a number a step": lambda: functional(a_number_a_step),
    "states as answers": lambda: functional(states_as_answers),
    "the last step of a nested model": lambda: functional(the_last_step_of_a_nested_model),
    "a context": a_context,
    "two sequences": two_sequences,
    "the last image": the_last_image,
    "frames": lambda: functional(frames),
    "sequences within steps": sequences_within_steps,
    "images": images,
}


@pytest.mark.parametrize("name", MODELS)
def test_chunks_equal_keras_on_the_whole(name, tmp_path, randomized):
    keras_model = randomized(MODELS[name]())
    assert_chunks_equal_keras(keras_model, export(keras_model, tmp_path))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kernel=st.integers(1, 5),
    dilation=st.integers(1, 4),
    stride=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_any_causal_convolution(kernel, dilation, stride, groups, seed, tmp_path, randomized):
    # Keras takes one or the other.
    dilation = 1 if stride > 1 else dilation
    layer = L.Conv1D(4, kernel, padding="causal", dilation_rate=dilation, strides=stride, groups=groups)
    keras_model = randomized(sequential(layer, L.SimpleRNN(3, return_sequences=True)))
    model = export(keras_model, tmp_path)
    assert model.manifest.chunk_multiple == stride
    history = (kernel - 1) * dilation
    states = [state for state in model.manifest.states if state.input.endswith(".x")]
    assert [state.axes for state in states] == ([("batch", history, 4)] if history else [])
    assert_chunks_equal_keras(keras_model, model, seed=seed)


def test_the_graph_has_no_needless_nodes(tmp_path):
    model = sequential(L.Conv1D(3, 3, padding="causal", dilation_rate=2, name="conv"))
    export(model, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    # TensorFlow convolves sequences as images of one row.
    wanted = ["Concat", "Unsqueeze", "Transpose", "Conv", "Squeeze", "Transpose", "Slice"]
    assert [node.op_type for node in graph.node] == wanted
    assert [value.name for value in graph.input] == ["x", "state_in.00.conv.x"]
    assert [value.name for value in graph.output] == ["conv", "state_out.00.conv.x"]


def test_states_are_numbered_over_all_layers(tmp_path):
    model = sequential(L.Conv1D(3, 2, padding="causal", name="b"), L.GRU(3, return_sequences=True, name="a"))
    manifest = export(model, tmp_path).manifest
    assert [state.input for state in manifest.states] == ["state_in.00.b.x", "state_in.01.a.h"]
    assert [state.output for state in manifest.states] == ["state_out.00.b.x", "state_out.01.a.h"]


def test_a_causal_convolution_stays_as_it_is_without_streaming(tmp_path):
    layer = L.Conv1D(3, 3, padding="causal")
    model = sequential(layer, L.LSTM(3))
    x = np.ones((1, 5, 4), np.float32)
    before = np.asarray(model(x))
    export(model, tmp_path)
    assert layer.padding == "causal"
    np.testing.assert_array_equal(model(x), before)
    report = edgeseq.export(model, tmp_path / "model.onnx", overwrite=True)
    assert report.states == ()
    assert "Pad" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_strides_want_chunks_of_a_multiple(tmp_path, randomized):
    keras_model = randomized(functional(several_strides))
    model = export(keras_model, tmp_path)
    assert model.manifest.chunk_multiple == 12
    assert [spec.axes[1] for spec in model.outputs] == ["time/4", "time/3"]
    for steps in (12, 24):
        check_chunk({"x": np.zeros((1, steps, 4))}, model.inputs, 12)
    with pytest.raises(InputMismatch, match=r"'x' takes chunks of 12, 24, 36... time steps.*got 31.*last 7"):
        check_chunk({"x": np.zeros((1, 31, 4))}, model.inputs, 12)


def test_a_length_that_strides_do_not_divide_is_refused(tmp_path):
    strided = L.Conv1D(3, 3, padding="causal", strides=4)
    with pytest.raises(Refused, match=r"'x'.*multiple of 4.*the model's own length is 30. Use 28"):
        export(sequential(strided, steps=30), tmp_path)
    with pytest.raises(Refused, match=r"'x'.*multiple of 4.*that of the samples is 3. Use 4"):
        export(sequential(strided), tmp_path, samples=np.zeros((1, 3, 4), np.float32))
    assert export(sequential(strided), tmp_path, samples=np.zeros((1, 8, 4), np.float32))
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


def test_steps_that_nothing_is_kept_of_are_nothing_to_stream(tmp_path):
    with pytest.raises(Refused, match="nothing to stream: the model has no recurrent layer and no causal"):
        export(sequential(L.Conv1D(3, 1), L.Dense(2)), tmp_path)


def test_a_convolution_begins_anew_in_each_call_of_a_stateful_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 4, 3), name="x"),
            L.Conv1D(3, 2, padding="causal", name="conv"),
            L.LSTM(3, stateful=True),
        ]
    )
    with pytest.raises(UnsupportedLayer, match=r"layer 'conv'.*begins with zeros in each call"):
        edgeseq.export(model, tmp_path / "model.onnx")


def same(*layers):
    return lambda: sequential(*[layer() for layer in layers])


@keras.saving.register_keras_serializable(package="edgeseq_tests")
class OwnConvolution(L.Conv1D):
    pass


def added(*inputs):
    return keras.Model(inputs, L.Add(name="it")(inputs))


# Keras names these itself.
OPERATIONS = ("steps of one's own", "an operation", "an operation over time", "a truth over time")
REFUSED = {
    "bidirectional": (same(lambda: L.Bidirectional(L.LSTM(3), name="it")), "Bidirectional.*its last step on as well"),
    "backwards": (same(lambda: L.LSTM(3, go_backwards=True, name="it")), "goes backwards, from the last step on"),
    "average": (same(lambda: L.GlobalAveragePooling1D(name="it")), "puts all time steps together"),
    "maximum": (same(lambda: L.GlobalMaxPooling1D(name="it")), "puts all time steps together"),
    "flatten": (same(lambda: L.Flatten(name="it")), "puts all time steps together"),
    "same": (
        same(lambda: L.Conv1D(3, 5, padding="same", name="it")),
        "padding='same' looks 2 or more steps ahead. Use padding='causal'",
    ),
    "valid": (same(lambda: L.Conv1D(3, 3, name="it")), "no answer for the first 2 steps.*Use padding='causal'"),
    "separable": (
        same(lambda: L.SeparableConv1D(3, 3, padding="same", name="it")),
        r"Put a ZeroPadding1D\(\(2, 0\)\) before it and use padding='valid'",
    ),
    "overlapping pooling": (
        same(lambda: L.MaxPooling1D(3, strides=1, name="it")),
        "looks at 3 time steps every 1, so that its windows overlap",
    ),
    "padding behind": (same(lambda: L.ZeroPadding1D((0, 2), name="it")), "adds 2 steps behind the last one"),
    "padding alone": (
        same(lambda: L.ZeroPadding1D((2, 0), name="it"), lambda: L.LSTM(3)),
        "only right before convolutions with padding='valid' whose windows are 3 steps long",
    ),
    "padding too long": (
        same(lambda: L.ZeroPadding1D((3, 0), name="it"), lambda: L.Conv1D(3, 3)),
        "whose windows are 4 steps long",
    ),
    "cropping": (same(lambda: L.Cropping1D(1, name="it")), "adds or drops steps"),
    "upsampling": (same(lambda: L.UpSampling1D(2, name="it")), "puts out more steps than go in"),
    "transposed": (same(lambda: L.Conv1DTranspose(3, 2, name="it")), "puts out more steps than go in"),
    "permute": (same(lambda: L.Permute((2, 1), name="it")), "moves the time axis"),
    "group normalization": (
        same(lambda: L.GroupNormalization(2, name="it")),
        "takes its mean over all time steps",
    ),
    "normalization over time": (
        lambda: sequential(L.LayerNormalization(axis=1, name="it"), steps=8),
        "works along the time axis",
    ),
    "weights for each step": (lambda: sequential(L.PReLU(name="it"), steps=8), "weights of its own for each time step"),
    "attention": (
        lambda: functional(lambda x: L.Attention(name="it")([x, x])),
        "looks at all time steps.*would grow without end",
    ),
    "causal attention": (
        lambda: functional(lambda x: L.MultiHeadAttention(2, 3, name="it")(x, x, use_causal_mask=True)),
        "looks at all time steps.*would grow without end",
    ),
    "a decoder": (
        same(lambda: L.LSTM(3), lambda: L.RepeatVector(4), lambda: L.LSTM(2, name="it")),
        "runs over another sequence, which begins when that of the stream has ended",
    ),
    "scores over time": (
        lambda: functional(lambda x: L.Softmax(name="it")(sequence(x)[:, :, 0])),
        "works along the time axis",
    ),
    "an activation over time": (
        lambda: functional(lambda x: L.Activation("softmax", name="it")(keras.ops.mean(sequence(x), axis=-1))),
        "works along the time axis",
    ),
    "weights over time": (
        lambda: functional(lambda x: L.Dense(2, name="it")(sequence(x)[:, :, 0]), steps=6),
        "works along the time axis",
    ),
    "a unit length over time": (
        lambda: functional(lambda x: L.UnitNormalization(name="it")(sequence(x)[:, :, 0])),
        "works along the time axis",
    ),
    "sequences end to end": (
        lambda: functional(lambda x: L.Concatenate(name="it")([sequence(x)[:, :, 0], x[:, :, 1]])),
        "works along the time axis",
    ),
    "an operation over time": (
        lambda: functional(lambda x: keras.ops.max(keras.ops.sum(sequence(x), axis=-1), axis=-1)),
        r"a Max like this one with axis=\[-1\] works along the time axis",
    ),
    "a truth over time": (
        lambda: functional(lambda x: keras.ops.cast(keras.ops.any(sequence(x)[:, :, 0] > 0, axis=-1), "float32")),
        r"an Any like this one with axis=\[-1\] works along the time axis",
    ),
    "the last step in each": (
        lambda: functional(lambda x: L.Add(name="it")([sequence(x), L.LSTM(3)(x)])),
        "brings a sequence together with what is put out after a last step",
    ),
    "the last state in each": (
        lambda: functional(
            lambda x: L.Add(name="it")(L.LSTM(3, return_sequences=True, return_state=True)(x)[:2]),
        ),
        "brings a sequence together with what is put out after a last step",
    ),
    "the last step of a nested model in each": (
        lambda: functional(
            lambda x: L.Add(name="it")([sequence(x), keras.Sequential([keras.Input((None, 4)), L.LSTM(3)])(x)])
        ),
        "brings a sequence together with what is put out after a last step",
    ),
    "the last step in each, in a nested model": (
        lambda: functional(lambda x: added(keras.Input((None, 3)), keras.Input((3,)))([sequence(x), L.LSTM(3)(x)])),
        "brings a sequence together with what is put out after a last step",
    ),
    "time against features": (
        lambda: functional(lambda x: L.Add(name="it")([sequence(x, 1), sequence(x)[:, :, 0]])),
        "reads sequences of unlike ranks",
    ),
    "steps of one's own": (lambda: functional(lambda x: x[:, 1:]), "a GetItem like this one is not known to look"),
    "a subclass": (same(lambda: OwnConvolution(3, 1, name="it")), "OwnConvolution like this one is not known to look"),
    "an operation": (
        lambda: functional(lambda x: keras.ops.flip(x, axis=1)),
        "a Flip like this one is not known to look at one time step at a time",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("last", [True, False])
def test_what_cannot_stream_is_refused_with_its_reason(name, last, tmp_path):
    make, reason = REFUSED[name]
    model = make()
    if not last:
        # Whatever else there is to carry.
        model = keras.Model(model.inputs, [*model.outputs, L.LSTM(3)(model.inputs[0])])
    named = "layer 'it'" if name not in OPERATIONS else "layer '"
    with pytest.raises(UnsupportedLayer, match=f"{named}.*{reason}"):
        edgeseq.export(model, tmp_path / "model.onnx", streaming=True)
    assert not list(tmp_path.iterdir())


def test_a_given_initial_state_is_refused(tmp_path):
    x, h = keras.Input((None, 3), name="x"), keras.Input((4,), name="h")
    model = keras.Model([x, h], L.GRU(4, name="it")(x, initial_state=h))
    with pytest.raises(UnsupportedLayer, match=r"layer 'it'.*its initial state is given in each call"):
        edgeseq.export(model, tmp_path / "model.onnx", streaming=True)


@keras.saving.register_keras_serializable(package="edgeseq_tests")
class Unlike(L.Layer):
    """A cell whose output is none of its states, which begin with `start`."""

    def __init__(self, units, start=0.0, **options):
        super().__init__(**options)
        self.units, self.start = units, start
        self.state_size, self.output_size = [units, units], units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), initializer="glorot_uniform")
        self.built = True

    def call(self, x, states):
        fast, slow = states
        after = keras.ops.tanh(x @ self.kernel + 0.5 * fast - 0.3 * slow)
        return 2 * after + 1, [after, 0.9 * slow + after]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.full((batch_size, self.units), self.start)] * 2


RECURRENT = {
    "lstm": lambda **options: L.LSTM(4, **options),
    "gru": lambda **options: L.GRU(4, **options),
    "simple_rnn": lambda **options: L.SimpleRNN(4, **options),
    "unlike": lambda **options: L.RNN(Unlike(4), **options),
    "begins with a number": lambda **options: L.RNN(Unlike(4, 0.3), **options),
    "stack": lambda **options: L.RNN([L.LSTMCell(3), Unlike(4)], **options),
    "stack of a cell of one's own": lambda **options: L.RNN([Unlike(3), L.GRUCell(4)], **options),
}


@pytest.mark.parametrize(
    ("name", "lowering"),
    [*((name, "auto") for name in RECURRENT), *((name, "scan") for name in ("lstm", "gru", "simple_rnn"))],
)
def test_masked_steps_repeat_what_was_put_out_before_the_chunk(name, lowering, tmp_path, randomized):
    for sequences in (False, True):
        for zero in (False, True):
            layer = RECURRENT[name](return_sequences=sequences, zero_output_for_mask=zero)
            keras_model = randomized(sequential(L.Masking(), layer))
            model = export(keras_model, tmp_path, lowering=lowering)
            for seed in range(3):
                assert_chunks_equal_keras(keras_model, model, steps=9, batch=5, seed=seed)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_chunk_without_a_valid_step_leaves_the_state_untouched(name, tmp_path, randomized):
    model = export(randomized(sequential(L.Masking(), RECURRENT[name](return_sequences=True))), tmp_path)
    stream = model.stream(batch=2)
    random = np.random.default_rng(0)
    stream.step(random.normal(size=(2, 3, 4)).astype(np.float32))
    x = random.normal(size=(2, 3, 4)).astype(np.float32)
    before = stream.step(x)[:, -1]
    state = stream.state
    x[0] = 0  # the first row has nothing valid
    after = stream.step(x)
    np.testing.assert_array_equal(after[0], np.broadcast_to(before[0], after[0].shape))
    for key, array in stream.state.items():
        np.testing.assert_array_equal(array[0], state[key][0])
        assert not np.array_equal(array[1], state[key][1])


def masked_ids():
    ids = keras.Input((None,), name="ids", dtype="int32")
    one, two = L.Embedding(9, 4, mask_zero=True)(ids), L.Embedding(9, 4, mask_zero=True)(ids)
    both = L.Concatenate()([one, two])
    y = L.TimeDistributed(L.Dense(3))(L.Dropout(0.1)(both))
    return keras.Model(ids, [L.LSTM(3)(L.GRU(3, return_sequences=True)(y)), L.GRU(3)(L.Add()([one, two]))])


def masked_by_an_input(steps=None):
    x, mask = keras.Input((steps, 4), name="x"), keras.Input((steps,), dtype="bool", name="mask")
    return keras.Model([x, mask], L.LSTM(3, return_sequences=True)(x, mask=mask))


def masked_images(sequences):
    x, mask = keras.Input((None, 4, 4, 2), name="x"), keras.Input((None,), dtype="bool", name="mask")
    layer = L.ConvLSTM2D(3, 3, padding="same", return_sequences=sequences)
    return keras.Model([x, mask], layer(x, mask=mask))


MASKED = {
    "ids": masked_ids,
    "an input": masked_by_an_input,
    "an input of fixed length": lambda: masked_by_an_input(24),
    "images": lambda: masked_images(True),
    "the last image": lambda: masked_images(False),
    "several layers": lambda: sequential(
        L.Masking(),
        L.LSTM(3, return_sequences=True),
        L.Dense(3, activation="relu"),
        L.GRU(4, activation="gelu", return_sequences=True),
        L.SimpleRNN(3, return_sequences=True, zero_output_for_mask=True),
    ),
    # Keras's convolution drops the mask: the zeros of masked steps are inputs like others.
    "a convolution": lambda: sequential(L.Masking(), L.Conv1D(3, 3, padding="causal"), L.LSTM(3)),
}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_masks_from_anywhere(name, tmp_path, randomized):
    keras_model = randomized(MASKED[name]())
    model = export(keras_model, tmp_path)
    for seed in range(3):
        assert_chunks_equal_keras(keras_model, model, batch=3, seed=seed)


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_masked_streams_for_other_targets(target, tmp_path, randomized):
    keras_model = randomized(sequential(L.Masking(), L.Conv1D(3, 2, padding="causal"), L.GRU(3), features=4))
    assert_chunks_equal_keras(keras_model, export(keras_model, tmp_path, target=target))


def stateful(sequences):
    return keras.Sequential(
        [
            keras.Input(batch_shape=(3, 4, 2), name="x"),
            L.Masking(),
            L.LSTM(3, stateful=True, return_sequences=True, name="first"),
            L.GRU(3, stateful=True, return_sequences=sequences, name="second"),
        ]
    )


@pytest.mark.parametrize("sequences", [False, True])
def test_a_stateful_model_behind_a_mask(sequences, tmp_path, randomized):
    model = randomized(stateful(sequences))
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert [note.split("'")[1] for note in report.notes] == ["first", "second"]
    assert "puts out zeros" in report.notes[0]
    stream = Model(tmp_path / "model.onnx").stream(batch=3)
    random = np.random.default_rng(0)
    before = np.zeros((3, 3), np.float32)
    for _ in range(20):
        x = random.normal(size=(3, 4, 2)).astype(np.float32)
        valid = random.random((3, 4)) < 0.4
        x[~valid] = 0
        theirs, mine = np.asarray(model(x, training=False)), stream.step(x)
        # The one stated difference: Keras's zeros until the first valid step of a call.
        begun = np.cumsum(valid, axis=1) > 0
        begun, held = (begun[..., None], before[:, None]) if sequences else (begun[:, -1:], before)
        assert not theirs[np.broadcast_to(~begun, theirs.shape)].any()
        np.testing.assert_allclose(mine, np.where(begun, theirs, held), atol=TOLERANCE)
        before = mine[:, -1] if sequences else mine


def test_a_mistaken_cut_is_never_written(tmp_path, monkeypatch):
    """Each file is held against Keras in chunks before it is written."""
    from edgeseq.conversion import windows

    real = windows.window_of

    def mistaken(layer):
        window = real(layer)
        # A plausible mistake: the dilation forgotten.
        return windows.Window(steps=layer.kernel_size[0], stride=window.stride, padding=window.padding)

    monkeypatch.setattr(windows, "window_of", mistaken)
    with pytest.raises(Refused):
        export(sequential(L.Conv1D(3, 3, padding="causal", dilation_rate=2)), tmp_path)
    assert not list(tmp_path.iterdir())
