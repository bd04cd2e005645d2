"""Reading an ONNX file to look into it, its weights' own files left out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError

from edgeseq.errors import InvalidFile
from edgeseq.files import StrPath, check_input


def load(path: StrPath) -> onnx.ModelProto:
    """The model in a file. Raises MissingInput when there is none, InvalidFile when it is damaged or no model."""
    found = check_input(path)
    try:
        model = onnx.load(os.fspath(found), load_external_data=False)
    except DecodeError as error:
        raise InvalidFile(path, "damaged, or not an ONNX model") from error
    for node in nodes(model.graph):
        # What is no text is handed out as bytes.
        if not all(isinstance(text, str) for text in (node.name, node.op_type, node.domain, *node.input, *node.output)):
            raise InvalidFile(path, "damaged: a name in it is no text in UTF-8")
    return model


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of bodies right after the node they belong to."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)
            for inner in attribute.graphs:
                yield from nodes(inner)
