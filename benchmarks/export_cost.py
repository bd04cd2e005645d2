"""Wall time and extra memory of an export, edgeseq's conversion against Keras's own, each in a fresh process.

    python benchmarks/export_cost.py [-o results.json] [--repeat 3] [--case imdb] [--timeout-s 180] [--memory-gb 16]

Extra memory is the peak of the process's resident set during the export, less what it was before. edgeseq's figures are
for the conversion and the writing, as Keras's are; its whole export, with the verification that Keras's has not, is
measured apart. What an exporter does not finish within the limits is a result too: its row holds the error.
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
    "imdb": "Embedding 10,000 x 128, LSTM 128 over 250 steps, Dense: 1.4 million parameters",
    "six_lstm_640": "six LSTM 640, 20 million parameters",
    "six_lstm_1440": "six LSTM 1440, 100 million parameters",
    "beyond_2_gb": "Embedding 1,100,000 x 512, LSTM 128, Dense: 564 million parameters, 2.25 GB",
}
# Minutes and gigabytes each: once tells enough.
ONCE = ("six_lstm_1440", "beyond_2_gb")


def make_model(case):
    import keras
    from keras import layers as L

    if case == "imdb":
        parts = [keras.Input((250,), dtype="int32"), L.Embedding(10_000, 128), L.LSTM(128), L.Dense(1)]
    elif case == "beyond_2_gb":
        parts = [keras.Input((None,), dtype="int32"), L.Embedding(1_100_000, 512), L.LSTM(128), L.Dense(1)]
    else:
        # As many features in as units, so that all six are of one size.
        units = int(case.split("_")[-1])
        parts = [keras.Input((None, units)), *[L.LSTM(units, return_sequences=True) for _ in range(5)], L.LSTM(units)]
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
    import numpy as np

    model = make_model(case)
    # Keras refuses to export a model that was never called.
    (spec,) = model.inputs
    model(np.zeros([4 if axis is None else axis for axis in spec.shape], spec.dtype))
    path = folder / "model.onnx"
    result = {}
    if exporter == "keras":
        memory, started = PeakMemory(), time.perf_counter()
        model.export(path, format="onnx", verbose=False)
        result["seconds"] = time.perf_counter() - started
    elif exporter == "edgeseq":
        import onnx_ir as ir

        from edgeseq.conversion.convert import convert
        from edgeseq.conversion.outside import data_file
        from edgeseq.conversion.signature import read_signature

        memory, started = PeakMemory(), time.perf_counter()
        signature = read_signature(model)
        made = convert(signature, opset=18, target="cpu", streaming=False, lowering="auto", allow_loop=False)
        with data_file(path) as data:
            data.move_out(made.graph)
            path.write_bytes(ir.to_proto(made.graph).SerializeToString())
        result["seconds"] = time.perf_counter() - started
    else:
        from edgeseq import export

        memory = PeakMemory()
        report = export(model, path)
        result |= {"verification_seconds": report.verification_seconds, "parameters": report.parameters}
    result["whole_extra_bytes" if exporter == "whole" else "extra_bytes"] = memory.extra_bytes()
    if exporter != "whole":
        result["size_bytes"] = sum(file.stat().st_size for file in folder.glob("model*") if file.is_file())
    print(json.dumps(result))


def run(case, exporter, options):
    """One export in a fresh process: its figures, or why it did not end well."""
    # The folder is this process's: one that is ended leaves its files.
    with tempfile.TemporaryDirectory() as folder:
        return run_in(folder, case, exporter, options)


def run_in(folder, case, exporter, options):
    command = [sys.executable, __file__, "--measure", case, exporter, folder]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    deadline = time.monotonic() + options.timeout_s
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            while child.poll() is None:
                time.sleep(0.1)
                if time.monotonic() > deadline:
                    return {"error": f"not finished after {options.timeout_s:g} s"}
                # Better one failure than a machine without memory.
                if resident_bytes(child.pid) > options.memory_gb * 1e9:
                    return {"error": f"not finished within {options.memory_gb:g} GB of memory"}
        finally:
            child.kill()
            child.wait()
        out.seek(0)
        err.seek(0)
        if child.returncode:
            return {"error": err.read().strip().splitlines()[-1][:300]}
        return json.loads(out.read().splitlines()[-1])


def resident_bytes(pid):
    """What a process holds in memory; 0 for one that has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def middle(rows):
    """The median of each figure; the first error where there is one."""
    failed = [row for row in rows if "error" in row]
    return failed[0] if failed else {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(row):
    extra = f"{row['seconds']:7.2f} s  {row['extra_bytes'] / 1e6:7.0f} MB extra" if "seconds" in row else row["error"]
    print(f"  {row['exporter']:8s} {extra}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--timeout-s", type=float, default=180)
    parser.add_argument("--memory-gb", type=float, default=16)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        case, exporter, folder = options.measure
        measure(case, exporter, Path(folder))
        return
    results = []
    for case in options.case or CASES:
        rows = {"edgeseq": [], "keras": [], "whole": []}
        # In turn, so that a machine that slows down slows all.
        for _ in range(1 if case in ONCE else options.repeat):
            for exporter, found in rows.items():
                found.append(run(case, exporter, options))
        whole = middle(rows.pop("whole"))
        ours, theirs = ({"case": case, "exporter": exporter} | middle(found) for exporter, found in rows.items())
        ours |= whole
        results += [ours, theirs]
        print(f"{case}: {CASES[case]}")
        show(ours)
        show(theirs)
        if "seconds" in ours and "seconds" in theirs:
            print(
                f"  Keras's own takes {theirs['seconds'] / ours['seconds']:.1f} x the time and "
                f"{theirs['extra_bytes'] / ours['extra_bytes']:.1f} x the extra memory"
            )
        if "whole_extra_bytes" in ours:
            print(
                f"  edgeseq's verification {ours['verification_seconds']:.2f} s more, peak with it "
                f"{ours['whole_extra_bytes'] / 1e6:.0f} MB"
            )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
