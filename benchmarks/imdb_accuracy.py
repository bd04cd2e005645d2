"""Accuracy of a trained imdb model and of its files on all test reviews, and how often each agrees with Keras.

    edgeseq train imdb -o imdb.keras
    edgeseq export imdb.keras -o imdb.onnx
    edgeseq quantize imdb.onnx -o imdb-int8.onnx --samples samples.npy
    python benchmarks/imdb_accuracy.py imdb.keras imdb.onnx imdb-int8.onnx [--data FOLDER] [-o results.json]

The files read the raw texts, through `edgeseq.runtime`; Keras gets the word ids that the recipe makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from edgeseq.recipes import data, readers
from edgeseq.runtime import Model
from edgeseq.runtime.preprocessing import Preprocessing

BATCH = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keras", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    texts, labels = readers.read_reviews(data.require("imdb", options.data) / "test.jsonl.gz")
    labels = np.asarray(labels)

    import keras

    model = keras.saving.load_model(options.keras, compile=False)
    steps = Model(options.files[0]).manifest.preprocessing
    reference = model.predict(Preprocessing(steps).before({"tokens": list(texts)})["tokens"], batch_size=512, verbose=0)
    rows = [{"file": options.keras.name, "accuracy": accuracy(reference, labels), "reviews": len(labels)}]
    for path in options.files:
        runtime = Model(path, batch=BATCH)
        parts = [runtime(list(texts[i : i + BATCH]), raw=True) for i in range(0, len(texts), BATCH)]
        answers = np.concatenate(parts)
        rows.append(
            {
                "file": path.name,
                "accuracy": accuracy(answers, labels),
                "other_class_than_keras": int(((answers > 0.5) != (reference > 0.5)).sum()),
                "max_abs": float(np.abs(answers - reference).max()),
                "size_bytes": path.stat().st_size,
            }
        )
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


def accuracy(answers, labels):
    return float(((answers[:, 0] > 0.5) == labels).mean())


if __name__ == "__main__":
    main()
