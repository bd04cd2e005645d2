"""Does `edgeseq bench --baseline` cry wolf, and does it see one? The same file against itself, and a planted slow-down.

Every run is a process of its own, as a user's would be. The first is the baseline; of those of the same file none
should be called slower, and every one of the planted slow-down should.

python benchmarks/repeatability.py [MODEL.onnx] [--runs 20] [--planted 10] [--slow-down 0.1] [-o results.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from edgeseq.bench import Settings, compare_to_baseline, file_subjects, read_run, run_benchmark, write_run


def make_model(path):
    """The tutorial system of the reviews: an embedding and an LSTM of 128 units, 250 steps."""
    import keras
    from keras import layers as L

    import edgeseq

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input(shape=(250,), dtype="int32"), L.Embedding(10_000, 128), L.LSTM(128), L.Dense(1)]
    )
    edgeseq.export(model, path)


def slowed(subject, share):
    """The subject with `share` more time a call: after its work it waits, busily, that much of what the work took."""

    def call():
        started = time.perf_counter_ns()
        answers = subject.call()
        end = time.perf_counter_ns()
        until = end + round((end - started) * share)
        while time.perf_counter_ns() < until:
            pass
        return answers

    return dataclasses.replace(subject, call=call)


def run_once(model, output, options):
    """What a process of its own does."""
    settings = Settings(min_seconds=options.min_seconds, max_seconds=options.max_seconds, precision=options.precision)
    subjects = file_subjects([model], threads=1)
    if options.slow_down:
        subjects = [slowed(subject, options.slow_down) for subject in subjects]
    write_run(run_benchmark(subjects, settings=settings), output, overwrite=True)


def in_a_process(model, output, options, slow_down):
    command = [
        *(sys.executable, __file__, str(model), "--once", str(output), "--slow-down", str(slow_down)),
        *("--min-seconds", str(options.min_seconds), "--max-seconds", str(options.max_seconds)),
        *("--precision", str(options.precision)),
    ]
    subprocess.run(command, check=True)
    return read_run(output)


def row_of(now, baseline):
    """One run against the baseline, by the rule and by the interval alone."""
    [row] = compare_to_baseline(now, baseline).rows
    [result] = now.results
    interval = row.ratio and row.ratio.interval
    return {
        "verdict": row.verdict,
        "reason": row.reason,
        "ratio": row.ratio and row.ratio.value,
        "interval": interval and [interval.low, interval.high],
        "outside_interval": bool(row.ratio and row.ratio.differs),
        "p50_ns": result.p50_ns,
        "p50_interval_ns": dataclasses.asdict(result.p50_interval_ns) if result.p50_interval_ns else None,
        "probe_ns": statistics.median(now.disturbance.probe_ns),
        "rounds": len(result.round_p50_ns),
        "stopped": now.stopped,
        "warnings": list(now.warnings),
    }


def comparable(rows):
    """How many runs the machine was as fast in as in the baseline."""
    return sum(row["verdict"] != "not comparable" for row in rows)


def compare(title, count, model, baseline, folder, options, slow_down):
    rows = []
    for number in range(count):
        rows.append(row_of(in_a_process(model, folder / "now.json", options, slow_down), baseline))
        row = rows[-1]
        said = "{:.3f} [{:.3f}, {:.3f}]".format(row["ratio"], *row["interval"]) if row["ratio"] else "-"
        print(
            f"{title} {number + 1:2d}: {said}  {row['verdict']:14s} "
            f"p50 {row['p50_ns'] / 1e3:.1f} µs, probe {row['probe_ns'] / 1e6:.3f} ms",
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="an ONNX file; made from Keras when left out")
    parser.add_argument("--runs", type=int, default=20, help="runs of the same file against the first")
    parser.add_argument("--planted", type=int, default=10, help="runs of the slower one")
    parser.add_argument("--slow-down", type=float, default=0.1, help="by how much it is slower")
    parser.add_argument("--min-seconds", type=float, default=1.0)
    parser.add_argument("--max-seconds", type=float, default=30.0)
    parser.add_argument("--precision", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        run_once(options.model, options.once, options)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = options.model
        if model is None:
            model = folder / "model.onnx"
            make_model(model)
        baseline = in_a_process(model, folder / "baseline.json", options, 0.0)
        same = compare("same file", options.runs, model, baseline, folder, options, 0.0)
        slower = compare("planted", options.planted, model, baseline, folder, options, options.slow_down)
    false_alarms = sum(row["verdict"] == "slower" for row in same)
    found = sum(row["verdict"] == "slower" for row in slower)
    print(f"the same file: {false_alarms} of {comparable(same)} comparable runs called slower")
    outside = sum(row["outside_interval"] for row in same)
    print(f"  the 95 % interval without a margin leaves 1 out in {outside} of them")
    print(f"{options.slow_down:.0%} slower: found in {found} of {comparable(slower)} comparable runs")
    if options.output:
        summary = {
            "runs": len(same),
            "comparable_runs": comparable(same),
            "false_alarms": false_alarms,
            "outside_plain_interval": outside,
            "planted": len(slower),
            "comparable_planted": comparable(slower),
            "slow_down": options.slow_down,
            "found": found,
            "machine": dataclasses.asdict(baseline.machine),
            "versions": dict(baseline.versions),
            "started": baseline.started,
            "same_file": same,
            "slower": slower,
        }
        options.output.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
