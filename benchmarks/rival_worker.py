"""One fresh process of `rivals.py`: one system with one number of threads, as those are fixed once for a process.

A call is what a user of each library writes. Keras's `predict`, LiteRT, edgeseq and the ONNX files are handed numpy
arrays in every call; `tf.function`, PyTorch and OpenVINO have the inputs bound before, so that a copy is not timed.

It is called by `rivals.py`, with what to do as JSON in its one argument.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import systems
from floor import count
from floor import measure as measure_floor
from rival_libraries.cores import cores
from rival_libraries.registry import RIVALS
from rival_libraries.rival import Case, Failed, attempt

from edgeseq.bench import Settings, Subject, run_benchmark, write_run
from edgeseq.bench.machine import installed_versions
from edgeseq.bench.subjects import file_sha256, model_size_bytes
from edgeseq.quantization.metrics import relative_rms

PACKAGES = ("torch", "openvino", "ai-edge-litert")
MODELS = (".onnx", ".tflite", ".xml")
TOLERANCE = 1e-3
"""Largest difference of an fp32 answer, relative to the largest answer where that is above 1."""
FORGETS = "does not return the states"
"""Of a stateful model."""
SMALL_TOLERANCE = 0.1
"""Largest relative RMS error of an answer of lower precision that still is one."""


def set_threads(threads):
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    torch.set_num_threads(threads)


def prepare(case, batches, threads, rivals):
    """Make every converted file, so that no measuring process has converted anything."""
    for batch in batches:
        inputs = systems.feed(case.system, batch)
        for rival in rivals:
            started = time.monotonic()
            try:
                case.converted(rival, inputs, threads)
            except Failed as error:
                print(f"    {rival.name}, batch {batch}: {str(error)[:150]}", flush=True)
            if rival.convert is not None:
                print(f"    {rival.name}, batch {batch}: file in {time.monotonic() - started:.1f} s", flush=True)


def measure(case, batch, threads, rivals, settings):
    """The run of one batch, and what the summary needs beside it."""
    inputs = systems.feed(case.system, batch)
    reference = np.asarray(case.model(inputs, training=False))
    subjects, facts = [], {}
    for rival in rivals:
        started = time.monotonic()
        subject, facts[rival.name] = make_subject(case, rival, inputs, threads, reference)
        print(f"    {rival.name}, batch {batch}: open in {time.monotonic() - started:.1f} s", flush=True)
        subjects.append(subject)
    lengths = case.system.lengths
    # Before and after: what else the machine does can only make a probe slower.
    works = count(case.model, inputs, lengths and lengths(batch))
    probes = [measure_floor(works, threads)]
    started = time.monotonic()
    run = run_benchmark(subjects, settings=settings)
    probes.append(measure_floor(works, threads))
    print(f"    batch {batch}: timed in {time.monotonic() - started:.0f} s", flush=True)
    for result in run.results:
        if result.error is not None and facts[result.name]["status"] == "measured":
            facts[result.name] |= {"status": "failed", "reason": result.error}
    versions = {**run.versions, **installed_versions(PACKAGES)}
    least = min(probes, key=lambda probe: probe["ns"])
    return dataclasses.replace(run, versions=versions), {"floor": least, "subjects": facts}


def make_subject(case, rival, inputs, threads, reference):
    """A rival as a subject whose answers are known to be right, or whose error says what it did instead."""
    facts = {"status": "measured", "precision": rival.precision, "notes": [], "returns_states": True}
    common = {
        "name": rival.name,
        "provider": rival.provider,
        "threads": threads,
        "batch": len(inputs),
        "time_steps": inputs.shape[1],
        "fed": inputs,
    }
    mark = case.folder / f"open-{rival.name}-{len(inputs)}-{threads}.failed"
    try:
        path = case.converted(rival, inputs, threads)
        with attempt(mark), same_cores():
            opened = rival.open(case, path, inputs, threads)
            answers = np.asarray(opened.call()).reshape(reference.shape)
    except Failed as error:
        facts |= {"status": "failed", "reason": str(error)}
        return Subject(call=None, error=str(error), **common), facts
    facts["relative_rms"] = relative_rms([[reference]], [[answers]])
    facts["max_abs"] = float(np.abs(answers - reference).max())
    facts["notes"] = [*opened.notes, *([] if opened.returns_states else [FORGETS])]
    facts["returns_states"] = opened.returns_states
    wrong = said_wrong(rival, facts, reference)
    if wrong:
        facts |= {"status": "wrong", "reason": wrong}
        return Subject(call=None, error=wrong, **common), facts
    if path is not None and path.suffix in MODELS:
        onnx = path.suffix == ".onnx"
        facts["size_bytes"] = model_size_bytes(path) if onnx else sum_of_sizes(path)
        common["size_bytes"] = facts["size_bytes"]
        if path.suffix != ".xml":
            # OpenVINO's weights lie in another file, so that one's hash would not tell models apart.
            common["file_sha256"] = file_sha256(path)
    notes = tuple(facts["notes"])
    return Subject(call=opened.call, notes=lambda: notes, **common), facts


@contextlib.contextmanager
def same_cores():
    """Raise where a library left the process on other cores than it was on: those after it would be slower."""
    before = os.sched_getaffinity(0)
    yield
    after = os.sched_getaffinity(0)
    if after != before:
        os.sched_setaffinity(0, before)
        raise Failed(f"it moved the whole process from cores {sorted(before)} to {sorted(after)}")


def said_wrong(rival, facts, reference):
    """Why the answers are wrong; empty when they are not."""
    error, scale = facts["max_abs"], max(1.0, float(np.abs(reference).max()))
    if not np.isfinite(error):
        return "wrong: its answers are not finite"
    if rival.precision == "fp32":
        if error > TOLERANCE * scale:
            return f"wrong: its answers differ from Keras's by up to {error:.2g}"
    elif facts["relative_rms"] > SMALL_TOLERANCE:
        return f"wrong: its answers have a relative RMS error of {facts['relative_rms']:.0%}"
    return ""


def sum_of_sizes(path):
    """Size of a file and of the weights that OpenVINO puts beside it."""
    return sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.exists())


def main():
    request = json.loads(sys.argv[1])
    threads = cores(request["threads"])
    set_threads(threads)
    case = Case(name=request["system"], folder=Path(request["folder"]), sources=request["sources"])
    rivals = [RIVALS[name] for name in request["rivals"]]
    batches = {int(batch): output for batch, output in request["outputs"].items()}
    if request["prepare"]:
        prepare(case, batches, threads, rivals)
        return
    for batch, output in batches.items():
        run, facts = measure(case, batch, threads, rivals, Settings(**request["settings"]))
        # The facts first: a run's result without them would not be measured again.
        Path(request["folder"], f"{Path(output).stem}.facts").write_text(json.dumps(facts), encoding="utf-8")
        write_run(run, output, overwrite=True)


if __name__ == "__main__":
    main()
