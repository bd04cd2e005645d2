"""Cold start and memory: what an application pays before its first answer, in processes that are new each time.

The processes are new, the machine is not: the files of Python, onnxruntime and the model were read before, so that they
come from the system's cache and not from the disk. After a reboot, a first start takes longer by as much as the disk
needs for them.
"""

from __future__ import annotations

import ast
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeseq
from edgeseq.bench import cold_child
from edgeseq.bench.sample import Clock, Progress
from edgeseq.bench.stats import Interval, percentile_interval
from edgeseq.bench.subjects import Subject
from edgeseq.errors import EdgeseqError, WrongUsage

_SHOWN = 2000
"""Characters of what a failed process printed."""

# Where both read one clock of the whole system, the child's own reading is free of the way to the parent.
_ONE_CLOCK = sys.platform == "linux"


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """The start of a fresh process, as medians over several, and its memory."""

    processes: int
    """How many processes were started."""
    import_ns: int
    """Median time to import the runtime (numpy and onnxruntime), in nanoseconds."""
    open_ns: int
    """Median time to open the model."""
    first_run_ns: int
    """Median time of the first call."""
    total_ns: int
    """Median time from the start of the process to its first answer, the interpreter's own start included and the
    reading of the inputs left out."""
    total_interval_ns: Interval | None
    """95 % interval of it; None with fewer than 6 processes."""
    imported_bytes: int | None
    """Median memory (resident set) after the imports, in bytes; None where the system does not tell."""
    opened_bytes: int | None
    """Median memory after the model was opened."""
    steady_bytes: int | None
    """Median memory after many calls."""
    peak_bytes: int | None
    """Median of the largest memory at any time."""
    calls: int
    """After how many calls memory is taken as steady; the fewest of all processes."""


def measure_cold_starts(
    subjects: Sequence[Subject],
    *,
    processes: int = 10,
    calls: int = 50,
    calls_seconds: float = 2.0,
    seed: int = 0,
    progress: Progress | None = None,
    failed: Callable[[Subject, Exception], None] | None = None,
    clock: Clock = time.monotonic_ns,
) -> Mapping[str, ColdStart]:
    """Start `processes` fresh processes that run each subject, one after the other, and take their times and memory.

    Those of several subjects are interleaved in a random order. Each makes `calls` calls, or fewer where they take
    longer than `calls_seconds`. The result is by name, without the subjects that were not made from a file, and without
    those that failed where `failed` is given: it is called with the error then, which is raised otherwise.

    Raises EdgeseqError with what it printed when a process fails.
    """
    if processes < 1 or calls < 1:
        raise WrongUsage(f"processes and calls must be at least 1, not {processes} and {calls}")
    starting = [subject for subject in subjects if _has_file(subject)]
    found: dict[str, list[Mapping[str, Any]]] = {subject.name: [] for subject in starting}
    order = random.Random(seed)
    done, total = 0, processes * len(starting)
    for _ in range(processes):
        for subject in order.sample(starting, len(starting)):
            if progress:
                progress("cold start", done, total)
            done += 1
            if subject.name not in found:
                continue
            try:
                found[subject.name].append(_start(subject, calls, calls_seconds, clock))
            except Exception as error:
                if failed is None:
                    raise
                failed(subject, error)
                del found[subject.name]
    if progress:
        progress("cold start", total, total)
    return {name: _put_together(starts) for name, starts in found.items()}


def _has_file(subject: Subject) -> bool:
    return subject.path is not None and subject.call is not None and bool(subject.feeds)


def _start(subject: Subject, calls: int, calls_seconds: float, clock: Clock) -> Mapping[str, Any]:
    """What one fresh process told, with `total_ns`."""
    options = {
        "provider": subject.provider,
        "provider_options": dict(subject.provider_options) or None,
        "threads": subject.threads,
        "ranges": subject.ranges,
    }
    job = {
        "path": os.fspath(Path(str(subject.path)).absolute()),
        "options": options,
        "feeds": subject.feeds,
        "calls": calls,
        "calls_ns": round(calls_seconds * 1e9),
    }
    with tempfile.TemporaryDirectory(prefix="edgeseq-cold-") as folder:
        job_path = Path(folder) / "job.pickle"
        job_path.write_bytes(pickle.dumps(job))
        package = Path(edgeseq.__file__).parent.parent
        # -P keeps the script's own folder off the path: its modules are not for the child to find.
        command = [sys.executable, "-P", str(cold_child.__file__), str(job_path), str(package)]
        with tempfile.TemporaryFile(dir=folder) as errors:
            return _run(subject.name, command, errors, clock)


def _run(name: str, command: Sequence[str], errors: Any, clock: Clock) -> Mapping[str, Any]:
    told: dict[str, Any] = {}
    printed: list[str] = []
    answered = 0
    started = clock()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                if not line.startswith(cold_child.MARK):
                    printed.append(line)
                elif line.strip() == f"{cold_child.MARK}answered":
                    answered = clock()
                else:
                    told = ast.literal_eval(line.removeprefix(cold_child.MARK))
        except BaseException:
            process.kill()
            raise
    if process.returncode or not told:
        errors.seek(0)
        said = ("".join(printed) + errors.read().decode(errors="replace")).strip()
        raise EdgeseqError(
            f"a fresh process that runs {name} ended with code {process.returncode} and printed: "
            f"{said[-_SHOWN:] or 'nothing'}"
        )
    if _ONE_CLOCK and clock is time.monotonic_ns:
        answered = told["answered_ns"]
    return {**told, "total_ns": answered - started - told["job_ns"]}


def _put_together(starts: Sequence[Mapping[str, Any]]) -> ColdStart:
    def median(key: str) -> int:
        return int(statistics.median(start[key] for start in starts))

    def median_if_told(key: str) -> int | None:
        return None if any(start[key] is None for start in starts) else median(key)

    return ColdStart(
        processes=len(starts),
        import_ns=median("import_ns"),
        open_ns=median("open_ns"),
        first_run_ns=median("first_run_ns"),
        total_ns=median("total_ns"),
        total_interval_ns=percentile_interval([start["total_ns"] for start in starts], 0.5),
        imported_bytes=median_if_told("imported_bytes"),
        opened_bytes=median_if_told("opened_bytes"),
        steady_bytes=median_if_told("steady_bytes"),
        peak_bytes=median_if_told("peak_bytes"),
        calls=min(start["calls"] for start in starts),
    )
