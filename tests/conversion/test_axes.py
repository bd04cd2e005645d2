"""Models whose free axis takes only some lengths: which are found, and what is said where none is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import edgeseq
from edgeseq import errors
from edgeseq.conversion import reference
from edgeseq.conversion.lengths import candidates
from edgeseq.runtime import Model

# The rule of the design: |a - b| <= 1e-5 x max(1, max |reference|), for float32 on the CPU.
TOLERANCE = 1e-5


class Positions(L.Layer):
    """Learned positions, for at most 20 steps."""

    def build(self, shape):
        self.positions = self.add_weight((20, shape[-1]))

    def call(self, x):
        return x + self.positions[: ops.shape(x)[1]]


class FixedPositions(Positions):
    """Learned positions for just 20 steps."""

    def call(self, x):
        return x + self.positions


class Calls(L.Layer):
    """A function of the user's own."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape


def sequential(*layers, features=4):
    return keras.Sequential([keras.Input((None, features), name="x"), *layers])


def u_net(depth):
    x = keras.Input((None, 4), name="x")
    across = down = L.Conv1D(4, 3, padding="same")(x)
    for _ in range(depth):
        down = L.MaxPooling1D(2)(down)
    for _ in range(depth):
        down = L.UpSampling1D(2)(down)
    return keras.Model(x, L.GRU(2)(L.Concatenate()([across, down])))


RESTRICTED = {
    "at least 25": (lambda: sequential(L.Conv1D(4, 25, strides=10), L.GRU(3), features=1), (25, 60), 24),
    "at least 400": (lambda: sequential(L.Conv1D(4, 400, strides=160), L.GRU(3), features=1), (400, 1000), 23),
    "at least 53": (lambda: sequential(*[L.Conv1D(4, 5, strides=3) for _ in range(3)], L.GRU(3)), (53, 90), 24),
    "even": (
        lambda: sequential(
            L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Reshape((-1, 12)), L.LSTM(3)
        ), (2, 10), 23),
    "even, a U-Net": (lambda: u_net(1), (2, 10), 23),
    "of eight": (lambda: u_net(3), (8, 40), 23),
    "of thirty-two": (lambda: u_net(5), (32, 96), 16),
    "at most 20": (lambda: sequential(Positions(), L.GRU(2)), (1, 20), 23),
}  # fmt: skip


@pytest.mark.parametrize("name", list(RESTRICTED))
def test_a_model_that_takes_only_some_lengths_is_exact_at_those(name, tmp_path):
    make, lengths, refused = RESTRICTED[name]
    model = make()
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert any("Keras itself fails" in note and f", {refused}, " in note for note in report.notes) or any(
        "Keras refuses these lengths as well" in note and f" {refused}" in note for note in report.notes
    )
    exported = Model(tmp_path / "model.onnx")
    assert exported.inputs[0].axes[1] == "time"
    for length in lengths:
        x = np.random.default_rng(length).normal(size=(3, length, exported.inputs[0].axes[2])).astype(np.float32)
        np.testing.assert_allclose(exported(x), model(x), rtol=0, atol=TOLERANCE)


def test_samples_tell_a_length_that_nobody_would_try(tmp_path):
    model = sequential(FixedPositions(), L.GRU(2))
    with pytest.raises(errors.Refused, match=r"20 by 24.*tried: 24, 131, .*Give `samples`.*keras\.Input"):
        edgeseq.export(model, tmp_path / "model.onnx")
    samples = np.random.default_rng(0).normal(size=(2, 20, 4)).astype(np.float32)
    edgeseq.export(model, tmp_path / "model.onnx", samples=samples)
    np.testing.assert_allclose(Model(tmp_path / "model.onnx")(samples), model(samples), rtol=0, atol=TOLERANCE)


def test_an_answer_made_up_for_less_than_a_window_is_none(tmp_path):
    # TensorFlow answers with the states' zeros at 16 steps; the file raises an error there.
    report = edgeseq.export(sequential(L.Conv1D(4, 20, strides=10), L.GRU(3)), tmp_path / "model.onnx")
    assert any("(1, 16, 4)" in note and "zero or negative" in note for note in report.notes)


def test_a_model_that_takes_any_length_is_asked_at_the_usual_ones_alone(tmp_path, monkeypatch):
    asked = []
    first = reference._Asking.first
    monkeypatch.setattr(
        reference._Asking, "first", lambda self, batches: asked.append(batches[0][0].shape) or first(self, batches)
    )
    report = edgeseq.export(sequential(L.GRU(2)), tmp_path / "model.onnx")
    assert asked == [(1, 16, 4), (2, 23, 4), (7, 9, 4), (2, 1, 4)]
    assert report.notes == ()


def test_the_last_hundred_steps_are_not_all_steps(tmp_path):
    x = keras.Input((None, 4), name="x")
    edgeseq.export(keras.Model(x, L.GRU(2, return_sequences=True)(x)[:, -100:]), tmp_path / "model.onnx")
    assert Model(tmp_path / "model.onnx").outputs[0].axes[1] != "time"


def test_candidates_are_the_usual_ones_then_the_known_and_none_twice():
    ways = candidates(["time", "time_2"], {"batch": 2, "time": 7, "time_2": 9})
    assert ways[:4] == [
        {"time": 24, "time_2": 24}, {"time": 131, "time_2": 131}, {"time": 7, "time_2": 9}, {"time": 14, "time_2": 18},
    ]  # fmt: skip
    assert len({tuple(way.values()) for way in ways}) == len(ways)
    assert candidates([]) == [{}]


def scan(x):
    steps = ops.transpose(x, (1, 0, 2))
    return ops.transpose(ops.scan(lambda c, y: (c + y, c + y), ops.zeros_like(x[:, 0]), steps)[1], (1, 0, 2))


def mine(function, length=None):
    return keras.Sequential(
        [keras.Input((length, 4)), L.GRU(4, return_sequences=True, name="before"), Calls(function, name="mine")]
    )


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: sequential(L.AdaptiveMaxPooling1D(2, name="pool"), L.GRU(3)), errors.Refused,
            r"cannot be traced: layer 'pool': .*statically known.*fix the time axis",
        ),
        (lambda: mine(scan), errors.Refused, r"tf2onnx .*'mine': .*While loop.*keras\.layers\.RNN"),
        (
            lambda: mine(lambda x: ops.associative_scan(lambda a, b: a + b, x, axis=1), 5), errors.Refused,
            r"tf2onnx cannot convert .*leave that layer",
        ),
        (
            lambda: sequential(L.Masking(float("inf"), name="masked"), L.GRU(3)), errors.UnsupportedLayer,
            "layer 'masked' .*inf.*finite mask_value",
        ),
        (
            lambda: sequential(L.Masking(float("nan"), name="masked"), L.GRU(3)), errors.UnsupportedLayer,
            "layer 'masked' .*masks no step",
        ),
        (lambda: mine(lambda x: x @ ops.ones((7, 2))), errors.Refused, r"^Keras itself fails on .*\(2, 24, 4\)"),
        (
            lambda: mine(lambda x: x + keras.random.normal(ops.shape(x))), errors.UnsupportedOp,
            "Random.* come from layer 'mine'.*draws random numbers",
        ),
        (
            lambda: mine(lambda x: ops.erfinv(x / 9)), errors.UnsupportedOp,
            r"Erfinv\. They come from layer 'mine'\. .*keras\.ops",
        ),
    ],
    ids=["adaptive", "scan", "associative scan", "infinite mask", "NaN mask", "Keras fails", "random", "no such op"],
)  # fmt: skip
def test_a_refusal_names_the_layer_and_a_next_step(make, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        edgeseq.export(make(), tmp_path / "model.onnx")


def test_complex_samples_are_refused_by_their_type(tmp_path):
    with pytest.raises(errors.InputMismatch, match=r"'x' are complex64; the model takes float32"):
        edgeseq.export(sequential(L.GRU(2)), tmp_path / "model.onnx", samples=np.ones((2, 3, 4), np.complex64))


def test_failed_parity_names_its_usual_causes(tmp_path):
    def branching(x):
        return x if isinstance(x.shape[1], int) else x + 1

    with pytest.raises(errors.ParityFailed, match=r"branches on a shape.*TF_ENABLE_ONEDNN_OPTS=0.*bug in edgeseq"):
        edgeseq.export(mine(branching), tmp_path / "model.onnx")
