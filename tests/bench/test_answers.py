"""Are the answers of two subjects the same?"""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgeseq.bench.answers import compare_answers, flatten


def test_answers_are_flattened_in_keras_order() -> None:
    nested = {"b": [np.array(1), (np.array(2),)], "a": np.array(0)}
    assert [int(array) for array in flatten(nested)] == [0, 1, 2]
    assert len(flatten(3.5)) == 1


def test_the_largest_difference_of_all_outputs_counts() -> None:
    mine = (np.array([1.0, 2.0]), np.array([3.0]))
    assert compare_answers(mine, (np.array([1.0, 2.125]), np.array([2.75]))) == (0.25, "compared")
    assert compare_answers(mine, mine) == (0.0, "compared")


def test_integers_do_not_wrap_around() -> None:
    assert compare_answers((np.array([11], np.uint8),), (np.array([12], np.uint8),)) == (1.0, "compared")


def test_answers_further_off_than_eight_bits_are_another_models() -> None:
    reference = (np.array([100.0]), np.array([3.0, 4.0]))
    assert compare_answers((np.array([100.0]), np.array([3.0, 4.5])), reference) == (0.5, "compared")
    assert compare_answers((np.array([100.0]), np.array([3.0, 5.0])), reference) == (
        1.0,
        "other answers: output 1 differs by 20% of the reference's RMS, and 10% is the most allowed",
    )
    zeros = np.zeros(2)
    assert compare_answers((zeros,), (zeros,)) == (0.0, "compared")
    assert compare_answers((zeros + 1e-9,), (zeros,))[1].startswith(
        "other answers: output 0 differs from a reference of"
    )


@pytest.mark.parametrize(
    ("mine", "reason"),
    [
        ((np.zeros(2), np.zeros(2)), "2 outputs, the reference has 1"),
        ((np.zeros((1, 2)),), r"output 0 has shape \(1, 2\), the reference's \(2,\)"),
        ((np.array(["a", "b"]),), "output 0 is <U1"),
        ((np.array([np.nan, 0.0]),), "not finite"),
        ((np.array([np.inf, 0.0]),), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_said(mine: tuple[np.ndarray, ...], reason: str) -> None:
    difference, said = compare_answers(mine, (np.zeros(2),))
    assert difference is None
    assert re.search(reason, said)
