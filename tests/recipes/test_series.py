"""The parts of recipes that only rearrange numbers."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseq.errors import WrongUsage
from edgeseq.recipes import text, windows
from edgeseq.recipes.scaling import Scaler
from edgeseq.recipes.stateful import LANES, STEPS, pieces
from edgeseq.recipes.vowels import PAD_VALUE, pad
from edgeseq.runtime.preprocessing import Preprocessing


def test_windows_hold_what_came_before_their_target():
    values = np.arange(20.0).reshape(10, 2)
    made = windows.windows(values, first=5, last=8, steps=3)
    assert made.inputs.shape == (3, 3, 2)
    assert made.inputs[0].tolist() == values[2:5].tolist()
    assert made.targets.tolist() == values[5:8].tolist()


def test_the_first_window_of_a_series_begins_at_its_first_row():
    made = windows.windows(np.arange(6.0)[:, None], first=0, last=6, steps=4)
    assert made.inputs[0, :, 0].tolist() == [0, 1, 2, 3]
    assert made.targets[:, 0].tolist() == [4, 5]
    with pytest.raises(WrongUsage, match="6 steps do not fit"):
        windows.windows(np.zeros((6, 1)), first=0, last=6, steps=6)


def test_the_parts_of_a_series_lie_one_after_the_other():
    parts = windows.parts_of(3650)
    assert (parts.validation, parts.test, parts.end) == (2555, 2920, 3650)


def test_scaling_is_undone_by_its_inverse():
    values = np.random.default_rng(0).normal(300, 40, (100, 3))
    values[:, 2] = 7
    scaler = Scaler.fit(values)
    scaled = scaler.apply(values)
    np.testing.assert_allclose(scaled[:, :2].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, :2].std(axis=0), 1, atol=1e-5)
    assert np.all(scaled[:, 2] == 0)
    # float32 carries some 7 digits of values around 300.
    np.testing.assert_allclose(scaler.invert(scaled), values, rtol=1e-6)


def test_scaling_on_a_device_is_that_of_training():
    values = np.random.default_rng(0).normal(300, 40, (100, 3))
    scaler = Scaler.fit(values)
    device = Preprocessing({"inputs": {"x": scaler.step()}, "outputs": {"y": scaler.step()}})
    scaled = device.before({"x": values})["x"]
    np.testing.assert_allclose(scaled, scaler.apply(values), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(device.after({"y": scaled})["y"], values)


def test_errors_are_told_for_each_column():
    predicted, actual = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    found = windows.errors(predicted, actual, ("a", "b"))
    assert found["mae"] == 1.0
    assert found["mae_a"] == 2.0
    assert found["rmse_a"] == pytest.approx(5**0.5)
    assert found["rmse_b"] == 0.0


@pytest.mark.parametrize("many_to_many", [False, True])
def test_pieces_go_on_where_the_last_batch_ended(many_to_many):
    values = np.arange(60.0)[:, None]
    made = pieces(values, many_to_many)
    batches = made.inputs.reshape(-1, LANES, STEPS)
    # Along one lane the batches give the series without a gap.
    for lane in range(LANES):
        stretch = batches[:, lane].reshape(-1)
        assert np.all(np.diff(stretch) == 1)
    ahead = made.targets if many_to_many else made.targets[:, None]
    np.testing.assert_array_equal(ahead, (made.inputs if many_to_many else made.inputs[:, -1:]) + 1)
    assert made.targets.shape == ((len(made), STEPS, 1) if many_to_many else (len(made), 1))


def test_a_series_too_short_for_a_piece_is_refused():
    with pytest.raises(WrongUsage, match="16 values are too few"):
        pieces(np.zeros((16, 1)), many_to_many=False)


def test_ragged_sequences_are_padded_after_their_end():
    padded = pad([np.ones((2, 3), np.float32), 2 * np.ones((4, 3), np.float32)])
    assert padded.shape == (2, 4, 3)
    assert np.all(padded[0, :2] == 1)
    assert np.all(padded[0, 2:] == PAD_VALUE)
    assert np.all(padded[1] == 2)


def test_a_real_step_that_would_be_masked_is_refused():
    hidden = np.ones((3, 2), np.float32)
    hidden[1] = PAD_VALUE
    with pytest.raises(WrongUsage, match="sequence 0 has a step of nothing but the padding value"):
        pad([hidden])
    # One channel alone may well be 0.
    hidden[1, 0] = 1
    pad([hidden])


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts():
    texts = ["The film, the FILM!", "a dull film", "zebra apple"]
    words = text.commonest_words(texts, 5)
    assert words == ["film", "the", "a", "apple", "dull"]
    assert text.commonest_words(texts[::-1], 5) == words


def test_ids_are_those_of_the_keras_data_set():
    step = text.text_step(["the", "film"], length=6)
    encode = Preprocessing({"inputs": {"tokens": step}}).before
    # 0 pads in front, 1 starts, the commonest word is 4, 2 is unknown; a long text keeps its end.
    assert encode({"tokens": ["The unseen film"]})["tokens"].tolist() == [[0, 0, 1, 4, 2, 5]]
    assert encode({"tokens": ["x " * 9 + "the film"]})["tokens"].tolist() == [[2, 2, 2, 2, 4, 5]]


def test_counting_and_encoding_split_texts_alike():
    texts = ["It's<br />odd -- isn't_it?\tYES\n(no)  maybe", 'a "b" c/d', "Ünïcode\u00a0space"]
    step = text.text_step(text.commonest_words(texts, 1000), length=50)
    ids = Preprocessing({"inputs": {"tokens": step}}).before({"tokens": texts})["tokens"]
    assert 2 not in ids
    assert (ids > 2).sum() == sum(len(text.split_words(each)) for each in texts)


def test_the_real_vocabulary_is_the_data_sets(data_folder):
    from edgeseq.recipes import readers

    texts, _ = readers.read_reviews(data_folder / "imdb" / "train.jsonl.gz")
    words = text.commonest_words(texts, 9_996)
    # `keras.datasets.imdb` begins with the same words (its `br` comes from the line breaks of the pages).
    assert words[:10] == ["the", "and", "a", "of", "to", "is", "br", "in", "it", "i"]
    assert len(set(words)) == 9_996
