"""Activation functions in ONNX: as attributes of the recurrent ops, and as nodes in the body of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import Activation


def op_attribute(activation: Activation) -> tuple[str, float, float] | None:
    """Name, alpha and beta for the `activations` attributes of LSTM, GRU and RNN; None where they lack it."""
    function = None if activation.model is not None else _FUNCTIONS.get(activation.name)
    return None if function is None or not function.op else (function.op, *_parameters(activation, function))


def known(activation: Activation) -> bool:
    """Whether `apply` has nodes for this function with these parameters."""
    function = _FUNCTIONS.get(activation.name)
    return activation.model is not None or (
        function is not None
        and (activation.alpha is None or function.alpha is not None)
        and (activation.beta is None or function.beta is not None)
    )


def has_double_kernels(activation: Activation) -> bool:
    """Whether onnxruntime runs the nodes of `apply` in double precision on the CPU: it lacks `Erf` there."""
    return activation.name != "gelu"


def apply(b: Builder, activation: Activation, x: ir.Value) -> ir.Value:
    """Nodes that compute the activation of `x`, of the same shape."""
    if activation.model is not None:
        return b.inline(activation.model, x)[0]
    function = _FUNCTIONS[activation.name]
    return function.nodes(b, x, *_parameters(activation, function))


def _parameters(activation: Activation, function: _Function) -> tuple[float, float]:
    alpha = function.alpha if activation.alpha is None else activation.alpha
    beta = function.beta if activation.beta is None else activation.beta
    return alpha or 0.0, beta or 0.0


def _gelu(b: Builder, x: ir.Value, *_: float) -> ir.Value:
    half = b.op("Mul", x, b.constant(0.5))
    return b.op("Mul", half, b.op("Add", b.op("Erf", b.op("Mul", x, b.constant(math.sqrt(0.5)))), b.constant(1.0)))


def _hard_sigmoid(b: Builder, x: ir.Value, alpha: float = 1 / 6, beta: float = 0.5) -> ir.Value:
    if b.dtype == np.float64:
        # Attributes are float32, whatever the tensors are.
        line = b.op("Add", b.op("Mul", x, b.constant(alpha)), b.constant(beta))
        return b.op("Clip", line, b.constant(0.0), b.constant(1.0))
    return b.op("HardSigmoid", x, alpha=alpha, beta=beta)


def _selu(b: Builder, x: ir.Value, *_: float) -> ir.Value:
    if b.dtype == np.float64:
        scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
        below = b.op("Mul", b.op("Sub", b.op("Exp", x), b.constant(1.0)), b.constant(alpha))
        both = b.op("Add", b.op("Relu", x), b.op("Min", below, b.constant(0.0)))
        return b.op("Mul", both, b.constant(scale))
    return b.op("Selu", x)


def _affine(b: Builder, x: ir.Value, alpha: float, beta: float) -> ir.Value:
    return x if (alpha, beta) == (1, 0) else b.op("Add", b.op("Mul", x, b.constant(alpha)), b.constant(beta))


def _scaled_tanh(b: Builder, x: ir.Value, alpha: float, beta: float) -> ir.Value:
    return b.op("Mul", b.op("Tanh", b.op("Mul", x, b.constant(beta))), b.constant(alpha))


def _thresholded_relu(b: Builder, x: ir.Value, alpha: float, _: float) -> ir.Value:
    # onnxruntime has no ThresholdedRelu in double precision.
    return b.op("Where", b.op("Greater", x, b.constant(alpha)), x, b.constant(0.0))


@dataclass(frozen=True)
class _Function:
    nodes: Callable[[Builder, ir.Value, float, float], ir.Value]
    """The formula, given alpha and beta."""
    op: str = ""
    """Name in the `activations` attribute, where that has the function."""
    alpha: float | None = None
    """Keras's default, or ONNX's for what only ONNX has; None for a function without alpha."""
    beta: float | None = None
    """The same of beta."""


def _op(name: str, alpha: float | None = None) -> _Function:
    """A function that is an op of its own, and has the same name in the attribute."""
    if alpha is None:
        return _Function(lambda b, x, *_: b.op(name, x), name)
    return _Function(lambda b, x, alpha, _: b.op(name, x, alpha=alpha), name, alpha)


# By Keras's names: each is the formula of keras.activations in that function's own terms.
# https://onnx.ai/onnx/operators/onnx__LSTM.html lists the names in the attribute and their formulas.
_FUNCTIONS = {
    "tanh": _op("Tanh"),
    "sigmoid": _op("Sigmoid"),
    "relu": _op("Relu"),
    "softsign": _op("Softsign"),
    "softplus": _op("Softplus"),
    "elu": _op("Elu", 1.0),
    "leaky_relu": _op("LeakyRelu", 0.2),
    "linear": _Function(_affine, "Affine", 1.0, 0.0),
    "affine": _Function(_affine, "Affine", 1.0, 0.0),
    "hard_sigmoid": _Function(_hard_sigmoid, "HardSigmoid", 1 / 6, 0.5),
    "scaled_tanh": _Function(_scaled_tanh, "ScaledTanh", 1.0, 1.0),
    "thresholded_relu": _Function(_thresholded_relu, "ThresholdedRelu", 1.0),
    "relu6": _Function(lambda b, x, *_: b.op("Clip", x, b.constant(0.0), b.constant(6.0))),
    "selu": _Function(_selu),
    "silu": _Function(lambda b, x, *_: b.op("Mul", x, b.op("Sigmoid", x))),
    "hard_silu": _Function(lambda b, x, *_: b.op("Mul", x, _hard_sigmoid(b, x))),
    "gelu": _Function(_gelu),
    "exponential": _Function(lambda b, x, *_: b.op("Exp", x)),
    "mish": _Function(lambda b, x, *_: b.op("Mul", x, b.op("Tanh", b.op("Softplus", x)))),
}
