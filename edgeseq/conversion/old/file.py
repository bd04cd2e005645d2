"""Open what Keras 1 and 2 wrote: whole models, and weights apart from their model.

The configs are read here rather than by `tf_keras`, the Keras 2 that TensorFlow still ships: what comes out is a Keras
3 model, which tracing, verification and every other part of edgeseq understand, and no second Keras runs. `tf_keras`
also fails on files of Keras 1, and takes what it does not know as it comes; it serves the tests as an oracle.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from edgeseq.conversion.old.age import KERAS_1, Age
from edgeseq.conversion.old.graph import Malformed, OldModel, read_model, to_keras
from edgeseq.conversion.old.meaning import give_old_meaning
from edgeseq.conversion.old.weights import Holder, Stored, assign, fill, holders
from edgeseq.errors import EdgeseqError, InvalidFile, Refused, WrongUsage
from edgeseq.files import check_input

_OLDER_CONTAINER = "_layer_checkpoint_dependencies"
_LAST_OLD = Age(text="2", version=(2, 15), tensorflow=True)
"""What a `.weights.h5` file may be of that is not of Keras 3: files in this layout began with Keras 2.12."""


def age_of(path: Path) -> Age | None:
    """Which Keras wrote a `.h5` or `.keras` file; None where the file does not tell. Raises InvalidFile."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return _age(file) or (KERAS_1 if "model_config" in file.attrs else None)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return Age.parse(str(json.loads(archive.read("metadata.json")).get("keras_version", "")))
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise InvalidFile(path, f"damaged ({error})") from error
    return None


def load_old(path: Path, age: Age) -> tuple[Any, list[str]]:
    """The Keras 3 model of a whole-model file of Keras 1 or 2, and what to know about it.

    Raises InvalidFile, and UnsupportedLayer for layers, options and masks that are not known or have no equal.
    """
    notes: list[str] = []
    with _told(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                if "model_config" not in file.attrs:
                    raise Malformed(
                        "it holds weights and no model. Give it as weights, with the model's JSON config or with the "
                        "model in code (weights=, --weights)"
                    )
                document = json.loads(_text(file.attrs["model_config"]))
                old, model = _build(document, age, notes)
                _fill(file["model_weights"], holders(old.layers), age, notes)
        else:
            with zipfile.ZipFile(path) as archive:
                old, model = _build(json.loads(archive.read("config.json")), age, notes)
                with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                    _fill_store(file, holders(old.layers), age)
    notes += give_old_meaning(model, age)
    return model, [f"{path.name} was written by Keras {age.text} and is read as that version meant it", *notes]


def load_json(path: Path, weights: Any) -> tuple[Any, list[str]]:
    """A model from its JSON config (`model.to_json()`), with its weights from another file.

    Raises what `load_old` raises, and MissingInput.
    """
    found = check_input(weights, "weights file")
    with _told(path):
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        if not isinstance(document, dict) or "class_name" not in document:
            raise Malformed("not the JSON config of a Keras model")
        age = Age.parse(str(document.get("keras_version", "")))
        if age is None and "module" not in document:
            raise Malformed("it does not tell which Keras wrote it (no 'keras_version')")
        notes: list[str] = []
        if age is not None and age.old:
            old, model = _build(document, age, notes)
        else:
            model = keras.models.model_from_json(text)
    if age is None or not age.old:
        return with_weights(model, found, ours=True)
    with _told(found), _weights(found) as (group, layout):
        written_by = _age(group) or _age(group.parent) or (KERAS_1 if layout == "layers" else age)
        if written_by.version[0] != age.version[0]:
            raise Refused(f"{found} was written by Keras {written_by.text}, the config {path} by Keras {age.text}")
        if layout == "layers":
            _fill(group, holders(old.layers), written_by, notes)
        else:
            _fill_store(group, holders(old.layers), age)
    notes += give_old_meaning(model, age)
    return model, [f"{path.name} was written by Keras {age.text} and is read as that version meant it", *notes]


def with_weights(model: Any, weights: Any, *, ours: bool = False) -> tuple[Any, list[str]]:
    """A copy of `model` with the weights of a file, and the meaning that they were trained with; what to know about it.

    `ours` says that no one else has the model, so that no copy is needed. Raises WrongUsage for a model that cannot be
    copied, Refused when nothing tells the weights' meaning, and what `load_old` raises.
    """
    path = check_input(weights, "weights file")
    copy = model if ours else _copy(model)
    notes: list[str] = []
    with _told(path), _weights(path) as (group, layout):
        age = (_age(group) or _age(group.parent) or KERAS_1) if layout == "layers" else _age_of_store(group)
        if layout == "layers":
            assert age is not None
            _fill(group, holders(copy.layers), age, notes)
        elif age is None or age.old:
            _fill_store(group, holders(copy.layers), age or _LAST_OLD)
        else:
            copy.load_weights(path)
    if age is None and give_old_meaning(copy, _LAST_OLD):
        raise Refused(
            f"{path} does not tell whether Keras 2 or 3 wrote it, and hard_sigmoid differs between them. Save the "
            "whole model (model.save) with the Keras that trained it"
        )
    if age is not None and age.old:
        notes = [f"the weights {path.name} were written by Keras {age.text}", *notes, *give_old_meaning(copy, age)]
    return copy, notes


def _build(document: Any, age: Age, notes: list[str]) -> tuple[OldModel, Any]:
    old = read_model(document["class_name"], document["config"], age, notes)
    return old, to_keras(old, age, notes)


def _fill(group: Any, inside: Sequence[tuple[str, list[Holder]]], age: Age, notes: list[str]) -> None:
    """Weights in the layout of `.h5` files: a group a layer, arrays by their names."""
    backend = _text(group.attrs["backend"]) if "backend" in group.attrs else None
    if "top_level_model_weights" in group and _names(group["top_level_model_weights"], "weight_names"):
        raise Malformed("the model has weights of its own, outside its layers")
    files = [name for name in _names(group, "layer_names") if _names(group[name], "weight_names")]
    if set(files) != {name for name, _ in inside}:
        inside = _flattened(inside, files)
    if set(files) == {name for name, _ in inside}:
        pairs = [(name, holders) for name, holders in inside]
    elif len(files) == len(inside):
        notes.append("its layers have other names than the model's; the weights were matched by their order")
        pairs = list(zip(files, (holders for _, holders in inside), strict=True))
    else:
        raise Malformed(
            f"it has weights for {len(files)} layers ({', '.join(files)}); the model has {len(inside)} with weights "
            f"({', '.join(name for name, _ in inside)})"
        )
    for name, of_layer in pairs:
        stored = [
            Stored(name=weight, value=np.asarray(group[name][weight])) for weight in _names(group[name], "weight_names")
        ]
        fill(of_layer, stored, age, backend)


def _flattened(inside: Sequence[tuple[str, list[Holder]]], files: Sequence[str]) -> Sequence[tuple[str, list[Holder]]]:
    """Keras 1 wrote the layers of nested Sequentials as if they were the model's own."""
    flat: list[tuple[str, list[Holder]]] = []
    for name, of_layer in inside:
        if name in files:
            flat.append((name, of_layer))
            continue
        for holder in of_layer:
            if not flat or flat[-1][0] != holder.layer:
                flat.append((holder.layer, []))
            flat[-1][1].append(holder)
    return flat if {name for name, _ in flat} == set(files) else inside


def _fill_store(file: Any, inside: Sequence[tuple[str, list[Holder]]], age: Age) -> None:
    """Weights in the layout of `.weights.h5`: a group a layer by its kind and number, arrays by their place."""
    for _, of_layer in inside:
        for holder in of_layer:
            path = holder.path if "layers" in file else holder.path.replace("layers/", f"{_OLDER_CONTAINER}/")
            # A CuDNNLSTM has no cell.
            group = file.get(f"{path}/vars") or file.get(f"{path.removesuffix('/cell')}/vars")
            if group is None:
                raise Malformed(f"the weights of layer '{holder.layer}' are missing")
            assign(holder, [np.asarray(group[str(index)]) for index in range(len(group))], age)


@contextlib.contextmanager
def _weights(path: Path) -> Iterator[tuple[Any, str]]:
    """The group with the weights, and its layout: ``layers`` by their names, or ``store`` by kind and number."""
    if path.is_dir() or not h5py.is_hdf5(path):
        raise InvalidFile(
            path, "not a file of weights; expected HDF5, as model.save_weights('model.weights.h5') writes"
        )
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            yield group, "layers"
        elif "layers" in file or _OLDER_CONTAINER in file:
            yield file, "store"
        else:
            raise Malformed("it holds no weights of a Keras model")


def _age_of_store(file: Any) -> Age | None:
    """Keras 3.10 and later name the layers; Keras 2.12 had another container; between them nothing tells."""
    if _OLDER_CONTAINER in file:
        return _LAST_OLD
    named: list[bool] = []
    file.visititems(lambda _, part: named.append("name" in part.attrs))
    return Age(text="3", version=(3,), tensorflow=True) if any(named) else None


def _copy(model: Any) -> Any:
    """The same layers and calls with variables of its own, so that the user's model stays as it is."""
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        raise WrongUsage(
            f"the model is a {type(model).__name__}, whose code edgeseq cannot copy. Load the weights into it yourself "
            "(model.load_weights) and leave out weights="
        )
    if not model.built:
        raise WrongUsage("the model has no variables yet. Give it an Input layer, or call it once, before this")
    return keras.models.clone_model(model)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Any failure of reading becomes an InvalidFile; what edgeseq says itself stays."""
    try:
        yield
    except EdgeseqError:
        raise
    except Malformed as error:
        raise InvalidFile(path, str(error)) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidFile(path, f"damaged, or not as Keras writes it ({type(error).__name__}: {reason})") from error


def _age(group: Any) -> Age | None:
    return Age.parse(_text(group.attrs["keras_version"])) if "keras_version" in group.attrs else None


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names; Keras cuts long ones into several attributes, numbered from 0."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    names: list[str] = []
    chunk = 0
    while f"{attribute}{chunk}" in group.attrs:
        names += [_text(name) for name in group.attrs[f"{attribute}{chunk}"]]
        chunk += 1
    return names


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
