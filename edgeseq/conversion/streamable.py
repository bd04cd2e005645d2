"""Which models can be fed in chunks: the layers known for it, and of the others, why they cannot.

A layer is told by its exact type: a subclass may look at the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from edgeseq.conversion.failures import article
from edgeseq.conversion.windows import WINDOWED, why_not, window_of
from edgeseq.errors import UnsupportedLayer

# Layers whose answer at a step depends on that step alone, or, for the recurrent ones, on the state.
_STEPWISE_NAMES = """
    InputLayer Dense Embedding Activation ReLU LeakyReLU ELU PReLU Softmax Dropout SpatialDropout1D SpatialDropout2D
    SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout ActivityRegularization LayerNormalization
    RMSNormalization UnitNormalization BatchNormalization Normalization Rescaling Identity Add Subtract Multiply Average
    Maximum Minimum Concatenate TimeDistributed RNN SimpleRNN LSTM GRU ConvLSTM1D ConvLSTM2D ConvLSTM3D Masking
"""
# Operations of a functional model that are no layers: those that work on each number alone, and those by which Keras
# makes masks.
_ELEMENTWISE_NAMES = """
    Add Subtract Multiply Divide TrueDivide Negative Absolute Exp Log Sqrt Rsqrt Square Power Sin Cos Clip Maximum
    Minimum Sign Tanh Sigmoid LogSigmoid HardSigmoid Relu Relu6 LeakyRelu Elu Selu Gelu Silu Softplus Softsign Cast
    Where Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot Isfinite ZerosLike
    OnesLike
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
# These work along an axis, which must not be that of time.
_WITH_AXIS_NAMES = (
    "Softmax Concatenate LayerNormalization RMSNormalization UnitNormalization BatchNormalization Normalization"
)
_ALONG_AXIS = frozenset(("Concatenate", "Softmax", "LogSoftmax", "Split", "Any", "All", "Sum", "Mean", "Max", "Min"))
# Keras makes the mask of a Concatenate or an Add of these; all their outputs are Boolean then.
_OF_MASKS = frozenset(("ExpandDims", "Concatenate", "Any", "All"))


def _types(names: str) -> tuple[type, ...]:
    return tuple(getattr(keras.layers, name) for name in names.split() if hasattr(keras.layers, name))


_STEPWISE = frozenset(_types(_STEPWISE_NAMES))
_OVER_TIME = (keras.layers.RNN, keras.layers.Bidirectional)
_WITH_AXIS = _types(_WITH_AXIS_NAMES)

_ALL_STEPS = "puts all time steps together, and most of them have not come yet, or are gone"
_ATTENTION = "looks at all time steps, and what it keeps of those gone would grow without end"
_OTHER_AXIS = "moves the time axis, or makes another one of it"
_FRAMES = "convolves or pools over the axes behind the second, so its frames need a TimeDistributed around it"
# Why the layers of each type cannot be fed in chunks, as the rest of a sentence that begins with the layer.
_REASONS: dict[type, str] = {
    kind: reason
    for names, reason in (
        ("Bidirectional", "reads the sequence from its last step on as well, and that has not come yet"),
        (
            "GlobalAveragePooling1D GlobalMaxPooling1D GlobalAveragePooling2D GlobalMaxPooling2D "
            "GlobalAveragePooling3D GlobalMaxPooling3D AdaptiveAveragePooling1D AdaptiveMaxPooling1D",
            _ALL_STEPS,
        ),
        ("Flatten Reshape", _ALL_STEPS + ", unless it is inside a TimeDistributed"),
        ("Attention AdditiveAttention MultiHeadAttention GroupQueryAttention", _ATTENTION),
        ("Permute Dot EinsumDense", _OTHER_AXIS),
        ("RepeatVector", "begins another sequence, of a length of its own"),
        (
            "ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D",
            "adds or drops steps, so that chunks would have other answers than the whole",
        ),
        ("UpSampling1D UpSampling2D UpSampling3D", "puts out more steps than go in"),
        ("Conv1DTranspose", "puts out more steps than go in, and some of them wait for later ones"),
        ("Conv2D Conv3D SeparableConv2D DepthwiseConv2D Conv2DTranspose Conv3DTranspose", _FRAMES),
        ("MaxPooling2D MaxPooling3D AveragePooling2D AveragePooling3D", _FRAMES),
        ("GroupNormalization", "takes its mean over all time steps"),
        ("SpectralNormalization", "wraps another layer that is not looked into"),
        ("Lambda", "runs code of its own, which may look at any step"),
    )
    for kind in _types(names)
}


def has_state(model: Any) -> bool:
    """Whether Keras keeps a state between calls of this model."""
    return any(getattr(layer, "stateful", False) for layer in _layers(model))


def refuse_what_cannot_stream(model: Any) -> None:
    """Raise UnsupportedLayer for the first layer that needs more of the sequence than the chunk at hand."""
    below_time: set[int] = set()
    # What a cell is made of sees one time step at a time, whatever it is.
    in_cells = {
        id(part)
        for layer in _layers(model)
        if isinstance(layer, keras.layers.RNN) and isinstance(layer.cell, keras.layers.Layer)
        for part in layer.cell._flatten_layers()
    }
    mixed = has_state(model)
    graphs = dict(_graphs(model))
    after_time = _after_time(graphs.values())
    for layer in _layers(model):
        if id(layer) in below_time or id(layer) in in_cells:
            continue
        if id(layer) in after_time:
            if isinstance(layer, (*_OVER_TIME, *WINDOWED)):
                raise _refusal(
                    layer, "runs over another sequence, which begins when that of the stream has ended", mixed
                )
            continue
        if mixed and isinstance(layer, keras.layers.RNN) and not layer.stateful:
            raise UnsupportedLayer(
                layer.name,
                "it starts from zero in each call while other layers keep their state, so its answers depend on how "
                "the sequence is cut. Give it stateful=True, or no layer",
            )
        if isinstance(layer, keras.layers.TimeDistributed):
            # Axes below are those of one step.
            below_time |= {id(layer.layer), *(id(inner) for inner in layer.layer._flatten_layers())}
        if isinstance(layer, keras.Model):
            continue
        if type(layer) in WINDOWED:
            _check_window(layer, list(graphs.values()), mixed)
        elif reason := _why_not(layer):
            raise _refusal(layer, reason, mixed)
    for graph in (graph for layer_id, graph in graphs.items() if layer_id not in below_time):
        for operation in graph.operations:
            is_layer = isinstance(operation, keras.layers.Layer)
            if not is_layer and id(operation) not in after_time and not _is_elementwise(operation):
                raise _refusal(operation, "", mixed)


def _after_time(graphs: Iterable[Any]) -> set[int]:
    """The `id` of each operation that reads only what recurrent layers put out after the last step.

    That has no time axis any more, so whatever is done with it cannot look at another time step.
    """
    found: set[int] = set()
    ended: set[int] = set()
    for graph in graphs:
        for operation in graph.operations:
            reads = [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]
            if reads and all(id(tensor) in ended for tensor in reads):
                parts = operation._flatten_layers() if isinstance(operation, keras.layers.Layer) else []
                found |= {id(operation), *(id(part) for part in parts)}
            elif not (type(operation) in _STEPWISE and getattr(operation, "return_sequences", True) is False):
                continue
            ended |= {id(tensor) for node in operation._inbound_nodes for tensor in node.output_tensors}
    return found


def _check_window(layer: Any, graphs: list[Any], mixed: bool) -> None:
    if reason := why_not(layer, graphs):
        raise _refusal(layer, reason, mixed)
    if mixed and (type(layer) is keras.layers.ZeroPadding1D or not window_of(layer).is_apart):
        raise UnsupportedLayer(
            layer.name,
            "it begins with zeros in each call while other layers keep their state, so its answers depend on how the "
            "sequence is cut. Give no layer stateful=True, and export with streaming=True (--streaming)",
        )


def _why_not(layer: Any) -> str:
    """Why a layer without a window of time cannot be fed in chunks; empty when it can, a space where nobody knows."""
    kind = type(layer)
    if kind in _REASONS:
        return _REASONS[kind]
    if kind not in _STEPWISE:
        return " "
    if kind in _WITH_AXIS and not _spares_time(layer):
        return f"with axis={layer.axis} works along the time axis, or may do so"
    if kind is keras.layers.PReLU and 1 not in (layer.shared_axes or ()):
        return "has weights of its own for each time step, unless shared_axes has 1"
    if isinstance(layer, keras.layers.RNN) and layer.go_backwards:
        return "goes backwards, from the last step on, which has not come yet"
    return ""


def _refusal(operation: Any, reason: str, stateful: bool) -> UnsupportedLayer:
    kind = type(operation).__name__
    instead = "Give the recurrent layers stateful=False" if stateful else "Export without streaming"
    what = f"{article(kind)} {kind} like this one"
    if not reason.strip():
        told = f"{what} is not known to look at one time step at a time, so a file that carries states cannot have it"
    else:
        told = f"{what} {reason}"
    return UnsupportedLayer(operation.name, f"{told}. {instead}, or leave this layer to the application")


def _spares_time(layer: Any) -> bool:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    rank = len(layer.output.shape) if layer._inbound_nodes else None
    return _all_behind_time(axes, rank)


def _is_elementwise(operation: Any) -> bool:
    """Whether an operation works on each number alone, or along an axis of one step, or makes a mask."""
    kind = type(operation).__name__
    if kind in _ELEMENTWISE:
        return True
    if kind == "GetItem":
        return all(_keeps_time(node.arguments.args[1]) for node in operation._inbound_nodes)
    axis = getattr(operation, "axis", None)
    if (
        kind in _OF_MASKS
        and axis != 1
        and all(tensor.dtype == "bool" for tensor in keras.tree.flatten(operation.output))
    ):
        return True
    if kind not in _ALONG_AXIS:
        return False
    shapes = [len(tensor.shape) for node in operation._inbound_nodes for tensor in node.input_tensors]
    return axis is not None and _all_behind_time(
        axis if isinstance(axis, list | tuple) else [axis], min(shapes, default=None)
    )


def _keeps_time(key: Any) -> bool:
    """Whether an index, as in ``x[:, :, 2:]``, takes all rows and all time steps."""
    return isinstance(key, tuple) and len(key) > 2 and all(part == slice(None) for part in key[:2])


def _all_behind_time(axes: Iterable[int], rank: int | None) -> bool:
    """Whether all axes are the last or, of (batch, time, height, ...), others of one step."""
    return all(axis == -1 or (rank is not None and (axis % rank >= 2 or axis == rank - 1)) for axis in axes)


def _graphs(model: Any) -> Iterator[tuple[int, Any]]:
    """The functional models, that one and those within it, that say what their operations read; by the layer's `id`."""
    for layer in _layers(model):
        graph = getattr(layer, "_functional", layer) if isinstance(layer, keras.Model) else None
        if getattr(graph, "operations", None):
            yield id(layer), graph


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())
