"""edgeseq against its rivals: the same weights and inputs, answers compared first, all in one interleaved run.

python benchmarks/rivals.py -o FOLDER [--system NAME ...] [--threads N ...] [--batch N ...] [--rival NAME ...]

A run is a system with a number of threads and a batch. Each system and number of threads has a process of its own,
with every rival in it; a rival that cannot convert or run the model, or that answers wrongly, has that as its result.
FOLDER gets one result a run, which `edgeseq report` reads, and summary.json: ratios, the floor and the targets. Runs
whose results are there are kept, so that a stopped benchmark goes on where it was. `--rival` measures only those, and
always Keras's `predict`, whose answers are the reference, and edgeseq's fp32 file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rival_summary
import systems
from rival_libraries import registry
from rival_libraries.ours import FP32

from edgeseq.bench import read_run
from edgeseq.bench.record import KERAS_PREDICT

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
        # The probe of the floor has threads of its own.
        "OPENBLAS_NUM_THREADS": "1",
    }
    if request["threads"]:
        environment["OMP_NUM_THREADS"] = str(request["threads"])
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
    """Measure one system with one number of threads; the facts of each output."""
    settings = {
        name: getattr(options, name) for name in ("min_seconds", "min_runs", "max_seconds", "warm_up_max_seconds")
    }
    made = folder / system
    made.mkdir(exist_ok=True)
    request = {
        "system": system,
        "threads": threads,
        "outputs": {batch: str(output) for batch, output in outputs.items()},
        "rivals": [name for name in registry.RIVALS if name in options.rival],
        "folder": str(made),
        "settings": settings,
    }
    started = time.monotonic()
    start({**request, "prepare": True}, folder)
    print(f"    files made in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    start({**request, "prepare": False}, folder)
    print(f"    measured in {time.monotonic() - started:.0f} s", flush=True)
    return {
        output.stem: json.loads((made / f"{output.stem}.facts").read_text(encoding="utf-8"))
        for output in outputs.values()
    }


def said(name, row):
    if row["status"] != "measured":
        return f"    {name:30s} {row['status']}: {row['reason'][:100]}"
    share = f"{row['floor_share']:.0%} of what is possible" if row["floor_share"] is not None else ""
    ratio = row["edgeseq_speedup"]
    against = f"edgeseq {ratio['value']:.2f} x" if ratio else ""
    return f"    {name:30s} {row['p50_ns'] / 1e3:12.1f} us  {against:15s} {share}  {'; '.join(row['notes'])}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--system", action="append", choices=systems.SYSTEMS)
    parser.add_argument("--threads", action="append", type=int, help="0 means all cores; default 1 and 0")
    parser.add_argument("--batch", action="append", type=int, help="instead of the system's own, mostly 1 and 32")
    parser.add_argument("--rival", action="append", choices=registry.RIVALS)
    parser.add_argument("--min-seconds", type=float, default=0.3, help="of timed calls for each rival")
    parser.add_argument("--min-runs", type=int, default=20)
    parser.add_argument("--max-seconds", type=float, default=75.0, help="of a run, its warm-up apart")
    parser.add_argument("--warm-up-max-seconds", type=float, default=1.0)
    parser.add_argument("--work", type=Path, help="folder for converted files; default one that is removed")
    parser.add_argument("--overwrite", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    chosen = options.rival or registry.RIVALS
    options.rival = {KERAS_PREDICT, FP32, *chosen}
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure_all(options, folder.absolute())


def measure_all(options, folder):
    summary = rival_summary.read(options.output)
    for system in options.system or systems.SYSTEMS:
        for threads in options.threads or THREADS:
            outputs = {}
            for batch in batches(systems.SYSTEMS[system], options.batch):
                output = options.output.absolute() / f"{stem(system, threads, batch)}.json"
                if options.overwrite or not output.exists() or output.stem not in summary["runs"]:
                    outputs[batch] = output
            if not outputs:
                continue
            print(f"{system}, {'all' if threads == 0 else threads} threads", flush=True)
            facts = run_system(system, threads, outputs, options, folder)
            for batch, output in outputs.items():
                row = rival_summary.summarize(system, threads, batch, read_run(output), facts[output.stem])
                summary["runs"][output.stem] = row
                floor_us = row["floor"]["ns"] / 1e3
                print(f"  {system}, batch {batch}: the floor is {floor_us:.1f} us", flush=True)
                for name, subject in row["subjects"].items():
                    print(said(name, subject), flush=True)
            rival_summary.write(options.output, summary)
    for target in summary["targets"]:
        print(f"{'met' if target['met'] else 'NOT MET'}: {target['target']}: {target['figure']}")


def batches(system, wanted):
    """Those of the command line that the system takes; a stateful one has its batch built in."""
    if not wanted or len(system.batches) == 1:
        return system.batches
    return wanted


if __name__ == "__main__":
    main()
