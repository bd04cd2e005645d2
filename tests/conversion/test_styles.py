"""Every way in which people write Keras models around recurrent layers: exact, native, and undisturbed afterwards."""

from __future__ import annotations

import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.runtime import Model

# The rule of the design: |a - b| <= 1e-5 x max(1, max |reference|), for float32 on the CPU.
TOLERANCE = 1e-5


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ids(*shape, seed=0):
    """Word ids below 20 with padding, 0, in front."""
    array = np.random.default_rng(seed).integers(1, 20, shape).astype(np.int32)
    array[1:, : shape[1] // 3] = 0
    return array


def check(model, inputs, path, *, recurrent=None, **options):
    """Export, and hold the file against the model on `inputs`: values, dtypes and nesting. Returns the report."""
    report = edgeseq.export(model, path, **options)
    assert report.parity
    if not options.get("allow_loop"):
        assert report.loops == 0
    if recurrent is not None:
        assert [layer.name for layer in report.recurrent] == recurrent
    same(Model(path)(inputs), model(inputs, training=False))
    return report


def same(answers, expected):
    assert shape_of_nest(answers) == shape_of_nest(expected)
    for mine, theirs in zip(keras.tree.flatten(answers), keras.tree.flatten(expected), strict=True):
        theirs = np.asarray(theirs)
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


def shape_of_nest(nest):
    return keras.tree.lists_to_tuples(keras.tree.map_structure(lambda _: 0, nest))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


class TestInputsAndOutputs:
    def test_nests_of_dicts_lists_and_tuples(self, path, randomized):
        a, b, c = (keras.Input((None, 4), name=name) for name in "abc")
        lengths = keras.Input((2,), name="static")
        one, two, three = L.LSTM(3, name="one")(a), L.GRU(3, name="two")(b), L.SimpleRNN(3, name="three")(c)
        model = keras.Model(
            {"sequences": [a, (b, c)], "static": lengths},
            {"first": one, "rest": [two, {"deep": three, "static": L.Dense(2)(lengths)}]},
        )
        x = {"sequences": [noise(2, 5, 4), (noise(2, 7, 4), noise(2, 3, 4))], "static": noise(2, 2)}
        check(randomized(model), x, path)

    def test_a_tuple_of_one_and_a_single_output(self, path):
        x = keras.Input((None, 4), name="x")
        check(keras.Model([x], [L.GRU(3)(x)]), [noise(2, 5, 4)], path)

    def test_an_input_that_nothing_reads(self, path):
        x, unread = keras.Input((None, 4), name="x"), keras.Input((2,), name="unread")
        check(keras.Model({"x": x, "unread": unread}, L.GRU(3)(x)), {"x": noise(2, 5, 4), "unread": noise(2, 2)}, path)

    def test_an_integer_and_a_boolean_output(self, path):
        x = keras.Input((None, 4), name="x")
        y = L.LSTM(5)(x)
        model = keras.Model(x, {"high": keras.ops.cast(y * 10, "int32"), "sure": keras.ops.max(y, -1) > 0.1})
        check(model, noise(3, 5, 4), path)

    def test_scalars_and_sequences_of_unlike_length_side_by_side(self, path):
        words, sound = keras.Input((None,), name="words", dtype="int32"), keras.Input((None, 4), name="sound")
        a = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Embedding(20, 6, mask_zero=True)(words))
        b = L.GRU(8, return_sequences=True)(sound)
        model = keras.Model([words, sound], [L.Attention()([b, a]), L.GlobalAveragePooling1D()(b)])
        check(model, [ids(2, 6), noise(2, 9, 4)], path)
        assert [spec.axes for spec in Model(path).outputs] == [("batch", "time_2", 8), ("batch", 8)]


class TestNesting:
    def test_models_in_models_in_a_sequential(self, path, randomized):
        innermost = keras.Sequential([keras.Input((None, 4)), L.LSTM(5, return_sequences=True, name="a")], name="m1")
        x = keras.Input((None, 4))
        middle = keras.Model(x, L.Add()([innermost(x), L.GRU(5, return_sequences=True, name="b")(x)]), name="m2")
        model = keras.Sequential([keras.Input((None, 4), name="x"), middle, L.SimpleRNN(3, name="c"), L.Dense(2)])
        check(randomized(model), noise(2, 6, 4), path, recurrent=["a", "b", "c"])

    def test_a_nested_model_called_twice(self, path):
        inner = keras.Sequential([keras.Input((None, 4)), L.Bidirectional(L.GRU(3), name="tower")], name="inner")
        a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
        model = keras.Model([a, b], L.Dot(-1, normalize=True)([inner(a), inner(b)]))
        report = check(model, [noise(2, 5, 4), noise(2, 8, 4, seed=1)], path)
        assert [(layer.name, layer.op_types) for layer in report.recurrent] == [("tower", ("GRU", "GRU"))]

    def test_a_nested_model_with_several_outputs(self, path):
        x = keras.Input((None, 4))
        inner = keras.Model(x, dict(zip("yhc", L.LSTM(3, return_sequences=True, return_state=True)(x), strict=True)))
        outer = keras.Input((None, 4), name="x")
        made = inner(outer)
        model = keras.Model(outer, [L.GRU(2)(made["y"], initial_state=L.Dense(2)(made["c"])), made["h"]])
        check(model, noise(2, 6, 4), path)

    def test_a_mask_goes_into_a_nested_model(self, path):
        x = keras.Input((None, 6))
        inner = keras.Model(x, L.LSTM(4)(x))
        words = keras.Input((None,), name="words", dtype="int32")
        masked = L.Embedding(20, 6, mask_zero=True)(words)
        check(keras.Model(words, L.Dense(2)(inner(masked))), ids(3, 8), path)


class Tagger(keras.Model):
    """Layers in lists and dicts, a layer made in `build`, and a mask used by hand."""

    def __init__(self):
        super().__init__()
        self.embed = L.Embedding(20, 6, mask_zero=True)
        self.stack = [L.GRU(5, return_sequences=True, name="s0"), L.LSTM(5, return_sequences=True, name="s1")]
        self.heads = {"tag": L.Dense(3), "score": L.Dense(1)}

    def build(self, shape):
        self.late = L.Bidirectional(L.SimpleRNN(3, return_sequences=True), name="late")
        self.embed.build(shape)
        width = 6
        for layer in self.stack:
            layer.build((None, None, width))
            width = 5
        self.late.build((None, None, 5))
        for head in self.heads.values():
            head.build((None, None, 6))
        self.built = True

    def call(self, words):
        x, mask = self.embed(words), self.embed.compute_mask(words)
        for layer in self.stack:
            x = x * 0.5 + keras.ops.sum(layer(x, mask=mask), -1, keepdims=True)
            x = x[..., :5]
        x = self.late(x, mask=mask)
        return {name: head(x) for name, head in self.heads.items()}


class Pooled(L.Layer):
    """A user's layer around a recurrent one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rnn = L.LSTM(4, return_sequences=True, name="inside")

    def build(self, shape):
        self.rnn.build(shape)

    def call(self, x):
        y = self.rnn(x)
        return keras.ops.concatenate([keras.ops.mean(y, 1), keras.ops.max(y, 1)], -1)


class TestSubclassed:
    def test_layers_in_lists_and_dicts(self, path):
        check(Tagger(), ids(3, 9), path, samples=ids(2, 9, seed=4), recurrent=["s0", "s1", "late"])

    def test_never_called(self, path):
        class Small(keras.Model):
            def __init__(self):
                super().__init__()
                self.rnn, self.out = L.GRU(4, name="rnn"), L.Dense(2)

            def call(self, inputs):
                return self.out(self.rnn(inputs["x"])), inputs["x"][:, -1]

        model = Small()
        assert not model.built
        check(model, {"x": noise(3, 5, 4)}, path, samples={"x": noise(1, 5, 4, seed=2)}, recurrent=["rnn"])

    def test_a_layer_around_a_recurrent_one(self, path):
        x = keras.Input((None, 4), name="x")
        check(keras.Model(x, L.Dense(2)(Pooled()(x))), noise(2, 7, 4), path, recurrent=["inside"])

    def test_a_sequential_that_was_built_and_never_called(self, path):
        model = keras.Sequential([L.GRU(4, return_sequences=True), L.LSTM(3)])
        model.build((None, None, 4))
        check(model, noise(2, 5, 4), path)

    def test_a_subclass_of_sequential_and_of_functional(self, path):
        class Mine(keras.Sequential):
            pass

        class Ours(keras.Model):
            pass

        x = keras.Input((None, 4), name="x")
        check(Mine([keras.Input((None, 4), name="x"), L.LSTM(3)]), noise(2, 5, 4), path)
        check(Ours(x, L.LSTM(3)(x)), noise(2, 5, 4), path, overwrite=True)

    def test_a_train_step_of_its_own_is_no_matter(self, path):
        class Trained(keras.Model):
            def train_step(self, *_):
                raise AssertionError("an export does not train")

        x = keras.Input((None, 4), name="x")
        check(Trained(x, L.LSTM(3)(x)), noise(2, 5, 4), path)


class InGraph(L.Layer):
    """The user's own tf.function around a recurrent layer."""

    def __init__(self, signature=None):
        super().__init__()
        self.rnn = L.LSTM(4, name="wrapped")
        self.function = tf.function(lambda x: self.rnn(x) * 2.0, input_signature=signature)

    def build(self, shape):
        self.rnn.build(shape)

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape[0], 4


class TestCalls:
    @pytest.mark.parametrize("signature", [None, [tf.TensorSpec([None, None, 4], tf.float32)]])
    def test_a_tf_function_of_the_users_own(self, signature, path):
        layer = InGraph(signature)
        x = keras.Input((None, 4), name="x")
        model = keras.Model(x, L.Dense(2)(layer(x)))
        before = model.predict(noise(2, 5, 4), verbose=0)
        check(model, noise(2, 6, 4), path, recurrent=["wrapped"])
        # Neither the trace of the export nor an older one is left in the function's cache.
        np.testing.assert_array_equal(model.predict(noise(2, 5, 4), verbose=0), before)
        np.testing.assert_allclose(layer.function(noise(2, 5, 4)), 2.0 * layer.rnn(noise(2, 5, 4)), atol=1e-6)

    def test_one_layer_called_several_times_on_its_own_output(self, path):
        layer = L.GRU(4, return_sequences=True, name="again")
        x = keras.Input((None, 4), name="x")
        report = check(keras.Model(x, layer(layer(layer(x)))), noise(2, 6, 4), path)
        assert [(r.name, r.strategy, r.op_types) for r in report.recurrent] == [("again", "fused", ("GRU",) * 3)]

    def test_one_layer_with_and_without_mask_and_states(self, path):
        layer = L.LSTM(4, return_state=True, name="again")
        words, x = keras.Input((None,), name="words", dtype="int32"), keras.Input((None, 6), name="x")
        _, h, c = layer(L.Embedding(20, 6, mask_zero=True)(words))
        y, _, _ = layer(x, initial_state=[h, c])
        check(keras.Model([words, x], [y, h]), [ids(3, 8), noise(3, 5, 6)], path, recurrent=["again"])

    def test_conditions_in_conditions(self, path):
        class Chooses(L.Layer):
            def __init__(self):
                super().__init__()
                self.parts = [L.LSTM(3, name="l"), L.GRU(3, name="g"), L.SimpleRNN(3, name="s")]

            def build(self, shape):
                for part in self.parts:
                    part.build(shape)

            def call(self, x):
                total = keras.ops.sum(x)
                a, b, c = self.parts
                return keras.ops.cond(
                    total > 0, lambda: keras.ops.cond(total > 5, lambda: a(x), lambda: b(x)), lambda: c(x)
                )

            def compute_output_shape(self, shape):
                return shape[0], 3

        x = keras.Input((None, 4), name="x")
        model = keras.Model(x, Chooses()(x))
        check(model, noise(2, 5, 4), path)
        runtime = Model(path)
        for offset in (-1, 0.1, 1):
            values = noise(2, 5, 4) + np.float32(offset)
            same(runtime(values), model(values))

    @pytest.mark.parametrize("kind", ["fori_loop", "while_loop"])
    def test_a_recurrent_layer_in_a_loop_of_the_users(self, kind, path):
        class Repeats(L.Layer):
            def __init__(self, **options):
                super().__init__(**options)
                self.rnn = L.GRU(4, return_sequences=True, name="body")

            def build(self, shape):
                self.rnn.build(shape)

            def call(self, x):
                if kind == "fori_loop":
                    return keras.ops.fori_loop(0, 3, lambda _, y: self.rnn(y), x)
                return keras.ops.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, self.rnn(y)), (0, x))[1]

            def compute_output_shape(self, shape):
                return shape

        x = keras.Input((None, 4), name="x")
        model = keras.Model(x, Repeats(name="repeats")(x))
        with pytest.raises(errors.LoopRefused, match="layer 'repeats' runs a while-loop of its own"):
            edgeseq.export(model, path)
        assert not list(path.parent.iterdir())
        report = check(model, noise(2, 5, 4), path, allow_loop=True)
        assert report.loops == 1
        # The layer itself stays native: the loop is the user's.
        assert [(r.name, r.strategy, r.op_types) for r in report.recurrent] == [("body", "fused", ("GRU",))]


def adapted():
    layer = L.Normalization(name="normalization")
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    return layer


def trained_norm():
    """A BatchNormalization whose statistics are not the ones it begins with."""
    layer = L.BatchNormalization()
    layer.build((None, None, 5))
    layer.moving_mean.assign(np.linspace(-1, 1, 5))
    layer.moving_variance.assign(np.linspace(0.5, 2, 5))
    return layer


def speech():
    """Convolutions over (time, frequency), then recurrence over time."""
    x = keras.Input((None, 12, 1), name="x")
    y = L.Conv2D(3, (3, 3), strides=(1, 2), padding="same", activation="relu")(x)
    y = L.MaxPooling2D((1, 2))(y)
    y = L.Reshape((-1, 9))(y)
    return keras.Model(x, L.Dense(4, activation="softmax")(L.Bidirectional(L.GRU(5, return_sequences=True))(y)))


def transformer():
    x = keras.Input((None, 4), name="x")
    y = L.LSTM(8, return_sequences=True)(x)
    y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4)(y, y, use_causal_mask=True))
    return keras.Model(x, L.GRU(3)(L.Dense(8, activation="gelu")(y)))


def attention_over_words():
    words = keras.Input((None,), name="words", dtype="int32")
    y = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Embedding(20, 6, mask_zero=True)(words))
    return keras.Model(words, L.GlobalMaxPooling1D()(L.AdditiveAttention()([y, L.MultiHeadAttention(2, 4)(y, y)])))


def in_a_row(*layers, shape=(None, 4)):
    return keras.Sequential([keras.Input(shape, name="x"), *layers])


def rnn(units=5, **options):
    return L.LSTM(units, return_sequences=True, **options)


BESIDE = {
    "normalization": (lambda: in_a_row(adapted(), L.GRU(3)), (2, 6, 4)),
    "rescaling": (lambda: in_a_row(L.Rescaling(1 / 255.0, -1.0), L.GRU(3)), (2, 6, 4)),
    "normalization inside": (lambda: in_a_row(L.TimeDistributed(adapted()), L.GRU(3)), (2, 6, 4)),
    "batch normalization": (lambda: in_a_row(rnn(), trained_norm(), L.GRU(3)), (2, 6, 4)),
    "layer and group normalization": (
        lambda: in_a_row(rnn(6), L.LayerNormalization(), L.GroupNormalization(2), L.UnitNormalization(), L.GRU(3)),
        (2, 6, 4),
    ),
    "causal and separable convolutions": (
        lambda: in_a_row(L.Conv1D(6, 3, padding="causal", dilation_rate=2), L.SeparableConv1D(5, 3), rnn(), L.GRU(2)),
        (2, 9, 4),
    ),
    "convolution with strides, pooling": (
        lambda: in_a_row(L.Conv1D(6, 5, strides=2), L.MaxPooling1D(2), L.Bidirectional(L.GRU(4))),
        (2, 19, 4),
    ),
    "convolutions over images, then time": (speech, (2, 7, 12, 1)),
    "a video": (
        lambda: in_a_row(
            L.TimeDistributed(L.Conv2D(3, 3, activation="relu")),
            L.TimeDistributed(L.MaxPooling2D()),
            L.TimeDistributed(L.Flatten()),
            L.LSTM(4),
            shape=(None, 8, 8, 2),
        ),
        (2, 5, 8, 8, 2),
    ),
    "self-attention": (transformer, (2, 6, 4)),
    "repeat and permute": (
        lambda: in_a_row(L.LSTM(5), L.RepeatVector(4), rnn(6), L.Permute((2, 1)), L.GRU(3)),
        (2, 6, 4),
    ),
    "flatten and reshape": (
        lambda: in_a_row(rnn(6), L.Flatten(), L.Reshape((9, 4)), L.GRU(3), shape=(6, 4)),
        (2, 6, 4),
    ),
    "cropped, padded, upsampled": (
        lambda: in_a_row(L.ZeroPadding1D(2), rnn(), L.Cropping1D((1, 0)), L.UpSampling1D(2), L.GRU(3)),
        (2, 6, 4),
    ),
    "noise and dropout do nothing": (
        lambda: in_a_row(
            L.GaussianNoise(1.0), L.SpatialDropout1D(0.5), rnn(dropout=0.5, seed=3), L.Dropout(0.5, seed=1),
            L.GaussianDropout(0.5), L.AlphaDropout(0.5), L.GRU(3, recurrent_dropout=0.5), L.ActivityRegularization(0.1),
        ),
        (2, 6, 4),
    ),
    "a bottleneck of activations": (
        lambda: in_a_row(rnn(), L.PReLU(shared_axes=[1]), L.LeakyReLU(), L.ELU(), L.ReLU(6.0), L.Softmax(), L.GRU(3)),
        (2, 6, 4),
    ),
    "einsum dense": (
        lambda: in_a_row(rnn(), L.EinsumDense("btf,fo->bto", (None, 3), bias_axes="o"), L.GRU(3)),
        (2, 6, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BESIDE))
def test_beside_other_layers(name, path, randomized):
    make, shape = BESIDE[name]
    model = randomized(make())
    check(model, noise(*shape), path)
    # What a layer has learned or was given is no input of the file.
    assert [spec.name for spec in Model(path).inputs] == ["x"]


def test_masked_attention(path):
    check(attention_over_words(), ids(3, 8), path)


class TestVocabularies:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: L.StringLookup(vocabulary=["a", "b"], name="table"),
            lambda: L.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4, name="table"),
            lambda: L.IntegerLookup(vocabulary=[3, 5], name="table"),
        ],
    )
    @pytest.mark.parametrize("nested", [False, True])
    def test_refused_with_advice(self, make, nested, path):
        layer = make()
        dtype = "int64" if isinstance(layer, L.IntegerLookup) else "string"
        x = keras.Input((1,) if isinstance(layer, L.TextVectorization) else (4,), dtype=dtype, name="text")
        looked_up = keras.Sequential([layer])(x) if nested else layer(x)
        model = keras.Model(x, L.GRU(3)(L.Embedding(6, 4)(looked_up)))
        kind = type(layer).__name__
        with pytest.raises(errors.UnsupportedLayer, match=f"layer 'table' .*: a {kind} .*`preprocessing`"):
            edgeseq.export(model, path)
        assert not list(path.parent.iterdir())


def spread_out(model):
    """Weights so large, and biases so small, that a decoder's choices differ from step to step."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        scale = 0.1 if weight.name == "bias" else 3.0 / np.sqrt(weight.shape[0])
        weight.assign(random.normal(0, scale, weight.shape))
    return model


TOKENS, LATENT = 9, 8


def tutorial():
    """Keras's character-level sequence to sequence example: the training graph."""
    encoder_inputs = keras.Input((None, 6), name="encoder_inputs")
    _, h, c = L.LSTM(LATENT, return_state=True, name="encoder")(encoder_inputs)
    decoder_inputs = keras.Input((None, TOKENS), name="decoder_inputs")
    decoder = L.LSTM(LATENT, return_sequences=True, return_state=True, name="decoder")
    outputs, _, _ = decoder(decoder_inputs, initial_state=[h, c])
    return keras.Model([encoder_inputs, decoder_inputs], L.Dense(TOKENS, activation="softmax", name="words")(outputs))


def tutorial_inference(model):
    """The two models that the example builds from the trained one's layers."""
    encoder = keras.Model(model.inputs[0], list(model.get_layer("encoder").output[1:]))
    states = [keras.Input((LATENT,), name="h"), keras.Input((LATENT,), name="c")]
    y, h, c = model.get_layer("decoder")(model.inputs[1], initial_state=states)
    return encoder, keras.Model([model.inputs[1], *states], [model.get_layer("words")(y), h, c])


def translation():
    """The same with words: a masked bidirectional encoder, a GRU decoder that attends to it."""
    source = keras.Input((None,), name="source", dtype="int32")
    encode = L.Bidirectional(L.GRU(4, return_sequences=True, return_state=True), name="encoder")
    memory, forward, backward = encode(L.Embedding(20, 6, mask_zero=True, name="source_words")(source))
    start = L.Concatenate(name="bridge")([forward, backward])
    target = keras.Input((None,), name="target", dtype="int32")
    embedded = L.Embedding(TOKENS, 6, name="target_words")(target)
    y, _ = L.GRU(8, return_sequences=True, return_state=True, name="decoder")(embedded, initial_state=start)
    attended = L.Attention(name="attention")([y, memory])
    logits = L.Dense(TOKENS, name="words")(L.Concatenate(name="both")([y, attended]))
    return keras.Model([source, target], logits), keras.Model(source, [memory, start])


def translation_decoder(model):
    memory, state = keras.Input((None, 8), name="memory"), keras.Input((8,), name="state")
    target = model.inputs[1]
    embedded = model.get_layer("target_words")(target)
    y, after = model.get_layer("decoder")(embedded, initial_state=state)
    both = model.get_layer("both")([y, model.get_layer("attention")([y, memory])])
    return keras.Model([target, memory, state], [model.get_layer("words")(both), after])


class TestEncoderDecoder:
    def test_the_tutorial(self, tmp_path):
        model = spread_out(tutorial())
        encoder, decoder = tutorial_inference(model)
        source, target = noise(3, 7, 6), np.eye(TOKENS, dtype=np.float32)[ids(3, 5) % TOKENS]
        check(model, [source, target], tmp_path / "training.onnx", recurrent=["encoder", "decoder"])
        check(encoder, source, tmp_path / "encoder.onnx", recurrent=["encoder"])
        states = [noise(3, LATENT, seed=1), noise(3, LATENT, seed=2)]
        check(decoder, [target, *states], tmp_path / "decoder.onnx", recurrent=["decoder"])

        def decode(encoder, decoder):
            states = [np.asarray(state) for state in encoder(source)]
            token, chosen = np.zeros((3, 1), int), []
            for _ in range(12):
                words, *states = decoder([np.eye(TOKENS, dtype=np.float32)[token], *states])
                states = [np.asarray(state) for state in states]
                token = np.argmax(words, -1)
                chosen.append(token)
            return np.concatenate(chosen, 1)

        expected = decode(encoder, decoder)
        assert len(np.unique(expected)) > 2, "the example says too little to be a test"
        np.testing.assert_array_equal(
            decode(Model(tmp_path / "encoder.onnx"), Model(tmp_path / "decoder.onnx")), expected
        )

    def test_words_with_attention(self, tmp_path):
        model, encoder = translation()
        spread_out(model)
        decoder = translation_decoder(model)
        source, target = ids(3, 8), ids(3, 5, seed=2) % TOKENS
        check(model, [source, target], tmp_path / "training.onnx", recurrent=["encoder", "decoder"])
        check(encoder, source, tmp_path / "encoder.onnx")
        check(decoder, [target, noise(3, 8, 8), noise(3, 8, seed=3)], tmp_path / "decoder.onnx")

        def decode(encoder, decoder):
            memory, state = (np.asarray(array) for array in encoder(source))
            token, chosen = np.zeros((3, 1), np.int32), []
            for _ in range(12):
                words, state = (np.asarray(array) for array in decoder([token, memory, state]))
                token = np.argmax(words, -1).astype(np.int32)
                chosen.append(token)
            return np.concatenate(chosen, 1)

        expected = decode(encoder, decoder)
        assert len(np.unique(expected)) > 2, "the example says too little to be a test"
        np.testing.assert_array_equal(
            decode(Model(tmp_path / "encoder.onnx"), Model(tmp_path / "decoder.onnx")), expected
        )


def trainable(refused=False):
    keras.utils.set_random_seed(3)
    extra = [L.Reshape((1, 4)), Overridden(3)] if refused else []
    model = keras.Sequential(
        [
            keras.Input((5,), name="x", dtype="int32"),
            L.Embedding(20, 6, mask_zero=True),
            L.Bidirectional(L.GRU(4, return_sequences=True, dropout=0.2)),
            L.TimeDistributed(L.Dense(5, activation="relu")),
            L.LSTM(4, recurrent_dropout=0.2),
            *extra,
            L.Dropout(0.3),
            L.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    return model


class Overridden(L.LSTM):
    """Refused, since it runs over time in a way of its own; only after the layers before it have been traced."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        return super().inner_loop(sequences, initial_state, mask=mask, training=training)


def life(model, exporting):
    """Everything a user may do with a model, with `exporting` in the midst of it; what all of it gave."""
    x, y = ids(16, 5), noise(16, 1)
    keras.utils.set_random_seed(11)
    seen = [model.predict(x, verbose=0)]
    exporting(model)
    seen += [model.predict(x, verbose=0), model(x, training=True), model(x)]
    history = model.fit(x, y, epochs=2, batch_size=8, verbose=0, shuffle=True).history["loss"]
    exporting(model)
    seen += [np.array(history), model.predict(x, verbose=0), keras.random.normal((3,))]
    return [np.asarray(array) for array in [*seen, *model.get_weights()]]


@functools.cache
def undisturbed(refused):
    return life(trainable(refused), lambda _: None)


class TestAfterwards:
    """An export, failed or not, leaves no trace: the model and the random numbers are those of one never exported."""

    @pytest.mark.parametrize("fate", ["exported", "refused", "different"])
    def test_predicting_and_training_go_on(self, fate, tmp_path, monkeypatch):
        def export(model):
            path = tmp_path / "model.onnx"
            match fate:
                case "exported":
                    assert edgeseq.export(model, path, overwrite=True).parity
                    with pytest.raises(errors.OutputExists):
                        edgeseq.export(model, path)
                case "refused":
                    with pytest.raises(errors.UnsupportedLayer, match="Overridden"):
                        edgeseq.export(model, path)
                case "different":
                    with monkeypatch.context() as patch:
                        # A plausible mistake: the gates of ONNX's GRU in another order than Keras's.
                        patch.setitem(edgeseq.lowering.fused.ONNX_GATES, "gru", ("reset", "update", "hidden"))
                        with pytest.raises(errors.ParityFailed):
                            edgeseq.export(model, path)

        refused = fate == "refused"
        for mine, theirs in zip(life(trainable(refused), export), undisturbed(refused), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert not tf.config.functions_run_eagerly()

    def test_a_clone_and_a_saved_model_are_as_before(self, tmp_path):
        model = trainable()
        before = model.predict(ids(4, 5), verbose=0)
        edgeseq.export(model, tmp_path / "model.onnx")
        model.save(tmp_path / "model.keras")
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        for other in (clone, keras.models.load_model(tmp_path / "model.keras")):
            np.testing.assert_array_equal(other.predict(ids(4, 5), verbose=0), before)

    def test_two_threads_write_what_one_does(self, tmp_path):
        makers = [
            lambda: trainable(),
            lambda: in_a_row(L.Masking(), L.GRU(5, activation="gelu", return_sequences=True), L.LSTM(3)),
            lambda: in_a_row(Overridden(3, name="mine")),
            lambda: in_a_row(L.ConvLSTM1D(2, 3, padding="same"), shape=(4, 6, 1)),
        ]

        def built():
            made = []
            for make in makers:
                keras.backend.clear_session()
                keras.utils.set_random_seed(5)
                made.append(make())
            return made

        def export(models, folder):
            folder.mkdir()
            found = []
            for index, model in enumerate(models):
                path = folder / f"{index}.onnx"
                try:
                    edgeseq.export(model, path)
                    found.append(path.read_bytes())
                except errors.UnsupportedLayer as error:
                    found.append(str(error))
            return found

        expected = export(built(), tmp_path / "alone")
        assert "mine" in expected[2]
        results = {}
        threads = []
        for name in ("one", "other"):
            models = built()
            threads.append(
                threading.Thread(
                    target=lambda name=name, models=models: results.update({name: export(models, tmp_path / name)})
                )
            )
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {"one": expected, "other": expected}
