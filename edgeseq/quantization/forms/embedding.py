"""Embeddings: tables whose rows are looked up, kept small in memory and decoded after the lookup."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseq.quantization.forms.integers import Array, tensor, to_int8
from edgeseq.quantization.forms.products import CONTRIBUTED, pack, round_blocks
from edgeseq.quantization.layers import Layer
from edgeseq.quantization.rewriting import Declined, Piece


def table_of(layer: Layer, node: onnx.NodeProto) -> tuple[str, Array]:
    """Name and values of the table of a Gather that looks up rows; Declined when it looks up anything else."""
    table = layer.constants[node.input[0]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if table.ndim != 2 or axis not in (0, -2):
        raise Declined(f"it gathers along axis {axis} of an array of rank {table.ndim}, not rows of a table")
    return node.input[0], table


def int8_rows(layer: Layer, node: onnx.NodeProto) -> Piece:
    """Rows of int8, each with its own scale."""
    name, table = table_of(layer, node)
    quantized, scale = to_int8(table, axes=(1,))
    looked_up, scales, numbers = (f"{node.output[0]}/{role}" for role in ("int8", "scale", "numbers"))
    return Piece(
        nodes=(
            helper.make_node("Gather", [f"{name}/int8", node.input[1]], [looked_up], node.name, axis=0),
            helper.make_node("Gather", [f"{name}/scale", node.input[1]], [scales], f"{node.name}/scale", axis=0),
            helper.make_node("Cast", [looked_up], [numbers], f"{node.name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [numbers, scales], node.output, f"{node.name}/decode"),
        ),
        initializers=(tensor(f"{name}/int8", quantized), tensor(f"{name}/scale", scale)),
    )


def rows_of_4_bits(layer: Layer, node: onnx.NodeProto, size: int) -> Piece:
    """Rows of 4-bit numbers, a scale for each `size` of a row."""
    name, table = table_of(layer, node)
    rows, features = table.shape
    if features % 2:
        raise Declined(f"rows of {features} numbers do not fill whole bytes with 4 bits each")
    count = -(-features // size)
    padded = np.zeros((rows, count * size), np.float32)
    padded[:, :features] = table
    numbers, scale = round_blocks(padded.reshape(rows, count, size), 4, cut=True)
    packed = pack(numbers.reshape(rows, -1)[:, :features], 4)
    made = f"{name}/4bit{size}"
    return Piece(
        nodes=(
            helper.make_node(
                "GatherBlockQuantized",
                [made, node.input[1], f"{made}/scale"],
                node.output,
                node.name,
                domain=CONTRIBUTED,
                gather_axis=0,
                quantize_axis=1,
                block_size=size,
            ),
        ),
        initializers=(tensor(made, packed), tensor(f"{made}/scale", scale[..., 0])),
        domains={CONTRIBUTED: 1},
    )
