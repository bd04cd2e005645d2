"""`RecurrentSpec` read from an ONNX LSTM, GRU or RNN node, whoever wrote the file.

Operator pages: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html. Where they leave room,
onnxruntime's CPU kernels decide: they are what the file's users have seen so far.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgeseq.errors import UnsupportedLayer
from edgeseq.lowering import fused
from edgeseq.lowering.spec import GATES, PEEPHOLES, STATES, Activation, Array, Direction, Kind, RecurrentSpec

KINDS: dict[str, Kind] = {op_type: kind for kind, op_type in fused.OP.items()}
"""Op types that can be read."""

INPUTS: dict[Kind, tuple[str, ...]] = {
    "simple_rnn": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "gru": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "lstm": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
"""Inputs by the names that the operator pages give them, in order."""

WEIGHTS = ("W", "R", "B", "P")
"""Those inputs that must be constants."""

_ATTRIBUTES = {"hidden_size", "direction", "activations", "activation_alpha", "activation_beta", "clip", "layout"}
_MORE_ATTRIBUTES: dict[Kind, set[str]] = {"simple_rnn": set(), "gru": {"linear_before_reset"}, "lstm": {"input_forget"}}

# Whether each pass goes backwards.
_SIDES = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

# ONNX's name of a function without parameters, and ours.
_PLAIN = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}

# Of those with parameters: our name, and alpha and beta where they are left out. ONNX sends the reader to its operators
# of the same names; it dropped Affine and ScaledTanh, and onnxruntime takes 0 for ThresholdedRelu's 1.
_WITH_PARAMETERS: dict[str, tuple[str, float | None, float | None]] = {
    "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
    "LeakyRelu": ("leaky_relu", 0.01, None),
    "Elu": ("elu", 1.0, None),
    "ThresholdedRelu": ("thresholded_relu", None, None),
    "Affine": ("affine", None, None),
    "ScaledTanh": ("scaled_tanh", None, None),
}

# Attributes are float32; what they hold of Keras's own parameters is read as Keras's function.
_KERAS_OWN: dict[tuple[str, float | None, float | None], str] = {
    ("affine", 1.0, 0.0): "linear",
    ("hard_sigmoid", float(np.float32(1 / 6)), 0.5): "hard_sigmoid",
    ("leaky_relu", float(np.float32(0.2)), None): "leaky_relu",
    ("elu", 1.0, None): "elu",
}


def recurrent_nodes(model: ir.Model) -> list[ir.Node]:
    """Every LSTM, GRU and RNN node of the graph and its subgraphs, in order."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _is_recurrent(node)]


def read_node(node: ir.Node) -> RecurrentSpec:
    """What an LSTM, GRU or RNN node of operator set 7 or newer computes.

    Which outputs are wanted follows from their uses: `return_sequences` says whether anything reads Y. Y of a single
    reverse pass is in time order in ONNX, and the output of the spec in the order of computation. `sequence_lens`
    becomes a mask whose steps after the first n put out zeros; two directions keep two outputs. The spec's layout is
    its own, whatever the node's `layout`. Weights are initializers or Constant nodes, of float32 or float64.

    Raises UnsupportedLayer with the node's name and the reason for anything else.
    """
    name = node_name(node)
    if not _is_recurrent(node):
        raise UnsupportedLayer(name, f"it is a {node.domain or 'ai.onnx'}::{node.op_type}, not LSTM, GRU or RNN")
    kind = KINDS[node.op_type]
    given = inputs(node)
    attributes = _attributes(node, kind)
    weights = {key: _constant(name, key, value) for key in WEIGHTS if (value := given.get(key)) is not None}
    side = attributes.get("direction", "forward")
    if side not in _SIDES:
        raise UnsupportedLayer(name, f"direction '{side}' is not one of {', '.join(_SIDES)}")
    _check_shapes(name, kind, weights, len(_SIDES[side]), attributes.get("hidden_size"))
    functions = _functions(name, kind, attributes, len(_SIDES[side]))
    reset_after = bool(attributes.get("linear_before_reset", 0)) if kind == "gru" else True
    x = given.get("X")
    time = None if x is None or x.shape is None else x.shape[layout(node)]
    dtype: Literal["float32", "float64"] = "float32" if weights["W"].dtype == np.float32 else "float64"
    return RecurrentSpec(
        layer=name,
        layer_type=node.op_type,
        kind=kind,
        units=weights["R"].shape[2],
        directions=tuple(
            _direction(kind, weights, index, functions[index], backwards=backwards, reset_after=reset_after)
            for index, backwards in enumerate(_SIDES[side])
        ),
        dtype=dtype,
        merge="none" if len(_SIDES[side]) == 2 else None,
        reset_after=reset_after,
        return_sequences=is_used(node, 0),
        clip=attributes.get("clip"),
        masked="sequence_lens" in given,
        masked_output="zero" if "sequence_lens" in given else "repeat",
        initial_state="given" if any(f"initial_{state}" in given for state in STATES[kind]) else "zero",
        time_steps=time if isinstance(time, int) else None,
    )


def node_name(node: ir.Node) -> str:
    """The node's name, or that of its first output: nodes need not have one."""
    named = [value.name for value in node.outputs if value.name]
    return node.name or (named[0] if named else node.op_type)


def inputs(node: ir.Node) -> dict[str, ir.Value]:
    """The inputs that the node has, by the names in `INPUTS`."""
    names = INPUTS[KINDS[node.op_type]]
    return {name: value for name, value in zip(names, node.inputs, strict=False) if value is not None}


def layout(node: ir.Node) -> int:
    """1 where batch comes first in X, Y and the states; 0 where it comes after time, or after the directions."""
    return node.attributes.get_int("layout", 0)


def is_used(node: ir.Node, index: int) -> bool:
    """Whether anything reads the output: of Y, Y_h, Y_c, in this order."""
    if index >= len(node.outputs):
        return False
    value = node.outputs[index]
    return bool(value.uses()) or value.is_graph_output()


def _is_recurrent(node: ir.Node) -> bool:
    return node.op_type in KINDS and node.domain in ("", "ai.onnx")


def _attributes(node: ir.Node, kind: Kind) -> dict[str, Any]:
    name, known = node_name(node), _ATTRIBUTES | _MORE_ATTRIBUTES[kind]
    found: dict[str, Any] = {}
    for key, attribute in node.attributes.items():
        if key not in known:
            # Operator sets before 7 have output_sequence.
            raise UnsupportedLayer(name, f"attribute '{key}' is not one of {', '.join(sorted(known))}")
        if attribute.is_ref():
            raise UnsupportedLayer(
                name, f"attribute '{key}' is set by the caller of a function; inline functions first"
            )
        # Floats in a file are float32, and those of a node that has not been in one may be wider yet.
        if attribute.type == ir.AttributeType.FLOAT:
            found[key] = float(np.float32(attribute.value))
        elif attribute.type == ir.AttributeType.FLOATS:
            found[key] = [float(np.float32(value)) for value in attribute.value]
        else:
            found[key] = attribute.value
    if found.get("input_forget"):
        raise UnsupportedLayer(name, "input_forget=1 couples the input and forget gates, and edgeseq has no such cell")
    if found.get("layout", 0) not in (0, 1):
        raise UnsupportedLayer(name, f"layout {found['layout']} is not 0 or 1")
    return found


def _constant(name: str, key: str, value: ir.Value) -> Array:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        producer = value.producer()
        source = "an input of the graph" if producer is None else f"computed by a {producer.op_type}"
        raise UnsupportedLayer(name, f"its weight {key} ('{value.name}') is {source}, not a constant")
    array: Array = tensor.numpy()
    if array.dtype not in (np.float32, np.float64):
        raise UnsupportedLayer(name, f"its weight {key} ('{value.name}') is {array.dtype}, not float32 or float64")
    return array


def _check_shapes(name: str, kind: Kind, weights: dict[str, Array], count: int, hidden_size: int | None) -> None:
    for key in ("W", "R"):
        if key not in weights:
            raise UnsupportedLayer(name, f"it has no weight {key}")
        if weights[key].ndim != 3:
            raise UnsupportedLayer(name, f"{key} has the shape {weights[key].shape}, not three axes")
    units, width = weights["R"].shape[2], len(GATES[kind]) * weights["R"].shape[2]
    if hidden_size is not None and hidden_size != units:
        raise UnsupportedLayer(name, f"hidden_size is {hidden_size}, but R has {units} units")
    expected = {
        "W": (count, width, weights["W"].shape[2]),
        "R": (count, width, units),
        "B": (count, 2 * width),
        "P": (count, len(PEEPHOLES) * units),
    }
    for key, array in weights.items():
        if array.shape != expected[key]:
            raise UnsupportedLayer(name, f"{key} has the shape {array.shape}, not {expected[key]}")
        if array.dtype != weights["W"].dtype:
            raise UnsupportedLayer(name, f"{key} is {array.dtype}, but W is {weights['W'].dtype}")


def _functions(name: str, kind: Kind, attributes: dict[str, Any], count: int) -> list[list[Activation]]:
    """The functions of each direction, in the op's own order."""
    each = len(fused.DEFAULT_ACTIVATIONS[kind])
    names = list(attributes.get("activations") or fused.DEFAULT_ACTIVATIONS[kind] * count)
    if kind == "simple_rnn" and len(names) == 2 and count == 1:
        # The operator's own default names two, for either number of directions.
        names = names[:1]
    if len(names) != each * count:
        raise UnsupportedLayer(name, f"activations names {len(names)} functions, not {each * count}")
    alphas, betas = (list(attributes.get(f"activation_{key}") or ()) for key in ("alpha", "beta"))
    spelled = {known.lower(): known for known in (*_PLAIN, *_WITH_PARAMETERS)}
    found: list[Activation] = []
    for given in names:
        function = spelled.get(given.lower(), given)
        # Only those functions that take a parameter take an entry from its list.
        alpha = alphas.pop(0) if function in fused.TAKES_ALPHA and alphas else None
        beta = betas.pop(0) if function in fused.TAKES_BETA and betas else None
        found.append(_activation(name, function, alpha, beta))
    for key, left in (("alpha", alphas), ("beta", betas)):
        # Some exporters give every function an entry, and zeros to those that take none.
        if any(left):
            reason = f"activation_{key} has {len(left)} more values than the functions {names} take"
            raise UnsupportedLayer(name, f"{reason}, so whose they are is open")
    by_direction = [found[index * each : (index + 1) * each] for index in range(count)]
    for functions in by_direction:
        if kind == "lstm" and functions[1] != functions[2]:
            reason = f"the candidate has the activation '{functions[1].name}', the cell state '{functions[2].name}'"
            raise UnsupportedLayer(name, f"{reason} (g and h), and edgeseq has one for both")
    return by_direction


def _activation(name: str, function: str, alpha: float | None, beta: float | None) -> Activation:
    if function in _PLAIN:
        return Activation(name=_PLAIN[function])
    if function not in _WITH_PARAMETERS:
        known = ", ".join([*_PLAIN, *_WITH_PARAMETERS])
        raise UnsupportedLayer(name, f"activation '{function}' is not one of {known}")
    ours, default_alpha, default_beta = _WITH_PARAMETERS[function]
    alpha = default_alpha if alpha is None else alpha
    beta = default_beta if beta is None else beta
    for key, value, takers in (("alpha", alpha, fused.TAKES_ALPHA), ("beta", beta, fused.TAKES_BETA)):
        if value is None and function in takers:
            reason = f"activation '{function}' has no activation_{key}, and ONNX and onnxruntime differ on the default"
            raise UnsupportedLayer(name, reason)
    keras = _KERAS_OWN.get((ours, alpha, beta))
    return Activation(name=keras) if keras else Activation(name=ours, alpha=alpha, beta=beta)


def _direction(
    kind: Kind,
    weights: dict[str, Array],
    index: int,
    functions: list[Activation],
    *,
    backwards: bool,
    reset_after: bool,
) -> Direction:
    def gates(array: Array) -> Array:
        """Columns from the op's order of gates to that of `GATES`."""
        order = fused.ONNX_GATES[kind]
        blocks = dict(zip(order, np.split(array, len(order), axis=-1), strict=True))
        return np.concatenate([blocks[gate] for gate in GATES[kind]], axis=-1)

    bias: Array | None = None
    recurrent_bias: Array | None = None
    if "B" in weights:
        bias, recurrent_bias = map(gates, np.split(weights["B"][index], 2))
        if kind != "gru" or not reset_after:
            # Both are added to the same sum.
            bias, recurrent_bias = bias + recurrent_bias, None
    peephole: Array | None = None
    if "P" in weights:
        rows = dict(zip(fused.ONNX_PEEPHOLES, np.split(weights["P"][index], len(PEEPHOLES)), strict=True))
        peephole = np.stack([rows[gate] for gate in PEEPHOLES])
    return Direction(
        kernel=gates(weights["W"][index].T),
        recurrent_kernel=gates(weights["R"][index].T),
        bias=bias,
        recurrent_bias=recurrent_bias,
        peephole=peephole,
        activation=functions[-1],
        recurrent_activation=None if kind == "simple_rnn" else functions[0],
        backwards=backwards,
    )
