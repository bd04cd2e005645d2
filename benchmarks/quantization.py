"""Quantized files against their fp32 file and against what others make of the same model: one run, one thread, batch 1.

python benchmarks/quantization.py [-o results.json] [--case NAME ...] [--min-seconds 1]

Every model has Keras's random weights, and inputs from a seed: a file made by `edgeseq quantize` for each budget, one
by onnxruntime's `quantize_dynamic`, LiteRT with dynamic range, and OpenVINO in f32 and bf16 where it is installed. A
rival that cannot convert or run a model has that as its result. Errors are relative RMS against the fp32 file, on
sequences that the search did not see.
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
import tensorflow as tf
from keras import layers as L
from onnxruntime.quantization import QuantType, quantize_dynamic
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import edgeseq
from edgeseq.bench import Settings, run_benchmark
from edgeseq.bench.record import speedup
from edgeseq.bench.subjects import Subject, error_text
from edgeseq.quantization.metrics import relative_rms
from edgeseq.runtime import Model

SAMPLES, UNSEEN = 12, 4
FP32 = "fp32"


def wide(cell, units, shape):
    return keras.Sequential([keras.Input(shape, name="x"), cell(units)])


# Name -> model, and the budgets it is quantized with. A budget of 10 % lets 4 bits in.
CASES = {
    "LSTM 1024 on (100, 512)": (lambda: wide(L.LSTM, 1024, (100, 512)), (0.02, 0.1)),
    "GRU 1024 on (100, 512)": (lambda: wide(L.GRU, 1024, (100, 512)), (0.02, 0.1)),
    "GRU 512 on (100, 256)": (lambda: wide(L.GRU, 512, (100, 256)), (0.02, 0.1)),
    "GRU 128 on (250, 128)": (lambda: wide(L.GRU, 128, (250, 128)), (0.02,)),
    "LSTM 128 on (250, 128)": (lambda: wide(L.LSTM, 128, (250, 128)), (0.02,)),
    "2 x LSTM 64 on (128, 9)": (
        lambda: keras.Sequential([keras.Input((128, 9), name="x"), L.LSTM(64, return_sequences=True), L.LSTM(64)]),
        (0.02,),
    ),
    "ConvLSTM2D 64, relu, on (10, 64, 64, 1)": (
        lambda: keras.Sequential(
            [keras.Input((10, 64, 64, 1), name="x"), L.ConvLSTM2D(64, 3, padding="same", activation="relu")]
        ),
        (0.02,),
    ),
}


def edgeseq_file(path):
    model = Model(path, threads=1)
    return model, path.stat().st_size


def onnxruntime_dynamic(_, source, folder):
    path = folder / "quantize_dynamic.onnx"
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)
    return edgeseq_file(path)


def lite_rt(optimize):
    def make(model, *_):
        step = tf.function(lambda x: model(x, training=False))
        shape = (1, *model.inputs[0].shape[1:])
        traced = step.get_concrete_function(tf.TensorSpec(shape, tf.float32))
        # With variables instead of constants the interpreter finds none of them.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])
        if optimize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = converter.convert()
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        [given], [made] = interpreter.get_input_details(), interpreter.get_output_details()

        def run(x):
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            return interpreter.get_tensor(made["index"])

        return run, len(content)

    return make


def openvino(precision):
    def make(_, source, *__):
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(core.read_model(source), "CPU", settings)
        return lambda x: compiled([x])[0], None

    return make


RIVALS = {
    "onnxruntime quantize_dynamic": onnxruntime_dynamic,
    "LiteRT": lite_rt(False),
    "LiteRT dynamic range": lite_rt(True),
    "OpenVINO f32": openvino("f32"),
    "OpenVINO bf16": openvino("bf16"),
}


def measure(name, settings, folder):
    make, budgets = CASES[name]
    keras.utils.set_random_seed(0)
    model = make()
    shape = (SAMPLES + UNSEEN, *model.inputs[0].shape[1:])
    random = np.random.default_rng(0)
    # Images are never negative; what else a sequence holds is as often below zero as above.
    data = (random.random(shape) if len(shape) > 3 else random.standard_normal(shape)).astype(np.float32)
    samples, unseen = data[:SAMPLES], data[SAMPLES:]
    source = folder / "fp32.onnx"
    edgeseq.export(model, source, overwrite=True)

    runs, facts = {FP32: edgeseq_file(source)}, {}
    for budget in budgets:
        path = folder / f"edgeseq-{budget}.onnx"
        report = edgeseq.quantize(source, path, samples=samples, max_error=budget, goal="latency", threads=1)
        runs[f"edgeseq {budget:.0%}"] = edgeseq_file(path)
        forms = {layer.name: layer.chosen for layer in report.layers}
        facts[f"edgeseq {budget:.0%}"] = {"forms": forms, "rows_independent": report.rows_independent}
    failed = {}
    for called, rival in RIVALS.items():
        try:
            runs[called] = rival(model, source, folder)
            runs[called][0](unseen[:1])
        except Exception as error:  # noqa: BLE001 - a rival that cannot has that as its result
            runs.pop(called, None)
            failed[called] = error_text(error)
    subjects = [
        Subject(name=called, call=lambda run=run: run(unseen[:1]), threads=1, size_bytes=size_bytes)
        for called, (run, size_bytes) in runs.items()
    ]
    measured = run_benchmark(subjects, settings=settings)
    answers = {called: [[np.asarray(run(row[None]))] for row in unseen] for called, (run, _) in runs.items()}
    rows = []
    for called, (_, size_bytes) in runs.items():
        ratio = speedup(measured[called], measured[FP32])
        rows.append(
            {
                "case": name,
                "subject": called,
                "times_as_fast_as_fp32": ratio and ratio.value,
                "interval": ratio and ratio.interval and [ratio.interval.low, ratio.interval.high],
                "relative_rms_error": relative_rms(answers[FP32], answers[called]),
                "times_smaller": size_bytes and runs[FP32][1] / size_bytes,
                **facts.get(called, {}),
            }
        )
    return rows + [{"case": name, "subject": called, "failed": reason} for called, reason in failed.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--min-seconds", type=float, default=1.0)
    options = parser.parse_args()
    results = []
    for name in options.case or CASES:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(name, Settings(min_seconds=options.min_seconds), Path(folder)):
                results.append(row)
                print(f"  {row['subject']:30s} {said(row)}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def said(row):
    if "failed" in row:
        return row["failed"][:90]
    smaller = f"{row['times_smaller']:.2f} x smaller" if row["times_smaller"] else ""
    forms = ", ".join(sorted(set(row.get("forms", {}).values())))
    return f"{row['times_as_fast_as_fp32']:.2f} x  error {row['relative_rms_error']:.2%}  {smaller}  {forms}"


if __name__ == "__main__":
    main()
