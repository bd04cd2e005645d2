"""Weights that no ONNX file can hold: in one file beside it, named by its content's hash.

The data file is there before the `.onnx` is, whose rename is the commit: at any time, what has the `.onnx`'s name finds
its weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeseq import files
from edgeseq.errors import InvalidFile
from edgeseq.runtime import wire

LARGEST_INSIDE_BYTES = 2**31 - 2**24
"""A protobuf message is smaller than 2 GiB, and what is not weights needs some room in it."""

_SMALLEST_OUTSIDE_BYTES = 1024
# What Windows maps into memory begins at such an offset; elsewhere 4096 would do.
_ALIGNMENT = 65536


class DataFile:
    """The weights of one `.onnx` in the making, as far as they do not fit into it."""

    def __init__(self, target: Path):
        self._target = target
        self.path: Path | None = None
        """The file; None while all weights are inside the `.onnx`."""

    def move_out(self, model: ir.Model) -> None:
        """Write the weights and let `model` read them from there, if they take more than LARGEST_INSIDE_BYTES."""
        tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
        if sum(tensor.nbytes for tensor in tensors) <= LARGEST_INSIDE_BYTES:
            return
        large = [tensor for tensor in tensors if tensor.nbytes >= _SMALLEST_OUTSIDE_BYTES]
        digest = hashlib.sha256()
        for piece in _pieces(large):
            digest.update(piece)
        self.path = self._target.with_name(f"{self._target.stem}.{digest.hexdigest()[:12]}.data")
        with files.whole_file(self.path) as temporary, temporary.open("wb") as file:
            for piece in _pieces(large):
                file.write(piece)
            file.flush()
        for tensor, offset in zip(large, _offsets(large), strict=True):
            assert tensor.name is not None
            model.graph.initializers[tensor.name].const_value = ir.ExternalTensor(
                self.path.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(list(tensor.shape.numpy())),
                name=tensor.name,
                base_dir=self.path.parent,
            )


@contextlib.contextmanager
def data_file(target: Path) -> Iterator[DataFile]:
    """The data file of the `.onnx` that is to be renamed to `target` meanwhile.

    Afterwards, also after a failure, there are those data files of `target` that the `.onnx` there names: an earlier
    one goes only when the new `.onnx` is in its place, and a new one stays only then.
    """
    earlier = _named_by(target)
    data = DataFile(target)
    try:
        yield data
    finally:
        for path in {*earlier, *([data.path] if data.path else [])} - _named_by(target):
            path.unlink(missing_ok=True)


def _named_by(target: Path) -> set[Path]:
    """The data files, by our own naming, that the `.onnx` at `target` reads; other tools' files are left alone."""
    if not target.exists():
        return set()
    try:
        names = wire.read_data_files(target)
    except InvalidFile:
        # Whatever is about to be overwritten, it needs no data file.
        return set()
    ours = re.compile(re.escape(target.stem) + r"\.[0-9a-f]{12}\.data")
    return {target.with_name(name) for name in names if ours.fullmatch(name)}


def _offsets(tensors: Sequence[ir.TensorProtocol]) -> Iterator[int]:
    position = 0
    for tensor in tensors:
        yield position
        position += tensor.nbytes + -tensor.nbytes % _ALIGNMENT


def _pieces(tensors: Sequence[ir.TensorProtocol]) -> Iterator[memoryview[int] | bytes]:
    """The file's content: each tensor, little-endian, and the room up to the next one."""
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.numpy())
        yield array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data
        yield bytes(-tensor.nbytes % _ALIGNMENT)
