"""Small ONNX files, a clock that counts instead of waiting, and made-up results: no test here depends on time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.bench.machine import Machine
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.sample import ClockFacts, Settings, WarmUp
from edgeseq.bench.stats import Interval
from edgeseq.runtime.manifest import Manifest, TensorSpec, ThreadAdvice


class FakeClock:
    """Nanoseconds that pass only when something says so, and `tick` of them at each reading."""

    def __init__(self, tick: int = 0):
        self.now = 0
        self.tick = tick

    def __call__(self) -> int:
        self.now += self.tick
        return self.now

    def working(self, ns: int, answer: object = 0.0) -> Callable[[], object]:
        """A call that takes `ns` and returns `answer`."""

        def call() -> object:
            self.now += ns
            return answer

        return call


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ticking_clock() -> FakeClock:
    return FakeClock(tick=50)


@pytest.fixture
def make_lstm(tmp_path: Path) -> Callable[..., Path]:
    """Write an LSTM of 3 features and 4 units, x (batch, time, 3) -> y (batch, 4), and return its path."""

    def make(
        name: str = "lstm.onnx",
        *,
        batch: str | int = "batch",
        time: str | int = "time",
        manifest: bool = True,
        seed: int = 7,
        **changes: Any,
    ) -> Path:
        random = np.random.default_rng(seed)
        weights = {
            "W": random.normal(size=(1, 16, 3)).astype(np.float32),
            "R": random.normal(size=(1, 16, 4)).astype(np.float32),
            "zero": np.array([0]),
        }
        nodes = [
            helper.make_node("Transpose", ["x"], ["x_time_first"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["x_time_first", "W", "R"], ["", "h"], hidden_size=4),
            helper.make_node("Squeeze", ["h", "zero"], ["y"]),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, time, 3])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])]
        said = Manifest(
            **{
                "inputs": (TensorSpec(name="x", dtype="float32", axes=(batch, time, 3)),),
                "outputs": (TensorSpec(name="y", dtype="float32", axes=(batch, 4)),),
                "input_structure": "x",
                "output_structure": "y",
                "threads": (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=0)),
                **changes,
            }
        )
        return save(tmp_path / name, nodes, inputs, outputs, weights, said if manifest else None)

    return make


@pytest.fixture
def make_embedding(tmp_path: Path) -> Callable[..., Path]:
    """Write ids (batch, time) int32 -> the sum of their rows in a table of `rows` rows, and return its path."""

    def make(rows: int, **changes: Any) -> Path:
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["vectors"]),
            helper.make_node("ReduceSum", ["vectors", "one"], ["score"], keepdims=0),
        ]
        weights = {"table": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2), "one": np.array([1])}
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "time"])]
        outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 2])]
        said = Manifest(
            inputs=(TensorSpec(name="ids", dtype="int32", axes=("batch", "time")),),
            outputs=(TensorSpec(name="score", dtype="float32", axes=("batch", 2)),),
            input_structure="ids",
            output_structure="score",
            **changes,
        )
        return save(tmp_path / "embedding.onnx", nodes, inputs, outputs, weights, said)

    return make


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], said: Manifest | None
) -> Path:
    initializers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    if said is not None:
        helper.set_model_props(model, {"edgeseq": said.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def make_result() -> Callable[..., BenchmarkResult]:
    """A result of 20 rounds around `p50_ms`."""

    def make(name: str = "model.onnx", p50_ms: float = 1.0, **changes: Any) -> BenchmarkResult:
        p50 = p50_ms * 1e6
        result = BenchmarkResult(
            name=name,
            provider="cpu",
            threads=1,
            batch=1,
            time_steps=250,
            inputs="golden",
            size_bytes=5_640_000,
            file_sha256="ab" * 32,
            count=800,
            p50_ns=int(p50),
            p50_interval_ns=Interval(low=p50 * 0.99, high=p50 * 1.01),
            p90_ns=int(p50 * 1.2),
            p90_interval_ns=Interval(low=p50 * 1.15, high=p50 * 1.25),
            p99_ns=None,
            p99_interval_ns=None,
            throughput_per_s=1e9 / p50,
            warm_up=WarmUp(ns=60_000_000, runs=60, stable=True),
            round_p50_ns=tuple(p50 * (1 + 0.001 * (number - 10)) for number in range(20)),
            distribution_ns=tuple(int(p50 * (0.9 + 0.004 * percent)) for percent in range(101)),
            samples_ns=None,
            max_abs=1.2e-7,
            answers="compared",
            error=None,
        )
        return dataclasses.replace(result, **changes)

    return make


@pytest.fixture
def make_run() -> Callable[..., BenchmarkRun]:
    def make(*results: BenchmarkResult, **changes: Any) -> BenchmarkRun:
        run = BenchmarkRun(
            results=results,
            ratios=(),
            machine=Machine(
                cpu_model="Some Processor",
                cores=2,
                cpu_features=("avx2",),
                architecture="x86_64",
                system="Linux",
            ),
            versions={"edgeseq": "0.1.0", "onnxruntime": "1.31.1"},
            settings=Settings(),
            clock=ClockFacts(resolution_ns=20, overhead_ns=40),
            load_average=0.2,
            started="2030-01-02T03:04:05+00:00",
        )
        return dataclasses.replace(run, **changes)

    return make
