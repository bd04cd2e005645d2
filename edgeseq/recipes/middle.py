"""The middle of a few numbers in order: the tutorial's smallest systems, whose answers can be checked by hand.

With the published settings a good answer is luck: the weights are still far from settled when training ends. The
default training keeps the architecture and goes on until they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from edgeseq.recipes.plan import Array, Evaluation, Plan, Samples
from edgeseq.recipes.registry import Request, recipe

REPEATS = 100
"""How often one epoch of the default training goes through the rows: as many steps with all rows in a batch."""


@dataclass(frozen=True, kw_only=True)
class _Variant:
    rows: tuple[range, ...]
    targets: tuple[tuple[int, ...], ...]
    question: range
    answer: tuple[int, ...]
    published: str
    """What the tutorial's own model answered."""
    epochs: int
    """Published epochs at most."""
    patience: int | None
    """Published patience of the early stopping on the loss."""


def _rows(starts: tuple[int, ...], length: int, step: int) -> tuple[range, ...]:
    return tuple(range(start, start + length * step, step) for start in starts)


def _middles(rows: tuple[range, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row[1:-1]) for row in rows)


_B_ROWS = _rows((1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 50, 60, 63), 3, 1)
_A_ROWS = _rows((1, 4, 7, 10), 3, 1)
_C_ROWS = _rows((1, 9, 17, 25, 33, 49, 65, 97, 43), 4, 2)
_VARIANTS = {
    "a": _Variant(
        rows=_A_ROWS,
        targets=_middles(_A_ROWS),
        question=range(13, 16),
        answer=(14,),
        published="14.43",
        epochs=100,
        patience=None,
    ),
    "b": _Variant(
        rows=_B_ROWS,
        targets=_middles(_B_ROWS),
        question=range(41, 44),
        answer=(42,),
        published="42.04",
        epochs=200,
        patience=20,
    ),
    "c": _Variant(
        rows=_C_ROWS,
        targets=_middles(_C_ROWS),
        question=range(101, 108, 2),
        answer=(103, 105),
        published="102.79, 104.92",
        epochs=200,
        patience=20,
    ),
}


@recipe("middle", "the middle of 3 or 4 numbers in order: LSTM relu and Dense; trains in seconds, needs no data")
def middle(
    request: Request,
    *,
    variant: Annotated[
        Literal["a", "b", "c"],
        "a: LSTM 10, Dense 5, Dense 1; b: LSTM 20, LSTM 10, Dense 1; c: the same for two middles, Dense 2",
    ] = "a",
    as_published: Annotated[bool, "train exactly as the tutorial does, which is good for one seed in three"] = False,
) -> Plan:
    """Variant a has 541 parameters, b 3,011, c 3,022; the test is one row that no variant is trained on."""
    chosen = _VARIANTS[variant]
    rows = Samples(inputs=_column(chosen.rows), targets=np.array(chosen.targets, np.float32))
    notes = [f"the tutorial's model answers {chosen.published}"]
    if variant == "b":
        notes.append("the tutorial prints the target 1 for the row 10, 11, 12, a slip for 11; 11 is used")
    model = _model(variant, len(chosen.question), len(chosen.answer))
    common = {
        "model": model,
        "validation": None,
        "evaluate": lambda trained: Evaluation(metrics=_ask(trained, chosen)),
        "source": "made by the recipe",
        "monitor": "loss",
        "notes": tuple(notes),
    }
    if as_published:
        model.compile(optimizer="adam", loss="mse")
        return Plan(
            train=rows,
            epochs=request.epochs or chosen.epochs,
            batch_size=request.batch_size or 1,
            patience=chosen.patience,
            best_weights=False,
            **common,
        )
    epochs, batch_size = request.epochs or 40, request.batch_size or len(rows)
    _compile_settling(model, epochs, steps=-(-REPEATS * len(rows) // batch_size))
    return Plan(train=rows, epochs=epochs, batch_size=batch_size, shuffle=False, repeats=REPEATS, **common)


def _model(variant: str, steps: int, answers: int) -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((steps, 1), name="sequence")
    if variant == "a":
        hidden = layers.Dense(5, name="dense")(layers.LSTM(10, activation="relu", name="lstm")(inputs))
    else:
        first = layers.LSTM(20, activation="relu", return_sequences=True, name="lstm_1")(inputs)
        hidden = layers.LSTM(10, activation="relu", name="lstm_2")(first)
    return keras.Model(inputs, layers.Dense(answers, name="middle")(hidden), name=f"middle_{variant}")


def _compile_settling(model: Any, epochs: int, steps: int) -> None:
    """Adam whose rate falls to nothing by the last step, with bounded gradients; an epoch is one call of TensorFlow.

    Relu inside an LSTM has no upper bound, so a single large gradient can throw the weights far off; clipping prevents
    that (all gradients together, which keeps their direction: clipped one by one, one seed in ten ends elsewhere), and
    the falling rate removes the noise that the published constant rate leaves in the answer.
    """
    import keras

    rate = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=epochs * steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0),
        loss="mse",
        # One tf.function runs a whole epoch: the steps are so small that Python would take most of the time.
        steps_per_execution=steps,
    )


def _column(rows: tuple[range, ...]) -> Array:
    """Rows as an array of shape (rows, steps, 1), float32."""
    return np.array([list(row) for row in rows], np.float32)[..., np.newaxis]


def _ask(model: Any, variant: _Variant) -> dict[str, float]:
    answers = np.asarray(model(_column((variant.question,))))[0]
    names = ("",) if len(answers) == 1 else tuple(f"_{number}" for number in range(1, len(answers) + 1))
    metrics: dict[str, float] = {}
    for name, value, target in zip(names, answers, variant.answer, strict=True):
        metrics |= {f"prediction{name}": value, f"target{name}": target, f"error{name}": abs(value - target)}
    return metrics
