"""Training from end to end, tiny: what is written, resuming, interruption, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from edgeseq import files
from edgeseq.errors import InvalidFile, NegativeResult, OutputExists, WrongUsage
from edgeseq.recipes import checkpoint, train, training, workflow
from edgeseq.recipes.plan import Evaluation, Plan, Samples, hold_out
from edgeseq.recipes.registry import RECIPES, Recipe, Request
from edgeseq.runtime.preprocessing import Preprocessing, validate

QUICK = {"cell": "simple_rnn", "bidirectional": False}
"""Options of `vowels` under which TensorFlow traces the model fastest."""


def weights_of(path):
    return keras.saving.load_model(path).get_weights()


def assert_same_weights(left, right):
    # The same operations in the same order; another process may still sum with other vector instructions.
    for a, b in zip(weights_of(left), weights_of(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def interrupt_after(step):
    def progress(stage, done, total):
        if stage.startswith("epoch") and done == step:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def vowels(small_data, tmp_path_factory):
    """A finished training of three epochs: 32 samples, batches of 16."""
    output = tmp_path_factory.mktemp("vowels") / "v.keras"
    return train("vowels", output, data=small_data, **QUICK, epochs=3), output


def test_a_training_writes_the_model_and_what_belongs_to_it(vowels):
    report, output = vowels
    assert sorted(path.name for path in output.parent.iterdir()) == ["v.curves.png", "v.history.json", "v.keras"]
    assert (report.model_path, report.preprocessing_path) == (str(output), None)
    assert (output.parent / "v.curves.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((output.parent / "v.history.json").read_text())
    assert written["recipe"] == "vowels"
    assert sorted(written["history"]) == ["accuracy", "loss", "seconds", "val_accuracy", "val_loss"]
    assert {len(series) for series in written["history"].values()} == {3}


def test_the_report_is_plain_data(vowels):
    report, _ = vowels
    document = json.loads(json.dumps(dataclasses.asdict(report)))
    assert document["epochs"] == 3
    assert document["samples"] == 32
    assert set(document["metrics"]) == {"loss", "accuracy"}
    assert 1 <= report.best_epoch <= 3


def test_the_weights_of_the_best_epoch_are_kept(vowels):
    report, output = vowels
    history = json.loads((output.parent / "v.history.json").read_text())["history"]
    assert report.best_epoch == 1 + int(np.argmin(history["val_loss"]))


def test_the_same_seed_trains_the_same_model_and_another_seed_another(vowels, small_data, tmp_path):
    _, output = vowels
    train("vowels", tmp_path / "same.keras", data=small_data, **QUICK, epochs=3)
    assert_same_weights(output, tmp_path / "same.keras")
    train("vowels", tmp_path / "other.keras", data=small_data, **QUICK, epochs=1, seed=1)
    assert not np.allclose(weights_of(output)[0], weights_of(tmp_path / "other.keras")[0])


def test_an_interrupted_training_resumes_to_the_same_end(vowels, small_data, tmp_path):
    _, uninterrupted = vowels
    output = tmp_path / "m.keras"
    with pytest.raises(KeyboardInterrupt) as caught:
        # Two steps an epoch: the third step lies within the second epoch.
        train("vowels", output, data=small_data, **QUICK, epochs=3, progress=interrupt_after(3))
    assert "stopped after epoch 1 of 3" in caught.value.__notes__[0]
    assert "Run the same command again" in caught.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == ["m.checkpoint"]

    report = train("vowels", output, data=small_data, **QUICK, epochs=3)
    assert report.resumed_epochs == 1
    assert report.epochs == 3
    assert any("resumed after epoch 1" in note for note in report.notes)
    assert not checkpoint.folder_of(output).exists()
    assert_same_weights(uninterrupted, output)


def test_an_interruption_before_the_first_epoch_leaves_nothing(small_data, tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        train("vowels", tmp_path / "m.keras", data=small_data, **QUICK, epochs=3, progress=interrupt_after(1))
    assert "nothing was written" in caught.value.__notes__[0]
    assert not list(tmp_path.iterdir())


def test_an_interruption_while_the_model_is_written_leaves_no_model(small_data, tmp_path, monkeypatch):
    def stopped(model, path, **options):
        path.write_bytes(b"half a model")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", stopped)
    output = tmp_path / "m.keras"
    with pytest.raises(KeyboardInterrupt):
        train("vowels", output, data=small_data, **QUICK, epochs=1)
    assert not list(tmp_path.glob("*.keras"))
    monkeypatch.undo()
    # The side files are there already; the checkpoint tells that they are this training's own.
    report = train("vowels", output, data=small_data, **QUICK, epochs=1)
    assert report.resumed_epochs == 1
    assert output.exists()


_CHILD = """
import sys, time
from edgeseq.recipes import train
def progress(stage, done, total):
    print(stage, done, flush=True)
    time.sleep(0.2)
train("vowels", sys.argv[1], data=sys.argv[2], epochs=3, cell="simple_rnn", bidirectional=False, progress=progress)
"""


def test_a_killed_training_resumes_to_the_same_end(vowels, small_data, tmp_path):
    _, uninterrupted = vowels
    output = tmp_path / "m.keras"
    command = [sys.executable, "-c", _CHILD, str(output), str(small_data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("epoch 3"):
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["m.checkpoint"]
    report = train("vowels", output, data=small_data, **QUICK, epochs=3, resume=True)
    assert report.resumed_epochs == 2
    assert_same_weights(uninterrupted, output)


@pytest.fixture
def unfinished(small_data, tmp_path):
    """The name of a model whose training was interrupted in its second epoch."""
    output = tmp_path / "m.keras"
    with pytest.raises(KeyboardInterrupt):
        train("vowels", output, data=small_data, **QUICK, epochs=3, progress=interrupt_after(3))
    return output


def test_other_settings_do_not_go_on_from_a_checkpoint(unfinished, small_data):
    with pytest.raises(WrongUsage, match=r"other settings: cell: simple_rnn \(now gru\)\. Repeat"):
        train("vowels", unfinished, data=small_data, cell="gru", bidirectional=False, epochs=3)
    with pytest.raises(WrongUsage, match=r"epochs: 3 \(now 1\)\. .*resume=False"):
        train("vowels", unfinished, data=small_data, **QUICK, epochs=1)
    with pytest.raises(
        WrongUsage, match=r"epochs: 3 \(now the recipe's own\), seed: 0 \(now 1\), data: .* \(now in the"
    ):
        train("vowels", unfinished, **QUICK, seed=1)
    with pytest.raises(WrongUsage, match=r"settings: recipe: vowels \(now middle\)\. Repeat"):
        train("middle", unfinished)
    report = train("vowels", unfinished, data=small_data, **QUICK, epochs=1, resume=False)
    assert report.resumed_epochs == 0


def test_a_damaged_checkpoint_is_refused(unfinished, small_data):
    file = checkpoint.folder_of(unfinished) / "state.npz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InvalidFile, match=r"not a checkpoint .*remove .*m.checkpoint"):
        train("vowels", unfinished, data=small_data, **QUICK, epochs=3)


def _single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("resume", [None, False])
@pytest.mark.parametrize(
    ("name", "fill", "error"),
    [
        ("m.checkpoint", lambda path: path.write_text("mine"), WrongUsage),
        ("m.checkpoint/notes.txt", lambda path: path.write_text("mine"), WrongUsage),
        ("m.checkpoint/.state.old.npz", lambda path: path.write_text("mine"), WrongUsage),
        ("m.checkpoint/state.npz", lambda path: path.write_text("mine"), InvalidFile),
        ("m.checkpoint/state.npz", lambda path: np.savez(path, mine=np.zeros(3)), InvalidFile),
        ("m.checkpoint/state.npz", _single_array, InvalidFile),
    ],
)
def test_what_is_in_the_checkpoints_place_and_not_ours_stays(name, fill, error, resume, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "_require_packages", lambda: pytest.fail("work was begun"))
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    fill(mine)
    before = mine.read_bytes()
    with pytest.raises(WrongUsage if resume is False else error, match=r"m\.checkpoint"):
        train("middle", tmp_path / "m.keras", resume=resume)
    assert mine.read_bytes() == before


def test_an_empty_folder_or_a_half_written_state_is_no_hindrance(one_weight, tmp_path):
    one_weight([1.0], validation=None, monitor="loss")
    folder = tmp_path / "m.checkpoint"
    folder.mkdir()
    train("tiny", tmp_path / "m.keras", epochs=1)
    assert not folder.exists()
    # As a process killed while it wrote leaves it.
    folder.mkdir()
    with files.whole_file(folder / "state.npz") as temporary:
        pass
    (folder / "state.npz").rename(temporary)
    train("tiny", tmp_path / "m.keras", epochs=1, overwrite=True)
    assert not folder.exists()


def test_a_model_that_another_process_wrote_meanwhile_stays(one_weight, tmp_path):
    def evaluate(_):
        (tmp_path / "m.keras").write_text("theirs")
        return Evaluation(metrics={})

    one_weight([1.0], validation=None, monitor="loss", evaluate=evaluate)
    with pytest.raises(OutputExists, match=r"m\.keras"):
        train("tiny", tmp_path / "m.keras", epochs=1)
    assert (tmp_path / "m.keras").read_text() == "theirs"
    train("tiny", tmp_path / "m.keras", epochs=1, overwrite=True)
    assert keras.saving.load_model(tmp_path / "m.keras").count_params() == 1


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed"])
@pytest.mark.parametrize("value", [-5, "2", 2.0, True])
def test_numbers_that_are_no_counts_are_refused(name, value, tmp_path):
    with pytest.raises(WrongUsage, match=rf"{name} must be a whole number, .*; got {value!r}"):
        train("middle", tmp_path / "m.keras", **{name: value})
    assert not list(tmp_path.iterdir())


def test_the_limits_of_numbers(one_weight, tmp_path):
    for name, value in (("epochs", 0), ("batch_size", 0), ("seed", 2**32), ("seed", None)):
        with pytest.raises(WrongUsage, match=f"{name} must be a whole number, .*; got {value}"):
            train("middle", tmp_path / "m.keras", **{name: value})
    one_weight([1.0], validation=None, monitor="loss")
    assert train("tiny", tmp_path / "m.keras", epochs=1, batch_size=1, seed=2**32 - 1).seed == 2**32 - 1


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(WrongUsage, match="no training to resume"):
        train("middle", tmp_path / "m.keras", resume=True)


@pytest.mark.parametrize("existing", ["m.keras", "m.history.json", "m.curves.png", "m.preprocessing.json"])
def test_an_existing_output_is_refused_before_any_work(existing, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "_require_packages", lambda: pytest.fail("work was begun"))
    (tmp_path / existing).write_text("mine")
    with pytest.raises(OutputExists, match=existing):
        train("imdb", tmp_path / "m.keras")
    assert (tmp_path / existing).read_text() == "mine"


def test_a_name_that_is_no_keras_model_is_refused(tmp_path):
    with pytest.raises(WrongUsage, match=r"must end in \.keras, got m\.h5"):
        train("middle", tmp_path / "m.h5")


@pytest.fixture
def one_weight(monkeypatch):
    """A recipe of one weight whose data the test chooses; returns a function that enters it as `tiny`."""

    def weight(trained):
        return Evaluation(metrics={"weight": float(trained.get_weights()[0][0, 0])})

    def enter(targets, **plan):
        def prepare(request):
            inputs = keras.Input((1,))
            model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs))
            model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
            data = Samples(inputs=np.ones((len(targets), 1), np.float32), targets=np.array(targets, np.float32))
            return Plan(
                model=model,
                train=data,
                epochs=request.epochs or 100,
                batch_size=len(targets),
                source="made",
                **{"evaluate": weight, **plan},
            )

        recipe = Recipe(name="tiny", summary="one weight", options=(), prepare=prepare)
        monkeypatch.setitem(RECIPES, "tiny", recipe)

    return enter


def test_early_stopping_keeps_the_best_weights(one_weight, tmp_path):
    # Training pulls the weight from 0 to 1, validation wants 0.5: it gets worse once the weight is beyond.
    ones = np.ones((1, 1), np.float32)
    one_weight([1.0], validation=Samples(inputs=ones, targets=0.5 * ones), patience=2)
    report = train("tiny", tmp_path / "m.keras")
    weights = [1 - 0.8**epoch for epoch in range(1, 7)]
    best = 1 + int(np.argmin(np.abs(np.array(weights) - 0.5)))
    assert (report.best_epoch, report.epochs) == (best, best + 2)
    assert report.metrics["weight"] == pytest.approx(weights[best - 1], rel=1e-5)
    assert any("stopped early: val_loss" in note for note in report.notes)


def test_the_last_weights_are_kept_when_the_plan_says_so(one_weight, tmp_path):
    ones = np.ones((1, 1), np.float32)
    one_weight([1.0], validation=Samples(inputs=ones, targets=0.5 * ones), patience=2, best_weights=False)
    report = train("tiny", tmp_path / "m.keras")
    assert report.best_epoch == report.epochs
    assert report.metrics["weight"] == pytest.approx(1 - 0.8**report.epochs, rel=1e-5)


def test_a_training_that_diverges_is_an_error(one_weight, tmp_path):
    one_weight([float("nan")], validation=None, monitor="loss")
    with pytest.raises(NegativeResult, match="diverged: loss is nan in epoch 1"):
        train("tiny", tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())


def test_the_test_data_is_used_once_after_training(one_weight, tmp_path):
    seen = []

    def evaluate(model):
        seen.append(float(model.get_weights()[0][0, 0]))
        return Evaluation(metrics={})

    one_weight([1.0], validation=None, monitor="loss", evaluate=evaluate)
    train("tiny", tmp_path / "m.keras", epochs=5)
    assert seen == [pytest.approx(1 - 0.8**5, rel=1e-5)]


def test_stateful_layers_start_every_pass_from_zero(small_data):
    request = Request(data=small_data, epochs=None, batch_size=None, seed=0)
    plan = RECIPES["stateful"].prepare(request, many_to_many=False, series="daily-min-temperatures")
    first = training.score(plan, plan.validation)
    assert np.any(plan.model.get_layer("lstm").states[0].numpy())
    assert training.score(plan, plan.validation) == first


def test_stateful_layers_of_models_within_models_start_from_zero():
    inner_input = keras.Input(batch_shape=(1, 2, 1))
    inner = keras.Model(inner_input, keras.layers.LSTM(1, stateful=True)(inner_input))
    inputs = keras.Input(batch_shape=(1, 2, 1))
    model = keras.Model(inputs, inner(inputs))
    model.compile(optimizer="sgd", loss="mse")
    samples = Samples(inputs=np.ones((1, 2, 1), np.float32), targets=np.ones((1, 1), np.float32))
    plan = Plan(
        model=model, train=samples, validation=samples, epochs=1, batch_size=1, evaluate=lambda _: None, source="made"
    )
    assert training.score(plan, samples) == training.score(plan, samples)


def test_validation_and_training_parts_share_no_sample():
    samples = Samples(inputs=np.arange(50), targets=np.arange(50))
    train_part, validation = hold_out(samples, 0.2, seed=3)
    assert len(validation) == 10
    assert sorted([*train_part.inputs, *validation.inputs]) == list(range(50))
    with pytest.raises(WrongUsage, match="1 training samples are too few"):
        hold_out(Samples(inputs=np.arange(1), targets=np.arange(1)), 0.5, seed=0)


@pytest.mark.parametrize(("variant", "parameters", "answers"), [("a", 541, 1), ("b", 3011, 1), ("c", 3022, 2)])
def test_middle_has_the_published_parameter_counts(variant, parameters, answers, tmp_path):
    report = train("middle", tmp_path / "m.keras", variant=variant, as_published=True, epochs=1)
    assert report.parameters == parameters
    assert len([name for name in report.metrics if name.startswith("error")]) == answers
    assert any("slip for 11" in note for note in report.notes) == (variant == "b")


def test_middle_comes_near_by_default(tmp_path):
    report = train("middle", tmp_path / "m.keras")
    assert report.samples == 4
    # The recipe's own promise for variant a.
    assert report.metrics["error"] <= 0.15


@pytest.mark.parametrize(
    ("recipe", "options", "layer", "parameters"),
    [
        # 10,000 x 128 ids, 4 x 128 x (128 + 128 + 1) gates, 129 of the last layer.
        ("imdb", {}, "LSTM", 1_280_000 + 131_584 + 129),
        ("imdb", {"cell": "gru", "mask": True, "samples": 20}, "GRU", 1_280_000 + 3 * 128 * 258 + 129),
        ("imdb", {"cell": "simple_rnn", "bidirectional": True}, "Bidirectional", 1_280_000 + 2 * 128 * 257 + 257),
        ("forecast", {}, "LSTM", 4 * 128 * 130 + 129),
        ("forecast", {"cell": "gru", "dropout": 0.1, "recurrent_l2": 1e-4}, "GRU", 3 * 64 * 67 + 65),
        ("forecast", {"series": "etth1", "recurrent_dropout": 0.1}, "LSTM", 4 * 128 * 136 + 7 * 129),
        ("stateful", {}, "LSTM", 4 * 32 * 34 + 33),
        ("stateful", {"many_to_many": True}, "LSTM", 4 * 32 * 34 + 33),
        ("frames", {"size": 20, "filters": 2, "clips": 10, "steps": 2, "digits": 1}, "ConvLSTM2D", None),
    ],
)
def test_every_recipe_trains_and_what_it_writes_fits_together(
    recipe, options, layer, parameters, small_data, tmp_path, monkeypatch
):
    if recipe == "frames":
        monkeypatch.setattr("edgeseq.recipes.frames.TEST_CLIPS", 4)
    report = train(recipe, tmp_path / "m.keras", data=small_data, epochs=1, **options)
    model = keras.saving.load_model(tmp_path / "m.keras")
    assert layer in {type(each).__name__ for each in model.layers}
    if parameters is not None:
        assert report.parameters == parameters
    assert all(np.isfinite(value) for value in report.metrics.values())
    # The names that raw data is turned by are those of the model's inputs and last layers.
    assert report.preprocessing_path is not None
    document = json.loads((tmp_path / "m.preprocessing.json").read_text())
    validate(document, inputs=[model.inputs[0].name], outputs=[model.layers[-1].name])


def test_a_bidirectional_mask_reads_texts_as_they_are(small_data, tmp_path):
    train("imdb", tmp_path / "m.keras", data=small_data, epochs=1, mask=True)
    document = json.loads((tmp_path / "m.preprocessing.json").read_text())
    ids = Preprocessing(document).before({"tokens": ["good film!"]})["tokens"]
    assert ids.shape == (1, 250)
    assert ids.dtype == np.int32
    assert ids[0, -3] == 1
    model = keras.saving.load_model(tmp_path / "m.keras")
    # Masked padding changes nothing: the same text in a shorter row gives the same answer.
    np.testing.assert_allclose(model(ids), model.layers[-1](model.layers[-2](model.layers[1](ids[:, -3:]))), atol=1e-6)


def test_wrong_values_of_options_are_refused(small_data, tmp_path):
    for recipe, options, reason in (
        ("imdb", {"samples": 3}, "samples must be 10 to 60, or 0 for all; got 3"),
        ("forecast", {"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ("forecast", {"kernel_l2": -1.0}, "must not be negative"),
        ("forecast", {"steps": 500}, "500 steps do not fit"),
        ("stateful", {"batch_size": 8}, "part of the model: 4, got 8"),
        ("frames", {"size": 10}, "size must be at least 20"),
        ("frames", {"clips": 1}, "clips must be at least 10, got 1"),
    ):
        with pytest.raises(WrongUsage, match=reason):
            train(recipe, tmp_path / "m.keras", data=small_data, **options)
    assert not list(tmp_path.iterdir())


def test_a_training_without_tensorflow_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from edgeseq.recipes import train\n"
        f"try:\n    train('middle', {str(tmp_path / 'm.keras')!r})\n"
        "except Exception as error:\n    print(type(error).__name__, error.exit_code, error)"
    )
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answered.stdout.startswith("MissingExtra 3 ")
    assert "edgeseq[export]" in answered.stdout
