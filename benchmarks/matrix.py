"""edgeseq's file against Keras's own ONNX export over the matrix of recurrent layers, at realistic sizes.

Both run interleaved in one run, one thread, batch 1. What Keras exports but onnxruntime refuses, and what it exports
and answers wrongly, is its result. The configurations are drawn from those of the tests with a seed.

python benchmarks/matrix.py [-o docs/matrix.json] [-n 60] [--seed 0] [--case ID ...] [--min-seconds 0.5]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "matrix"))

import keras
import matrix_cases
import matrix_models
import numpy as np

import edgeseq
from edgeseq.bench import Settings, run_benchmark
from edgeseq.bench.record import KERAS_EXPORT, speedup
from edgeseq.bench.subjects import error_text
from edgeseq.conversion.keras_subjects import side_by_side
from edgeseq.errors import EdgeseqError

# The rule for float32 on the CPU, as in the parity check: |a - b| <= 1e-5 x max(1, max |reference|).
TOLERANCE = 1e-5
# Part of a masked sequence that is padding, in front, as `pad_sequences` pads.
PADDING = 0.4


def choose(count: int, seed: int) -> list[matrix_cases.Case]:
    """`count` cases that show every option, at sizes people use."""
    half = count // 2
    core = [case for case in matrix_cases.explicit() if realistic(case)]
    drawn = [case for case in matrix_cases.sample(seed, 400) if realistic(case)]
    chosen = matrix_cases.stratified(drawn, count - half)
    cases = [*chosen, *matrix_cases.stratified(core, half, shown=chosen)]
    source = random.Random(seed)
    return [at_size(case, source) for case in cases]


def realistic(case: matrix_cases.Case) -> bool:
    """Whether its numbers stay within float32 over hundreds of steps, and Keras's own export is of the same model."""
    tame = matrix_cases.BOUNDED | {"relu", "elu", "gelu", "silu", "leaky_relu", "LeakyReLU", "own_function", "mish"}
    return (
        case.recurrent_activation in matrix_cases.BOUNDED
        and case.activation in tame
        and case.policy == "float32"
        and case.time != 1
        and case.batch in (0, 1)
        # Its file carries the state, which Keras's export drops.
        and not case.stateful
    )


def at_size(case: matrix_cases.Case, source: random.Random) -> matrix_cases.Case:
    steps = source.choice((50, 100, 200))
    units, features = source.choice((32, 64, 128)), source.choice((16, 32, 64))
    if case.rank:
        steps, units, features = 10, source.choice((8, 16)), source.choice((1, 3))
    if case.is_time_distributed:
        steps = 20
    return dataclasses.replace(
        case,
        time=steps if case.time else 0,
        outer_time=10 if case.outer_time else 0,
        units=units,
        features=features,
        scale={1: 8, 2: 4, 3: 2}.get(case.rank, 1),
    )


def measure(case: matrix_cases.Case, settings: Settings, folder: Path) -> dict[str, object]:
    """One row: edgeseq's strategies, and the ratio with its interval or why there is none."""
    model = matrix_models.build(case)
    path = folder / "model.onnx"
    report = edgeseq.export(model, path, overwrite=True)
    generator = np.random.default_rng(0)
    steps = 10 if case.rank or case.is_time_distributed else 100

    def padded(shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.arange(shape[-1]) >= int(PADDING * shape[-1]), shape)

    arrays = matrix_models.make_inputs(case, model, 1, steps, generator, padded)
    given = arrays if len(arrays) > 1 else arrays[0]
    subjects = side_by_side(model, [path], threads=1, inputs=given)[1:]
    theirs, ours = subjects
    expected = [np.asarray(array) for array in keras.tree.flatten(model(given, training=False))]
    row: dict[str, object] = {
        "case": case.id,
        "strategies": [layer.strategy for layer in report.recurrent],
        "edgeseq": trouble(ours, expected) or "right",
        "keras_export": theirs.error or trouble(theirs, expected) or "right",
        "times_as_fast_as_keras_export": None,
        "interval": None,
    }
    if row["keras_export"] != "right" or row["edgeseq"] != "right":
        return row
    run = run_benchmark(subjects, settings=settings)
    ratio = speedup(run[ours.name], run[KERAS_EXPORT])
    row["times_as_fast_as_keras_export"] = None if ratio is None else ratio.value
    row["interval"] = None if ratio is None or ratio.interval is None else [ratio.interval.low, ratio.interval.high]
    row["p50_us"] = [None if p50 is None else p50 / 1000 for p50 in (run[ours.name].p50_ns, run[KERAS_EXPORT].p50_ns)]
    return row


def trouble(subject, expected) -> str:
    """How the answers of a subject differ from Keras's; empty when they are right."""
    try:
        answers = [np.asarray(array) for array in keras.tree.flatten(subject.call())]
    except Exception as error:  # noqa: BLE001 - a rival that cannot do it has that as its result
        return f"refused when run: {error_text(error)}"
    if [array.shape for array in answers] != [array.shape for array in expected]:
        return f"wrong: shapes {[array.shape for array in answers]} instead of {[array.shape for array in expected]}"
    worst = max(
        float(np.abs(mine - theirs).max(initial=0) / max(1, np.abs(theirs).max(initial=0)))
        for mine, theirs in zip(answers, expected, strict=True)
    )
    return "" if worst <= TOLERANCE else f"wrong: differs by {worst:.1e} of its range"


def kind(row: dict[str, object]) -> str:
    """What became of Keras's own export: right, wrong, refused (by itself or by onnxruntime), or not asked."""
    said = str(row["keras_export"])
    return said if said in ("right", "not asked") else "wrong" if said.startswith("wrong") else "refused"


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """What all rows say together; `slower` are those whose whole interval is below 1."""
    timed = [row for row in rows if row.get("interval")]
    ratios = [row["times_as_fast_as_keras_export"] for row in timed]
    slowest = min(timed, key=lambda row: row["times_as_fast_as_keras_export"], default=None)
    return {
        "cases": len(rows),
        "timed": len(timed),
        "slower": [row["case"] for row in timed if row["interval"][1] < 1],
        "slowest": None if slowest is None else [slowest["case"], slowest["times_as_fast_as_keras_export"]],
        "geometric_mean": math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        "keras_export_refused": sum(kind(row) == "refused" for row in rows),
        "keras_export_wrong": sum(kind(row) == "wrong" for row in rows),
        "edgeseq_failed": [row["case"] for row in rows if row["edgeseq"] != "right"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("-n", "--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", action="append", help="only the case with this id, of those chosen")
    parser.add_argument("--min-seconds", type=float, default=0.5)
    options = parser.parse_args()
    cases = choose(options.count, options.seed)
    if options.case:
        cases = [case for case in cases if case.id in options.case]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            try:
                row = measure(case, Settings(min_seconds=options.min_seconds), Path(folder))
            except EdgeseqError as error:
                row = {"case": case.id, "strategies": [], "edgeseq": error_text(error), "keras_export": "not asked"}
            rows.append(row)
            ratio, interval = row.get("times_as_fast_as_keras_export"), row.get("interval")
            said = f"edgeseq {row['edgeseq']}; Keras's export {row['keras_export']}"
            if ratio:
                said = f"{ratio:.2f} x  {interval and [round(end, 2) for end in interval]}"
            print(f"{case.id}\n    {', '.join(row['strategies'])}: {said}", flush=True)
    result = {"seed": options.seed, "summary": summary(rows), "rows": rows}
    print(json.dumps(result["summary"], indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
