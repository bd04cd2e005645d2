"""The fp32 file, read and checked once: everything that searching, replaying and writing need of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeseq.errors import MissingInput, WrongUsage
from edgeseq.quantization.layers import Layer, carries_states, find_layers, load_model, refuse_quantized
from edgeseq.runtime import wire
from edgeseq.runtime.golden import Golden, read_golden
from edgeseq.runtime.manifest import Manifest, load_manifest
from edgeseq.runtime.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """An fp32 file."""

    path: Path
    """Where it is."""
    sha256: str
    """Of its bytes, and of the files that hold its weights, in hexadecimal."""
    manifest: Manifest | None
    """Its own manifest; None for a file that edgeseq did not write."""
    described: Manifest
    """Its own manifest, or one that was read off the graph."""
    model: onnx.ModelProto
    """The whole of it in memory."""
    layers: tuple[Layer, ...]
    """What can be quantized, in graph order."""
    notes: tuple[str, ...]
    """What cannot, and why."""
    streams: bool
    """Whether states go from call to call."""
    golden: Golden | None
    """The golden samples beside it; None when there are none."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the file and of the files that hold its weights."""
        return sum(part.stat().st_size for part in _parts(self.path))

    @property
    def fixed_batch(self) -> int | None:
        """The number of rows that the file fixes; None where it takes any."""
        return next((entry.axes[0] for entry in self.described.inputs if isinstance(entry.axes[0], int)), None)


def read_source(path: Path) -> Source:
    """Read the file at `path`.

    Raises WrongUsage for a file that is quantized already, InvalidFile for one that is none or whose golden samples are
    damaged, Refused above 2 GB.
    """
    manifest = load_manifest(path)
    if manifest is not None and manifest.quantization is not None:
        raise WrongUsage(f"{path} is quantized already, as its manifest says. Give the file it was made from.")
    described = Model(path, threads=1).manifest
    model = load_model(path)
    refuse_quantized(model, path)
    layers, notes = find_layers(model)
    try:
        golden = read_golden(path, manifest.model_hash if manifest else "")
    except MissingInput:
        golden = None
    return Source(
        path=path,
        sha256=_hash(path),
        manifest=manifest,
        described=described,
        model=model,
        layers=layers,
        notes=notes,
        streams=bool(described.states) or carries_states(model),
        golden=golden,
    )


def _parts(path: Path) -> list[Path]:
    return [path, *(path.parent / name for name in sorted(wire.read_data_files(path)))]


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    for part in _parts(path):
        with part.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
