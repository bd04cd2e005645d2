"""A long series in consecutive pieces: the layer's state goes on from one piece to the next."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np

from edgeseq.errors import WrongUsage
from edgeseq.recipes import windows
from edgeseq.recipes.plan import Array, Evaluation, Plan, Samples
from edgeseq.recipes.registry import Request, recipe
from edgeseq.recipes.scaling import Scaler

LANES, STEPS = 4, 4
"""Rows of a batch, each its own stretch of the series, and the steps that a piece has."""
UNITS = 32


@recipe("stateful", "a long series in consecutive pieces of 4 steps: stateful LSTM 32, Input(batch_shape=(4, 4, 1))")
def stateful(
    request: Request,
    *,
    many_to_many: Annotated[bool, "predict after every step (return_sequences), not only after every piece"] = False,
    series: Annotated[
        Literal["daily-min-temperatures", "etth1"], "the series; of etth1 the oil temperature OT is taken"
    ] = "daily-min-temperatures",
) -> Plan:
    """The target of a step is the series' next value; the state starts at zero in every epoch and for every part."""
    if request.batch_size not in (None, LANES):
        raise WrongUsage(f"the batch size of this recipe is part of the model: {LANES}, got {request.batch_size}")
    found = windows.load(series, request.data)
    values = found.values[:, -1:]
    parts = windows.parts_of(len(values))
    scaler = Scaler.fit(values[: parts.validation])
    test = pieces(values[parts.test :], many_to_many)

    def evaluate(model: Any) -> Evaluation:
        from edgeseq.conversion.reference import reset_states

        reset_states(model)
        answers = model.predict(scaler.apply(test.inputs), batch_size=LANES, verbose=0)
        last = test.inputs if many_to_many else test.inputs[:, -1]
        return Evaluation(
            metrics=windows.errors(scaler.invert(answers), test.targets),
            baseline=windows.errors(last, test.targets),
        )

    return Plan(
        model=_model(many_to_many),
        train=pieces(scaler.apply(values[: parts.validation]), many_to_many),
        validation=pieces(scaler.apply(values[parts.validation : parts.test]), many_to_many),
        epochs=request.epochs or 60,
        batch_size=LANES,
        patience=10,
        # The order is the point: the state after one piece is the state before the next.
        shuffle=False,
        evaluate=evaluate,
        source=found.source,
        preprocessing={"inputs": {"sequence": scaler.step()}, "outputs": {"forecast": scaler.step()}},
        notes=("baseline: the next value is the last one",),
    )


def pieces(values: Array, many_to_many: bool) -> Samples:
    """Batches of consecutive pieces from `values`, shape (rows, 1).

    The series is cut into `LANES` stretches of one length, and each stretch into pieces of `STEPS`. Sample
    ``LANES * k + lane`` is piece k of that lane, so a batch holds one piece of every lane and the next batch goes on
    where it ended. Inputs have the shape (samples, STEPS, 1); targets are one step ahead, shape (samples, STEPS, 1) or,
    after the last step alone, (samples, 1). What does not fill a piece is left out.
    """
    count = (len(values) - 1) // (LANES * STEPS)
    if count < 1:
        raise WrongUsage(f"{len(values)} values are too few for {LANES} stretches with pieces of {STEPS} steps")
    length = count * STEPS

    def arranged(shift: int) -> Array:
        lanes = values[shift : shift + LANES * length].reshape(LANES, count, STEPS, 1)
        return np.ascontiguousarray(lanes.swapaxes(0, 1)).reshape(LANES * count, STEPS, 1)

    targets = arranged(1)
    return Samples(inputs=arranged(0), targets=targets if many_to_many else targets[:, -1])


def _model(many_to_many: bool) -> Any:
    import keras
    from keras import layers

    inputs = keras.Input(batch_shape=(LANES, STEPS, 1), name="sequence")
    hidden = layers.LSTM(UNITS, stateful=True, return_sequences=many_to_many, name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="forecast")(hidden), name="stateful")
    model.compile(optimizer="adam", loss="mse")
    return model
