"""The equations of the recurrent cells in numpy: a second oracle beside Keras, in double precision.

`spec` below is anything with the attributes of `edgeseq.lowering.spec.RecurrentSpec` that are read here, so that the
equations do not rest on the code they check.
"""

from __future__ import annotations

import math

import numpy as np

STATE_COUNTS = {"simple_rnn": 1, "lstm": 2, "gru": 1}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def _elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _sparsemax(x):
    """As Keras has it: Martins and Astudillo 2016 take the last of the sums over the support, Keras takes all."""
    down = -np.sort(-x, axis=-1)
    sums = np.cumsum(down, -1)
    support = 1 + np.arange(1, x.shape[-1] + 1) * down > sums
    threshold = (np.where(support, sums, 0).sum(-1, keepdims=True) - 1) / support.sum(-1, keepdims=True)
    return np.maximum(x - threshold, 0)


# Every function of keras.activations that can be named, and those of `matrix_models`.
FUNCTIONS = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "elu": _elu,
    "celu": _elu,
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": _softplus,
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    "exponential": np.exp,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_shrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "soft_shrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "log_sigmoid": lambda x: -_softplus(-x),
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
    "sparsemax": _sparsemax,
    "sparse_plus": lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "sparse_sigmoid": lambda x: np.clip((x + 1) / 2, 0, 1),
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "own_function": lambda x: x * _sigmoid(1.5 * x),
    "own_lambda": lambda x: np.tanh(x) + 0.1 * x,
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.3 * x),
}


def numpy_step(spec, direction, x, states):
    """One step as in Hochreiter and Schmidhuber 1997 (with forget gates), Cho et al. 2014, and Elman 1990."""
    f = FUNCTIONS[direction.activation.name]
    products = x @ direction.kernel + (0 if direction.bias is None else direction.bias)
    h = states[0]
    if spec.kind == "simple_rnn":
        return [f(products + h @ direction.recurrent_kernel)]
    g = FUNCTIONS[direction.recurrent_activation.name]
    if spec.kind == "lstm":
        i, forget, c, o = np.split(products + h @ direction.recurrent_kernel, 4, axis=-1)
        cell = g(forget) * states[1] + g(i) * f(c)
        return [g(o) * f(cell), cell]
    xz, xr, xh = np.split(products, 3, axis=-1)
    kz, kr, kh = np.split(direction.recurrent_kernel, 3, axis=-1)
    bz, br, bh = np.split(np.zeros(3 * spec.units) if direction.recurrent_bias is None else direction.recurrent_bias, 3)
    z, r = g(xz + h @ kz + bz), g(xr + h @ kr + br)
    inner = r * (h @ kh + bh) if spec.reset_after else (r * h) @ kh
    return [z * h + (1 - z) * f(xh + inner)]


def numpy_layer(spec, x, mask=None, initial=None):
    """Outputs and states as Keras defines them: a masked step keeps the state and repeats the output, or zeros it.

    `x` is (batch, time, features), `mask` (batch, time) Boolean, `initial` one (batch, units) a state and direction.
    """
    count = STATE_COUNTS[spec.kind]
    sides, finals = [], []
    for index, direction in enumerate(spec.directions):
        given = initial[index * count : (index + 1) * count] if initial else None
        states = [np.zeros((len(x), spec.units)) if given is None else given[i].astype(float) for i in range(count)]
        output = np.zeros((len(x), spec.units))
        outputs = []
        order = range(x.shape[1])
        for t in reversed(order) if direction.backwards else order:
            after = numpy_step(spec, direction, x[:, t].astype(float), states)
            keep = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
            states = [np.where(keep, new, old) for new, old in zip(after, states, strict=True)]
            output = np.where(keep, after[0], 0 if spec.masked_output == "zero" else output)
            outputs.append(output)
        if direction.backwards and len(spec.directions) == 2:
            outputs.reverse()
        sides.append(np.stack(outputs, 1) if spec.return_sequences else output)
        finals += states
    if len(sides) == 1:
        return [sides[0]], finals
    merged = {
        "concat": lambda a, b: [np.concatenate([a, b], -1)],
        "sum": lambda a, b: [a + b],
        "mul": lambda a, b: [a * b],
        "ave": lambda a, b: [(a + b) / 2],
        "none": lambda a, b: [a, b],
    }[spec.merge](*sides)
    return merged, finals
