"""edgeseq against its rivals: the same weights and inputs, answers compared first, all in one interleaved run.

python benchmarks/rivals.py -o FOLDER [--system NAME ...] [--threads N ...] [--batch N ...] [--rival NAME ...]

A run is a system with a number of threads and a batch, in a process of its own with every rival in it; a rival that
cannot convert or run the model, or that answers wrongly, has that as its result. One thread comes before all, and for
each a single row of every system before many rows. FOLDER gets one result a run, which `edgeseq report` reads, and
summary.json: ratios, the floor and the targets. Runs whose results are there are kept, so that a stopped benchmark
goes on where it was. Converted files are kept too, in .rivals/work, apart for other versions of the libraries; files
that edgeseq makes are made anew when its sources change. `--rival` measures only those, and always Keras's `predict`,
whose answers are the reference, and edgeseq's fp32 file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import rival_summary
import systems
from rival_libraries import registry
from rival_libraries.cores import cores
from rival_libraries.ours import FP32
from rival_libraries.rival import Case, source_hash

from edgeseq.bench import read_run
from edgeseq.bench.machine import installed_versions
from edgeseq.bench.record import KERAS_PREDICT

HERE = Path(__file__).resolve().parent
CONVERTERS = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "torch", "openvino", "ai-edge-litert")
SETTINGS = ("min_seconds", "min_runs", "rounds", "precision", "max_seconds", "warm_up_max_seconds")
THREADS = (1, 0)
# A process that a library ended is begun again without that library.
_MOST_STARTS = 6


def stem(system, threads, batch):
    return f"{system}-{'all' if threads == 0 else threads}-threads-batch-{batch}"


def start(request, folder):
    """Run the worker until it returns by itself."""
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "OMP_NUM_THREADS": str(cores(request["threads"])),
    }
    command = [sys.executable, Path(__file__).with_name("rival_worker.py"), json.dumps(request)]
    # The libraries say a great deal; it is shown when it tells why a process failed.
    log = folder / "worker.log"
    for _ in range(_MOST_STARTS):
        with log.open("w", encoding="utf-8") as errors:
            done = subprocess.run(command, env=environment, stderr=errors)
        if done.returncode == 0:
            return
        if done.returncode > 0:
            break
    raise SystemExit(f"the process for {request['system']} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def run_system(system, threads, outputs, options, folder):
    """Measure one system with one number of threads; the facts of each output, none when only files are made."""
    case = Case(name=system, folder=folder / system, sources=options.sources)
    case.folder.mkdir(exist_ok=True)
    rivals = [name for name in registry.RIVALS if name in options.rival]
    request = {
        "system": system,
        "threads": threads,
        "outputs": {batch: str(output) for batch, output in outputs.items()},
        "rivals": rivals,
        "folder": str(case.folder),
        "sources": case.sources,
        "settings": {name: getattr(options, name) for name in SETTINGS},
    }
    started = time.monotonic()
    if not all(case.is_made(registry.RIVALS[name], batch, cores(threads)) for name in rivals for batch in outputs):
        start({**request, "prepare": True}, folder)
        print(f"    files made in {time.monotonic() - started:.0f} s", flush=True)
    if options.prepare:
        return {}
    # Why one could not be opened is kept from process to process, but not from run to run.
    for mark in case.folder.glob("open-*.failed"):
        mark.unlink()
    started = time.monotonic()
    start({**request, "prepare": False}, folder)
    print(f"    measured in {time.monotonic() - started:.0f} s", flush=True)
    return {
        output.stem: json.loads((case.folder / f"{output.stem}.facts").read_text(encoding="utf-8"))
        for output in outputs.values()
    }


def said(name, row):
    if row["status"] != "measured":
        return f"    {name:40s} {row['status']}: {row['reason'][:100]}"
    median = f"{row['p50_ns'] / 1e3:12.1f} us" if row["p50_ns"] is not None else "too few calls for a median"
    share = f"{row['floor_share']:.0%} of what is possible" if row["floor_share"] is not None else ""
    ratio = row["edgeseq_speedup"]
    against = f"edgeseq {ratio['value']:.2f} x" if ratio else ""
    return f"    {name:40s} {median:15s}  {against:15s} {share}  {'; '.join(row['notes'])}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--system", action="append", choices=systems.SYSTEMS)
    parser.add_argument("--threads", action="append", type=int, help="0 means all cores; default 1 and 0")
    parser.add_argument("--batch", action="append", type=int, help="instead of the system's own, mostly 1 and 32")
    parser.add_argument("--rival", action="append", choices=registry.RIVALS)
    parser.add_argument("--min-seconds", type=float, default=0.3, help="of timed calls for each rival")
    parser.add_argument("--min-runs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20, help="at least; ratios are taken round by round")
    parser.add_argument("--precision", type=float, default=0.05, help="widest interval of a median, as a share of it")
    parser.add_argument("--max-seconds", type=float, default=45.0, help="of a run, its warm-up apart")
    parser.add_argument("--warm-up-max-seconds", type=float, default=1.0)
    parser.add_argument(
        "--until-minutes", type=float, help="begin no further run after this time; start again to go on"
    )
    parser.add_argument("--prepare", action="store_true", help="only convert and quantize; measures nothing")
    parser.add_argument("--work", type=Path, default=HERE.parent / ".rivals" / "work", help="for converted files")
    parser.add_argument("--overwrite", action="store_true", help="convert and measure again what is there")
    options = parser.parse_args()
    chosen = options.rival or registry.RIVALS
    options.rival = {KERAS_PREDICT, FP32, *chosen}
    options.sources = source_hash()
    options.output.mkdir(parents=True, exist_ok=True)
    folder = options.work.absolute() / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    summary = measure_all(options, folder)
    for target in summary["targets"]:
        print(f"{target['outcome'].upper()}: {target['target']}: {target['figure']}")


def fingerprint():
    """Tells one set of libraries, and of ways to call them, from another."""
    digest = hashlib.sha256(json.dumps(installed_versions(CONVERTERS), sort_keys=True).encode())
    for path in (HERE / "systems.py", *sorted((HERE / "rival_libraries").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def measure_all(options, folder):
    """All that is not there yet, in the order of `stages`, until the time is up; the summary."""
    started = time.monotonic()
    summary = rival_summary.read(options.output)
    chosen = options.system or list(systems.SYSTEMS)
    if options.overwrite:
        for system in chosen:
            shutil.rmtree(folder / system, ignore_errors=True)
    for system, threads, own in stages(chosen, options.threads or THREADS, options.batch):
        outputs = {}
        for batch in own:
            output = options.output.absolute() / f"{stem(system, threads, batch)}.json"
            if options.overwrite or options.prepare or not output.exists() or output.stem not in summary["runs"]:
                outputs[batch] = output
        if not outputs:
            continue
        if options.until_minutes is not None and time.monotonic() - started > 60 * options.until_minutes:
            print(f"the time is up before {system}, {describe(threads)}; start again to go on", flush=True)
            break
        print(f"{system}, {describe(threads)}, batch {', '.join(map(str, outputs))}", flush=True)
        facts = run_system(system, threads, outputs, options, folder)
        for output in outputs.values():
            if output.stem in facts:
                add(summary, system, threads, output, facts[output.stem])
        if facts:
            rival_summary.write(options.output, summary)
    return summary


def add(summary, system, threads, output, facts):
    """Take one run's results into the summary, and show them."""
    run = read_run(output)
    row = rival_summary.summarize(system, threads, run.results[0].batch, run, facts)
    summary["runs"][output.stem] = row
    print(f"  {system}, batch {row['batch']}: the floor is {row['floor']['ns'] / 1e3:.1f} us", flush=True)
    for name, subject in row["subjects"].items():
        print(said(name, subject), flush=True)
    for warning in row["warnings"]:
        print(f"    warning: {warning}", flush=True)


def describe(threads):
    return "all threads" if threads == 0 else "one thread" if threads == 1 else f"{threads} threads"


def stages(chosen, threads, wanted):
    """(system, threads, batches) in the order they are measured: what matters most first."""
    return [
        (system, number, part)
        for number in threads
        for first in (True, False)
        for system in chosen
        if (
            part := [
                batch
                for batch in batches(systems.SYSTEMS[system], wanted)
                if (batch == systems.SYSTEMS[system].batches[0]) == first
            ]
        )
    ]


def batches(system, wanted):
    """Those of the command line that the system takes; a stateful one has its batch built in."""
    if not wanted or len(system.batches) == 1:
        return system.batches
    return wanted


if __name__ == "__main__":
    main()
