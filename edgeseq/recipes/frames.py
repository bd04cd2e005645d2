"""The next frame of a film of moving digits, by a convolutional LSTM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.recipes import data, readers
from edgeseq.recipes.plan import Array, Evaluation, Plan, Samples, hold_out
from edgeseq.recipes.registry import Request, recipe

TEST_CLIPS = 100
VALIDATION_SHARE = 0.1
FASTEST = 2
"""Pixels a digit moves from frame to frame at most, along each axis: as far as two 3x3 kernels in a row see."""


@recipe(
    "frames", "the next frame of moving digits: ConvLSTM2D 64, 3x3, relu, same; 10 epochs, batch 32 (about an hour)"
)
def frames(
    request: Request,
    *,
    size: Annotated[int, "height and width of a frame; below 48 the digits are halved to 14 pixels"] = 64,
    filters: Annotated[int, "filters of the ConvLSTM2D"] = 64,
    clips: Annotated[int, "films to train on"] = 1000,
    steps: Annotated[int, "frames that a film shows before the one that is asked for"] = 10,
    digits: Annotated[int, "digits in a film"] = 2,
) -> Plan:
    """Digits of MNIST that cross the frame and bounce; the model answers the next frame after every frame it sees."""
    for name, value, least in (
        ("clips", clips, 10),
        ("steps", steps, 2),
        ("digits", digits, 1),
        ("filters", filters, 1),
    ):
        if value < least:
            raise WrongUsage(f"{name} must be at least {least}, got {value}")
    if size < 20:
        raise WrongUsage(f"size must be at least 20, so that a digit of 14 pixels can move; got {size}")
    images, source = _digits(request.data)
    # No digit that is tested on was ever trained on.
    cut = len(images) * 4 // 5
    random = np.random.default_rng(request.seed)
    films = make_films(images[:cut], random, count=clips, length=steps + 1, size=size, digits=digits)
    train, validation = hold_out(_ahead(films), VALIDATION_SHARE, request.seed)
    test = _ahead(make_films(images[cut:], random, count=TEST_CLIPS, length=steps + 1, size=size, digits=digits))

    def evaluate(model: Any) -> Evaluation:
        answers = model.predict(test.inputs, batch_size=8, verbose=0)
        empty = _errors(np.zeros_like(test.targets), test.targets)["mse"]
        return Evaluation(
            metrics=_errors(answers, test.targets),
            baseline=_errors(test.inputs, test.targets),
            # Digits cover so little of a frame that answering nothing at all is better than repeating the last frame.
            notes=(
                f"an empty frame has the mse {empty:.4f}: a model has learned to move digits when it is below that",
            ),
        )

    pixels = {"kind": "scale", "offset": [0.0], "scale": [255.0]}
    return Plan(
        model=_model(size, filters),
        train=train,
        validation=validation,
        epochs=request.epochs or 10,
        batch_size=request.batch_size or 32,
        patience=3,
        evaluate=evaluate,
        source=source,
        preprocessing={"inputs": {"frames": pixels}, "outputs": {"next_frames": pixels}},
        notes=("baseline: the next frame is the last one",),
    )


def make_films(images: Array, random: np.random.Generator, *, count: int, length: int, size: int, digits: int) -> Array:
    """Films of digits from `images` that move evenly and bounce off the edges.

    Returns shape (count, length, size, size, 1), float32, 0 to 1. Digits that meet are laid over each other by the
    brighter pixel.
    """
    pictures = images.astype(np.float32) / 255
    if size < 48:
        pictures = pictures.reshape(len(pictures), 14, 2, 14, 2).mean(axis=(2, 4))
    side = pictures.shape[1]
    films = np.zeros((count, length, size, size, 1), np.float32)
    for film in films:
        for _ in range(digits):
            picture = pictures[random.integers(len(pictures))]
            rows, columns = (_path(random, length, size - side) for _ in range(2))
            for frame, row, column in zip(film, rows, columns, strict=True):
                place = frame[row : row + side, column : column + side, 0]
                np.maximum(place, picture, out=place)
    return films


def _path(random: np.random.Generator, length: int, room: int) -> Array:
    """Positions 0 to `room` of a point that moves by one step a frame and is thrown back at both ends."""
    speed = random.integers(1, FASTEST + 1) * random.choice((-1, 1))
    unfolded = random.integers(2 * room) + speed * np.arange(length)
    # A bouncing path is a straight one on a strip that is folded at every edge.
    return np.asarray(room - np.abs(unfolded % (2 * room) - room))


def _ahead(films: Array) -> Samples:
    """All frames but the last, and for each the frame that follows it."""
    return Samples(inputs=films[:, :-1], targets=films[:, 1:])


def _errors(answers: Array, actual: Array) -> dict[str, float]:
    """Mean square error of the last frame, which the model has seen the whole film for, and of all frames."""
    squares = np.square(answers - actual)
    return {"mse": float(squares[:, -1].mean()), "mse_all_frames": float(squares.mean())}


def _digits(named: Path | None) -> tuple[Array, str]:
    folder = data.locate("mnist", named)
    if folder is not None:
        path = folder / "t10k-images-idx3-ubyte.gz"
        return readers.read_digits(path), str(path)

    def load() -> Any:
        import keras

        return keras.datasets.mnist.load_data()

    _, (images, _) = data.load_public("mnist", ("mnist.npz",), load)
    return np.asarray(images), "keras.datasets.mnist"


def _model(size: int, filters: int) -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((None, size, size, 1), name="frames")
    seen = layers.ConvLSTM2D(filters, 3, activation="relu", padding="same", return_sequences=True, name="conv_lstm")(
        inputs
    )
    # Linear: a sigmoid settles at black before the digits are learned, and has no gradient left there.
    picture = layers.Conv2D(1, 3, padding="same", name="picture")
    model = keras.Model(inputs, layers.TimeDistributed(picture, name="next_frames")(seen), name="frames")
    model.compile(optimizer="adam", loss="mse")
    return model
