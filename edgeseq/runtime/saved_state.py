"""The states of a stream as bytes, to be kept and taken up again in another process or on another machine.

Eight bytes that say what it is, the format's version and the length of the header (4 bytes each, little-endian), the
header in JSON (the model's hash, the batch, each state's name, dtype and shape), the elements of one state after the
other, little-endian, and the SHA-256 of all that. No later version is to move the first twelve bytes or the last 32.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeseq.errors import InvalidState, NewerState, StateMismatch
from edgeseq.runtime import document

VERSION = 1
_MAGIC = b"edgeseqS"
_HEAD = struct.Struct("<8sII")
_SUM_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class _State:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Header:
    model_hash: str
    batch: int
    states: tuple[_State, ...]


def pack(states: Mapping[str, np.ndarray], *, model_hash: str, batch: int) -> bytes:
    """`states` by name, of `batch` rows, of the model that its manifest calls `model_hash`."""
    listed = [{"name": name, "dtype": array.dtype.name, "shape": array.shape} for name, array in states.items()]
    header = json.dumps({"model_hash": model_hash, "batch": batch, "states": listed}).encode()
    elements = [array.astype(array.dtype.newbyteorder("<")).tobytes() for array in states.values()]
    content = b"".join([_HEAD.pack(_MAGIC, VERSION, len(header)), header, *elements])
    return content + _checksum(content)


def unpack(data: bytes, *, model_hash: str, batch: int) -> dict[str, np.ndarray]:
    """What `pack` was given. Whether the states fit the model's is left to who takes them.

    Raises InvalidState for anything that is not a whole saved state, NewerState for a newer one, and StateMismatch for
    one of another model or batch.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidState(f"it must be bytes, as to_bytes() gives them; got a {type(data).__name__}")
    data = bytes(data)
    if data[: len(_MAGIC)] != _MAGIC:
        raise InvalidState("these bytes are no saved state, or a damaged one")
    content, checksum = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if len(content) < _HEAD.size or _checksum(content) != checksum:
        raise InvalidState("it is damaged: its checksum is not that of its content")
    _, version, header_bytes = _HEAD.unpack_from(content)
    if version > VERSION:
        raise NewerState(version, VERSION)
    try:
        header = document.read(_Header, json.loads(content[_HEAD.size : _HEAD.size + header_bytes]))
        states = dict(_elements(header, content, _HEAD.size + header_bytes))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidState(f"it is damaged: {error}") from error
    if header.model_hash != model_hash:
        raise StateMismatch("model", header.model_hash[:12] or "unnamed", model_hash[:12] or "unnamed")
    if header.batch != batch:
        raise StateMismatch("batch", str(header.batch), str(batch), f"Use: model.stream(batch={header.batch})")
    return states


def _elements(header: _Header, content: bytes, place: int) -> list[tuple[str, np.ndarray]]:
    found = []
    for state in header.states:
        dtype = np.dtype(state.dtype)
        if dtype.kind not in "biuf" or min(state.shape, default=0) < 0:
            raise ValueError(f"the state '{state.name}' is no array of numbers")
        count = math.prod(state.shape)
        stored = np.frombuffer(content, dtype.newbyteorder("<"), count, place)
        found.append((state.name, stored.astype(dtype).reshape(state.shape)))
        place += count * dtype.itemsize
    if place != len(content):
        raise ValueError(f"it has {len(content) - place} bytes too many")
    return found


def _checksum(content: bytes) -> bytes:
    # Imported here: it takes a few milliseconds of a start, and few programs save a state.
    import hashlib

    return hashlib.sha256(content).digest()
