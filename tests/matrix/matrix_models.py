"""Keras models of the cases in `matrix_cases`, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers as L
from matrix_cases import Case

VOCABULARY = 20
MASK_VALUE = -1.0
# Batches and lengths of the fresh inputs; a fixed axis keeps its own length.
SIZES = ((1, 5), (2, 9), (7, 4), (64, 3), (2, 1))
# Convolutions in Keras take their time.
CONVOLUTION_SIZES = ((1, 4), (7, 2), (2, 1))


@keras.saving.register_keras_serializable(package="matrix")
def own_function(x):
    """An activation as a user writes one."""
    return x * keras.ops.sigmoid(1.5 * x)


@keras.saving.register_keras_serializable(package="matrix")
class NormalizedCell(L.Layer):
    """A cell as a user writes one: a simple recurrence with layer normalisation, and a count of its steps."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = self.output_size = units
        self.state_size = [units, 1]

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")
        self.norm = L.LayerNormalization()
        self.norm.build((None, self.units))

    def call(self, x, states):
        h, count = states
        h = keras.ops.tanh(self.norm(x @ self.kernel + h @ self.recurrent_kernel))
        return h * 0.5 + 0.1 * count, [h, count * 0.9 + 1.0]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def build(case: Case, policy: str | None = None) -> keras.Model:
    """The case's model, its weights drawn from a fixed seed: biases too, which Keras would leave at zero.

    `policy` takes the place of the case's own, to compare a mixed model with the same one in float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or case.policy)
    try:
        keras.utils.set_random_seed(1)
        model = _model(case)
    finally:
        keras.config.set_dtype_policy(before)
    random = np.random.default_rng(1)
    for variable in model.weights:
        if "seed" in variable.path or not np.issubdtype(np.dtype(variable.dtype), np.floating):
            continue
        if "bias" in variable.path or "alpha" in variable.path:
            variable.assign(random.normal(0, 0.3, variable.shape))
        elif "embeddings" in variable.path:
            # Keras begins with vectors near zero, which a normalising cell would blow up.
            variable.assign(random.normal(0, 1, variable.shape))
        elif "recurrent_kernel" in variable.path:
            # Small enough that what one step rounds does not grow over the next ones.
            variable.assign(random.normal(0, 0.4 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    return model


def _model(case: Case) -> keras.Model:
    batch, time = case.batch or None, case.time or None
    outer = (case.outer_time or None,) if case.is_time_distributed else ()
    inputs: list[Any] = []

    def given(name: str, *shape: int | None, dtype: str | None = None) -> Any:
        if dtype is None and case.policy == "float64":
            dtype = "float64"
        inputs.append(keras.Input(batch_shape=(batch, *shape), name=name, dtype=dtype))
        return inputs[-1]

    mask = None
    if case.mask == "embedding":
        x = L.Embedding(VOCABULARY, case.features, mask_zero=True)(given("ids", time, dtype="int32"))
    else:
        x = given("x", *outer, time, *_step_shape(case))
        if case.mask == "masking":
            x = L.Masking(mask_value=MASK_VALUE)(x)
        elif case.mask == "input":
            mask = given("mask", time, dtype="bool")
    layer = main_layer(case)
    arguments: dict[str, Any] = {} if mask is None else {"mask": mask}
    if case.initial == "input":
        arguments["initial_state"] = _nest_states(
            case, [given(f"state_{index}", *shape) for index, shape in enumerate(_state_shapes(case, x))]
        )
    elif case.initial == "encoder":
        source = given("source", case.time or None, 2)
        encoder = main_layer(case, name="encoder", states=True, backward="same")
        states = encoder(source)[-len(_state_shapes(case, x)) :]
        arguments["initial_state"] = list(states)
    result = layer(x, **arguments)
    outputs = list(result) if isinstance(result, list | tuple) else [result]
    if case.after != "none":
        outputs = [_after(case, outputs[0])]
    return keras.Model(*(tensors if len(tensors) > 1 else tensors[0] for tensors in (inputs, outputs)))


def main_layer(case: Case, **changed: Any) -> Any:
    """The layer under test, named ``main`` unless told otherwise."""
    name = changed.pop("name", "main")
    states = changed.pop("states", case.states)
    backward = changed.pop("backward", case.backward)
    if not case.is_bidirectional:
        layer = _recurrent(case, states=states, name=name)
    else:
        forward = _recurrent(case, states=states, backwards=backward == "reversed")
        other = None
        if backward == "reversed":
            other = _recurrent(case, states=states, backwards=False)
        elif backward == "options":
            options = {"activation": "softsign", "use_bias": not case.use_bias}
            other = _recurrent(case, states=states, backwards=True, **options)
        elif backward == "kind":
            kind = {"SimpleRNN": "GRU", "LSTM": "SimpleRNN", "GRU": "LSTM"}[case.layer]
            other = _recurrent(case, kind, states=states, backwards=True)
        merge = None if case.merge == "none" else case.merge
        layer = L.Bidirectional(forward, merge_mode=merge, backward_layer=other, name=name)
    return L.TimeDistributed(layer, name="steps") if case.is_time_distributed else layer


def _recurrent(
    case: Case, kind: str | None = None, *, states: bool, backwards: bool | None = None, **changed: Any
) -> Any:
    name = changed.pop("name", None)
    options: dict[str, Any] = {
        "return_sequences": case.sequences,
        "return_state": states,
        "go_backwards": case.backwards if backwards is None else backwards,
        "stateful": case.stateful,
        "name": name,
    }
    if case.zero_output:
        options["zero_output_for_mask"] = True
    if case.unroll:
        options["unroll"] = True
    if kind is None:
        kind = case.layer
    if case.regularized:
        options |= {
            "kernel_regularizer": "l2",
            "recurrent_regularizer": "l1",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "recurrent_constraint": "non_neg",
        }
        if case.use_bias:
            options["bias_regularizer"] = "l2"
    if case.rank:
        options |= {
            "kernel_size": case.window,
            "strides": case.strides,
            "dilation_rate": case.dilation,
            "padding": case.padding,
            "data_format": "channels_first" if case.channels_first else "channels_last",
        }
        return getattr(L, kind)(case.units, **options, **(_cell_options(case, "LSTM") | changed))
    if kind in ("SimpleRNN", "LSTM", "GRU"):
        return getattr(L, kind)(case.units, **options, **(_cell_options(case, kind) | changed))
    if kind == "RNN-custom":
        return L.RNN(NormalizedCell(case.units), **options, **changed)
    # Mixed cells of unequal widths; the last one has the case's units.
    widths = (3, 2, case.units) if kind == "RNN-stacked" else (case.units,)
    cells = [
        getattr(L, f"{cell}Cell")(width, **(_cell_options(case, cell) | changed))
        for cell, width in zip(case.kinds, widths, strict=True)
    ]
    return L.RNN(cells if len(cells) > 1 else cells[0], **options)


def _cell_options(case: Case, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {"use_bias": case.use_bias}
    if case.activation != "default":
        options["activation"] = _activation(case, case.activation)
    if case.recurrent_activation != "default" and kind != "SimpleRNN":
        options["recurrent_activation"] = _activation(case, case.recurrent_activation)
    if kind == "GRU":
        options["reset_after"] = case.reset_after
    if case.implementation != 2 and kind != "SimpleRNN":
        options["implementation"] = case.implementation
    if case.dropout != "none":
        options["dropout" if case.dropout == "inputs" else "recurrent_dropout"] = 0.5
    return options


def _activation(case: Case, name: str) -> Any:
    match name:
        case "own_function":
            return own_function
        case "own_lambda":
            return lambda x: keras.ops.tanh(x) + 0.1 * x
        case "LeakyReLU":
            return L.LeakyReLU(0.3)
        case "PReLU":
            first = 2 if case.channels_first else 1
            return L.PReLU(shared_axes=list(range(first, first + case.rank)) or None)
        case _:
            return name


def _step_shape(case: Case) -> tuple[int, ...]:
    if not case.rank:
        return (case.features,)
    # Unlike lengths, so that swapped axes show; large enough for a dilated window without padding.
    image = tuple(case.scale * length for length in {1: (9,), 2: (7, 6), 3: (6, 5, 5)}[case.rank])
    return (case.features, *image) if case.channels_first else (*image, case.features)


def _state_shapes(case: Case, x: Any) -> list[tuple[int, ...]]:
    if case.rank:
        layer = _recurrent(case, states=True)
        shapes = [tuple(shape[1:]) for shape in layer.compute_output_shape(x.shape)[1:]]
    elif case.layer == "RNN-custom":
        shapes = [(case.units,), (1,)]
    else:
        widths = (3, 2, case.units) if len(case.kinds) > 1 else (case.units,)
        shapes = []
        for kind, width in zip(case.kinds, widths, strict=True):
            shapes += [(width,)] * (2 if kind == "LSTM" else 1)
    return shapes * (2 if case.is_bidirectional else 1)


def _nest_states(case: Case, flat: list[Any]) -> Any:
    """Initial states as the layer takes them: a stack of cells wants one list a cell."""
    if case.layer != "RNN-stacked":
        return flat
    nested: list[Any] = []
    rest = list(flat)
    while rest:
        nested += [[rest.pop(0), rest.pop(0)], [rest.pop(0)], [rest.pop(0)]]
    return nested


def _after(case: Case, y: Any) -> Any:
    match case.after:
        case "LSTM":
            return L.LSTM(3, name="after")(y)
        case "Bidirectional":
            return L.Bidirectional(L.GRU(3, return_sequences=True), name="after")(y)
        case "GlobalAveragePooling1D":
            return L.GlobalAveragePooling1D()(y)
        case "Attention":
            return L.Attention()([y, y])
        case "MultiHeadAttention":
            return L.MultiHeadAttention(2, 4)(y, y)
        case "Dense":
            return L.Dense(3, activation="relu")(y)
        case "LayerNormalization":
            return L.LayerNormalization()(y)
        case "Conv1D":
            return L.Conv1D(3, 2, padding="same")(y)
        case "Add":
            return L.LSTM(2, name="after")(L.Add()([y, L.Dense(y.shape[-1])(y)]))
        case "TimeDistributed":
            return L.TimeDistributed(L.Dense(3))(y)
    raise ValueError(f"unknown layer after: {case.after}")


def trials(case: Case, model: keras.Model, seed: int = 5) -> Iterator[list[np.ndarray]]:
    """Fresh inputs of several sizes: masks with gaps, and one row, or the whole batch of one, without a valid step."""
    random = np.random.default_rng(seed)
    done: set[tuple[tuple[int, ...], ...]] = set()

    def gaps(shape: tuple[int, ...]) -> np.ndarray:
        valid = random.random(shape) < 0.6
        # A mean over no step at all is NaN in Keras.
        if case.after != "GlobalAveragePooling1D":
            valid[-1] = False
        else:
            valid[:, -1] = True
        return valid

    for batch, time in CONVOLUTION_SIZES if case.rank else SIZES:
        arrays = make_inputs(case, model, batch, time, random, gaps)
        shapes = tuple(array.shape for array in arrays)
        if shapes not in done:
            done.add(shapes)
            yield arrays


def make_inputs(
    case: Case,
    model: keras.Model,
    batch: int,
    time: int,
    random: np.random.Generator,
    valid_steps: Callable[[tuple[int, ...]], np.ndarray],
) -> list[np.ndarray]:
    """One batch for every input; a fixed axis keeps its own length.

    `valid_steps` says which steps count: a Boolean array of the shape (batch, time), or (batch, outer, time).
    """
    arrays = []
    for tensor in model.inputs:
        lengths = [batch, *range(time, time + len(tensor.shape) - 1)]
        shape = tuple(fixed or free for fixed, free in zip(tensor.shape, lengths, strict=True))
        valid = valid_steps(shape[: 3 if case.is_time_distributed else 2])
        if tensor.name == "mask":
            arrays.append(valid)
        elif tensor.name == "ids":
            arrays.append(np.where(valid, random.integers(1, VOCABULARY, shape), 0).astype(np.int32))
        else:
            array = random.normal(size=shape).astype("float64" if case.policy == "float64" else "float32")
            if tensor.name == "x" and case.mask == "masking":
                array[~valid] = MASK_VALUE
            arrays.append(array)
    return arrays
