"""Calls that repeat take a shorter way: they must answer, refuse and keep as every call does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeseq.errors import InputMismatch
from edgeseq.runtime import Model, repeat
from edgeseq.runtime.bound import Bound
from edgeseq.runtime.manifest import RecurrentLayer
from edgeseq.runtime.repeat import Repeat


def some(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What went the short way."""
    taken: list[Any] = []
    run = Repeat.run

    def noted(self: Repeat, x: Any, source: int = 0) -> Any:
        found = run(self, x, source)
        if found is not None:
            taken.append(x)
        return found

    monkeypatch.setattr(Repeat, "run", noted)
    return taken


@pytest.mark.parametrize("streaming", [False, True])
def test_the_sixth_call_of_a_shape_is_short_and_answers_alike(
    make_lstm: Callable[..., Any], repeats: list[Any], streaming: bool
) -> None:
    lstm = make_lstm(streaming=streaming)
    model = Model(lstm.path, threads=1)
    inputs = [some(2, 5, 3, seed=seed) for seed in range(9)]
    answers = [model(x) for x in inputs]
    assert len(repeats) == 4
    for x, answer in zip(inputs, answers, strict=True):
        # Each from the initial state, and each array its own: the same run as a fresh model's first call.
        np.testing.assert_array_equal(answer, Model(lstm.path, threads=1)(x))


def test_other_shapes_and_kinds_go_the_long_way_and_back(make_lstm: Callable[..., Any], repeats: list[Any]) -> None:
    lstm = make_lstm()
    model = Model(lstm.path, threads=1)
    same = [some(1, 4, 3)] * 5
    for x in (*same, some(2, 4, 3), *same[:3], some(1, 4, 3).tolist(), [some(1, 4, 3)]):
        np.testing.assert_allclose(model(x), lstm.answer(np.asarray(x, np.float32).reshape(-1, 4, 3)), atol=1e-6)
    assert repeats == []
    assert len(model(some(1, 4, 3))) == 1
    assert len(repeats) == 1


def test_numbers_that_are_not_finite_are_refused_the_short_way_too(
    make_lstm: Callable[..., Any], repeats: list[Any]
) -> None:
    fused = RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",))
    model = Model(make_lstm(recurrent=(fused,)).path, threads=1)
    x = some(1, 4, 3)
    expected = model(x)
    for _ in range(5):
        model(x)
    bad = x.copy()
    bad[0, 1, 2] = np.nan
    with pytest.raises(InputMismatch, match="NaN or infinity, first at"):
        model(bad)
    np.testing.assert_array_equal(model(x), expected)
    assert len(repeats) == 2


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The lengths that memory was made for."""
    found: list[Any] = []

    class Noted(Bound):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            found.append(arguments[3])

    monkeypatch.setattr(repeat, "Bound", Noted)
    return found


def test_large_arrays_stay_where_they_lie(make_lstm: Callable[..., Any], repeats: list[Any], made: list[Any]) -> None:
    model = Model(make_lstm().path, threads=1)
    x = some(1, 100_000, 3)
    for _ in range(6):
        model(x)
    assert (repeats, made) == ([], [])


def test_lengths_that_rarely_come_again_make_none(make_lstm: Callable[..., Any], made: list[Any]) -> None:
    model = Model(make_lstm().path, threads=1)
    for length in (4, 4, 5, 5, 4, 4, 4, 4, 5, 4, 4, 4, 4):
        model(some(1, length, 3))
    assert made == []
    model(some(1, 4, 3))
    assert made == [{"batch": 1, "time": 4}]


def test_what_always_goes_the_long_way_makes_one_repeat(make_lstm: Callable[..., Any], made: list[Any]) -> None:
    model, x = Model(make_lstm().path, threads=1), some(1, 4, 3)
    for _ in range(20):
        model(x.tolist())
    assert made == [{"batch": 1, "time": 4}]


def test_threads_repeat_side_by_side(make_lstm: Callable[..., Any], repeats: list[Any]) -> None:
    lstm = make_lstm()
    model = Model(lstm.path, threads=1)
    wrong: list[int] = []

    def work(number: int) -> None:
        x = some(2, 5, 3, seed=number)
        expected = lstm.answer(x)
        for _ in range(200):
            if not np.allclose(model(x), expected, atol=1e-6):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert len(repeats) > 600


def test_a_stream_that_is_reset_goes_on_the_short_way_from_its_initial_state(
    make_lstm: Callable[..., Any], repeats: list[Any]
) -> None:
    stream = Model(make_lstm(streaming=True, initial=0.5).path, threads=1).stream(batch=2)
    x = some(2, 1, 3)
    first = [stream.step(x) for _ in range(4)]
    taken = len(repeats)
    stream.reset()
    again = [stream.step(x) for _ in range(4)]
    assert len(repeats) == taken + 4
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(first[0], first[1])
