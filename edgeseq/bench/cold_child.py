"""A fresh process that opens a model and answers once, then some more: run as a script by `edgeseq.bench.cold`.

It imports the standard library and `edgeseq.runtime` alone: whatever else it imported would be counted in.
"""

import sys
import time

MARK = "edgeseq-cold-start "
"""Begins the lines meant for the parent: a provider may print lines of its own."""


def main(job_path: str, package_folder: str) -> None:
    """Do the job in the pickle file at `job_path`, with the edgeseq in `package_folder`, and print what it cost."""
    # The same edgeseq as the parent's, also where only a changed sys.path leads to it.
    if package_folder not in sys.path:
        sys.path.insert(0, package_folder)
    before_import = time.monotonic_ns()
    import numpy  # noqa: F401 - as below
    import onnxruntime  # noqa: F401 - edgeseq would import it when it opens the first model

    from edgeseq.runtime import Model

    imported = time.monotonic_ns()
    imported_bytes = resident_bytes()

    # The inputs of an application come from elsewhere: what reading them takes is told, to be left out.
    before_job = time.monotonic_ns()
    import pickle

    with open(job_path, "rb") as file:
        job = pickle.load(file)
    before_open = time.monotonic_ns()
    model = Model(job["path"], **job["options"])
    opened = time.monotonic_ns()
    opened_bytes = resident_bytes()

    before_run = time.monotonic_ns()
    model(job["feeds"][0])
    answered = time.monotonic_ns()
    tell("answered")

    calls, last = 1, answered
    while calls < job["calls"] and last - answered < job["calls_ns"]:
        model(job["feeds"][calls % len(job["feeds"])])
        calls, last = calls + 1, time.monotonic_ns()
    found = {
        "answered_ns": answered,
        "import_ns": imported - before_import,
        "open_ns": opened - before_open,
        "first_run_ns": answered - before_run,
        "job_ns": before_open - before_job,
        "imported_bytes": imported_bytes,
        "opened_bytes": opened_bytes,
        "steady_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
        "calls": calls,
    }
    # The parent reads it as Python's own literal: there is nothing in it but numbers, texts and None.
    tell(repr(found))


def tell(text: str) -> None:
    """Write a line for the parent."""
    sys.stdout.write(f"{MARK}{text}\n")
    sys.stdout.flush()


def resident_bytes() -> int | None:
    """Memory in use now (resident set), in bytes; None where the system does not tell."""
    return _status("VmRSS:")


def peak_bytes() -> int | None:
    """The most memory that was in use at any time (resident set), in bytes; None where the system does not tell."""
    # Linux's ru_maxrss may be that of the parent, out of which this process was made.
    if (peak := _status("VmHWM:")) is not None:
        return peak
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(key: str) -> int | None:
    """An entry of /proc/self/status, which counts in kB of 1,024 bytes; None on systems other than Linux."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(key)), None)
    except OSError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
