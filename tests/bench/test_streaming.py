"""Streams measured: both ways give the same answers, the search finds the most streams, figures mean what they say."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeseq.bench import Settings, read_run, write_run
from edgeseq.bench.capacity import StreamsTrial, bulk_steps, find_capacity, search
from edgeseq.bench.streaming import benchmark_streams, plain_steps
from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime import Model

QUICK = Settings(min_runs=11, min_seconds=0, rounds=6, precision=None, warm_up_max_seconds=0)


@pytest.fixture
def running_sum(write_sums: Callable[..., Path], tmp_path: Path) -> Path:
    """`y` (batch, time) sums up x (batch, time); the state carries the sum."""
    return write_sums(tmp_path / "sum.onnx", chunk_multiple=2)


def test_the_plain_way_carries_the_state_as_a_stream_does(running_sum: Path) -> None:
    model = Model(running_sum)
    x = np.array([[1, 2], [3, 4]], np.float32)
    plain, stream = plain_steps(model, {"x": x}), model.stream(batch=2)
    for _ in range(3):
        [answer] = plain()
        np.testing.assert_array_equal(answer, stream.step(x))
    np.testing.assert_array_equal(answer, [[7, 9], [17, 21]])


def test_each_stream_of_a_bulk_call_has_a_state_of_its_own(running_sum: Path) -> None:
    model = Model(running_sum)
    with model.pool(max_streams=3) as pool:
        call = bulk_steps(model, pool, chunk=2)
        first, second = call(), call()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert len(first) == 3
    for stream, answer in first.items():
        # The same chunk again, and the state is its sum.
        np.testing.assert_allclose(second[stream], answer + answer[:, -1:], rtol=1e-6)


def trial(streams: int, met: bool | None, ns: int = 1) -> StreamsTrial:
    return StreamsTrial(streams=streams, calls=1, p50_ns=ns, p99_ns=1, p99_interval_ns=None, met=met)


@pytest.mark.parametrize("fits", [0, 1, 2, 3, 37, 100, 1000])
def test_the_search_comes_within_five_per_cent(fits: int) -> None:
    trials, searched = search(lambda count, _: trial(count, count <= fits), most=1 << 20, max_seconds=1)
    kept = max((found.streams for found in trials if found.met), default=0)
    assert kept <= fits <= kept * 1.05
    assert searched == "found"
    assert len(trials) < 20


def test_the_search_ends_at_the_most_and_with_the_time() -> None:
    trials, searched = search(lambda count, _: trial(count, True), most=100, max_seconds=1)
    assert (searched, [found.streams for found in trials]) == ("most", [1, 2, 4, 8, 16, 32, 64, 100])
    trials, searched = search(lambda count, _: trial(count, True, ns=300_000_000), most=100, max_seconds=1)
    assert (searched, [found.streams for found in trials]) == ("limit", [1, 2, 4, 8])
    trials, searched = search(lambda count, _: trial(count, None if count > 2 else True), most=100, max_seconds=1)
    assert (searched, len(trials)) == ("limit", 3)


def test_capacity_by_a_clock_that_counts(running_sum: Path) -> None:
    """Each reading is a millisecond after the last: every call takes 1 ms, whatever it does."""
    model = Model(running_sum, threads=2)
    ticks = itertools.count(step=10**6)
    found = find_capacity(model, 10**6, chunk=2, most=4, clock=lambda: next(ticks))
    assert (found.streams, found.searched, found.max_batch, found.per_core) == (4, "most", 64, 2.0)
    assert all(one.p99_ns == 10**6 and one.calls >= 662 and one.met for one in found.trials)
    found = find_capacity(model, 10**6 - 1, chunk=2, most=4, clock=lambda: next(ticks))
    assert (found.streams, found.searched) == (0, "found")
    [only] = found.trials
    # Five were enough to see that none can be quick enough.
    assert (only.calls, only.p50_ns, only.p99_ns, only.met) == (5, 10**6, None, False)


def test_a_run_of_streams(running_sum: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.onnx"
    second.write_bytes(running_sum.read_bytes())
    run = benchmark_streams(
        [running_sum, second], step_ns=10**9, deadline_ns=10**10, max_streams=3, settings=QUICK, max_seconds=20
    )
    assert [result.name for result in run.results] == [
        "sum.onnx, session.run",
        "sum.onnx",
        "second.onnx, session.run",
        "second.onnx",
    ]
    assert run["sum.onnx"].max_abs == 0
    for figures in run.streams:
        assert (figures.chunk, run[figures.name].time_steps) == (2, 2)
        assert figures.speedup is not None
        p50 = run[figures.name].p50_ns
        assert p50 is not None
        assert figures.real_time_factor == p50 / 2e9
        assert figures.capacity is not None
        # Two steps stand for two seconds: a deadline of ten would let streams fall behind.
        assert figures.capacity.deadline_ns == 2 * 10**9
        assert figures.capacity.streams == 3
    write_run(run, tmp_path / "run.json")
    assert [result.name for result in read_run(tmp_path / "run.json").results] == [it.name for it in run.results]
    assert json.loads((tmp_path / "run.json").read_text())["streams"] == json.loads(
        json.dumps([dataclasses.asdict(figures) for figures in run.streams])
    )


def test_without_a_deadline_nothing_is_searched(running_sum: Path) -> None:
    [figures] = benchmark_streams([running_sum], chunk=4, settings=QUICK).streams
    assert (figures.chunk, figures.capacity, figures.real_time_factor) == (4, None, None)


@pytest.mark.parametrize("option", ["chunk", "deadline_ns", "step_ns", "max_streams"])
def test_numbers_that_mean_nothing(running_sum: Path, option: str) -> None:
    with pytest.raises(WrongUsage, match="at least 1, not 0"):
        benchmark_streams([running_sum], **{option: 0})  # type: ignore[arg-type]
    with pytest.raises(WrongUsage, match="nothing to measure"):
        benchmark_streams([])


def test_a_chunk_that_the_file_does_not_take_is_refused_before_anything_is_measured(running_sum: Path) -> None:
    called = []
    with pytest.raises(InputMismatch, match="chunks of 2, 4, 6"):
        benchmark_streams([running_sum], chunk=3, progress=lambda *at: called.append(at))
    assert not called
    with pytest.raises(WrongUsage, match="too many"):
        benchmark_streams([running_sum], threads=10_000)
