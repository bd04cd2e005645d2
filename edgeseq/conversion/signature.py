"""What a Keras model takes and returns: names, dtypes, free and fixed axes, and how they are nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from edgeseq.conversion.failures import refusing
from edgeseq.conversion.names import unique_names
from edgeseq.errors import Refused, UnsupportedLayer, WrongUsage
from edgeseq.runtime.manifest import Structure

_VOCABULARY_LAYERS = (keras.layers.TextVectorization, keras.layers.StringLookup, keras.layers.IntegerLookup)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One tensor that the model takes."""

    name: str
    """Name in the exported graph: that of the Keras input layer, or the key of a dict of inputs."""
    dtype: str
    """numpy dtype name in the exported graph."""
    axes: tuple[str | int, ...]
    """An int for a fixed length, a name for a free one."""
    vocabulary: int | None = None
    """Number of ids, for an input that an Embedding reads."""
    mask_value: float | None = None
    """The value that masks a step, for an input that an Embedding with `mask_zero` or a Masking layer reads."""
    mask_layer: str = ""
    """Name of that layer."""

    @property
    def is_sequence(self) -> bool:
        """Whether the second axis is time: for vectors or frames over time, and for ids."""
        return len(self.axes) >= 3 or (len(self.axes) == 2 and self.vocabulary is not None)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How to call a model with flat tensors, and what its nested results are called."""

    inputs: tuple[Input, ...]
    """In the order in which `call` takes them."""
    input_structure: Structure
    """See `edgeseq.runtime.manifest.Structure`."""
    output_names: tuple[str, ...] | None
    """Names of the flat outputs; None where only a call can tell how many there are."""
    call: Callable[..., Any]
    """Takes flat tensors, returns the model's nested result."""
    model: Any
    """The model itself."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    fixed: Signature | None = None
    """The same with more lengths fixed, for a model that cannot be traced with free ones."""

    @property
    def layers(self) -> list[Any]:
        """All layers of the model, those within others too."""
        return list(self.model._flatten_layers(include_self=False))

    def runs_over_time(self, spec: Input) -> bool:
        """Whether an input has an entry for each time step: a sequence of vectors or of ids, or the mask of one."""
        if spec.is_sequence or len(spec.axes) != 2:
            return spec.is_sequence
        lengths = {other.axes[1] for other in self.inputs if other.is_sequence}
        return isinstance(spec.axes[1], str) or (spec.dtype == "bool" and spec.axes[1] in lengths)

    def with_free_time(self) -> Signature:
        """The same signature with batch free, and time in every input that runs over it."""

        def freed(spec: Input) -> Input:
            return dataclasses.replace(
                spec, axes=("batch", "time", *spec.axes[2:]) if self.runs_over_time(spec) else ("batch", *spec.axes[1:])
            )

        return dataclasses.replace(self, inputs=tuple(freed(spec) for spec in self.inputs))

    def with_one_time(self) -> Signature:
        """The same signature with one free time for all inputs that have one: a chunk is as many steps of each."""

        def joined(spec: Input) -> Input:
            if not self.runs_over_time(spec) or not isinstance(spec.axes[1], str):
                return spec
            return dataclasses.replace(spec, axes=(spec.axes[0], "time", *spec.axes[2:]))

        return dataclasses.replace(self, inputs=tuple(joined(spec) for spec in self.inputs))


def read_signature(model: Any, samples: Any = None) -> Signature:
    """The signature of a Sequential or functional model; of any other from `samples`, one batch of its inputs.

    Raises WrongUsage when a model's inputs are unknown, UnsupportedLayer for inputs that ONNX has no tensor for.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, _VOCABULARY_LAYERS):
            raise UnsupportedLayer(
                layer.name,
                f"a {type(layer).__name__} looks words up in a table, which ONNX has no exact equal of. Take it out of "
                "the model, and give its vocabulary to export as `preprocessing`: the runtime applies that to raw data",
            )
        if isinstance(layer, keras.layers.Masking) and not np.isfinite(layer.mask_value).all():
            raise UnsupportedLayer(
                layer.name,
                f"it masks steps of {layer.mask_value}, which no JSON can hold and no valid input has"
                + (", and nothing equals NaN, so it masks no step" if np.isnan(layer.mask_value).any() else "")
                + ". Give it a finite mask_value and fill the masked steps with it, or take it out",
            )
    functional = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    if isinstance(functional, keras.Model) and getattr(functional, "_inputs_struct", None) is not None:
        return _from_functional(model, functional)
    if samples is None:
        raise WrongUsage(
            f"the inputs of model '{model.name}' are unknown: it has no Input and no samples were given. "
            "Add keras.Input as its first layer, or pass samples= (one batch of inputs)"
        )
    return _from_samples(model, samples)


def _from_functional(model: Any, functional: Any) -> Signature:
    struct = functional._inputs_struct
    tensors = keras.tree.flatten(struct)
    names = unique_names(_dict_key_or(path, tensor.name) for path, tensor in keras.tree.flatten_with_path(struct))
    roles = [_role(functional, tensor) for tensor in tensors]
    inputs = []
    free_times = 0
    for name, tensor, role in zip(names, tensors, roles, strict=True):
        if getattr(tensor, "sparse", False) or tensor.dtype == "string":
            raise UnsupportedLayer(
                name, f"a {tensor.dtype} input has no exact ONNX equal; give its vocabulary as `preprocessing` instead"
            )
        axes: list[str | int] = []
        for position, length in enumerate(tensor.shape):
            axis: str | int = length if length is not None else f"{name}_{position}"
            if length is None and position == 0:
                axis = "batch"
            elif length is None and position == 1:
                free_times += 1
                axis = "time" if free_times == 1 else f"time_{free_times}"
            axes.append(axis)
        dtype = "int32" if role.only_embeddings else tensor.dtype
        inputs.append(
            Input(
                name=name,
                dtype=dtype,
                axes=tuple(axes),
                vocabulary=role.vocabulary,
                mask_value=role.mask_value,
                mask_layer=role.mask_layer,
            )
        )
    outputs = keras.tree.flatten_with_path(functional._outputs_struct)
    output_names = unique_names(
        (_dict_key_or(path, tensor._keras_history.operation.name) for path, tensor in outputs), taken=names
    )

    def call(*flat: Any) -> Any:
        return model(keras.tree.pack_sequence_as(struct, list(flat)), training=False)

    return Signature(
        inputs=tuple(inputs),
        input_structure=to_structure(struct, names),
        output_names=tuple(output_names),
        call=call,
        model=model,
    )


def _from_samples(model: Any, samples: Any) -> Signature:
    """A subclassed model: the batch is free, and time where Keras takes another length than that of the samples."""
    arrays = keras.tree.map_structure(np.asarray, samples)
    flat = keras.tree.flatten_with_path(arrays)
    names = unique_names(_dict_key_or(path, f"input_{index}") for index, (path, _) in enumerate(flat))
    real = "float64" if model.compute_dtype == "float64" else "float32"
    # Keras fixes the batch of a layer that keeps its state.
    stateful = any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    inputs = tuple(
        Input(
            name=name,
            dtype=real if array.dtype.kind == "f" else "int32" if array.dtype.kind in "iu" else array.dtype.name,
            axes=(array.shape[0] if stateful else "batch", *array.shape[1:]),
        )
        for name, (_, array) in zip(names, flat, strict=True)
    )

    def call(*tensors: Any) -> Any:
        return model(keras.tree.pack_sequence_as(arrays, list(tensors)), training=False)

    fixed = Signature(
        inputs=inputs,
        input_structure=to_structure(arrays, names),
        output_names=None,
        call=call,
        model=model,
        notes=("the model declares no inputs: all lengths but the batch are fixed as in the samples",),
    )
    sequences = [_may_be_sequence(array) for _, array in flat]
    longer = [
        np.concatenate([array, array[:, -1:]], axis=1) if is_sequence else array
        for is_sequence, (_, array) in zip(sequences, flat, strict=True)
    ]
    try:
        with refusing("the model fails at another length"):
            model(keras.tree.pack_sequence_as(arrays, longer), training=False)
    except Refused:
        return fixed
    if not any(sequences):
        return fixed
    times = iter(["time", *(f"time_{number}" for number in range(2, len(inputs) + 2))])
    freed = tuple(
        dataclasses.replace(spec, axes=(spec.axes[0], next(times), *spec.axes[2:])) if is_sequence else spec
        for is_sequence, spec in zip(sequences, inputs, strict=True)
    )
    return dataclasses.replace(fixed, inputs=freed, notes=(), fixed=fixed)


def _may_be_sequence(array: Any) -> bool:
    """Vectors or images over time, or ids; four axes are as likely to be one image."""
    return array.ndim in (3, 5) or (array.ndim == 2 and array.dtype.kind in "iu")


def to_structure(nested: Any, names: Sequence[str]) -> Structure:
    """A nest of tensors as the manifest's JSON, with the tensors' names as leaves."""
    remaining = iter(names)

    def visit(node: Any) -> Structure:
        if isinstance(node, dict):
            # keras.tree flattens a dict by its sorted keys.
            return {"dict": {key: visit(node[key]) for key in sorted(node)}}
        if isinstance(node, tuple):
            return {"tuple": [visit(child) for child in node]}
        if isinstance(node, list):
            return [visit(child) for child in node]
        return next(remaining)

    return visit(nested)


@dataclass(frozen=True, kw_only=True)
class _Role:
    only_embeddings: bool = False
    vocabulary: int | None = None
    mask_value: float | None = None
    mask_layer: str = ""


def _role(functional: Any, tensor: Any) -> _Role:
    """What reads an input, seen through nested models."""
    readers: list[Any] = []

    def visit(model: Any, tensor: Any) -> None:
        for operation in model.operations:
            for node in operation._inbound_nodes:
                for position, argument in enumerate(node.input_tensors):
                    if argument is not tensor:
                        continue
                    inner = getattr(operation, "_functional", operation)
                    if isinstance(inner, keras.Model) and getattr(inner, "inputs", None):
                        visit(inner, inner.inputs[position])
                    else:
                        readers.append(operation)

    visit(functional, tensor)
    # The exact type: a subclass may do anything with its ids.
    embeddings = [reader for reader in readers if type(reader) is keras.layers.Embedding]
    masking = [(layer.name, 0.0) for layer in embeddings if layer.mask_zero]
    masking += [(layer.name, float(layer.mask_value)) for layer in readers if type(layer) is keras.layers.Masking]
    return _Role(
        only_embeddings=bool(readers) and len(embeddings) == len(readers),
        vocabulary=min((embedding.input_dim for embedding in embeddings), default=None),
        mask_value=masking[0][1] if masking else None,
        mask_layer=masking[0][0] if masking else "",
    )


def _dict_key_or(path: Sequence[Any], name: str) -> str:
    """The key of a dict entry says more than the name that Keras made up for its tensor."""
    return path[-1] if path and isinstance(path[-1], str) else name
