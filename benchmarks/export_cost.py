"""Wall time and extra memory of an export, edgeseq's conversion against Keras's own, each in a fresh process.

    python benchmarks/export_cost.py [-o results.json] [--repeat 3] [--case imdb]

Extra memory is the peak of the process's resident set during the export, less what it was before. edgeseq's figures are
for the conversion and the writing, as Keras's are; its verification, which Keras's export has not, is measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {
    "imdb": "Embedding 10,000 x 128, LSTM 128 over 250 steps, Dense",
    "six_lstm_640": "six LSTM 640, 20 million parameters",
}


def make_model(case):
    import keras
    from keras import layers as L

    if case == "imdb":
        parts = [keras.Input((250,), dtype="int32"), L.Embedding(10_000, 128), L.LSTM(128), L.Dense(1)]
    else:
        # 640 features in, so that all six are of one size.
        parts = [keras.Input((None, 640)), *[L.LSTM(640, return_sequences=True) for _ in range(5)], L.LSTM(640)]
    return keras.Sequential(parts)


class PeakMemory:
    """Peak of the resident set since `start`, from Linux's own counter, which can be set back."""

    def __init__(self):
        self.before = self._field("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")

    def extra_bytes(self):
        return self._field("VmHWM") - self.before

    @staticmethod
    def _field(name):
        (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name + ":")]
        return int(line.split()[1]) * 1024


def measure(case, exporter, folder):
    """One export in this process; prints a JSON line."""
    import keras
    import numpy as np

    model = make_model(case)
    # Keras refuses to export a model that was never called.
    shape = [1, 250] if case == "imdb" else [1, 4, 640]
    model(np.zeros(shape, np.int32 if case == "imdb" else np.float32))
    path = folder / "model.onnx"
    result = {}
    if exporter == "keras":
        memory, started = PeakMemory(), time.perf_counter()
        model.export(path, format="onnx", verbose=False)
        result["seconds"] = time.perf_counter() - started
    else:
        import onnx_ir as ir

        from edgeseq.conversion.convert import convert
        from edgeseq.conversion.signature import read_signature

        memory, started = PeakMemory(), time.perf_counter()
        converted = convert(read_signature(model), opset=18, target="cpu", streaming=False, lowering="auto")
        path.write_bytes(ir.to_proto(converted.graph).SerializeToString())
        result["seconds"] = time.perf_counter() - started
    result["extra_bytes"] = memory.extra_bytes()
    result["size_bytes"] = path.stat().st_size
    if exporter == "edgeseq":
        from edgeseq import export

        memory = PeakMemory()
        report = export(model, folder / "verified.onnx")
        result |= {
            "verification_seconds": report.verification_seconds,
            "whole_extra_bytes": memory.extra_bytes(),
            "parameters": report.parameters,
        }
    del keras
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as folder:
            measure(*options.measure, Path(folder))
        return
    results = []
    for case in options.case or CASES:
        rows = {"edgeseq": [], "keras": []}
        # In turn, so that a machine that slows down slows both.
        for _ in range(options.repeat):
            for exporter, found in rows.items():
                command = [sys.executable, __file__, "--measure", case, exporter]
                environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
                run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                found.append(json.loads(run.stdout.splitlines()[-1]))
        for exporter, found in rows.items():
            results.append(
                {"case": case, "exporter": exporter}
                | {key: statistics.median(row[key] for row in found) for key in found[0]}
            )
        ours, theirs = results[-2], results[-1]
        print(f"{case}: {CASES[case]}")
        for row in (ours, theirs):
            extra = row["extra_bytes"] / 1e6
            print(f"  {row['exporter']:8s} {row['seconds']:7.2f} s  {extra:7.0f} MB extra")
        print(
            f"  Keras's own takes {theirs['seconds'] / ours['seconds']:.1f} x the time and "
            f"{theirs['extra_bytes'] / ours['extra_bytes']:.1f} x the extra memory; edgeseq's verification "
            f"{ours['verification_seconds']:.2f} s more, peak with it {ours['whole_extra_bytes'] / 1e6:.0f} MB"
        )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
