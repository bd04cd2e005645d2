"""Film reviews: positive or negative, by an Embedding and a recurrent layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.recipes import data, readers, text
from edgeseq.recipes.plan import Array, Evaluation, Plan, Samples, hold_out
from edgeseq.recipes.registry import Request, recipe
from edgeseq.runtime.preprocessing import Preprocessing

WORD_IDS = 10_000
"""Ids in all: padding, start, unknown, one that the convention leaves free, and 9,996 words."""
STEPS = 250
UNITS = 128
VALIDATION_SHARE = 0.1


@recipe(
    "imdb", "film reviews, positive or negative: Embedding 128, LSTM 128, Dense sigmoid; up to 10 epochs, batch 128"
)
def imdb(
    request: Request,
    *,
    cell: Annotated[Literal["lstm", "gru", "simple_rnn"], "the recurrent layer"] = "lstm",
    bidirectional: Annotated[bool, "read the review in both directions"] = False,
    mask: Annotated[bool, "skip the padding instead of reading it (mask_zero)"] = False,
    samples: Annotated[int, "training reviews to use, for a short training; 0 uses all"] = 0,
) -> Plan:
    """The 10,000 most frequent words; reviews padded or cut to 250 steps as `pad_sequences` does by default."""
    reviews = load_reviews(request.data)
    kept = _some(reviews.train, samples, request.seed)
    train, validation = hold_out(kept, VALIDATION_SHARE, request.seed)
    notes = []
    if samples:
        notes.append(f"short training: {samples:,} of {len(reviews.train):,} training reviews")
    return Plan(
        model=_model(cell, bidirectional, mask),
        train=train,
        validation=validation,
        epochs=request.epochs or 10,
        batch_size=request.batch_size or 128,
        monitor="val_accuracy",
        patience=3,
        evaluate=lambda model: Evaluation(metrics=_test(model, reviews.test)),
        source=reviews.source,
        preprocessing=_preprocessing(reviews.vocabulary),
        notes=tuple(notes),
    )


def _model(cell: str, bidirectional: bool, mask: bool) -> Any:
    import keras
    from keras import layers

    kinds = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}
    recurrent = kinds[cell](UNITS, name=cell)
    tokens = keras.Input((STEPS,), dtype="int32", name="tokens")
    embedded = layers.Embedding(WORD_IDS, 128, mask_zero=mask, name="embedding")(tokens)
    last = (layers.Bidirectional(recurrent, name=f"bidirectional_{cell}") if bidirectional else recurrent)(embedded)
    model = keras.Model(tokens, layers.Dense(1, activation="sigmoid", name="sentiment")(last), name="imdb")
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


class Reviews(NamedTuple):
    """Both parts of the data set as word ids, with the vocabulary that numbers them."""

    train: Samples
    """Word ids, int32 (reviews, 250), and labels 0 or 1."""
    test: Samples
    """The same of reviews that are never trained on."""
    vocabulary: Sequence[str]
    """The word at index i has the id i + 4."""
    source: str
    """Where they came from."""


def load_reviews(named: Path | None) -> Reviews:
    """The reviews of a data folder that was named, of the usual places, or of Keras's public loader."""
    folder = data.locate("imdb", named)
    return _from_files(folder) if folder else _from_keras()


def _from_files(folder: Path) -> Reviews:
    texts, labels = readers.read_reviews(folder / "train.jsonl.gz")
    test_texts, test_labels = readers.read_reviews(folder / "test.jsonl.gz")
    vocabulary = text.commonest_words(texts, WORD_IDS - text.FIRST_ID)
    # The very code that a device runs on raw texts, so that training and use cannot drift apart.
    encode = Preprocessing(_preprocessing(vocabulary)).before
    return Reviews(
        Samples(inputs=encode({"tokens": texts})["tokens"], targets=labels),
        Samples(inputs=encode({"tokens": test_texts})["tokens"], targets=test_labels),
        vocabulary,
        str(folder),
    )


def _from_keras() -> Reviews:
    def load() -> Any:
        import keras

        return keras.datasets.imdb.load_data(num_words=WORD_IDS), keras.datasets.imdb.get_word_index()

    (train, test), ranks = data.load_public("imdb", ("imdb.npz", "imdb_word_index.json"), load)
    # Ranks count from 1, and the word of rank 1 has the first id.
    vocabulary = sorted(ranks, key=lambda word: int(ranks[word]))[: WORD_IDS - text.FIRST_ID]
    train, test = (Samples(inputs=_padded(ids), targets=np.asarray(labels)) for ids, labels in (train, test))
    return Reviews(train, test, vocabulary, "keras.datasets.imdb")


def _preprocessing(vocabulary: Sequence[str]) -> dict[str, Any]:
    return {"inputs": {"tokens": text.text_step(vocabulary, STEPS)}, "outputs": {}}


def _padded(reviews: Sequence[Sequence[int]]) -> Array:
    import keras

    return np.asarray(keras.utils.pad_sequences(reviews, maxlen=STEPS))


def _some(reviews: Samples, count: int, seed: int) -> Samples:
    if not count:
        return reviews
    if not 10 <= count <= len(reviews):
        raise WrongUsage(f"samples must be 10 to {len(reviews)}, or 0 for all; got {count}")
    chosen = np.random.default_rng(seed).permutation(len(reviews))[:count]
    return Samples(inputs=reviews.inputs[chosen], targets=reviews.targets[chosen])


def _test(model: Any, test: Samples) -> dict[str, float]:
    values = model.evaluate(test.inputs, test.targets, batch_size=512, verbose=0, return_dict=True)
    return {"loss": values["loss"], "accuracy": values["accuracy"]}
