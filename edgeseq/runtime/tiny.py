"""A model of almost nothing, to see whether a session can be opened at all."""

from __future__ import annotations


def tiny_model() -> bytes:
    """An ONNX file that adds x, float32 of shape (2,), to itself, written as protobuf without the onnx package.

    Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
    """

    def message(number: int, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return bytes([number << 3 | 2, len(content)]) + content

    def integer(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    def tensor(number: int, name: bytes) -> bytes:
        shape = message(2, message(1, integer(1, 2)))
        return message(number, message(1, name), message(2, message(1, integer(1, 1), shape)))

    node = message(1, message(1, b"x"), message(1, b"x"), message(2, b"y"), message(4, b"Add"))
    graph = message(7, node, message(2, b"tiny"), tensor(11, b"x"), tensor(12, b"y"))
    return integer(1, 8) + graph + message(8, integer(2, 17))
