"""Numbers as small integers: what is packed is read again by onnxruntime, and no nearer integers are to be had."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeseq.quantization.forms import products
from edgeseq.quantization.forms.integers import tensor, to_int8
from edgeseq.quantization.forms.ranges import best_bound, best_range, scale_and_zero
from edgeseq.quantization.rewriting import Declined
from edgeseq.runtime.providers import open_session

BLOCKS = st.sampled_from([(bits, size) for bits in (4, 8) for size in (16, 32, 64, 128)])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def product(form: products.Form, x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """What onnxruntime makes of x W + b in this form."""
    inputs = ["x", "W", *([] if bias is None else ["b"])]
    made = form(helper.make_node("MatMul", inputs, ["y"], "node"), weights)
    value = helper.make_tensor_value_info
    constants = [*made.initializers, *([] if bias is None else [tensor("b", bias)])]
    graph = helper.make_graph(
        made.nodes,
        "test",
        [value("x", TensorProto.FLOAT, ["rows", len(weights)])],
        [value("y", TensorProto.FLOAT, ["rows", weights.shape[1]])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(products.CONTRIBUTED, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    [answer] = open_session(model.SerializeToString(), threads=1).run(None, {"x": x})
    return answer


def decoded(weights: np.ndarray, bits: int, size: int) -> np.ndarray:
    """The weights that packed blocks stand for."""
    packed, scale, zeros = products.to_blocks(weights, bits, size)
    middle = np.full(scale.shape, 128.0)
    if zeros is not None:
        middle = unpacked(zeros)[:, : scale.shape[1]].astype(float)
    numbers = packed if bits == 8 else unpacked(packed)
    values = (numbers - middle[..., None]) * scale[..., None]
    return values.reshape(len(scale), -1)[:, : len(weights)].T


def unpacked(packed: np.ndarray) -> np.ndarray:
    """Two numbers of 4 bits a byte."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


@settings(max_examples=60, deadline=None)
@given(inputs=st.integers(1, 300), outputs=st.integers(1, 20), block=BLOCKS, seed=st.integers(0, 9))
def test_packed_numbers_are_near_what_they_stand_for(
    inputs: int, outputs: int, block: tuple[int, int], seed: int
) -> None:
    bits, size = block
    weights = normal(inputs, outputs, seed=seed)
    packed, scale, zeros = products.to_blocks(weights, bits, size)
    count = -(-inputs // size)
    assert (zeros is None) == (bits == 8)
    assert zeros is None or zeros.shape == (outputs, -(-count // 2))
    assert packed.shape == (outputs, count, size * bits // 8)
    assert (packed.dtype, scale.shape, scale.dtype) == (np.uint8, (outputs, count), np.float32)
    each = np.repeat(np.abs(scale), size, axis=1)[:, :inputs].T
    off = np.abs(decoded(weights, bits, size) - weights)
    # Half a step, and up to as much again at an end of the range: of 8 bits the highest number is one step short of the
    # lowest, of 4 bits the zero is rounded, too.
    assert (off <= each * 1.001).all()


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 200), outputs=st.integers(1, 20), rows=st.integers(1, 4), block=BLOCKS, bias=st.booleans())
def test_onnxruntime_reads_them_as_they_were_packed(
    inputs: int, outputs: int, rows: int, block: tuple[int, int], bias: bool
) -> None:
    weights, x = normal(inputs, outputs), normal(rows, inputs, seed=1)
    added = normal(outputs, seed=2) if bias else None
    length = min(block[1], max(16, 1 << (inputs - 1).bit_length()))
    exact = x @ decoded(weights, block[0], length) + (0 if added is None else added)
    found = product(products.blocks(*block), x, weights, added)
    # x is rounded to 8 bits by blocks of a row: half of 1/127 of the largest number in each.
    bound = np.abs(x).max() / 127 / 2 * np.abs(weights).sum(0).max() * 1.3
    np.testing.assert_allclose(found, exact, rtol=0, atol=float(bound) + 1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [16, 128])
def test_what_is_zero_stays_zero(bits: int, size: int) -> None:
    weights = normal(200, 3)
    weights[:, 1] = 0
    weights[::2, 2] = 0
    found = decoded(weights, bits, size)
    assert (found[:, 1] == 0).all()
    assert (found[::2, 2] == 0).all()


def test_cutting_the_largest_numbers_makes_the_others_finer() -> None:
    block = normal(1024, 64).T.reshape(64, 8, 128)

    def error(*, cut: bool) -> float:
        numbers, scale = products.round_blocks(block, 4, cut=cut)
        return float(np.square((numbers.astype(np.float32) - 8) * scale - block).mean())

    assert error(cut=True) < 0.9 * error(cut=False)
    # One number that is far beyond all others is not cut.
    block[0, 0, 5] = 100
    numbers, scale = products.round_blocks(block, 4, cut=True)
    assert (numbers[0, 0, 5] - 8.0) * scale[0, 0, 0] == pytest.approx(100)


FORMS: dict[str, Any] = {
    "dynamic": products.dynamic,
    "bounded": lambda bits: products.bounded(4.0, bits),
    "ranged": lambda bits: products.ranged(-4.0, 4.5, bits),
}


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_8_bits(form: str, bits: int, bias: bool) -> None:
    weights, x = normal(100, 30), np.clip(normal(5, 100, seed=1), -4, 4)
    added = normal(30, seed=2) if bias else None
    exact = x @ weights + (0 if added is None else added)
    found = product(FORMS[form](bits), x, weights, added)
    assert 0 < np.square(found - exact).mean() < 0.02**2 * np.square(exact).mean()


def test_weights_of_7_bits_never_sum_beyond_16_bits() -> None:
    numbers, scale = to_int8(normal(50, 20) * 3, (0,), 7)
    assert np.abs(numbers.astype(int)).max() == 64
    # Two products with the largest unsigned number of 8 bits.
    assert 2 * 255 * np.abs(numbers.astype(int)).max() <= np.iinfo(np.int16).max
    assert numbers * scale == pytest.approx(normal(50, 20) * 3, abs=float(scale.max()) * 0.51)


@settings(max_examples=60, deadline=None)
@given(low=st.floats(-100, 100), width=st.floats(0.01, 100), outlier=st.floats(0, 1000), count=st.integers(2, 3000))
def test_a_range_holds_zero_and_is_no_worse_than_the_whole(
    low: float, width: float, outlier: float, count: int
) -> None:
    numbers = np.random.default_rng(0).uniform(low, low + width, count).astype(np.float32)
    numbers[0] += outlier

    def error(ends: tuple[float, float]) -> float:
        scale, zero = scale_and_zero(*ends)
        back = (np.clip(np.rint(numbers / scale) + zero, 0, 255) - zero) * scale
        return float(np.square(back - numbers).mean())

    if not numbers.any():
        return
    chosen = best_range(numbers)
    whole = min(float(numbers.min()), 0.0), max(float(numbers.max()), 0.0)
    assert whole[0] <= chosen[0] <= 0 <= chosen[1] <= whole[1]
    assert error(chosen) <= error(whole) * (1 + 1e-6)
    assert 0 < best_bound(numbers) <= max(-whole[0], whole[1]) * (1 + 1e-6)


def test_a_range_leaves_out_what_is_rare() -> None:
    numbers = normal(100_000)
    low, high = best_range(numbers)
    assert numbers.min() < low < -3
    assert 3 < high < numbers.max()
    assert 3 < best_bound(numbers) < np.abs(numbers).max()
    assert best_range(np.abs(numbers))[0] == 0


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([0.0, 0.0], "its input is zero in all samples"), ([1.0, np.nan], "its input is not finite on the samples")],
)
def test_where_there_is_no_range_it_is_said(numbers: list[float], words: str) -> None:
    for choose in (best_range, best_bound):
        with pytest.raises(Declined, match=words):
            choose(np.array(numbers, np.float32))
