"""The latency of one model on one provider: alone, as a CUDA graph, and beside the file that Keras itself exports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseq.bench import Settings, Subject, run_benchmark, stats
from edgeseq.bench.inputs import Inputs, find_inputs
from edgeseq.bench.record import BenchmarkRun, speedup
from edgeseq.bench.subjects import error_text
from edgeseq.runtime import Model, load_manifest, signature, tensorrt
from edgeseq.runtime.golden import read_golden
from edgeseq.runtime.providers import SHORT_NAMES, open_session
from edgeseq.runtime.ranges import Range, choose_ranges
from edgeseq.runtime.structure import nest
from gpu_check.results import EDGESEQ, GRAPH, RIVAL, Failure, Measurement

Call = Callable[[], object]

# No more calls than p99 needs, however short they are; and a few rounds, however long.
_MOST_CALLS, _LEAST_CALLS, _ROUNDS = stats.least_count(0.99), 12, 20
_WARM_UP_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file, and where it is run."""

    path: Path
    """The ONNX file."""
    rival: Path | None
    """What Keras exports of the same model; None where there is no such file."""
    provider: str
    """The provider, alone."""
    options: Mapping[str, str]
    """Its options."""
    batches: tuple[int, ...]
    """Rows of the calls that are timed."""


def failure_of(error: Exception) -> Failure:
    """An error as it is recorded."""
    kind = type(error).__name__
    return Failure(kind=kind, message=error_text(error).removeprefix(f"{kind}: "))


def planned(path: Path, place: Place) -> dict[str, Range]:
    """The ranges of the file at `path` in `place`: for TensorRT one for all batches and the golden samples, else none.

    One engine then serves everything: it is fastest for a single row, and as long as the golden samples. None as well
    where the options of `place` plan it. Raises MissingInput without golden samples.
    """
    if SHORT_NAMES.get(place.provider, place.provider) != tensorrt.FULL_NAME or tensorrt.MIN in place.options:
        return {}
    manifest = load_manifest(path) or signature.describe(path, open_session(path))
    own = load_manifest(place.path)
    assert own is not None, "edgeseq wrote it"
    golden = read_golden(place.path, own.model_hash).inputs
    # A rival names its inputs otherwise; every model of the set has one.
    arrays = [golden[spec.name] for spec in own.inputs]
    samples = {spec.name: array for spec, array in zip(manifest.inputs, arrays, strict=True)}
    first = manifest.inputs[0]
    axis = first.batch_axis or 0
    rows = first.axes[axis]
    ranges = {rows: (1, 1, max((arrays[0].shape[axis], *place.batches)))} if isinstance(rows, str) else {}
    return choose_ranges(manifest, ranges, samples)


def inputs_for(model: Model, path: Path, batch: int, what: str) -> Inputs:
    """What is fed: the golden samples, repeated to `batch` rows, and cut to one step for a ``step``."""
    return find_inputs(path, model.manifest, batch=batch, time_steps=1 if what == "step" else None)


def measure(model: Model, place: Place, pending: Measurement, seconds: float) -> Measurement:
    """`pending` with its times, taken in about `seconds`.

    A CUDA graph and Keras's export are measured side by side with edgeseq's plain call, the calls of both in turns.
    Raises what opening or running them raises.
    """
    what, batch = pending.what, pending.batch
    inputs = inputs_for(model, place.path, batch, what)
    fed = nest(inputs.arrays, model.manifest.input_structure)
    if model.manifest.threads_for(batch) != model.threads:
        # The file's advice for this batch, as an application that says its batch would get it.
        model = Model(
            place.path,
            provider=place.provider,
            provider_options=place.options,
            ranges=planned(place.path, place),
            batch=batch,
        )

    def subject(name: str, runner: Model, fed: Any) -> Subject:
        return Subject(
            name=name,
            call=_call(runner, what, batch, fed),
            provider=place.provider,
            provider_options=place.options,
            threads=runner.threads,
            batch=batch,
            time_steps=inputs.time_steps,
            inputs=inputs.source,
            notes=lambda: runner.placement.notes if runner.placement else (),
        )

    subjects = [subject(EDGESEQ, model, fed)]
    if pending.subject == GRAPH:
        options = {**place.options, "enable_cuda_graph": "1"}
        graph = Model(place.path, provider=place.provider, provider_options=options, batch=batch)
        subjects.append(subject(GRAPH, graph, fed))
    elif pending.subject == RIVAL:
        assert place.rival is not None, "it is measured where there is one"
        rival = Model(
            place.rival,
            provider=_consenting(place.provider),
            threads=model.threads,
            provider_options=place.options,
            ranges=planned(place.rival, place),
        )
        [spec] = rival.inputs
        [array] = inputs.arrays.values()
        subjects.append(subject(RIVAL, rival, {spec.name: array.astype(spec.dtype)}))
    run = _run(subjects, seconds)
    found = run[pending.subject]
    if found.error is not None:
        return replace(pending, time_steps=inputs.time_steps, failure=Failure(kind="Error", message=found.error))
    return replace(
        pending,
        time_steps=inputs.time_steps,
        count=found.count,
        p50_ns=found.p50_ns,
        p90_ns=found.p90_ns,
        p99_ns=found.p99_ns,
        throughput_per_s=found.throughput_per_s,
        time_ratio=speedup(run[EDGESEQ], found) if len(subjects) > 1 else None,
        max_abs=found.max_abs,
        notes=found.notes,
    )


def _call(model: Model, what: str, batch: int, fed: Any) -> Call:
    if what == "call":
        return lambda: model(fed)
    stream = model.stream(batch)
    return lambda: stream.step(fed)


def _consenting(provider: str) -> str:
    """The same provider with all that may help out: Keras's export is measured wherever it runs, and its notes say."""
    others = {"cpu": (), "tensorrt": ("cuda", "cpu")}.get(provider, ("cpu",))
    return ",".join([provider, *others])


def _run(subjects: Sequence[Subject], seconds: float) -> BenchmarkRun:
    """The subjects side by side, with as many calls as fit into `seconds`."""
    total = sum(_time_of(subject.call) for subject in subjects if subject.call is not None)
    calls = int(seconds * (1 - _WARM_UP_SHARE) / total) if total else _MOST_CALLS
    calls = min(max(calls, _LEAST_CALLS), _MOST_CALLS)
    settings = Settings(
        precision=None,
        min_runs=calls,
        min_seconds=0.0,
        max_seconds=max(2 * seconds, 1.0),
        rounds=min(_ROUNDS, calls),
        warm_up_max_seconds=seconds * _WARM_UP_SHARE / len(subjects),
    )
    return run_benchmark(subjects, settings=settings)


def _time_of(call: Call) -> float:
    """Seconds of a second call; 0 for one that fails, which the benchmark then tells of."""
    try:
        call()
        started = time.perf_counter()
        call()
    except Exception:  # noqa: BLE001 - the benchmark calls it again, and records what it raises
        return 0.0
    return time.perf_counter() - started
