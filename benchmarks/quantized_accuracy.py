"""Metrics on all test data before and after quantization, through the runtime, for trained models on real data.

    edgeseq train imdb -o imdb.keras                  # and others, as below
    python benchmarks/quantized_accuracy.py imdb:imdb.keras forecast,series=etth1:etth1.keras cmapss [--data FOLDER]
                                            [-o results.json] [--max-error 2%] [--goal size]

A subject is RECIPE[,OPTION=VALUE...]:MODEL.keras, whose recipe measures the files on the test data as it measures a
Keras model; `cmapss` is the model trained by umbertogriffo/Predictive-Maintenance-using-LSTM that comes with the data.
Samples for the search are training data.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import edgeseq
from edgeseq.recipes.registry import Request, find
from edgeseq.runtime import Model

SAMPLES = 256
# The columns of C-MAPSS that the author used, of 26: all but the engine and the cycle's own number, with the cycle.
WINDOW = 50


class AsKeras:
    """A file that answers `predict` as a Keras model does, batch by batch."""

    def __init__(self, path):
        self.model = Model(path, batch=64)

    def predict(self, inputs, batch_size=64, verbose=0):  # noqa: ARG002 - Keras's names
        parts = [self.model(inputs[start : start + 64]) for start in range(0, len(inputs), 64)]
        if isinstance(parts[0], list):
            return [np.concatenate(column) for column in zip(*parts, strict=True)]
        return np.concatenate(parts)

    def evaluate(self, inputs, targets, **_):
        """What Keras's `evaluate` answers for a classifier with class numbers as its targets."""
        found = self.predict(inputs)
        if found.shape[1] == 1:
            found = np.concatenate([1 - found, found], axis=1)
        right = np.take_along_axis(found, np.asarray(targets).reshape(-1, 1), axis=1)
        return {
            "loss": float(-np.log(right).mean()),
            "accuracy": float((found.argmax(-1) == np.ravel(targets)).mean()),
        }


def of_recipe(subject, folder):
    """Model, samples and a function from a predictor to metrics."""
    said, _, path = subject.partition(":")
    name, *options = said.split(",")
    request = Request(data=folder, epochs=None, batch_size=None, seed=0)
    recipe = find(name)
    given = {key: _value(text) for key, _, text in (option.partition("=") for option in options)}
    plan = recipe.prepare(request, **recipe.resolve(given))
    return path, plan.train.inputs, lambda model: dict(plan.evaluate(model).metrics)


def of_cmapss(folder):
    """As `of_recipe`, for the regression model of C-MAPSS, with the windows that its author made."""
    root = Path(folder or os.environ["EDGESEQ_DATA"]) / "cmapss"
    train, test = (np.loadtxt(root / f"PM_{part}.txt") for part in ("train", "test"))
    truth = np.loadtxt(root / "PM_truth.txt")

    def features(rows):
        return np.concatenate([rows[:, 2:5], rows[:, 1:2], rows[:, 5:26]], axis=1)

    low, high = features(train).min(axis=0), features(train).max(axis=0)
    span = np.where(high > low, high - low, 1)

    def scaled(rows):
        return ((features(rows) - low) / span).astype(np.float32)

    engines = [(number, scaled(test[test[:, 0] == number])) for number in np.unique(test[:, 0])]
    windows = np.stack([rows[-WINDOW:] for _, rows in engines if len(rows) >= WINDOW])
    wanted = np.array([truth[int(number) - 1] for number, rows in engines if len(rows) >= WINDOW])
    runs = [scaled(train[train[:, 0] == number]) for number in np.unique(train[:, 0])]
    samples = np.concatenate([np.lib.stride_tricks.sliding_window_view(run, WINDOW, axis=0) for run in runs])
    samples = np.ascontiguousarray(samples.transpose(0, 2, 1))

    def measure(model):
        return {"mae_cycles": float(np.abs(model.predict(windows)[:, 0] - wanted).mean()), "engines": len(windows)}

    return str(root / "regression_model.h5"), samples, measure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--max-error", type=float, default=0.02)
    parser.add_argument("--goal", default="balanced")
    options = parser.parse_args()
    rows = []
    for subject in options.subjects:
        path, samples, measure = of_cmapss(options.data) if subject == "cmapss" else of_recipe(subject, options.data)
        chosen = samples[np.random.default_rng(0).permutation(len(samples))[:SAMPLES]]
        with tempfile.TemporaryDirectory() as folder:
            source, small = Path(folder) / "fp32.onnx", Path(folder) / "small.onnx"
            edgeseq.export(path, source)
            report = edgeseq.quantize(source, small, samples=chosen, max_error=options.max_error, goal=options.goal)
            before, after = measure(AsKeras(source)), measure(AsKeras(small))
        rows.append(
            {
                "subject": subject.partition(":")[0],
                "before": before,
                "after": after,
                "times_smaller": report.source_size_bytes / report.size_bytes,
                "times_as_fast": report.speed and report.speed.value,
                "relative_rms_error": report.error,
                "held_out_error": report.held_out_error,
                "forms": {layer.name: layer.chosen for layer in report.layers},
            }
        )
        print(json.dumps(rows[-1], indent=2), flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


def _value(text):
    return {"true": True, "false": False}.get(text, int(text) if text.isdigit() else text)


if __name__ == "__main__":
    main()
