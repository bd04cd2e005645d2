"""Open a Keras model: an object as it is, or a file. A file whose answers Keras 3 would change is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras

from edgeseq.errors import InvalidFile, Refused, WrongUsage
from edgeseq.files import check_input

_SUFFIXES = (".keras", ".h5", ".hdf5")


def load_model(model_or_path: Any) -> Any:
    """A Keras model from an object or from a `.keras`, `.h5` or `.hdf5` file.

    Raises MissingInput, InvalidFile for what is not a Keras model, Refused for files of Keras 1 and 2, and WrongUsage
    for any other kind of argument.
    """
    if isinstance(model_or_path, keras.Model):
        return model_or_path
    if not isinstance(model_or_path, str | os.PathLike):
        raise WrongUsage(
            f"expected a Keras model or a path, got {type(model_or_path).__name__}. Pass a keras.Model, or a "
            f"{', '.join(_SUFFIXES)} file"
        )
    path = check_input(model_or_path, "model file")
    if path.suffix not in _SUFFIXES or path.is_dir():
        raise InvalidFile(path, f"not a Keras model file; expected one ending in {', '.join(_SUFFIXES)}")
    if path.suffix == ".keras" and not (zipfile.is_zipfile(path) or h5py.is_hdf5(path)):
        raise InvalidFile(path, "damaged, or not a Keras model: a .keras file is a ZIP archive")
    _refuse_old_file(path)
    try:
        # Compiling would need the training's losses and metrics, which an export does not.
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidFile(
            path,
            f"Keras cannot load it ({reason}). If it has custom layers, load it yourself and pass the model object",
        ) from error


def _refuse_old_file(path: Path) -> None:
    version = _written_by(path)
    if version.split(".")[0] in ("1", "2"):
        raise Refused(
            f"{path} was written by Keras {version}. Keras 3 reads such files with another hard_sigmoid, another mask "
            "and other defaults, so its answers could change without a word. Convert it with the Keras that wrote it: "
            "rebuild the model in Keras 3, copy the weights, compare the answers, and save it as .keras"
        )


def _written_by(path: Path) -> str:
    """Version of the Keras that wrote a file; empty where the file does not tell, which Keras 3's own always do."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                version = file.attrs.get("keras_version", b"")
            return version.decode() if isinstance(version, bytes) else str(version)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise InvalidFile(path, f"damaged ({error})") from error
    return ""
