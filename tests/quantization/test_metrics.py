"""Errors and metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.quantization.metrics import accuracy, choose_metric, mae, relative_rms, tolerance_for


def batches(*outputs: list[float]) -> list[list[np.ndarray]]:
    """One batch with these outputs."""
    return [[np.array(output, np.float32) for output in outputs]]


def test_relative_rms_is_of_the_worst_output() -> None:
    reference = batches([3.0, 4.0], [100.0, 0.0])
    # sqrt(0.25 / 25) = 0.1 and sqrt(25 / 10000) = 0.05
    assert relative_rms(reference, batches([3.5, 4.0], [100.0, 5.0])) == pytest.approx(0.1)
    assert relative_rms(reference, batches([3.0, 4.0], [100.0, 5.0])) == pytest.approx(0.05)
    assert relative_rms(reference, reference) == 0.0


def test_relative_rms_is_over_all_batches() -> None:
    reference = [*batches([1.0]), *batches([7.0])]
    answers = [*batches([1.0]), *batches([8.0])]
    assert relative_rms(reference, answers) == pytest.approx(math.sqrt(1 / 50))


@pytest.mark.parametrize("answer", [[math.nan], [math.inf], [1.0, 2.0]])
def test_answers_that_are_no_numbers_or_of_another_shape_are_infinitely_wrong(answer: list[float]) -> None:
    assert relative_rms(batches([1.0]), batches(answer)) == math.inf


def test_where_the_reference_is_zero_any_difference_is_infinite() -> None:
    assert relative_rms(batches([0.0]), batches([0.0])) == 0.0
    assert relative_rms(batches([0.0]), batches([1e-9])) == math.inf


def test_the_tolerance_covers_every_row_alone_with_a_margin_of_two() -> None:
    reference = [[np.array([[1000.0], [0.5]], np.float32)]]
    answers = [[np.array([[1001.0], [0.5101]], np.float32)]]
    # The second row is off by 0.0101 against max(1, 0.5): twice that, rounded up to two digits. The first row's 1000
    # must not excuse it.
    assert tolerance_for(reference, answers) == 0.021
    assert tolerance_for(reference, reference) == 1e-5


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ([0, 1, 1, 0], [[0.1], [0.9], [0.4], [0.3]], 0.75),
        ([[0], [1], [1], [0]], [0.1, 0.9, 0.4, 0.3], 0.75),
        ([2, 0], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], 0.5),
        ([2.0, 0.0], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], 0.5),
        ([False, True], [[0.1], [0.9]], 1.0),
        ([[0, 1]], [[[0.9, 0.1], [0.9, 0.1]]], 0.5),
    ],
)
def test_accuracy(labels: list[object], predictions: list[object], expected: float) -> None:
    assert accuracy(np.array(labels), np.array(predictions)) == expected


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        ([2, 99], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], "such as 99. For accuracy, labels are .* from 0 to 2, and"),
        ([-1, 0], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], "such as -1"),
        ([0.3, 1], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], "such as 0.3"),
        ([[0, 0, 1], [1, 0, 0]], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], r"shape \(2, 3\) .*One-hot labels become"),
        ([1, 0, 1], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], r"shape \(3,\) for answers of shape \(2,\)"),
        ([2, 0], [[0.1], [0.9]], "such as 2. For accuracy, labels are 0 or 1, because"),
        ([0.7, 0.0], [[0.1], [0.9]], "such as 0.7"),
    ],
)
def test_labels_that_are_no_class_numbers_have_no_accuracy(
    labels: list[object], predictions: list[object], words: str
) -> None:
    with pytest.raises(WrongUsage, match=words):
        accuracy(np.array(labels), np.array(predictions))


def test_mae_does_not_broadcast_rows_against_columns() -> None:
    assert mae(np.array([1, 2]), np.array([[2.0], [4.0]])) == 1.5
    with pytest.raises(InputMismatch, match=r"labels of shape \(3,\) do not fit answers of shape \(2, 1\)"):
        mae(np.array([1, 2, 3]), np.array([[2.0], [4.0]]))


def test_a_drop_is_worse_in_the_metrics_own_direction() -> None:
    assert choose_metric("accuracy", None).drop(0.9, 0.8) == pytest.approx(0.1)
    assert choose_metric("mae", None).drop(12.0, 12.5) == pytest.approx(0.5)


def test_a_function_gets_all_outputs_in_order() -> None:
    metric = choose_metric(lambda labels, outputs: float(outputs[1].sum() + labels.sum()), True)
    assert metric(np.array([1, 1, 1]), [*batches([0.0], [2.0]), *batches([0.0], [5.0])]) == 10.0


@pytest.mark.parametrize(
    ("metric", "direction", "words"),
    [
        ("f1", None, "unknown metric 'f1'; allowed: accuracy, mae"),
        ("mae", True, "for the metric 'mae', greater_is_better is False"),
        (lambda *_: 0.0, None, "needs greater_is_better"),
        (3, None, "metric must be a name or a function"),
    ],
)
def test_metrics_that_cannot_be(metric: object, direction: bool | None, words: str) -> None:
    with pytest.raises(WrongUsage, match=words):
        choose_metric(metric, direction)  # type: ignore[arg-type]


def test_a_metric_that_gives_no_number_is_refused() -> None:
    with pytest.raises(WrongUsage, match="gives nan, not a number"):
        choose_metric(lambda *_: math.nan, True)(np.array([1]), batches([0.0]))


def test_accuracy_of_several_outputs_is_refused() -> None:
    with pytest.raises(WrongUsage, match="the file has 2 outputs; accuracy and mae take one"):
        choose_metric("accuracy", None)(np.array([1]), batches([0.0], [1.0]))
