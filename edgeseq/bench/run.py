"""Running a benchmark: compare the answers of the subjects, sample them side by side, and make the record.

What is asked for beside the times (cold starts, layers, the server scenario) is measured after them, so that it
disturbs none.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import __version__
from edgeseq.bench import noise, stats
from edgeseq.bench.answers import NO_REFERENCE, REFERENCE, Answers, compare_answers, flatten
from edgeseq.bench.energy import Meter, energies, find_meters
from edgeseq.bench.extras import add_cold_starts, add_layers, add_served
from edgeseq.bench.gpu import library_versions, on_gpu
from edgeseq.bench.machine import installed_versions, this_machine
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, SubjectRatio, speedup
from edgeseq.bench.sample import SETTLE_NS, Clock, Progress, Samples, Settings, measure_clock, sample
from edgeseq.bench.scenarios import SCENARIOS, fitting
from edgeseq.bench.server import ServerSettings
from edgeseq.bench.subjects import Subject, error_text, file_subject
from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime.providers import nvidia_libraries
from edgeseq.runtime.ranges import GivenRanges

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorflow", "keras", "tf2onnx", "onnx")

_Rounds = tuple[tuple[int, ...], ...]


def benchmark(
    model: StrPath,
    *,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    batch: int | None = None,
    time_steps: int | None = None,
    inputs: Any = None,
    lengths: StrPath | None = None,
    settings: Settings | None = None,
    save_samples: bool = False,
    cold_start: bool = False,
    layers: bool = False,
    server: ServerSettings | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure the latency of one ONNX file, called as an application would call it.

    `threads` None takes the file's own advice for `batch`, None for one row. `time_steps` None takes the length of the
    golden samples beside the file, or 100. `inputs` replaces the golden or made ones, with a batch and a length of
    their own: what the model takes, or for a file without a manifest a dict of arrays by input name; `lengths` is a
    file of lengths to make them with. The rest is as for `run_benchmark`. The result's notes include what the machine
    did that makes its times say less.

    Raises MissingInput, InvalidFile, ProviderUnavailable, WrongUsage, InputMismatch, or what the first call raises.
    """
    settings = _checked(settings, server)
    subject = file_subject(
        model,
        provider=provider,
        provider_options=provider_options,
        ranges=ranges,
        threads=threads,
        batch=batch,
        time_steps=time_steps,
        inputs=inputs,
        lengths=lengths,
        seed=settings.seed,
    )
    # A file that cannot run at all is the caller's to know, not a row in a table.
    if subject.call is not None:
        subject.call()
    run = run_benchmark(
        [subject],
        settings=settings,
        save_samples=save_samples,
        cold_start=cold_start,
        layers=layers,
        server=server,
        progress=progress,
    )
    [result] = run.results
    return replace(result, notes=(*result.notes, *run.warnings))


def run_benchmark(
    subjects: Sequence[Subject],
    *,
    settings: Settings | None = None,
    save_samples: bool = False,
    scenario: str | None = None,
    cold_start: bool = False,
    layers: bool = False,
    server: ServerSettings | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter_ns,
) -> BenchmarkRun:
    """Measure `subjects` side by side, interleaved; the first of each batch is the reference for answers and ratios.

    `scenario` None is told from the subjects and `server`. `cold_start` measures starts and memory in new processes and
    `layers` the time of each layer, for subjects that are files; `server` adds the server scenario.

    A subject that raises gets its error as its result, and the others go on. Raises WrongUsage when there are no
    subjects or two share a name, InputMismatch when inputs that the caller gave do not fit a subject.
    """
    settings = _checked(settings, server)
    names = [subject.name for subject in subjects]
    if not names:
        raise WrongUsage("there is nothing to measure: no subjects were given")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise WrongUsage(f"subjects must have different names, got twice: {', '.join(twice)}")
    if scenario is not None and scenario not in SCENARIOS:
        raise WrongUsage(f"there is no scenario {scenario!r}; there are: {', '.join(SCENARIOS)}")
    if (scenario == "server") != (server is not None) and scenario is not None:
        raise WrongUsage("the scenario server and its settings (rate, deadline) are given together")
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    outcomes: dict[str, Answers | str] = {subject.name: _try(subject) for subject in subjects}
    running = [subject for subject in subjects if not isinstance(outcomes[subject.name], str)]
    meters, uncounted = find_meters([subject.provider for subject in running])
    watch = noise.Watch()
    sampled = sample(
        [subject.call for subject in running if subject.call],
        settings,
        cycles=[subject.cycle for subject in running],
        probe=noise.probe(),
        meters=meters,
        settle_ns=SETTLE_NS if any(subject.threads != 1 for subject in running) else 0,
        clock=clock,
        progress=progress,
    )
    disturbance = watch.disturbance([float(statistics.median(block)) for block in sampled.probe])
    samples = {subject.name: found for subject, found in zip(running, sampled.subjects, strict=True)}
    results = tuple(
        _result(subject, outcomes, _reference(subject, subjects), samples.get(subject.name), settings, meters)
        for subject in subjects
    )
    if uncounted:
        results = tuple(
            replace(result, notes=(*result.notes, uncounted)) if result.count and on_gpu(result.provider) else result
            for result in results
        )
    if save_samples:
        results = tuple(
            replace(result, samples_ns=samples[result.name].rounds) if result.count else result for result in results
        )
    if cold_start:
        results = add_cold_starts(results, subjects, seed=settings.seed, progress=progress)
    if layers:
        results = add_layers(results, subjects, progress=progress)
    if server is not None:
        results = add_served(results, subjects, server, seed=settings.seed, progress=progress)
    run = BenchmarkRun(
        results=results,
        ratios=(),
        machine=this_machine(),
        versions=_versions(subjects),
        settings=settings,
        clock=measure_clock(clock),
        load_average=load_average,
        started=started,
        scenario=scenario or _scenario(subjects, server),
        stopped=sampled.stopped,
        disturbance=disturbance,
        warnings=noise.run_warnings(
            disturbance, load_before=load_average, cores=os.cpu_count() or 1, stopped=sampled.stopped
        ),
    )
    held = [(result, run.reference_of(result)) for result in run.results]
    speedups = [(result, other, speedup(result, other)) for result, other in held if result is not other]
    return replace(
        run,
        ratios=tuple(
            SubjectRatio(name=result.name, reference=other.name, speedup=ratio)
            for result, other, ratio in speedups
            if ratio is not None
        ),
    )


def _checked(settings: Settings | None, server: ServerSettings | None) -> Settings:
    """`settings`, or the default. Raises WrongUsage where they or `server` are something else."""
    for given, kind in ((settings, Settings), (server, ServerSettings)):
        if given is not None and not isinstance(given, kind):
            raise WrongUsage(f"expected an edgeseq.bench.{kind.__name__}; got {given!r}")
    return settings or Settings()


def _try(subject: Subject) -> Answers | str:
    """The subject's answers from one call, or the text of its error."""
    if subject.call is None:
        return subject.error or "it has nothing to call"
    try:
        return flatten(subject.call())
    except InputMismatch as error:
        if subject.inputs != "given":
            return error_text(error)
        error.add_note(f"while running {subject.name} on the given inputs")
        raise
    except Exception as error:  # noqa: BLE001 - a subject that fails gets its error as its result
        return error_text(error)


def _reference(subject: Subject, subjects: Sequence[Subject]) -> Subject:
    return next(other for other in subjects if other.batch == subject.batch)


def _scenario(subjects: Sequence[Subject], server: ServerSettings | None) -> str:
    models: dict[tuple[str, str], list[Subject]] = {}
    for subject in subjects:
        models.setdefault((subject.model or subject.name, subject.provider), []).append(subject)
    found = [
        fitting([one.batch for one in ways], [one.threads for one in ways], served=server is not None)
        for ways in models.values()
    ]
    # The one that says most of all the models.
    return max(found, key=SCENARIOS.index)


def _versions(subjects: Sequence[Subject]) -> Mapping[str, str]:
    versions = {"edgeseq": __version__, "python": platform.python_version(), **installed_versions(_PACKAGES)}
    if any(on_gpu(subject.provider) for subject in subjects):
        versions |= library_versions(name for name, found in nvidia_libraries().items() if found)
    return versions


def _result(
    subject: Subject,
    outcomes: Mapping[str, Answers | str],
    reference: Subject,
    samples: Samples | None,
    settings: Settings,
    meters: Sequence[Meter],
) -> BenchmarkResult:
    answers = outcomes[subject.name]
    error = answers if isinstance(answers, str) else None
    if samples is not None and samples.error is not None:
        error = error_text(samples.error)
    max_abs, said = _compared(answers, outcomes[reference.name], _fed_alike(subject, reference))
    # A subject that failed half way was measured on some rounds only: those times are not comparable, so not kept.
    rounds: _Rounds = samples.rounds if samples is not None and error is None else ()
    times = np.sort(np.array([time_ns for block in rounds for time_ns in block], dtype=np.int64))
    count, total_ns = len(times), int(times.sum())
    stability = noise.stability(rounds)
    warm_up = samples.warm_up if samples is not None else None
    (p50, p50_in), (p90, p90_in), (p99, p99_in), (p999, p999_in), (asked, asked_in) = (
        _percentile(rounds, times, p) for p in (0.50, 0.90, 0.99, 0.999, settings.percentile)
    )
    said_of_times = noise.result_notes(
        rounds,
        stability,
        percentile=settings.percentile,
        precision=settings.precision,
        warm_up_stable=warm_up is None or warm_up.stable,
    )
    return BenchmarkResult(
        name=subject.name,
        model=subject.model or subject.name,
        provider=subject.provider,
        provider_options=dict(subject.provider_options),
        threads=subject.threads,
        batch=subject.batch,
        time_steps=subject.time_steps,
        inputs=subject.inputs,
        lengths=subject.lengths,
        size_bytes=subject.size_bytes,
        file_sha256=subject.file_sha256,
        count=count,
        p50_ns=p50,
        p50_interval_ns=p50_in,
        p90_ns=p90,
        p90_interval_ns=p90_in,
        p99_ns=p99,
        p99_interval_ns=p99_in,
        p999_ns=p999,
        p999_interval_ns=p999_in,
        asked_ns=asked,
        asked_interval_ns=asked_in,
        throughput_per_s=subject.batch * count / (total_ns * 1e-9) if total_ns else None,
        warm_up=warm_up,
        round_p50_ns=tuple(float(statistics.median(block)) for block in rounds),
        distribution_ns=tuple(int(times[min(count * percent // 100, count - 1)]) for percent in range(101))
        if count
        else (),
        samples_ns=None,
        max_abs=max_abs,
        answers=said,
        error=error,
        ran_on=() if error else subject.ran_on(),
        notes=() if error else (*subject.notes(), *said_of_times),
        stability=stability,
        energy=energies(meters, samples.microjoules, count, total_ns) if samples is not None else (),
    )


def _percentile(rounds: _Rounds, times: npt.NDArray[np.int64], p: float) -> tuple[int | None, stats.Interval | None]:
    """Percentile `p` and its interval, where there are enough times (in any order) and rounds to say."""
    value = stats.percentile_if_enough(times, p)
    found = None if value is None else stats.clustered_interval(rounds, p)
    return value, None if found is None else found.interval


def _compared(answers: Answers | str, reference: Answers | str, fed_alike: bool) -> tuple[float | None, str]:
    if isinstance(answers, str):
        return None, "no answers"
    if answers is reference:
        return None, REFERENCE
    if isinstance(reference, str):
        return None, NO_REFERENCE
    if not fed_alike:
        return None, "not comparable: other inputs"
    return compare_answers(answers, reference)


def _fed_alike(subject: Subject, reference: Subject) -> bool:
    """Whether both are fed the same arrays; where one does not tell, whether they say the same of them."""
    if subject.fed is None or reference.fed is None:
        return (subject.batch, subject.time_steps) == (reference.batch, reference.time_steps)
    mine, other = (flatten(list(one.feeds) if one.feeds else one.fed) for one in (subject, reference))
    return len(mine) == len(other) and all(a is b or np.array_equal(a, b) for a, b in zip(mine, other, strict=True))
