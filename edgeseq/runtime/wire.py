"""Metadata and tensors of ONNX files, read straight from the protobuf wire format: devices have no onnx package.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; the encoding is
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import collections
import contextlib
import math
import mmap
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from edgeseq import files
from edgeseq.errors import InvalidFile

Field = int | memoryview

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_NODE_NAME, _NODE_OP_TYPE = 3, 4
_DIMS, _DATA_TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14

# Where tensors are: message -> number of a field -> the message in it. Attributes hold tensors, and the graphs of an
# If, a Loop or a Scan.
_HOLDS = {
    "model": {_MODEL_GRAPH: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {_EXTERNAL: "entry"},
}

_HOLD_NODES = frozenset({"graph", "function", "node", "attribute"})

# TensorProto.DataType -> numpy dtype name, and the field that holds the elements when raw_data does not.
_DTYPES = {
    1: ("float32", 4),
    2: ("uint8", 5),
    3: ("int8", 5),
    4: ("uint16", 5),
    5: ("int16", 5),
    6: ("int32", 5),
    7: ("int64", 7),
    9: ("bool", 5),
    10: ("float16", 5),
    11: ("float64", 10),
    12: ("uint32", 11),
    13: ("uint64", 11),
}
_CODES = {name: code for code, (name, _) in _DTYPES.items()}

_FOREIGN = {b"PK": "a ZIP archive, such as a .keras file", b"\x89HDF": "an HDF5 file, such as a .h5 file"}


def read_metadata(path: files.StrPath) -> dict[str, str]:
    """The metadata of an ONNX model, by key. The graph, where the weights are, is stepped over and not read.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model.
    """
    with _opened(path) as data:
        for magic, what in _FOREIGN.items():
            if data[: len(magic)] == magic:
                raise ValueError(f"it is {what}, not an ONNX model. Make one with: edgeseq export")
        try:
            top = list(_fields(data))
        except ValueError as error:
            raise ValueError(f"it is not an ONNX model, or a damaged one ({error})") from error
        if not any(number == _MODEL_GRAPH and not isinstance(value, int) for number, value in top):
            raise ValueError("it is not an ONNX model (it holds no graph)")
        entries = [dict(_fields(_span(value))) for number, value in top if number == _MODEL_METADATA]
        return {_text(entry.get(_ENTRY_KEY)): _text(entry.get(_ENTRY_VALUE)) for entry in entries}


def write_with_metadata(source: files.StrPath, target: files.StrPath, entries: Mapping[str, str]) -> None:
    """Write the ONNX model in `source` to `target`, with `entries` in its metadata; others of other keys stay.

    The graph is copied as it is, and not read. Raises what `read_metadata` does.
    """
    with _opened(source) as data, files.whole_file(target) as temporary, temporary.open("wb") as file:
        position = 0
        while position < len(data):
            number, value, end = _field(data, position)
            if number != _MODEL_METADATA or _text(dict(_fields(_span(value))).get(_ENTRY_KEY)) not in entries:
                file.write(data[position:end])
            position = end
        for key, text in entries.items():
            parts = [(_ENTRY_KEY, key.encode()), (_ENTRY_VALUE, text.encode())]
            file.write(_delimited(_MODEL_METADATA, b"".join(_delimited(number, part) for number, part in parts)))


def read_data_files(path: files.StrPath) -> tuple[str, ...]:
    """Names, relative to the file's folder, of the files that hold weights of an ONNX model; most have none.

    Weights are initializers and constants, those of subgraphs and functions included; their values are stepped over.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model.
    """
    with _opened(path) as data:
        names: dict[str, None] = {}
        messages = collections.deque([(data, "model")])
        while messages:
            message, kind = messages.popleft()
            if kind == "entry":
                entry = dict(_fields(message))
                if _text(entry.get(_ENTRY_KEY)) == "location":
                    names[_text(entry.get(_ENTRY_VALUE))] = None
                continue
            held = _HOLDS[kind]
            messages.extend((_span(value), held[number]) for number, value in _fields(message) if number in held)
        return tuple(names)


def find_node(path: files.StrPath, op_types: Collection[str]) -> tuple[str, str] | None:
    """Op type and name of the first node of one of `op_types`, in subgraphs and functions too; None where none is.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model.
    """
    with _opened(path) as data:
        messages = collections.deque([(data, "model")])
        while messages:
            message, kind = messages.popleft()
            held = {number: inner for number, inner in _HOLDS[kind].items() if inner in _HOLD_NODES}
            told: dict[int, str] = {}
            for number, value in _fields(message):
                if number in held:
                    messages.append((_span(value), held[number]))
                elif kind == "node" and number in (_NODE_NAME, _NODE_OP_TYPE):
                    told[number] = _text(value)
            if told.get(_NODE_OP_TYPE) in op_types:
                return told[_NODE_OP_TYPE], told.get(_NODE_NAME, "")
        return None


def read_tensor(path: files.StrPath) -> tuple[str, np.ndarray]:
    """Name and values of a TensorProto file, such as the `.pb` samples beside a model.

    Raises MissingInput when there is no file, InvalidFile when it is damaged or holds a type numpy has not.
    """
    with _opened(path) as data:
        fields: dict[int, list[Field]] = {}
        for number, value in _fields(data):
            fields.setdefault(number, []).append(value)
        code = fields.get(_DATA_TYPE, [0])[-1]
        if not isinstance(code, int) or code not in _DTYPES:
            raise ValueError(f"it is not a tensor of numbers (ONNX data type {code})")
        if fields.get(_LOCATION, [0])[-1] != 0:
            raise ValueError("its values are in another file, which is not supported")
        values = _values(fields, *_DTYPES[code])
        shape = _integers(fields.get(_DIMS, []))
        if min(shape, default=0) < 0 or math.prod(shape) != values.size:
            raise ValueError(f"it holds {values.size} values, which do not fill its shape {tuple(shape)}")
        return _text(fields.get(_NAME, [None])[-1]), values.reshape(shape)


def write_tensor(path: files.StrPath, name: str, array: np.ndarray) -> None:
    """Write `array` as a TensorProto file, whole or not at all; `read_tensor` and the onnx package read it.

    Raises ValueError for a dtype that ONNX has no number type for.
    """
    if array.dtype.name not in _CODES:
        raise ValueError(f"a TensorProto holds {', '.join(_CODES)}; got {array.dtype}")
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = [_encoded(_DIMS << 3) + _encoded(length) for length in array.shape]
    parts.append(_encoded(_DATA_TYPE << 3) + _encoded(_CODES[array.dtype.name]))
    parts += [_delimited(number, content) for number, content in ((_NAME, name.encode()), (_RAW, raw))]
    files.write_bytes(path, b"".join(parts))


@contextlib.contextmanager
def _opened(path: files.StrPath) -> Iterator[memoryview]:
    """The file's bytes, mapped; a ValueError or OSError while they are in use becomes InvalidFile."""
    found = files.check_input(path)
    try:
        with found.open("rb") as file:
            if not found.stat().st_size:
                raise ValueError("it is empty")
            # Not closed by name: slices may live on in a traceback, and the map goes with the last of them.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield data
    except ValueError as error:
        raise InvalidFile(path, str(error)) from error
    except OSError as error:
        raise InvalidFile(path, error.strerror or str(error)) from error


def _fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    """The fields of one message in file order: number, and an int (varint) or the bytes."""
    position = 0
    while position < len(data):
        number, value, position = _field(data, position)
        yield number, value


def _field(data: memoryview, position: int) -> tuple[int, Field, int]:
    """Number and value of the field at `position`, and the position after it."""
    key, position = _varint(data, position)
    number, kind = key >> 3, key & 7
    if number == 0:
        raise ValueError(f"no field at byte {position}")
    if kind == 0:
        value, position = _varint(data, position)
        return number, value, position
    if kind == 2:
        size, position = _varint(data, position)
    elif kind in (1, 5):
        size = 8 if kind == 1 else 4
    else:
        raise ValueError(f"unknown wire type {kind} at byte {position}")
    if size > len(data) - position:
        raise ValueError(f"field {number} at byte {position} is cut short")
    return number, data[position : position + size], position + size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The variable-length integer at `position`, as a signed 64-bit one, and the position after it."""
    result = 0
    for offset, byte in enumerate(data[position : position + 10]):
        result |= (byte & 0x7F) << 7 * offset
        if byte < 0x80:
            return (result + 2**63) % 2**64 - 2**63, position + offset + 1
    raise ValueError(f"the integer at byte {position} is cut short")


def _values(fields: dict[int, list[Field]], name: str, typed_field: int) -> np.ndarray:
    stored = np.dtype(name).newbyteorder("<")
    if _RAW in fields:
        content = _span(fields[_RAW][-1])
    elif typed_field in (4, 10):
        # Packed or one by one, fixed-width elements are the same bytes in a row.
        content = memoryview(b"".join(_span(value) for value in fields.get(typed_field, [])))
    else:
        integers = np.array(_integers(fields.get(typed_field, [])), np.int64)
        # Half precision is kept as its bits; uint64 wraps around int64.
        bits = np.dtype({"float16": "uint16", "uint64": "int64"}.get(name, name))
        if not np.array_equal(integers.astype(bits), integers):
            raise ValueError(f"it holds integers that are not {name}")
        values: np.ndarray = integers.astype(bits).view(name)
        return values
    if len(content) % stored.itemsize:
        raise ValueError(f"its {len(content)} bytes are no whole number of {name}")
    if name == "bool":
        return np.frombuffer(content, np.uint8).astype(bool)
    return np.frombuffer(content, stored).astype(np.dtype(name))


def _integers(values: list[Field]) -> list[int]:
    """A repeated integer field, whose elements come one by one or packed."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            element, position = _varint(value, position)
            found.append(element)
    return found


def _span(value: Field) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field has the wrong wire type")
    return value


def _text(value: Field | None) -> str:
    return "" if value is None else str(_span(value), "utf-8")


def _delimited(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    """`value` (not negative) as a variable-length integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
