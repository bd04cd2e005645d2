"""Golden samples: inputs with the original model's answers, beside a file, so that parity can be checked anywhere.

`model.onnx` has `model.golden/test_data_set_0/{input_0,output_0}.pb` in ONNX's own test-data convention
(https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md): in the order of the graph's inputs and outputs, states
included. A quantized file has `own_output_0.pb` too, its own answers. `model_hash` says which model they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import InvalidFile, MissingInput, OutputExists, WrongUsage
from edgeseq.files import StrPath, whole_folder, write_bytes
from edgeseq.runtime import wire

Arrays = Mapping[str, npt.NDArray[Any]]

_SET = "test_data_set_0"
_HASH = "model_hash"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """One set of samples by tensor name, states included."""

    inputs: Arrays
    """What to feed."""
    outputs: Arrays
    """The original model's answers."""
    own_outputs: Arrays | None = None
    """A quantized file's own answers; None for a file in full precision."""


def golden_folder(model_path: StrPath) -> Path:
    """Where the samples of a file are written, whether or not there are any."""
    return Path(model_path).with_suffix(".golden")


def find_golden(model_path: StrPath) -> Path:
    """Where the samples of a file are read: beside it, or for a link without any, beside what it leads to."""
    beside, resolved = golden_folder(model_path), golden_folder(Path(model_path).resolve())
    return resolved if (resolved / _SET).is_dir() and not (beside / _SET).is_dir() else beside


def check_golden(model_path: StrPath, *, overwrite: bool = False) -> None:
    """Raise OutputExists, or WrongUsage, unless the samples' place beside `model_path` is free or may be replaced.

    What is replaced is a folder of samples and nothing else. Call it before long work.
    """
    folder = golden_folder(model_path)
    if folder.exists() and not overwrite:
        raise OutputExists(folder)
    if folder.exists() and not (folder / _SET).is_dir():
        raise WrongUsage(f"{folder} is in the place of the golden samples and holds none. Move it away")


def write_golden(model_path: StrPath, golden: Golden, model_hash: str) -> Path:
    """Write the samples beside `model_path`, in place of older ones, and return their folder."""
    folder = golden_folder(model_path)
    with whole_folder(folder) as temporary:
        samples = temporary / _SET
        samples.mkdir()
        for prefix, arrays in (
            ("input", golden.inputs),
            ("output", golden.outputs),
            ("own_output", golden.own_outputs or {}),
        ):
            for index, (name, array) in enumerate(arrays.items()):
                wire.write_tensor(samples / f"{prefix}_{index}.pb", name, np.asarray(array))
        write_bytes(temporary / _HASH, model_hash.encode())
    return folder


def read_golden(model_path: StrPath, model_hash: str) -> Golden:
    """The samples beside `model_path`, or beside what it links to: see `find_golden`.

    Without a file `model_hash`, as other tools write such folders, or with `model_hash` empty, nothing tells which
    model they belong to, and they are taken as this one's.

    Raises MissingInput when there are none, InvalidFile when they are damaged or belong to another model.
    """
    folder = find_golden(model_path)
    samples = folder / _SET
    if not samples.is_dir():
        raise MissingInput(samples, "folder of golden samples", "Export writes it; copy it along with the .onnx file.")
    written_for = folder / _HASH
    if model_hash and written_for.is_file() and written_for.read_bytes() != model_hash.encode():
        raise InvalidFile(folder, "these golden samples belong to another model. Export the model again")
    own = _read(samples, "own_output")
    return Golden(inputs=_read(samples, "input"), outputs=_read(samples, "output"), own_outputs=own or None)


def _read(folder: Path, prefix: str) -> dict[str, npt.NDArray[Any]]:
    found = sorted(folder.glob(f"{prefix}_*.pb"), key=lambda path: _number(path, prefix))
    return dict(wire.read_tensor(path) for path in found)


def _number(path: Path, prefix: str) -> int:
    digits = path.stem.removeprefix(f"{prefix}_")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidFile(path, f"golden samples are named {prefix}_0.pb, {prefix}_1.pb and so on")
    return int(digits)
