"""Open a Keras model: an object as it is, or a file, with the meaning that it was trained with."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from edgeseq.conversion.failures import reason_of
from edgeseq.conversion.old.file import age_of, load_json, load_old, with_weights
from edgeseq.errors import InvalidFile, Refused, WrongUsage
from edgeseq.files import check_input

_SUFFIXES = (".keras", ".h5", ".hdf5")
# What Keras says of code that a file names and does not hold: in `.keras` files, and in `.h5` files.
_NOT_HELD = re.compile(r"Could not locate (class|function) \\*'([^'\\]+)|Unknown (\w+): \\*'([^'\\]+)")
_UNSAFE = "Requested the deserialization of a `Lambda` layer"


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A Keras model, ready to be asked."""

    model: Any
    """The `keras.Model` of the Keras that runs."""
    notes: tuple[str, ...]
    """What Keras 3 would have read in another way, and what was done about it; empty for models of Keras 3."""


def load(model_or_path: Any, weights: Any = None) -> Loaded:
    """A Keras model from an object, from a `.keras`, `.h5` or `.hdf5` file of any Keras, or from a `.json` config.

    `weights` is a `.h5` or `.weights.h5` file; a `.json` config needs one. A model object given with one stays as it
    is: the weights go into a copy.

    Raises MissingInput; InvalidFile for what is not a Keras model or does not fit; UnsupportedLayer and Refused for
    what Keras 1 or 2 wrote and Keras 3 has no equal of; Refused for a file that needs code of its author's, and for a
    model without layers; WrongUsage for any other kind of argument.
    """
    notes: list[str] = []
    if isinstance(model_or_path, keras.Model):
        model = model_or_path
    else:
        if not isinstance(model_or_path, str | os.PathLike):
            raise WrongUsage(
                f"expected a Keras model or a path, got {type(model_or_path).__name__}. Pass a keras.Model, or a "
                f"{', '.join(_SUFFIXES)} file"
            )
        path = check_input(model_or_path, "model file")
        if path.suffix == ".json" and path.is_file():
            if weights is None:
                raise WrongUsage(f"{path} is a config without weights. Name their file too (weights=, --weights)")
            model, notes = load_json(path, weights)
            return Loaded(model=model, notes=tuple(notes))
        model, notes = _load_file(path)
    if weights is not None:
        model, more = with_weights(model, weights)
        notes = [*notes, *more]
    if isinstance(model, keras.Sequential) and not model.layers:
        raise Refused(f"model '{model.name}' has no layers, so there is nothing to export")
    return Loaded(model=model, notes=tuple(notes))


def _load_file(path: Path) -> tuple[Any, list[str]]:
    if path.suffix not in _SUFFIXES or path.is_dir():
        raise InvalidFile(
            path, f"not a Keras model file; expected one ending in {', '.join(_SUFFIXES)}, or .json with its weights"
        )
    if path.suffix == ".keras" and not (zipfile.is_zipfile(path) or h5py.is_hdf5(path)):
        raise InvalidFile(path, "damaged, or not a Keras model: a .keras file is a ZIP archive")
    age = age_of(path)
    if age is not None and age.old:
        return load_old(path, age)
    try:
        # Compiling would need the training's losses and metrics, which an export does not.
        return keras.saving.load_model(path, compile=False), []
    except MemoryError:
        raise
    except Exception as error:
        missing = _NOT_HELD.search(str(error))
        if missing:
            kind, name = missing[1] or missing[3], missing[2] or missing[4]
            raise Refused(
                f"{path} needs the {kind} '{name}', which is code of its author's and not in the file. Load the model "
                f"in Python, with keras.saving.load_model(path, custom_objects={{'{name}': {name}}}) or after "
                "registering it with @keras.saving.register_keras_serializable(), and call edgeseq.export(model, ...)"
            ) from error
        if _UNSAFE in str(error):
            raise Refused(
                f"{path} holds a Lambda layer, code that would be run as it is. If you trust the file, load the model "
                "in Python with keras.saving.load_model(path, safe_mode=False), and call edgeseq.export(model, ...)"
            ) from error
        raise InvalidFile(path, f"Keras cannot load it ({reason_of(error)})") from error
