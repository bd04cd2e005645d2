"""The next value of a series from a window of the values before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from edgeseq.errors import WrongUsage
from edgeseq.recipes import windows
from edgeseq.recipes.plan import Evaluation, Plan
from edgeseq.recipes.registry import Request, recipe
from edgeseq.recipes.scaling import Scaler

UNITS = {"lstm": 128, "gru": 64}

WANDERING = ("airline-passengers", "etth1")
"""Series whose level leaves, in the test part, the range it had in training.

A recurrent layer's answers are bounded, so on these the network alone does worse than repeating the last value; it does
better when it only has to answer the change since then.
"""


@recipe("forecast", "the next value of a series from a window of 10: LSTM 128 or GRU 64, one feature or ETTh1's seven")
def forecast(
    request: Request,
    *,
    series: Annotated[
        Literal["daily-min-temperatures", "airline-passengers", "etth1"], "the series; etth1 has seven features"
    ] = "daily-min-temperatures",
    cell: Annotated[Literal["lstm", "gru"], "the recurrent layer: 128 units of LSTM, or 64 of GRU"] = "lstm",
    answer: Annotated[
        Literal["auto", "value", "change"],
        "what the network answers: the value, or its change from the last one, which is then added in the model; "
        "auto: the value for the daily temperatures, the change for the others, whose level wanders",
    ] = "auto",
    steps: Annotated[int, "length of a window"] = 10,
    dropout: Annotated[float, "share of the inputs dropped in training"] = 0.0,
    recurrent_dropout: Annotated[float, "share of the recurrent state dropped in training"] = 0.0,
    kernel_l1: Annotated[float, "L1 penalty on the input weights"] = 0.0,
    kernel_l2: Annotated[float, "L2 penalty on the input weights"] = 0.0,
    recurrent_l1: Annotated[float, "L1 penalty on the recurrent weights"] = 0.0,
    recurrent_l2: Annotated[float, "L2 penalty on the recurrent weights"] = 0.0,
) -> Plan:
    """Parts in the order of time, scaled by the training part alone; errors are in the series' own units."""
    if steps < 1:
        raise WrongUsage(f"steps must be at least 1, got {steps}")
    found = windows.load(series, request.data)
    parts = windows.parts_of(len(found.values))
    scaler = Scaler.fit(found.values[: parts.validation])
    scaled = scaler.apply(found.values)
    # The raw values, not the scaled ones turned back: the errors are those of the series as it is.
    test = windows.windows(found.values, parts.test, parts.end, steps)
    named = found.columns if len(found.columns) > 1 else ()

    def evaluate(model: Any) -> Evaluation:
        predicted = scaler.invert(model.predict(scaler.apply(test.inputs), batch_size=512, verbose=0))
        metrics = windows.errors(predicted, test.targets, named)
        baseline = windows.errors(test.inputs[:, -1], test.targets, named)
        return Evaluation(metrics=metrics, baseline=baseline, notes=_not_beaten(metrics, baseline))

    layer = _recurrent(
        cell,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        kernel_regularizer=_penalty(kernel_l1, kernel_l2),
        recurrent_regularizer=_penalty(recurrent_l1, recurrent_l2),
    )
    return Plan(
        model=_model(
            layer, steps, len(found.columns), change=answer == "change" or (answer == "auto" and series in WANDERING)
        ),
        train=windows.windows(scaled, 0, parts.validation, steps),
        validation=windows.windows(scaled, parts.validation, parts.test, steps),
        epochs=request.epochs or 50,
        batch_size=request.batch_size or 32,
        patience=8,
        evaluate=evaluate,
        source=found.source,
        preprocessing={"inputs": {"sequence": scaler.step()}, "outputs": {"forecast": scaler.step()}},
        notes=("baseline: the next value is the last one",),
    )


def _not_beaten(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[str, ...]:
    names = [name for name, value in metrics.items() if value >= baseline[name]]
    advice = "dropout and penalties on the weights may help (on etth1: dropout 0.3, kernel_l2 and recurrent_l2 3e-4)"
    return (f"repeating the last value is better in {', '.join(names)}; {advice}",) if names else ()


def _recurrent(cell: str, **options: Any) -> Any:
    from keras import layers

    for name in ("dropout", "recurrent_dropout"):
        if not 0 <= options[name] < 1:
            raise WrongUsage(f"{name} must be at least 0 and below 1, got {options[name]}")
    kind = {"lstm": layers.LSTM, "gru": layers.GRU}[cell]
    return kind(UNITS[cell], name=cell, **options)


def _penalty(l1: float, l2: float) -> Any:
    import keras

    if l1 < 0 or l2 < 0:
        raise WrongUsage(f"a penalty on weights must not be negative, got l1 {l1} and l2 {l2}")
    return keras.regularizers.L1L2(l1=l1, l2=l2) if l1 or l2 else None


def _model(layer: Any, steps: int, features: int, *, change: bool) -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((steps, features), name="sequence")
    answer = layers.Dense(features, name="change" if change else "forecast")(layer(inputs))
    if change:
        last = layers.Flatten(name="last")(layers.Cropping1D((steps - 1, 0), name="last_step")(inputs))
        answer = layers.Add(name="forecast")([last, answer])
    model = keras.Model(inputs, answer, name="forecast")
    model.compile(optimizer="adam", loss="mse")
    return model
