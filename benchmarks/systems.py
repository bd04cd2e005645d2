"""The systems that rivals are measured on: the tutorial's, in the shapes of the recipes, and four larger ones.

Weights are Keras's random ones from a seed, with biases that are not zero, so that a rival that mixes up gates or
biases answers wrongly. Inputs are from a seed too, in the shapes and ranges of the real data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEED = 0
BATCHES = (1, 32)
SHORTEST, LONGEST = 7, 29
"""Steps of the recordings of the Japanese vowels."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A Keras model to build, and what it is fed."""

    title: str
    make: Callable[[], object]
    """Builds the Keras model; imports Keras only then."""
    inputs: Callable[[np.random.Generator, int], np.ndarray]
    """From a random generator and a number of rows to what the model takes."""
    batches: tuple[int, ...] = BATCHES
    tutorial: bool = False
    """Whether it is one of the tutorial's."""
    lengths: Callable[[int], np.ndarray] | None = None
    """From a number of rows to their real lengths; None where nothing is masked."""


def build(system):
    """The Keras model of `system`, always with the same weights."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = system.make()
    random = np.random.default_rng(SEED)
    for weight in model.trainable_weights:
        if weight.name == "bias":
            # Added to Keras's own: a forget gate keeps its 1.
            weight.assign(weight.numpy() + random.normal(0, 0.1, weight.shape).astype(np.float32))
    return model


def feed(system, batch):
    """What the model is fed, always the same for a number of rows."""
    return np.ascontiguousarray(system.inputs(np.random.default_rng(SEED), batch))


def _normal(*shape):
    return lambda random, rows: random.standard_normal((rows, *shape), dtype=np.float32)


def _middle():
    import keras
    from keras import layers as L

    return keras.Sequential([keras.Input((3, 1)), L.LSTM(10, activation="relu"), L.Dense(5), L.Dense(1)])


def _three_in_order(random, rows):
    return (random.integers(1, 60, (rows, 1, 1)) + np.arange(3)[:, None]).astype(np.float32)


def _imdb(cell):
    def make():
        import keras
        from keras import layers as L

        return keras.Sequential(
            [
                keras.Input((250,), dtype="int32"),
                L.Embedding(10_000, 128),
                getattr(L, cell)(128),
                L.Dense(1, activation="sigmoid"),
            ]
        )

    return make


def _tokens(random, rows):
    """Word ids; a review has 174 words in the median, so most begin with padding."""
    ids = random.integers(4, 10_000, (rows, 250), dtype=np.int32)
    for row, length in zip(ids, np.linspace(100, 250, rows + 1)[1:], strict=True):
        row[: 250 - int(length)] = 0
    return ids


def _forecast():
    import keras
    from keras import layers as L

    inputs = keras.Input((10, 7))
    change = L.Dense(7)(L.LSTM(128)(inputs))
    last = L.Flatten()(L.Cropping1D((9, 0))(inputs))
    return keras.Model(inputs, L.Add()([last, change]))


def _stateful():
    import keras
    from keras import layers as L

    inputs = keras.Input(batch_shape=(4, 4, 1))
    return keras.Model(inputs, L.Dense(1)(L.LSTM(32, stateful=True)(inputs)))


def _vowels():
    import keras
    from keras import layers as L

    return keras.Sequential(
        [
            keras.Input((None, 12)),
            L.Masking(0.0),
            L.Bidirectional(L.LSTM(64)),
            L.Dropout(0.5),
            L.Dense(9, activation="softmax"),
        ]
    )


def _recording_lengths(rows):
    """As they are spread in the data; one alone has 15 steps, the median."""
    return np.array([15]) if rows == 1 else np.linspace(SHORTEST, LONGEST, rows).round().astype(int)


def _recordings(random, rows):
    """Padded with zeros to the longest recording, in no order of length."""
    filled = random.standard_normal((rows, LONGEST, 12), dtype=np.float32)
    for row, length in zip(filled, random.permutation(_recording_lengths(rows)), strict=True):
        row[length:] = 0
    return filled


def _frames():
    import keras
    from keras import layers as L

    return keras.Sequential(
        [
            # The recipe leaves the number of frames free; several rivals fail on that.
            keras.Input((10, 64, 64, 1)),
            L.ConvLSTM2D(64, 3, activation="relu", padding="same", return_sequences=True),
            L.TimeDistributed(L.Conv2D(1, 3, padding="same")),
        ]
    )


def _films(random, rows):
    """Two patches of a digit's size that move over a black frame."""
    films = np.zeros((rows, 10, 64, 64, 1), np.float32)
    for film in films:
        for _ in range(2):
            patch = random.random((28, 28, 1), dtype=np.float32)
            row, column = random.integers(0, 17, 2)
            for step, frame in enumerate(film):
                place = frame[row + 2 * step : row + 2 * step + 28, column + step : column + step + 28]
                np.maximum(place, patch[: place.shape[0], : place.shape[1]], out=place)
    return films


def _turbofan():
    import keras
    from keras import layers as L

    return keras.Sequential(
        [
            keras.Input((50, 25)),
            L.LSTM(100, return_sequences=True),
            L.Dropout(0.2),
            L.LSTM(50),
            L.Dropout(0.2),
            L.Dense(1),
        ]
    )


def _wide(cell):
    def make():
        import keras
        from keras import layers as L

        return keras.Sequential([keras.Input((100, 512)), getattr(L, cell)(1024)])

    return make


def _two_bidirectional():
    import keras
    from keras import layers as L

    return keras.Sequential(
        [
            keras.Input((100, 40)),
            L.Bidirectional(L.GRU(128, return_sequences=True)),
            L.Bidirectional(L.GRU(128)),
            L.Dense(10, activation="softmax"),
        ]
    )


def _speech():
    import keras
    from keras import layers as L

    return keras.Sequential(
        [
            keras.Input((200, 80)),
            L.LSTM(256, return_sequences=True),
            L.LSTM(256, return_sequences=True),
            L.Dense(29, activation="softmax"),
        ]
    )


SYSTEMS = {
    "middle": System(title="middle of three, LSTM 10 relu", make=_middle, inputs=_three_in_order, tutorial=True),
    "imdb-lstm": System(title="film reviews, LSTM 128 on 250 words", make=_imdb("LSTM"), inputs=_tokens, tutorial=True),
    "imdb-gru": System(title="film reviews, GRU 128 on 250 words", make=_imdb("GRU"), inputs=_tokens, tutorial=True),
    "forecast": System(
        title="seven columns, LSTM 128 on a window of 10", make=_forecast, inputs=_normal(10, 7), tutorial=True
    ),
    # Its batch is part of the model.
    "stateful": System(
        title="consecutive pieces, stateful LSTM 32", make=_stateful, inputs=_normal(4, 1), batches=(4,), tutorial=True
    ),
    "vowels": System(
        title="speakers, masked bidirectional LSTM 64 on 7 to 29 steps",
        make=_vowels,
        inputs=_recordings,
        lengths=_recording_lengths,
        tutorial=True,
    ),
    # A batch of 32 films takes seconds a call, which is minutes a round with all rivals.
    "frames": System(
        title="moving digits, ConvLSTM2D 64 relu on 10 x 64 x 64", make=_frames, inputs=_films, batches=(1, 4),
        tutorial=True,
    ),
    "cmapss": System(
        title="remaining life, LSTM 100 + 50 on 50 x 25",
        make=_turbofan,
        inputs=lambda random, rows: random.random((rows, 50, 25), dtype=np.float32),
        tutorial=True,
    ),
    "lstm-1024": System(title="LSTM 1024 on 100 x 512", make=_wide("LSTM"), inputs=_normal(100, 512)),
    "gru-1024": System(title="GRU 1024 on 100 x 512", make=_wide("GRU"), inputs=_normal(100, 512)),
    "bidirectional-gru": System(
        title="2 x bidirectional GRU 128 on 100 x 40", make=_two_bidirectional, inputs=_normal(100, 40)
    ),
    "speech": System(
        title="2 x LSTM 256 on 200 x 80, Dense each step", make=_speech, inputs=_normal(200, 80)
    ),
}  # fmt: skip
