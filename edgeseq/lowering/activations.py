"""Activation functions in ONNX: as attributes of the recurrent ops, and as nodes in the body of a step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import Activation

# Keras name -> (name in the `activations` attribute, default alpha, default beta).
# https://onnx.ai/onnx/operators/onnx__LSTM.html lists the functions and their formulas.
_OP_ATTRIBUTE: dict[str, tuple[str, float, float]] = {
    "tanh": ("Tanh", 0.0, 0.0),
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "linear": ("Affine", 1.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "elu": ("Elu", 1.0, 0.0),
    "leaky_relu": ("LeakyRelu", 0.2, 0.0),
    "softsign": ("Softsign", 0.0, 0.0),
    "softplus": ("Softplus", 0.0, 0.0),
    "affine": ("Affine", 1.0, 0.0),
    "scaled_tanh": ("ScaledTanh", 1.0, 1.0),
    "thresholded_relu": ("ThresholdedRelu", 1.0, 0.0),
}


def op_attribute(activation: Activation) -> tuple[str, float, float] | None:
    """Name, alpha and beta for the `activations` attributes of LSTM, GRU and RNN; None where they lack it."""
    if activation.model is not None:
        return None
    found = _OP_ATTRIBUTE.get(activation.name)
    if found is None:
        return None
    name, alpha, beta = found
    return (
        name,
        alpha if activation.alpha is None else activation.alpha,
        beta if activation.beta is None else activation.beta,
    )


def _gelu(b: Builder, x: ir.Value) -> ir.Value:
    half = b.op("Mul", x, b.constant(0.5))
    return b.op("Mul", half, b.op("Add", b.op("Erf", b.op("Mul", x, b.constant(math.sqrt(0.5)))), b.constant(1.0)))


def _relu6(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Clip", x, b.constant(0.0), b.constant(6.0))


def _hard_sigmoid(b: Builder, x: ir.Value, alpha: float = 1 / 6, beta: float = 0.5) -> ir.Value:
    if b.dtype == np.float64:
        # Attributes are float32, whatever the tensors are.
        line = b.op("Add", b.op("Mul", x, b.constant(alpha)), b.constant(beta))
        return b.op("Clip", line, b.constant(0.0), b.constant(1.0))
    return b.op("HardSigmoid", x, alpha=alpha, beta=beta)


def _selu(b: Builder, x: ir.Value) -> ir.Value:
    if b.dtype == np.float64:
        scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
        below = b.op("Mul", b.op("Sub", b.op("Exp", x), b.constant(1.0)), b.constant(alpha))
        both = b.op("Add", b.op("Relu", x), b.op("Min", below, b.constant(0.0)))
        return b.op("Mul", both, b.constant(scale))
    return b.op("Selu", x)


# Keras name -> nodes. Each is the formula of keras.activations in that function's own terms.
_NODES: dict[str, Callable[[Builder, ir.Value], ir.Value]] = {
    "tanh": lambda b, x: b.op("Tanh", x),
    "sigmoid": lambda b, x: b.op("Sigmoid", x),
    "relu": lambda b, x: b.op("Relu", x),
    "linear": lambda _, x: x,
    "hard_sigmoid": _hard_sigmoid,
    "elu": lambda b, x: b.op("Elu", x, alpha=1.0),
    "selu": _selu,
    "leaky_relu": lambda b, x: b.op("LeakyRelu", x, alpha=0.2),
    "softsign": lambda b, x: b.op("Softsign", x),
    "softplus": lambda b, x: b.op("Softplus", x),
    "relu6": _relu6,
    "silu": lambda b, x: b.op("Mul", x, b.op("Sigmoid", x)),
    "hard_silu": lambda b, x: b.op("Mul", x, _hard_sigmoid(b, x)),
    "gelu": _gelu,
    "exponential": lambda b, x: b.op("Exp", x),
    "mish": lambda b, x: b.op("Mul", x, b.op("Tanh", b.op("Softplus", x))),
    "affine": lambda _, x: x,
    "scaled_tanh": lambda b, x: b.op("Tanh", x),
    "thresholded_relu": lambda b, x: _thresholded_relu(b, x, 1.0),
}


def _thresholded_relu(b: Builder, x: ir.Value, alpha: float) -> ir.Value:
    # onnxruntime has no ThresholdedRelu in double precision.
    return b.op("Where", b.op("Greater", x, b.constant(alpha)), x, b.constant(0.0))


# Keras's own default parameters, for the functions that have any.
_DEFAULTS = {
    "hard_sigmoid": (1 / 6, 0.5),
    "elu": (1.0, None),
    "leaky_relu": (0.2, None),
    "affine": (1.0, 0.0),
    "scaled_tanh": (1.0, 1.0),
    "thresholded_relu": (1.0, None),
}


def known(activation: Activation) -> bool:
    """Whether `apply` has nodes for this function with these parameters."""
    if activation.model is not None:
        return True
    return activation.name in _NODES and (
        (activation.alpha is None and activation.beta is None) or activation.name in _DEFAULTS
    )


def has_double_kernels(activation: Activation) -> bool:
    """Whether onnxruntime runs the nodes of `apply` in double precision on the CPU: it lacks `Erf` there."""
    return activation.name != "gelu"


def apply(b: Builder, activation: Activation, x: ir.Value) -> ir.Value:
    """Nodes that compute the activation of `x`, of the same shape."""
    if activation.model is not None:
        return b.inline(activation.model, x)[0]
    if activation.alpha is None and activation.beta is None:
        return _NODES[activation.name](b, x)
    alpha, beta = _DEFAULTS[activation.name]
    alpha = alpha if activation.alpha is None else activation.alpha
    if beta is not None:
        beta = beta if activation.beta is None else activation.beta
        if activation.name == "affine":
            return b.op("Add", b.op("Mul", x, b.constant(alpha)), b.constant(beta))
        if activation.name == "scaled_tanh":
            return b.op("Mul", b.op("Tanh", b.op("Mul", x, b.constant(beta))), b.constant(alpha))
        return _hard_sigmoid(b, x, alpha, beta)
    if activation.name == "thresholded_relu":
        return _thresholded_relu(b, x, alpha)
    return b.op({"elu": "Elu", "leaky_relu": "LeakyRelu"}[activation.name], x, alpha=alpha)
