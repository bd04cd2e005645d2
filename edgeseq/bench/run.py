"""Running a benchmark: compare the answers of the subjects, sample them side by side, and make the record."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq import __version__
from edgeseq.bench import stats
from edgeseq.bench.answers import Answers, compare_answers, flatten
from edgeseq.bench.machine import installed_versions, this_machine
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, SubjectRatio, speedup
from edgeseq.bench.sample import Clock, Progress, Samples, Settings, interleave, measure_clock
from edgeseq.bench.subjects import Subject, error_text, file_subject
from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime.ranges import GivenRanges

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorflow", "keras", "tf2onnx", "onnx")


def benchmark(
    model: StrPath,
    *,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    batch: int = 1,
    time_steps: int | None = None,
    inputs: Any = None,
    settings: Settings | None = None,
    save_samples: bool = False,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure the latency of one ONNX file, called as an application would call it.

    `threads` None takes the file's own advice for `batch`. `time_steps` None takes the length of the golden samples
    beside the file, or 100. `inputs` replaces the golden or made ones: what the model takes, or for a file without a
    manifest a dict of arrays by input name.

    Raises MissingInput, InvalidFile, ProviderUnavailable, InputMismatch, or what the first call raises.
    """
    settings = settings or Settings()
    subject = file_subject(
        model,
        provider=provider,
        provider_options=provider_options,
        ranges=ranges,
        threads=threads,
        batch=batch,
        time_steps=time_steps,
        inputs=inputs,
        seed=settings.seed,
    )
    # A file that cannot run at all is the caller's to know, not a row in a table.
    if subject.call is not None:
        subject.call()
    return run_benchmark([subject], settings=settings, save_samples=save_samples, progress=progress).results[0]


def run_benchmark(
    subjects: Sequence[Subject],
    *,
    settings: Settings | None = None,
    save_samples: bool = False,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter_ns,
) -> BenchmarkRun:
    """Measure `subjects` side by side, interleaved; the first is the reference for answers and ratios.

    A subject that raises gets its error as its result, and the others go on. Raises WrongUsage when there are no
    subjects or two share a name, InputMismatch when inputs that the caller gave do not fit a subject.
    """
    settings = settings or Settings()
    names = [subject.name for subject in subjects]
    if not names:
        raise WrongUsage("there is nothing to measure: no subjects were given")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise WrongUsage(f"subjects must have different names, got twice: {', '.join(twice)}")
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    outcomes: dict[str, Answers | str] = {subject.name: _try(subject) for subject in subjects}
    running = [subject for subject in subjects if not isinstance(outcomes[subject.name], str)]
    sampled = interleave(
        [subject.call for subject in running if subject.call], settings, clock=clock, progress=progress
    )
    samples = {subject.name: found for subject, found in zip(running, sampled, strict=True)}
    results = tuple(
        _result(subject, outcomes, subjects[0], samples.get(subject.name), save_samples) for subject in subjects
    )
    speedups = [(result.name, speedup(result, results[0])) for result in results[1:]]
    return BenchmarkRun(
        results=results,
        ratios=tuple(
            SubjectRatio(name=name, reference=names[0], speedup=ratio) for name, ratio in speedups if ratio is not None
        ),
        machine=this_machine(),
        versions={"edgeseq": __version__, "python": platform.python_version(), **installed_versions(_PACKAGES)},
        settings=settings,
        clock=measure_clock(clock),
        load_average=load_average,
        started=started,
    )


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


def _result(
    subject: Subject,
    outcomes: Mapping[str, Answers | str],
    reference: Subject,
    samples: Samples | None,
    save_samples: bool,
) -> BenchmarkResult:
    answers = outcomes[subject.name]
    error = answers if isinstance(answers, str) else None
    if samples is not None and samples.error is not None:
        error = error_text(samples.error)
    max_abs, said = _compared(answers, outcomes[reference.name], _fed_alike(subject, reference))
    # A subject that failed half way was measured on some rounds only: those times are not comparable, so not kept.
    rounds = samples.rounds if samples is not None and error is None else ()
    times = np.sort(np.array([time_ns for block in rounds for time_ns in block], dtype=np.int64))
    count, total_ns = len(times), int(times.sum())
    return BenchmarkResult(
        name=subject.name,
        provider=subject.provider,
        provider_options=dict(subject.provider_options),
        threads=subject.threads,
        batch=subject.batch,
        time_steps=subject.time_steps,
        inputs=subject.inputs,
        size_bytes=subject.size_bytes,
        file_sha256=subject.file_sha256,
        count=count,
        p50_ns=stats.percentile_if_enough(times, 0.50),
        p50_interval_ns=stats.interval_if_enough(times, 0.50),
        p90_ns=stats.percentile_if_enough(times, 0.90),
        p90_interval_ns=stats.interval_if_enough(times, 0.90),
        p99_ns=stats.percentile_if_enough(times, 0.99),
        p99_interval_ns=stats.interval_if_enough(times, 0.99),
        throughput_per_s=subject.batch * count / (total_ns * 1e-9) if total_ns else None,
        warm_up=samples.warm_up if samples is not None else None,
        round_p50_ns=tuple(float(statistics.median(block)) for block in rounds),
        distribution_ns=tuple(int(times[min(count * percent // 100, count - 1)]) for percent in range(101))
        if count
        else (),
        samples_ns=rounds if save_samples else None,
        max_abs=max_abs,
        answers=said,
        error=error,
        ran_on=() if error else subject.ran_on(),
        notes=() if error else subject.notes(),
    )


def _compared(answers: Answers | str, reference: Answers | str, fed_alike: bool) -> tuple[float | None, str]:
    if isinstance(answers, str):
        return None, "no answers"
    if answers is reference:
        return None, "reference"
    if isinstance(reference, str):
        return None, "the reference has no answers"
    if not fed_alike:
        return None, "not comparable: other inputs"
    return compare_answers(answers, reference)


def _fed_alike(subject: Subject, reference: Subject) -> bool:
    """Whether both are fed the same arrays; where one does not tell, whether they say the same of them."""
    if subject.fed is None or reference.fed is None:
        return (subject.batch, subject.time_steps) == (reference.batch, reference.time_steps)
    mine, other = flatten(subject.fed), flatten(reference.fed)
    return len(mine) == len(other) and all(a is b or np.array_equal(a, b) for a, b in zip(mine, other, strict=True))
