"""Keras as the rival: its answers are ours, its failures are results, and its patches do not stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tf2onnx import tfonnx

from edgeseq.bench import Settings, Subject, run_benchmark
from edgeseq.bench.answers import compare_answers, flatten
from edgeseq.conversion.keras_subjects import _exporter, _theirs, side_by_side
from edgeseq.errors import InputMismatch, MissingInput, WrongUsage

# One float32 model by two libraries: sums are taken in another order.
TOLERANCE = 1e-5
QUICK = Settings(min_runs=11, min_seconds=0.0, rounds=11, precision=None, warm_up_max_seconds=0.0)


def theirs(model: Any, fed: Any, **like: Any) -> tuple[Subject, Subject]:
    """Keras's two subjects for `model`, fed with one batch."""
    batch = len(flatten(fed)[0])
    predict, export = _theirs(model, [Subject(name="", call=None, fed=fed, feeds=(fed,), batch=batch, **like)])
    return predict, export


def reviews(cell: str, **options: Any) -> Any:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            layers.Embedding(50, 8, **options),
            getattr(layers, cell)(6),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


@pytest.mark.parametrize(("cell", "options"), [("LSTM", {}), ("GRU", {}), ("GRU", {"mask_zero": True})])
def test_predict_and_export_answer_alike(cell: str, options: dict[str, Any]) -> None:
    model = reviews(cell, **options)
    ids = np.random.default_rng(0).integers(0, 50, (3, 12)).astype(np.int32)
    predict, export = theirs(model, ids, threads=1, time_steps=12)
    assert export.error is None
    assert predict.call is not None
    assert export.call is not None
    expected = flatten(model(ids).numpy())
    for subject in (predict, export):
        difference, said = compare_answers(flatten(subject.call()), expected)
        assert said == "compared"
        assert difference is not None
        assert difference <= TOLERANCE
    assert (predict.name, predict.provider, predict.threads, predict.batch) == ("Keras predict", "tensorflow", None, 3)
    assert (export.name, export.provider, export.threads, export.time_steps) == ("Keras export", "cpu", 1, 12)
    assert export.size_bytes is not None
    assert export.size_bytes > 4 * model.count_params()


def test_several_inputs_and_outputs_find_their_names() -> None:
    first, second = keras.Input((4, 2), name="a"), keras.Input((3, 5), name="b")
    model = keras.Model(
        {"b": second, "a": first},
        {"z": keras.layers.LSTM(2)(first), "y": keras.layers.LSTM(3)(second)},
    )
    random = np.random.default_rng(0)
    inputs = {"a": random.normal(size=(2, 4, 2)), "b": random.normal(size=(2, 3, 5))}
    predict, export = theirs(model, inputs)
    assert export.error is None
    assert predict.call is not None
    assert export.call is not None
    difference, said = compare_answers(flatten(export.call()), flatten(predict.call()))
    assert said == "compared"
    assert difference is not None
    assert difference <= TOLERANCE


def test_a_file_that_onnxruntime_refuses_is_a_result() -> None:
    # Keras 3.15 writes opset 15, whose gelu becomes an op that does not exist.
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.LSTM(3, activation="gelu")])
    predict, export = theirs(model, np.zeros((1, 4, 2), np.float32))
    assert predict.error is None
    assert export.call is None
    assert export.error is not None
    assert "Erfc" in export.error
    assert "\n" not in export.error
    run = run_benchmark([predict, export], settings=QUICK)
    assert run["Keras export"].error == export.error
    assert run["Keras predict"].p50_ns is not None


def test_an_export_that_keras_cannot_do_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reviews("LSTM")

    def refuse(*args: Any, **options: Any) -> None:
        raise NotImplementedError("not this one")

    monkeypatch.setattr(type(model), "export", refuse)
    _, export = theirs(model, np.ones((1, 12), np.int32))
    assert export.error == "NotImplementedError: not this one"


def test_states_start_at_zero_in_every_call() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(batch_shape=(2, 4, 1)), keras.layers.LSTM(3, stateful=True)])
    x = np.random.default_rng(0).normal(size=(2, 4, 1)).astype(np.float32)
    predict, _ = theirs(model, x)
    assert predict.call is not None
    np.testing.assert_array_equal(predict.call(), predict.call())


def test_keras_patches_of_tf2onnx_and_numpy_do_not_stay() -> None:
    before = tfonnx.rewrite_constant_fold
    had = "object" in vars(np)
    for _ in range(2):
        with _exporter():
            from keras.src.export.tf2onnx_lib import patch_tf2onnx

            patch_tf2onnx()
            assert tfonnx.rewrite_constant_fold is not before
            assert "object" in vars(np)
        assert tfonnx.rewrite_constant_fold is before
        assert ("object" in vars(np)) == had


def test_side_by_side_feeds_all_the_same(make_lstm: Any) -> None:
    path = make_lstm()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    subjects = side_by_side(model, [path], batch=2, time_steps=5)
    assert [subject.name for subject in subjects] == ["Keras predict", "Keras export", "lstm.onnx"]
    assert {(subject.batch, subject.time_steps, subject.inputs) for subject in subjects} == {(2, 5, "made")}
    assert subjects[1].threads == subjects[2].threads == 1
    run = run_benchmark(subjects, settings=QUICK)
    assert run["Keras predict"].answers == "reference"
    assert run["Keras export"].max_abs is not None
    assert run["Keras export"].max_abs <= TOLERANCE
    # The file has weights of its own: that it is another model shows in its answers.
    assert run["lstm.onnx"].max_abs is not None
    assert run["lstm.onnx"].max_abs > 0.01


def test_several_batches_have_a_pair_of_keras_subjects_each(make_lstm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    exported: list[Any] = []
    real = type(model).export
    monkeypatch.setattr(
        type(model), "export", lambda self, path, **rest: (exported.append(path), real(self, path, **rest))
    )
    subjects = side_by_side(model, [make_lstm()], batch=[32, 2], threads=[2, 1], time_steps=5)
    assert [(subject.name, subject.model, subject.batch, subject.threads) for subject in subjects[:4]] == [
        ("Keras predict, batch 32", "Keras predict", 32, None),
        ("Keras export, batch 32", "Keras export", 32, 2),
        ("Keras predict, batch 2", "Keras predict", 2, None),
        ("Keras export, batch 2", "Keras export", 2, 2),
    ]
    assert len(subjects) == 8
    assert len(exported) == 1
    for subject in subjects:
        assert subject.call is not None
        assert flatten(subject.call())[0].shape == (subject.batch, 4)


def test_keras_is_fed_the_same_cycle(make_lstm: Any, tmp_path: Path) -> None:
    (tmp_path / "lengths.txt").write_text("2\n5\n9\n")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    predict, export, ours = side_by_side(model, [make_lstm()], batch=2, lengths=tmp_path / "lengths.txt")
    assert predict.cycle == export.cycle == ours.cycle == 3
    assert predict.lengths == export.lengths == ours.lengths
    assert predict.call is not None
    assert export.call is not None
    for fed in ours.feeds:
        expected = flatten(model(fed).numpy())
        for subject in (predict, export):
            difference, _ = compare_answers(flatten(subject.call()), expected)
            assert difference is not None
            assert difference <= TOLERANCE


def test_a_model_that_is_not_the_files_is_refused(make_lstm: Any, tmp_path: Path) -> None:
    layers = keras.layers
    for inputs, cell, said in (
        (
            keras.Input((None, 8)),
            layers.LSTM(4),
            r"the Keras model does not take what lstm.onnx takes, \(1, 100, 3\): \(None, None, 8\)",
        ),
        (keras.Input((None, 3)), layers.LSTM(5), r"answer has the shape \(1, 5\), and lstm.onnx's 'y' the axes"),
        (keras.Input((None, 3)), layers.LSTM(4, return_sequences=True), r"answer has the shape \(1, 100, 4\)"),
    ):
        with pytest.raises(InputMismatch, match=said):
            side_by_side(keras.Sequential([inputs, cell]), [make_lstm()])
    [subject] = side_by_side(keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)]), [make_lstm()])[-1:]
    assert subject.name == "lstm.onnx"


def test_wrong_calls_are_errors_not_results(tmp_path: Path, make_lstm: Any) -> None:
    with pytest.raises(MissingInput):
        side_by_side(tmp_path / "none.keras", [make_lstm()])
    with pytest.raises(WrongUsage, match="at least one ONNX file"):
        side_by_side(reviews("LSTM"), [])
