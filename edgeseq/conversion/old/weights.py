"""Lay the weights of old files out as Keras 3's variables. What does not fit is an error that names the layer.

Arrays are taken in the order of the file, as Keras itself does; each must also have the name that belongs there, where
the file names it, so that a mistaken order cannot pass unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edgeseq.conversion.old.age import Age
from edgeseq.conversion.old.graph import Malformed, OldLayer, OldModel
from edgeseq.errors import UnsupportedLayer

Array = npt.NDArray[Any]

# Gates of Keras 1 in the order of its files; Keras 2 and 3 lay them side by side in the second order.
_KERAS_1_GATES = {
    keras.layers.LSTMCell: ("icfo", "ifco"),
    keras.layers.GRUCell: ("zrh", "zrh"),
}
_KERAS_1_NAMES = {
    "kernel": "W",
    "recurrent_kernel": "U",
    "bias": "b",
    "embeddings": "W",
    "moving_mean": "running_mean",
    # Despite its name it holds the variance.
    "moving_variance": "running_std",
}
# Beginnings of the names of layers and cells with kernels that are turned around on some backends.
_CONVOLUTIONAL = ("Conv", "SeparableConv", "DepthwiseConv")


@dataclass(frozen=True, kw_only=True, eq=False)
class Holder:
    """A layer or a cell that has weights of its own."""

    layer: str
    """Name of the layer, for messages."""
    owner: Any
    """The Keras 3 layer or cell."""
    frozen: bool
    """Whether it was not to be trained, which changes the order in files."""
    path: str
    """Where `.weights.h5` files have it, such as ``layers/lstm/cell``."""

    @property
    def variables(self) -> list[Any]:
        """Its own weights in the order of the file, within trainable and others."""
        return list(self.owner.weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """One array of a file."""

    name: str
    """As the file has it, such as ``lstm_1/kernel:0``."""
    value: Array
    """Its value."""


def holders(layers: Sequence[OldLayer] | Sequence[Any], path: str = "layers") -> list[tuple[str, list[Holder]]]:
    """By each top layer's name, all that hold weights in it; those without are left out."""
    found = []
    counts: dict[str, int] = {}
    for layer in layers:
        made = layer.made if isinstance(layer, OldLayer) else layer
        if made is None or isinstance(made, keras.layers.InputLayer):
            continue
        class_name = layer.class_name if isinstance(layer, OldLayer) else type(layer).__name__
        name = _snake(class_name)
        count = counts.get(name, 0)
        counts[name] = count + 1
        inside = list(_holders(layer, f"{path}/{name}" + (f"_{count}" if count else ""), frozen=False))
        if inside:
            found.append((layer.name, inside))
    return found


def _snake(name: str) -> str:
    """LSTM to lstm, TimeDistributed to time_distributed, Conv1D to conv1d: Keras's names of parts in a file."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _holders(layer: Any, path: str, *, frozen: bool) -> Iterator[Holder]:
    inner = None
    if isinstance(layer, OldLayer):
        layer, inner = layer.made, layer.inner
    if isinstance(layer, OldModel | keras.Model):
        for _, inside in holders(layer.layers, f"{path}/layers"):
            yield from inside
        return
    frozen = frozen or not layer.trainable
    if isinstance(layer, keras.layers.Bidirectional):
        yield from _holders(layer.forward_layer, f"{path}/forward_layer", frozen=frozen)
        yield from _holders(layer.backward_layer, f"{path}/backward_layer", frozen=frozen)
    elif isinstance(layer, keras.layers.TimeDistributed):
        yield from _holders(inner or layer.layer, f"{path}/layer", frozen=frozen)
    elif isinstance(layer, keras.layers.RNN) and isinstance(layer.cell, keras.layers.StackedRNNCells):
        for _, inside in holders(layer.cell.cells, f"{path}/cell/cells"):
            yield from (Holder(layer=layer.name, owner=one.owner, frozen=frozen, path=one.path) for one in inside)
    elif isinstance(layer, keras.layers.RNN):
        yield Holder(layer=layer.name, owner=layer.cell, frozen=frozen, path=f"{path}/cell")
    elif layer.weights:
        yield Holder(layer=layer.name, owner=layer, frozen=frozen, path=path)


def fill(inside: Sequence[Holder], stored: Sequence[Stored], age: Age, backend: str | None) -> None:
    """Give the weights of one top layer to all that hold weights in it.

    Files have the trainable ones of all of them first, then the others. Raises Malformed when they do not fit, and
    UnsupportedLayer for convolutions that did not run on TensorFlow.
    """
    rest = list(stored)
    taken: dict[int, list[Stored]] = {id(holder): [] for holder in inside}
    names = {holder.layer for holder in inside}
    for trainable in (True, False):
        for holder in inside:
            of_this_turn = [
                variable
                for variable in holder.variables
                if (_trained(holder, variable) and not holder.frozen) == trainable
            ]
            for expected in _expected(holder, of_this_turn, rest, age):
                if not rest:
                    raise Malformed(f"the weights of layer '{holder.layer}' are missing: no '{expected}'")
                _check_name(rest[0].name, expected, holder, names, age)
                taken[id(holder)].append(rest.pop(0))
    if rest:
        raise Malformed(f"layer '{inside[0].layer}' has no place for the weight '{rest[0].name}'")
    for holder in inside:
        _refuse_other_backends(holder, taken[id(holder)], age, backend)
        assign(holder, [one.value for one in taken[id(holder)]], age)


def _trained(holder: Holder, variable: Any) -> bool:
    return any(variable is one for one in holder.owner._trainable_variables)


def _expected(holder: Holder, variables: Sequence[Any], rest: Sequence[Stored], age: Age) -> list[str]:
    """Names of the arrays that the file has for these variables."""
    names = [variable.name for variable in variables]
    if age.old and type(holder.owner) in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
        # A name that Keras 3 shortened.
        names = [name.replace("kernel", "depthwise_kernel") for name in names]
    if not age.first:
        return names
    names = [_KERAS_1_NAMES.get(name, name) for name in names]
    gates = _KERAS_1_GATES.get(type(holder.owner))
    if names and gates and rest and re.search(r"_W_\w(:0)?$", rest[0].name):
        return [f"{name}_{gate}" for gate in gates[0] for name in names]
    return names


def _check_name(name: str, expected: str, holder: Holder, names: set[str], age: Age) -> None:
    """That an array is what belongs here, by its own name and by the layer's in it."""
    *parts, last = name.removesuffix(":0").split("/")
    fits = last.endswith(f"_{expected}") if age.first else re.fullmatch(rf"{expected}(_\d+)?", last)
    if not fits:
        raise Malformed(f"the weights of layer '{holder.layer}' do not fit: '{name}' is where '{expected}' belongs")
    whose = {one for one in names if one in parts or last.startswith(f"{one}_")}
    if whose and holder.layer not in whose:
        raise Malformed(f"the weight '{name}' is where one of layer '{holder.layer}' belongs")


def _refuse_other_backends(holder: Holder, stored: Sequence[Stored], age: Age, backend: str | None) -> None:
    """Theano turned the kernels of convolutions around. Of Keras 1, only TensorFlow's names end in ``:0``."""
    if not type(holder.owner).__name__.startswith(_CONVOLUTIONAL):
        return
    tensorflow = (
        all(one.name.endswith(":0") for one in stored)
        if backend is None and age.first
        else (backend in (None, "tensorflow"))
    )
    if not tensorflow:
        raise UnsupportedLayer(
            holder.layer,
            f"it was trained with Keras {age.text} on {backend or 'a backend that is not TensorFlow'}, which may have "
            "turned its kernels around",
        )


def assign(holder: Holder, arrays: Sequence[Array], age: Age) -> None:
    """Write the arrays of one layer or cell into its variables; raises Malformed when they do not fit."""
    if type(holder.owner) in (keras.layers.LSTMCell, keras.layers.GRUCell):
        arrays = _gates(holder, arrays)
    if age.first and type(holder.owner) is keras.layers.Conv1D:
        arrays = [_keras_1_window(holder, arrays[0]), *arrays[1:]]
    variables = holder.variables
    shapes = [tuple(variable.shape) for variable in variables]
    if [array.shape for array in arrays] != shapes:
        found = ", ".join(str(array.shape) for array in arrays) or "none"
        raise Malformed(
            f"the weights of layer '{holder.layer}' do not fit its config: their shapes are {found}; expected "
            f"{', '.join(map(str, shapes))}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _gates(holder: Holder, arrays: Sequence[Array]) -> list[Array]:
    """Weights of an LSTM or GRU with the gates side by side, from one array a gate or from cuDNN's layout."""
    file_order, order = _KERAS_1_GATES[type(holder.owner)]
    kinds = len(holder.variables)
    if len(arrays) == kinds * len(order) and kinds > 1:
        by_gate = {gate: arrays[kinds * index : kinds * (index + 1)] for index, gate in enumerate(file_order)}
        return [np.concatenate([by_gate[gate][kind] for gate in order], axis=-1) for kind in range(kinds)]
    if len(arrays) == 3 and arrays[2].shape == (2 * len(order) * holder.owner.units,):
        return _from_cudnn(arrays, len(order), gru=type(holder.owner) is keras.layers.GRUCell)
    return list(arrays)


def _from_cudnn(arrays: Sequence[Array], gates: int, *, gru: bool) -> list[Array]:
    """CuDNNLSTM and CuDNNGRU store each gate's matrices transposed, and two biases one after the other.

    The same as `_convert_rnn_weights` in Keras 2's `saving/hdf5_format.py`. An LSTM adds its two biases up.
    """
    kernel, recurrent_kernel, biases = arrays
    features, units = kernel.shape[0], recurrent_kernel.shape[0]
    kernels = [gate.reshape(units, features).T for gate in np.split(kernel, gates, axis=1)]
    recurrent_kernels = [gate.T for gate in np.split(recurrent_kernel, gates, axis=1)]
    both = biases.reshape(2, -1)
    return [
        np.concatenate(kernels, axis=1),
        np.concatenate(recurrent_kernels, axis=1),
        both if gru else both.sum(axis=0),
    ]


def _keras_1_window(holder: Holder, kernel: Array) -> Array:
    """Keras 1 had an axis of length 1 beside the window: (window, 1, in, out), before 1.2 (out, in, window, 1)."""
    window, filters = holder.owner.kernel_size[0], holder.owner.filters
    if kernel.ndim == 4 and kernel.shape[:2] == (window, 1) and kernel.shape[3] == filters:
        return kernel[:, 0]
    if kernel.ndim == 4 and kernel.shape[0] == filters and kernel.shape[2:] == (window, 1):
        return kernel[..., 0].transpose(2, 1, 0)
    return kernel
