"""Who speaks: nine speakers told apart by recordings of unequal lengths, padded and masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.recipes import data, readers
from edgeseq.recipes.plan import Array, Evaluation, Plan, Samples, hold_out
from edgeseq.recipes.registry import Request, recipe

PAD_VALUE = 0.0
"""What a step that is not there holds in all its channels.

`Masking` skips a step whose channels *all* equal this value. A recorded step never has all twelve coefficients
exactly 0, which is checked, while a buffer that a program fills from the front holds zeros by itself.
"""
VALIDATION_SHARE = 0.2
UNITS = 64


@recipe("vowels", "nine speakers by recordings of 7 to 29 steps: Masking, bidirectional LSTM 64, Dense softmax")
def vowels(
    request: Request,
    *,
    cell: Annotated[Literal["lstm", "gru", "simple_rnn"], "the recurrent layer"] = "lstm",
    bidirectional: Annotated[bool, "read the recording in both directions"] = True,
) -> Plan:
    """Sequences padded after their end to the longest of their file; the time axis of the model is free."""
    folder = data.require("japanese_vowels", request.data)
    train_path, test_path = folder / "JapaneseVowels_TRAIN.ts", folder / "JapaneseVowels_TEST.ts"
    sequences, labels = readers.read_sequences(train_path)
    test_sequences, test_labels = readers.read_sequences(test_path)
    if test_sequences[0].shape[1] != sequences[0].shape[1]:
        raise InvalidFile(test_path, "its recordings have another number of channels than those for training")
    test = Samples(inputs=pad(test_sequences), targets=test_labels)
    train, validation = hold_out(Samples(inputs=pad(sequences), targets=labels), VALIDATION_SHARE, request.seed)

    def evaluate(model: Any) -> Evaluation:
        values = model.evaluate(test.inputs, test.targets, batch_size=512, verbose=0, return_dict=True)
        return Evaluation(metrics={"loss": values["loss"], "accuracy": values["accuracy"]})

    return Plan(
        model=_model(cell, bidirectional, channels=train.inputs.shape[2], classes=int(labels.max()) + 1),
        train=train,
        validation=validation,
        epochs=request.epochs or 100,
        batch_size=request.batch_size or 16,
        patience=20,
        evaluate=evaluate,
        source=str(folder),
    )


def pad(sequences: Sequence[Array]) -> Array:
    """Sequences of shape (steps, channels) as one array (sequences, longest, channels), `PAD_VALUE` after their end.

    Raises WrongUsage when a real step holds nothing but `PAD_VALUE`: it would be masked.
    """
    padded = np.full((len(sequences), max(map(len, sequences)), sequences[0].shape[1]), PAD_VALUE, np.float32)
    for index, sequence in enumerate(sequences):
        if (sequence == PAD_VALUE).all(axis=1).any():
            raise WrongUsage(f"sequence {index} has a step of nothing but the padding value {PAD_VALUE}")
        padded[index, : len(sequence)] = sequence
    return padded


def _model(cell: str, bidirectional: bool, channels: int, classes: int) -> Any:
    import keras
    from keras import layers

    kinds = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}
    recurrent = kinds[cell](UNITS, name=cell)
    inputs = keras.Input((None, channels), name="sequence")
    masked = layers.Masking(PAD_VALUE, name="masking")(inputs)
    last = (layers.Bidirectional(recurrent, name=f"bidirectional_{cell}") if bidirectional else recurrent)(masked)
    # 216 recordings are few for 40,000 weights: without dropout one seed in two stays below 0.95.
    kept = layers.Dropout(0.5, name="dropout")(last)
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax", name="speaker")(kept), name="vowels")
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
