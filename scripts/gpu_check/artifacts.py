"""The set of models: what `set.json` says of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseq.errors import InvalidFile, MissingInput
from edgeseq.files import StrPath, read_json
from edgeseq.runtime import document

SET_FILE = "set.json"
SET_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One model of the set, exported, with golden answers beside it."""

    name: str
    """Unique in the set."""
    description: str
    """What model it is."""
    file: str
    """Its ONNX file, in the folder of the set."""
    target: str
    """What it was lowered for: ``cpu`` or ``cuda``."""
    precision: str
    """``fp32`` or ``fp16``."""
    strategies: tuple[str, ...]
    """How its recurrent layers were lowered, in their order: ``fused``, ``unrolled`` or ``scan``."""
    rival: str
    """The file that Keras itself exports of the same model, in the same folder; empty where there is none."""
    rival_loops: int
    """Number of ONNX Loop nodes in it."""
    rival_note: str
    """Why there is no such file; empty where there is one."""
    refused_on: tuple[str, ...]
    """Providers of which it is expected that they refuse it, by name and node, when they alone are asked for."""
    batches: tuple[int, ...] = ()
    """The only batches it takes; empty for any."""

    @property
    def fused(self) -> bool:
        """Whether every recurrent layer is one ONNX op for all its steps."""
        return all(strategy == "fused" for strategy in self.strategies)


@dataclass(frozen=True, kw_only=True)
class ArtifactSet:
    """What `set.json` holds."""

    artifacts: tuple[Artifact, ...]
    """The models, in the order they are checked in."""
    version: int = SET_VERSION
    """Version of this format."""


def read_set(folder: StrPath) -> ArtifactSet:
    """The set in `folder`. Raises MissingInput when there is none, InvalidFile when it is damaged or newer."""
    path = Path(folder) / SET_FILE
    if not path.is_file():
        raise MissingInput(path, "set of models", "Make one with: scripts/gpu-check --prepare FOLDER")
    content = read_json(path)
    version = content.get("version") if isinstance(content, dict) else None
    if version != SET_VERSION:
        raise InvalidFile(path, f"its version is {version}, not {SET_VERSION}. Make the set again with --prepare")
    try:
        return document.read(ArtifactSet, content)
    except ValueError as error:
        raise InvalidFile(path, str(error)) from error
