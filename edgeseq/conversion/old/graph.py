"""The graph of an old model: its layers made anew, and their calls replayed on Keras 3's symbolic tensors.

Nested models are replayed in place, which is what Keras 1 and 2 computed, masks included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from edgeseq.conversion.old.age import Age
from edgeseq.conversion.old.layers import MODELS, Config, dtype_name, make_layer
from edgeseq.conversion.old.masks import call_layer
from edgeseq.errors import UnsupportedLayer

Reference = tuple[str, int, int]
"""An output in the graph: name of a layer, which call of it, which of its outputs."""


class Malformed(Exception):
    """The config contradicts itself; the caller, who knows the file, makes an InvalidFile of it."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer."""

    inputs: tuple[Reference, ...]
    """What it is given, initial states behind the rest."""
    options: Mapping[str, Any]
    """Further arguments, as the config has them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OldLayer:
    """One layer of an old model."""

    name: str
    """Its name in that model."""
    class_name: str
    """As Keras 1 or 2 called it."""
    made: Any
    """The Keras 3 layer, or an `OldModel`; None for an input."""
    calls: tuple[Call, ...]
    """In order."""
    config: Config
    """As in the file."""
    inner: OldModel | None = None
    """Of a TimeDistributed around a model: that model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OldModel:
    """A Sequential or functional model of Keras 1 or 2."""

    name: str
    """Its name."""
    layers: tuple[OldLayer, ...]
    """In the order of the config, in which the weights lie too."""
    inputs: tuple[str, ...]
    """Names of the input layers, in the model's order."""
    outputs: Any
    """References, nested as the model's answer is."""


def read_model(class_name: str, config: Any, age: Age, notes: list[str]) -> OldModel:
    """The model that a config describes, not yet called.

    Raises UnsupportedLayer, and Malformed for a config that contradicts itself.
    """
    if class_name == "Sequential":
        return _sequential(config, age, notes)
    if class_name in MODELS:
        return _functional(config, age, notes)
    raise UnsupportedLayer(
        str(config.get("name", class_name)) if isinstance(config, Mapping) else class_name,
        f"it is a model of the class {class_name}, whose code is not in the file. Build the model in code, and give "
        "the file as weights",
    )


def to_keras(model: OldModel, age: Age, notes: list[str]) -> Any:
    """The same as a functional model of Keras 3, its weights not yet set."""
    by_name = {layer.name: layer for layer in model.layers}
    inputs = [_input(by_name[name]) for name in model.inputs]
    names = {keras_input.name: id(keras_input) for keras_input in inputs}
    outputs = _replay(model, inputs, age, notes, names)
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=model.name)


def _input(layer: OldLayer) -> Any:
    shape = layer.config.get("batch_input_shape") or layer.config.get("batch_shape")
    if not shape:
        raise Malformed(f"input '{layer.name}' has no shape")
    if layer.config.get("sparse") or layer.config.get("ragged"):
        raise UnsupportedLayer(layer.name, "it takes sparse or ragged tensors")
    dtype = layer.config.get("dtype") or layer.config.get("input_dtype") or "float32"
    return keras.Input(batch_shape=tuple(shape), dtype=dtype_name(dtype, layer.name), name=layer.name)


def _sequential(config: Any, age: Age, notes: list[str]) -> OldModel:
    entries = config if isinstance(config, list) else config["layers"]
    name = "sequential" if isinstance(config, list) else config.get("name", "sequential")
    layers: list[OldLayer] = []
    for entry in entries:
        layer = _layer(entry, f"{entry['class_name'].lower()}_{len(layers)}", age, notes)
        if not layers and layer.made is not None:
            shape = _first_shape(layer, {} if isinstance(config, list) else config)
            layers.append(_input_layer(f"{layer.name}_input", shape, layer.config.get("input_dtype")))
        calls = () if layer.made is None else (Call(inputs=((layers[-1].name, 0, 0),), options={}),)
        layers.append(dataclasses.replace(layer, calls=calls))
    if not layers:
        raise Malformed("the model has no layers")
    return OldModel(name=name, layers=tuple(layers), inputs=(layers[0].name,), outputs=(layers[-1].name, 0, 0))


def _first_shape(layer: OldLayer, config: Config) -> Sequence[int | None]:
    """The shape of a Sequential's input, from its first layer or from the model."""
    if isinstance(layer.made, OldModel):
        first = layer.made.layers[0]
        found = first.config.get("batch_input_shape") or first.config.get("batch_shape")
    else:
        inner = layer.config.get("layer")
        found = layer.config.get("batch_input_shape")
        if found is None and isinstance(inner, Mapping):
            found = inner["config"].get("batch_input_shape")
    found = found or config.get("build_input_shape") or config.get("batch_input_shape")
    if found is None and layer.class_name == "Embedding":
        found = [None, layer.config.get("input_length")]
    if found is None:
        raise Malformed("the config does not tell the shape of the model's input: the model was saved before its use")
    return list(found)


def _input_layer(name: str, shape: Sequence[int | None], dtype: str | None) -> OldLayer:
    config = {"name": name, "batch_input_shape": list(shape), "dtype": dtype or "float32"}
    return OldLayer(name=name, class_name="InputLayer", made=None, calls=(), config=config)


def _functional(config: Config, age: Age, notes: list[str]) -> OldModel:
    layers = []
    for entry in config["layers"]:
        layer = _layer(entry, entry.get("name"), age, notes)
        calls = tuple(_call(node, layer.name) for node in entry.get("inbound_nodes", []))
        layers.append(dataclasses.replace(layer, calls=calls))
    outputs = _references(config["output_layers"])
    if isinstance(outputs, list) and len(outputs) == 1:
        outputs = outputs[0]
    inputs = config["input_layers"]
    if isinstance(inputs, Mapping) or not inputs:
        raise UnsupportedLayer(str(config.get("name")), "its inputs are a dictionary")
    # A single input may stand alone.
    listed = [inputs] if isinstance(inputs[0], str) else inputs
    return OldModel(
        name=str(config.get("name", "model")),
        layers=tuple(layers),
        inputs=tuple(_reference(one)[0] for one in listed),
        outputs=outputs,
    )


def _references(nested: Any) -> Any:
    """The same nesting, each reference, which is itself a list, a tuple."""
    if isinstance(nested, Mapping):
        return {key: _references(value) for key, value in nested.items()}
    if isinstance(nested, list) and nested and not isinstance(nested[0], str):
        return [_references(value) for value in nested]
    return _reference(nested)


def _layer(entry: Config, name: Any, age: Age, notes: list[str]) -> OldLayer:
    class_name, config = entry["class_name"], entry["config"]
    if isinstance(config, Mapping):
        name = config.get("name", name)
    made: Any
    inner = None
    if class_name == "InputLayer":
        made = None
    elif class_name in MODELS:
        made = read_model(class_name, config, age, notes)
    elif class_name == "TimeDistributed" and config["layer"]["class_name"] in MODELS:
        inner = read_model(config["layer"]["class_name"], config["layer"]["config"], age, notes)
        made = make_layer(class_name, {**config, "layer": to_keras(inner, age, notes)}, age, notes)
    else:
        made = make_layer(class_name, config, age, notes)
    known = config if isinstance(config, dict) else {}
    return OldLayer(name=str(name), class_name=class_name, made=made, calls=(), config=known, inner=inner)


def _call(node: Any, name: str) -> Call:
    if not isinstance(node, list):
        raise UnsupportedLayer(name, "its inputs are nested in a way that is not known")
    # A single input may stand alone.
    sources = [node] if node and isinstance(node[0], str) else node
    options = {key: value for source in sources if len(source) > 3 for key, value in source[3].items()}
    return Call(inputs=tuple(_reference(source) for source in sources), options=options)


def _reference(source: Any) -> Reference:
    try:
        layer, call, output = source[:3]
        return str(layer), int(call), int(output)
    except (TypeError, ValueError) as error:
        raise Malformed(f"{source!r} is not a reference to a layer's output") from error


def _replay(model: OldModel, inputs: Sequence[Any], age: Age, notes: list[str], names: dict[str, int]) -> Any:
    """Call the layers in turn, from the model's inputs to its outputs."""
    done: dict[tuple[str, int], list[Any]] = {
        (name, 0): [tensor] for name, tensor in zip(model.inputs, inputs, strict=True)
    }
    first = _first_calls(model)

    def find(reference: Reference) -> Any:
        name, call, output = reference
        outputs = done.get((name, call - first.get(name, 0)))
        if outputs is None:
            return None
        if output >= len(outputs):
            raise Malformed(f"layer '{name}' has no output {output}")
        return outputs[output]

    for layer in model.layers:
        if layer.made is not None and not isinstance(layer.made, OldModel):
            _rename(layer.made, model.name, names)
    waiting = [(layer, index) for layer in model.layers for index in range(len(layer.calls))]
    while waiting:
        later = []
        for layer, index in waiting:
            call = layer.calls[index]
            given = [find(reference) for reference in call.inputs]
            if any(tensor is None for tensor in given) or (index and (layer.name, index - 1) not in done):
                later.append((layer, index))
            elif isinstance(layer.made, OldModel):
                _refuse_options(layer.name, call.options)
                done[layer.name, index] = keras.tree.flatten(_replay(layer.made, given, age, notes, names))
            else:
                options = _options(layer.name, call.options, find)
                done[layer.name, index] = call_layer(layer.made, given, options, age, notes)
        if len(later) == len(waiting):
            raise Malformed(f"the inputs of layer '{waiting[0][0].name}' come from nowhere")
        waiting = later
    return _nest(model.outputs, find)


def _nest(outputs: Any, find: Callable[[Reference], Any]) -> Any:
    if isinstance(outputs, Mapping):
        return {key: _nest(value, find) for key, value in outputs.items()}
    if isinstance(outputs, list):
        return [_nest(value, find) for value in outputs]
    tensor = find(outputs)
    if tensor is None:
        raise Malformed(f"an output of the model comes from nowhere: {outputs}")
    return tensor


def _flat(outputs: Any) -> list[Reference]:
    if isinstance(outputs, tuple):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [reference for value in values for reference in _flat(value)]


def _first_calls(model: OldModel) -> dict[str, int]:
    """The number that each layer's first call has in references: 1 where Keras also counted the making of a model."""
    lowest: dict[str, int] = {}
    referred = [reference for layer in model.layers for call in layer.calls for reference in call.inputs]
    for name, call, _ in [*referred, *_flat(model.outputs)]:
        lowest[name] = min(call, lowest.get(name, call))
    return {layer.name: lowest.get(layer.name, 0) for layer in model.layers if isinstance(layer.made, OldModel)}


def _rename(layer: Any, model: str, names: dict[str, int]) -> None:
    """A name of its own for a layer of a nested model, where one outside has it already."""
    name = layer.name
    while names.setdefault(name, id(layer)) != id(layer):
        name = f"{model}_{name}"
    if name != layer.name:
        layer.name = name


def _options(name: str, options: Mapping[str, Any], find: Callable[[Reference], Any]) -> dict[str, Any]:
    """Masks and initial states as tensors; anything else is refused."""
    kept: dict[str, Any] = {}
    rest = {}
    for key, value in options.items():
        if key == "mask" and _is_reference(value):
            kept["mask"] = find(_reference(value))
        elif key == "initial_state" and isinstance(value, list) and value:
            listed = [value] if _is_reference(value) else value
            if not all(_is_reference(one) for one in listed):
                raise UnsupportedLayer(name, "its initial state is a constant")
            kept["initial_state"] = [find(_reference(one)) for one in listed]
        else:
            rest[key] = value
    _refuse_options(name, rest)
    return kept


def _is_reference(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str)


def _refuse_options(name: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if value is not None and not (key == "training" and value is False):
            raise UnsupportedLayer(name, f"it is called with {key}={value!r}, which is not known")
