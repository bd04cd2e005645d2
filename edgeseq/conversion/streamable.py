"""Which models can be fed in chunks: the layers known for it, and of the others, why they cannot.

A layer is told by its exact type: a subclass may look at the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
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
_ACTIVATIONS_ALONG_LAST = frozenset(("softmax", "log_softmax", "sparsemax", "glu"))
_ALONG_AXIS = frozenset(("Concatenate", "Softmax", "LogSoftmax", "Split", "Any", "All", "Sum", "Mean", "Max", "Min"))
# Keras makes the mask of a Concatenate or an Add of these; all their outputs are Boolean then.
_OF_MASKS = frozenset(("ExpandDims", "Concatenate", "Any", "All"))


def _types(names: str) -> tuple[type, ...]:
    return tuple(getattr(keras.layers, name) for name in names.split() if hasattr(keras.layers, name))


_STEPWISE = frozenset(_types(_STEPWISE_NAMES))
_OVER_TIME = (keras.layers.RNN, keras.layers.Bidirectional)
_WITH_AXIS = _types(_WITH_AXIS_NAMES)
_ALONG_LAST = (keras.layers.Dense, keras.layers.Masking)
# What a tensor is to time: a sequence, with a step of the stream at each place of its second axis, or what recurrent
# layers put out after the last step. Of some it is not known, such as what is the same in each call.
_SEQUENCE, _ENDED = "sequence", "ended"
_Kind = str | None

_ALL_STEPS = "puts all time steps together, and most of them have not come yet, or are gone"
_ATTENTION = "looks at all time steps, and what it keeps of those gone would grow without end"
_OTHER_AXIS = "moves the time axis, or makes another one of it"
_ALONG_TIME = "works along the time axis, or may do so"
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
    checks = _Checks(model)
    for layer in checks.layers:
        if id(layer) in checks.done:
            continue
        if graph := _graph(layer):
            checks.follow(graph, [_SEQUENCE if len(x.shape) > 2 or None in x.shape[1:] else None for x in graph.inputs])
        else:
            # The model's own code calls it: with what is not known.
            checks.layer(layer)


class _Checks:
    """The layers of a model; functional models are followed from their inputs on, and each call is checked."""

    def __init__(self, model: Any):
        self.layers = _layers(model)
        self.mixed = has_state(model)
        self.graphs = [graph for layer in self.layers if (graph := _graph(layer))]
        self.done = {id(part) for layer in self.layers for part in _parts_of_a_step(layer)}
        """The `id` of each layer that was checked, or needs no check."""
        self.kinds: dict[int, _Kind] = {}
        """Of what kind each tensor is, by its `id`."""

    def follow(self, graph: Any, kinds: Iterable[_Kind]) -> list[_Kind]:
        """Check each call in a graph whose inputs are of `kinds`; of what kind its outputs are."""
        self.kinds |= {id(tensor): kind for tensor, kind in zip(graph.inputs, kinds, strict=False)}
        for _, nodes in sorted(graph._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if node.input_tensors:
                    found = self.call(node, [self.kinds.get(id(tensor)) for tensor in node.input_tensors])
                    self.kinds |= {id(tensor): kind for tensor, kind in zip(node.output_tensors, found, strict=True)}
        return [self.kinds.get(id(tensor)) for tensor in graph.outputs]

    def call(self, node: Any, kinds: list[_Kind]) -> list[_Kind]:
        """Check one call of an operation that reads tensors of `kinds`; of what kind those are that it puts out."""
        operation = node.operation
        self.done.add(id(operation))
        if graph := _graph(operation):
            return self.follow(graph, kinds)
        is_layer = isinstance(operation, keras.layers.Layer)
        is_sequence = _SEQUENCE in kinds
        if _ENDED in kinds and not is_sequence:
            # Without a time axis, whatever is done cannot look at another time step.
            for part in operation._flatten_layers() if is_layer else ():
                self.done.add(id(part))
                if isinstance(part, (*_OVER_TIME, *WINDOWED)):
                    reason = "runs over another sequence, which begins when that of the stream has ended"
                    raise _refusal(part, reason, self.mixed)
            return [_ENDED] * len(node.output_tensors)
        rank = len(node.input_tensors[0].shape)
        # Beside its sequence a recurrent layer reads a mask, or an initial state, which its own call refuses.
        reason = "" if isinstance(operation, keras.layers.RNN) else _why_not_together(node.input_tensors, kinds)
        if not reason and not is_layer:
            reason = _why_not_operation(node, rank, is_sequence)
        if reason:
            raise _refusal(operation, reason, self.mixed)
        if is_layer:
            self.layer(operation, rank, is_sequence)
        # A recurrent layer puts out its states behind its sequence.
        sequences = len(node.output_tensors)
        if isinstance(operation, keras.layers.RNN):
            sequences = 1 if operation.return_sequences else 0
        return [
            _ENDED if place >= sequences else _SEQUENCE if is_sequence or len(tensor.shape) > 2 else None
            for place, tensor in enumerate(node.output_tensors)
        ]

    def layer(self, layer: Any, rank: int | None = None, is_sequence: bool = True) -> None:
        """Check a layer, of whose input the rank may be known, and whether it is a sequence."""
        self.done.add(id(layer))
        if self.mixed and isinstance(layer, keras.layers.RNN) and not layer.stateful:
            raise UnsupportedLayer(
                layer.name,
                "it starts from zero in each call while other layers keep their state, so its answers depend on how "
                "the sequence is cut. Give it stateful=True, or no layer",
            )
        if isinstance(layer, keras.Model):
            return
        if type(layer) in WINDOWED:
            _check_window(layer, self.graphs, self.mixed)
        elif reason := _why_not(layer, rank, is_sequence):
            raise _refusal(layer, reason, self.mixed)


def _parts_of_a_step(layer: Any) -> list[Any]:
    """What the cell of a recurrent layer or a TimeDistributed is made of: that sees one time step at a time."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return _layers(layer.layer)
    if isinstance(layer, keras.layers.RNN) and isinstance(layer.cell, keras.layers.Layer):
        return _layers(layer.cell)
    return []


def _check_window(layer: Any, graphs: list[Any], mixed: bool) -> None:
    if reason := why_not(layer, graphs):
        raise _refusal(layer, reason, mixed)
    if mixed and (type(layer) is keras.layers.ZeroPadding1D or not window_of(layer).is_apart):
        raise UnsupportedLayer(
            layer.name,
            "it begins with zeros in each call while other layers keep their state, so its answers depend on how the "
            "sequence is cut. Give no layer stateful=True, and export with streaming=True (--streaming)",
        )


def _why_not(layer: Any, rank: int | None, is_sequence: bool) -> str:
    """Why a layer without a window of time cannot be fed in chunks; empty when it can, a space where nobody knows."""
    kind = type(layer)
    if kind in _REASONS:
        return _REASONS[kind]
    if kind not in _STEPWISE:
        return " "
    if not _spares_time(_axes(layer), rank, is_sequence):
        return f"with axis={layer.axis} {_ALONG_TIME}" if kind in _WITH_AXIS else _ALONG_TIME
    if kind is keras.layers.PReLU and 1 not in (layer.shared_axes or ()):
        return "has weights of its own for each time step, unless shared_axes has 1"
    if isinstance(layer, keras.layers.RNN) and layer.go_backwards:
        return "goes backwards, from the last step on, which has not come yet"
    return ""


def _axes(layer: Any) -> Any:
    """The axis or axes that a layer works along; none where it works on each number alone."""
    if type(layer) in _WITH_AXIS:
        return layer.axis
    activation = getattr(layer.activation, "__name__", "") if type(layer) is keras.layers.Activation else ""
    return -1 if type(layer) in _ALONG_LAST or activation in _ACTIVATIONS_ALONG_LAST else ()


def _refusal(operation: Any, reason: str, stateful: bool) -> UnsupportedLayer:
    kind = type(operation).__name__
    instead = "Give the recurrent layers stateful=False" if stateful else "Export without streaming"
    what = f"{article(kind)} {kind} like this one"
    if not reason.strip():
        told = f"{what} is not known to look at one time step at a time, so a file that carries states cannot have it"
    else:
        told = f"{what} {reason}"
    return UnsupportedLayer(operation.name, f"{told}. {instead}, or leave this layer to the application")


def _why_not_together(tensors: list[Any], kinds: list[_Kind]) -> str:
    """Why what a call reads cannot be brought together step by step; empty when it can."""
    if _SEQUENCE in kinds and _ENDED in kinds:
        return "brings a sequence together with what is put out after a last step, which has not come yet"
    sequences = [tensor for tensor, kind in zip(tensors, kinds, strict=True) if kind and tensor.dtype != "bool"]
    if len({len(tensor.shape) for tensor in sequences}) > 1:
        return "reads sequences of unlike ranks, so that the time axis of one meets another axis of the other"
    return ""


def _why_not_operation(node: Any, rank: int, is_sequence: bool) -> str:
    """The same for an operation that is no layer: it may work on each number alone, along another axis, or on masks."""
    kind = type(node.operation).__name__
    if kind in _ELEMENTWISE:
        return ""
    if kind == "GetItem":
        return "" if _keeps_time(node.arguments.args[1]) else " "
    axis = getattr(node.operation, "axis", None)
    of_masks = kind in _OF_MASKS and all(tensor.dtype == "bool" for tensor in node.output_tensors)
    if axis is None or not (of_masks or kind in _ALONG_AXIS):
        return " "
    # Keras puts whole masks together as well, along a new first axis.
    along_masks = is_sequence and 1 in _places(axis, rank + (kind == "ExpandDims"))
    along_time = along_masks if of_masks else not _spares_time(axis, rank, is_sequence)
    return f"with axis={axis} {_ALONG_TIME}" if along_time else ""


def _keeps_time(key: Any) -> bool:
    """Whether an index, as in ``x[:, :, 2:]``, takes all rows and all time steps."""
    return isinstance(key, tuple) and len(key) > 2 and all(part == slice(None) for part in key[:2])


def _spares_time(axes: Any, rank: int | None, is_sequence: bool) -> bool:
    """Whether an axis, or each of several, is neither that of the batch nor that of time."""
    # Of an unknown rank, the last one is what is left.
    return _places(axes, 0) <= {-1} if rank is None else all(place > is_sequence for place in _places(axes, rank))


def _places(axes: Any, rank: int) -> set[int]:
    """An axis or several, counted from the first on where there is a rank."""
    return {axis % rank if rank else axis for axis in (axes if isinstance(axes, list | tuple) else [axes])}


def _graph(layer: Any) -> Any:
    """The graph of a functional model, which says what its operations read; None of anything else."""
    graph = getattr(layer, "_functional", layer) if isinstance(layer, keras.Model) else None
    return graph if getattr(graph, "operations", None) else None


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())
