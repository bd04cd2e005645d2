"""edgeseq's file against Keras's own ONNX export of the same model, interleaved in one run, one thread, batch 1.

python benchmarks/lowering.py [-o results.json] [--case NAME ...] [--min-seconds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L

import edgeseq
from edgeseq.bench import Settings, run_benchmark
from edgeseq.bench.record import KERAS_EXPORT, speedup
from edgeseq.conversion.keras_subjects import side_by_side


def sequential(*layers, shape, **options):
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


def reviews(cell, mask=False):
    return sequential(L.Embedding(10_000, 128, mask_zero=mask), cell, L.Dense(1), shape=(250,), dtype="int32")


def padded_ids(valid):
    """One review of 250 steps whose first ones are padding, as `pad_sequences` pads."""
    ids = np.random.default_rng(0).integers(1, 10_000, (1, 250)).astype(np.int32)
    ids[:, : 250 - valid] = 0
    return ids


# Name -> model, and inputs where noise would not do.
CASES = {
    "LSTM 128, T 250": (lambda: reviews(L.LSTM(128)), None),
    "GRU 128, T 250": (lambda: reviews(L.GRU(128)), None),
    "2 x LSTM 64, (128, 9)": (lambda: sequential(L.LSTM(64, return_sequences=True), L.LSTM(64), shape=(128, 9)), None),
    "2 x Bidirectional GRU 128, (100, 40)": (
        lambda: sequential(
            L.Bidirectional(L.GRU(128, return_sequences=True)), L.Bidirectional(L.GRU(128)), shape=(100, 40)
        ),
        None,
    ),
    "SimpleRNN 64, (100, 32)": (lambda: sequential(L.SimpleRNN(64), shape=(100, 32)), None),
    "masked LSTM 128, 250 of 250 steps": (lambda: reviews(L.LSTM(128), mask=True), padded_ids(250)),
    "masked LSTM 128, 60 of 250 steps": (lambda: reviews(L.LSTM(128), mask=True), padded_ids(60)),
    "ConvLSTM2D 64, (10, 64, 64, 1)": (
        lambda: sequential(L.ConvLSTM2D(64, 3, padding="same", activation="relu"), shape=(10, 64, 64, 1)),
        None,
    ),
}


def measure(name, settings, folder):
    make, inputs = CASES[name]
    keras.utils.set_random_seed(0)
    model = make()
    path = folder / "model.onnx"
    report = edgeseq.export(model, path, overwrite=True)
    subjects = side_by_side(model, [path], threads=1, inputs=inputs)
    run = run_benchmark(subjects[1:], settings=settings)
    theirs, ours = run[KERAS_EXPORT], run[path.name]
    ratio = speedup(ours, theirs)
    return {
        "case": name,
        "strategies": [layer.strategy for layer in report.recurrent],
        "loops": report.loops,
        "times_as_fast_as_keras_export": None if ratio is None else ratio.value,
        "interval": None if ratio is None or ratio.interval is None else [ratio.interval.low, ratio.interval.high],
        "max_abs": ours.max_abs,
        "error_of_keras_export": theirs.error,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--min-seconds", type=float, default=1.0)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.case or CASES:
            row = measure(name, Settings(min_seconds=options.min_seconds), Path(folder))
            results.append(row)
            ratio, interval = row["times_as_fast_as_keras_export"], row["interval"]
            said = row["error_of_keras_export"] or f"{ratio:.2f} x  {interval and [round(end, 2) for end in interval]}"
            print(f"{name:40s} {', '.join(row['strategies']):16s} {said}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
