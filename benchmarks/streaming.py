"""Streams, one run, one thread: a step against `session.run`, a pool against streams of their own, and whether chunks
equal the whole: over many steps, beside stateful Keras, on real hours, and with streams that come and go.

python benchmarks/streaming.py [--part NAME ...] [-o docs/streaming.json] [--readme PATH] [--min-seconds 1]
                               [--max-seconds 60] [--drift-steps 10000] [--soak-steps 1000000] [--data FOLDER]

With an output, what `streaming_report.py` makes of it is written too: pictures beside it and, when all parts were
measured, the table in README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import streaming_report
from keras import layers as L
from rival_summary import as_ratio

import edgeseq
from edgeseq.bench import Settings, Subject, run_benchmark
from edgeseq.bench.capacity import bulk_steps
from edgeseq.bench.machine import installed_versions, this_machine
from edgeseq.bench.record import speedup
from edgeseq.bench.sample import sample
from edgeseq.bench.streaming import plain_steps
from edgeseq.bench.units import duration, times
from edgeseq.files import write_bytes
from edgeseq.recipes import windows
from edgeseq.runtime import Model

FEATURES = 8
STREAMS = 64
GROWTH = tuple(2**power for power in range(13))


def sequential(*layers, features=FEATURES):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((None, features), name="x"), *layers])


def cell(units):
    return sequential(L.LSTM(units, return_sequences=True))


def exported(model, folder, name, **options):
    path = folder / f"{name}.onnx"
    edgeseq.export(model, path, streaming=True, overwrite=True, **options)
    return path


def ratio_of(run, name, reference):
    """How many times as fast as `reference` it is, with its interval; None where one of them has no time."""
    found = speedup(run[name], run[reference])
    return found and as_ratio(found)


def measured(subjects, options, reference):
    """The run, and its figures as plain data."""
    run = run_benchmark(subjects, settings=Settings(min_seconds=options.min_seconds, max_seconds=options.max_seconds))
    rows = {}
    for result in run.results:
        ratio = None if result.name == reference else ratio_of(run, result.name, reference)
        rows[result.name] = {
            "p50_ns": result.p50_ns, "p99_ns": result.p99_ns, "max_abs": result.max_abs, "error": result.error,
            "speedup": ratio,
        }  # fmt: skip
        p50 = result.error or "too few calls" if result.p50_ns is None else duration(result.p50_ns)
        told = ratio and f"{times(ratio['value'])} as fast"
        print(f"  {result.name:34s} {p50:12s} {told or ''}", flush=True)
    return run, {"rows": rows, "warnings": list(run.warnings)}


def worse(*apart):
    """The largest; NaN where one of them is, which `max` may pass over."""
    return float(np.max(apart))


def difference(found, wanted):
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max())


def part_step(options, folder):
    """One step of an LSTM 32: a stream, `session.run` with a dict, and LiteRT with the state in and out."""
    keras_model = cell(32)
    model = Model(exported(keras_model, folder, "lstm32"), threads=1)
    x = np.random.default_rng(0).standard_normal((1, 1, FEATURES)).astype(np.float32)
    stream = model.stream()
    subjects = [
        Subject(name="session.run with a dict", call=plain_steps(model, {"x": x})),
        Subject(name="stream.step", call=lambda: stream.step(x)),
        litert(keras_model, x),
    ]
    run, found = measured(subjects, options, "session.run with a dict")
    return found | {
        "over_plain": ratio_of(run, "stream.step", "session.run with a dict"),
        "over_litert": ratio_of(run, "stream.step", "LiteRT"),
        "litert_error": run["LiteRT"].error,
    }


def litert(keras_model, x):
    """LiteRT stepping the same cell, or why it cannot."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        return Subject(name="LiteRT", call=None, error=f"not installed ({error})", threads=1)
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    lstm = keras_model.layers[-1]
    state = tf.TensorSpec((1, lstm.units), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 1, FEATURES), tf.float32), state, state])
    def step(x, h, c):
        answer, (h, c) = lstm.cell(x[:, 0], [h, c])
        return answer[:, tf.newaxis], h, c

    # With variables instead of constants the interpreter finds none of them.
    constant = convert_variables_to_constants_v2(step.get_concrete_function())
    content = tf.lite.TFLiteConverter.from_concrete_functions([constant]).convert()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    given = {found["name"].split(":")[0]: found["index"] for found in interpreter.get_input_details()}
    made = dict(zip(("y", "h", "c"), [found["index"] for found in interpreter.get_output_details()], strict=True))
    kept = {name: np.zeros((1, lstm.units), np.float32) for name in ("h", "c")}

    def call():
        interpreter.set_tensor(given["x"], x)
        for name in ("h", "c"):
            interpreter.set_tensor(given[name], kept[name])
        interpreter.invoke()
        for name in ("h", "c"):
            kept[name] = interpreter.get_tensor(made[name])
        return interpreter.get_tensor(made["y"])

    steps = np.concatenate([call() for _ in range(5)], axis=1)
    if not difference(steps, keras_model(np.repeat(x, 5, axis=1), training=False)) < 1e-5:
        return Subject(name="LiteRT", call=None, error="wrong: its answers are not Keras's", threads=1)
    kept.update({name: np.zeros_like(array) for name, array in kept.items()})
    return Subject(name="LiteRT", call=call, threads=1)


def part_pool(options, folder):
    """A step of each of 64 streams of an LSTM 128: streams of their own, the bulk call, and the queue."""
    model = Model(exported(cell(128), folder, "lstm128"), threads=1)
    x = np.random.default_rng(0).standard_normal((STREAMS, 1, 1, FEATURES)).astype(np.float32)
    alone = [model.stream() for _ in range(STREAMS)]
    with model.pool() as bulk, model.pool() as queued:
        chunks = {bulk.open(): one for one in x}
        fed = [queued.open() for _ in range(STREAMS)]

        def feed():
            waiting = [stream.feed(one) for stream, one in zip(fed, x, strict=True)]
            return [future.result() for future in waiting]

        subjects = [
            Subject(
                name=f"{STREAMS} streams of their own",
                call=lambda: [stream.step(one) for stream, one in zip(alone, x, strict=True)],
            ),
            Subject(name="bulk step", call=lambda: list(bulk.step(chunks).values())),
            Subject(name="queued", call=feed),
        ]
        run, found = measured(subjects, options, subjects[0].name)
    for row in found["rows"].values():
        row["steps_per_s"] = None if row["p50_ns"] is None else STREAMS / row["p50_ns"] * 1e9
    queued, bulk = (found["rows"][name]["p50_ns"] for name in ("queued", "bulk step"))
    overhead = None if queued is None or bulk is None else (queued - bulk) / STREAMS
    print(f"  the queue adds {'-' if overhead is None else duration(overhead)} a step", flush=True)
    return found | {
        "streams": STREAMS,
        "bulk_over_apart": ratio_of(run, "bulk step", subjects[0].name),
        "bulk_over_queued": ratio_of(run, "bulk step", "queued"),
        "queue_overhead_ns_per_step": overhead,
    }


def part_growth(options, folder):
    """Time of a bulk step over the number of streams, from 1 to 4,096."""
    model = Model(exported(cell(128), folder, "lstm128"), threads=1)
    settings = Settings(
        min_seconds=options.min_seconds / 4, min_runs=11, max_seconds=options.max_seconds, precision=None
    )
    rows = []
    for count in GROWTH:
        with model.pool(max_streams=count) as pool:
            [found] = sample([bulk_steps(model, pool, chunk=1)], settings).subjects
        p50 = float(np.median([time_ns for block in found.rounds for time_ns in block]))
        rows.append({"streams": count, "p50_ns": p50, "ns_per_stream": p50 / count})
        print(f"  {count:5d} streams  {duration(p50):>10s}  {duration(p50 / count)} each", flush=True)
    return {"rows": rows}


def tcn(x):
    for dilation in (1, 2, 4):
        y = L.Conv1D(16, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        x = L.Add()([y, x if x.shape[-1] == 16 else L.Conv1D(16, 1)(x)])
    return L.Dense(2)(x)


def functional(build):
    keras.utils.set_random_seed(0)
    x = keras.Input((None, FEATURES), name="x")
    return keras.Model(x, build(x))


STREAMABLE = {
    "LSTM": lambda: cell(32),
    "GRU": lambda: sequential(L.GRU(32, return_sequences=True)),
    "GRU reset_after=False": lambda: sequential(L.GRU(32, return_sequences=True, reset_after=False)),
    "SimpleRNN": lambda: sequential(L.SimpleRNN(32, return_sequences=True)),
    "Conv1D": lambda: sequential(L.Conv1D(16, 3, padding="causal")),
    "Conv1D dilated": lambda: sequential(L.Conv1D(16, 3, padding="causal", dilation_rate=4)),
    "SeparableConv1D": lambda: sequential(L.ZeroPadding1D((2, 0)), L.SeparableConv1D(16, 3)),
    "DepthwiseConv1D": lambda: sequential(L.ZeroPadding1D((2, 0)), L.DepthwiseConv1D(3)),
    "ConvLSTM1D": lambda: sequential(
        L.TimeDistributed(L.Reshape((FEATURES, 1))),
        L.ConvLSTM1D(4, 3, padding="same", return_sequences=True),
    ),
    "masked LSTM": lambda: sequential(L.Masking(), L.LSTM(32, return_sequences=True)),
    "2 x LSTM, Dense": lambda: sequential(
        L.LSTM(32, return_sequences=True), L.LSTM(16, return_sequences=True), L.Dense(4)
    ),
    "Conv1D, norm, GRU": lambda: sequential(
        L.Conv1D(16, 3, padding="causal"), L.LayerNormalization(), L.GRU(16, return_sequences=True)
    ),
    "TCN": lambda: functional(tcn),
}


def part_drift(options, folder):
    """The same sequence in chunks of {all, 1, random}: the largest difference from all at once, by position."""
    steps, random, found = options.drift_steps, np.random.default_rng(0), {}
    x = random.standard_normal((1, steps, FEATURES)).astype(np.float32)
    x[:, random.random(steps) < 0.1] = 0
    cuts = [0]
    while cuts[-1] < steps:
        cuts.append(min(steps, cuts[-1] + int(random.integers(1, 50))))
    ways = {"1": range(steps + 1), "random": cuts}
    edges = np.linspace(0, steps, min(51, steps + 1), dtype=int)
    for name, make in STREAMABLE.items():
        keras_model = make()
        model = Model(exported(keras_model, folder, "drift"), threads=1)
        whole = model.stream().step(x)
        wanted = np.asarray(keras_model(x, training=False))
        row = {"keras_max_abs": difference(whole, wanted), "reference_max_abs": float(np.abs(wanted).max())}
        for way, places in ways.items():
            stream = model.stream()
            pieces = [stream.step(x[:, a:b]) for a, b in itertools.pairwise(places)]
            apart = np.abs(np.concatenate(pieces, axis=1) - whole).reshape(steps, -1).max(axis=1)
            curve = [float(apart[a:b].max()) for a, b in itertools.pairwise(edges)]
            row[f"chunks of {way}"] = {"max_abs": float(apart.max()), "by_position": curve}
        within = model.manifest.tolerance * max(1.0, row["reference_max_abs"])
        worst = worse(*(row[f"chunks of {way}"]["max_abs"] for way in ways))
        row |= {"max_abs": worst, "tolerance": within, "within": worse(worst, row["keras_max_abs"]) <= within}
        found[name] = row
        print(f"  {name:24s} {worst:.1e} from whole, {row['keras_max_abs']:.1e} from Keras; within {row['within']}")
    return {"steps": steps, "edges": edges.tolist(), "layers": found}


def part_stateful(options, folder):
    """A stateful Keras model and its artifact, call by call, with resets."""
    keras.utils.set_random_seed(0)
    batch, random = 4, np.random.default_rng(0)
    inputs = keras.Input(batch_shape=(batch, None, FEATURES), name="x")
    hidden = L.GRU(16, stateful=True, return_sequences=True)(L.LSTM(32, stateful=True, return_sequences=True)(inputs))
    keras_model = keras.Model(inputs, L.Dense(1)(hidden))
    path = folder / "stateful.onnx"
    edgeseq.export(keras_model, path, overwrite=True)
    model = Model(path, threads=1)
    stream, worst, largest, resets = model.stream(batch=batch), 0.0, 1.0, 0
    for layer in keras_model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()
    for _ in range(options.calls):
        if random.random() < 0.02:
            resets += 1
            stream.reset()
            for layer in keras_model.layers:
                if getattr(layer, "stateful", False):
                    layer.reset_state()
        x = random.standard_normal((batch, int(random.integers(1, 4)), FEATURES)).astype(np.float32)
        wanted = np.asarray(keras_model(x, training=False))
        worst, largest = worse(worst, difference(stream.step(x), wanted)), max(largest, float(np.abs(wanted).max()))
    within = model.manifest.tolerance * largest
    print(f"  {options.calls} calls, {resets} resets: at most {worst:.1e} apart")
    return {
        "calls": options.calls, "resets": resets, "max_abs": worst, "tolerance": within, "within": worst <= within,
    }  # fmt: skip


def part_forecast(options, folder):
    """ETTh1: a window from the initial state equals the same hours streamed one by one after a reset.

    A stream that is never reset remembers more than a window does, so its answers differ: how far is told.
    """
    series = windows.load("etth1", options.data)
    parts = windows.parts_of(len(series.values))
    train = series.values[: parts.validation]
    scaled = ((series.values - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    steps, hours = 10, scaled[parts.test :]
    keras_model = sequential(L.LSTM(128), L.Dense(hours.shape[1]), features=hours.shape[1])
    given = windows.windows(scaled, parts.test, parts.end, steps).inputs.astype(np.float32)
    model = Model(exported(keras_model, folder, "forecast"), threads=1)
    windowed = keras_model.predict(given, batch_size=512, verbose=0)
    stream = model.stream(batch=len(given))
    for hour in range(steps):
        streamed = stream.step(given[:, hour : hour + 1])
    apart = difference(streamed, windowed)
    # Row by row as a device does it: a window after a reset, an hour at a time.
    one, alone = model.stream(), 0.0
    for row in range(0, len(given), max(1, len(given) // 200)):
        one.reset()
        for hour in range(steps):
            answer = one.step(given[row : row + 1, hour : hour + 1])
        alone = worse(alone, difference(answer, windowed[row]))
    one.reset()
    endless = np.concatenate([one.step(hours[np.newaxis, hour : hour + 1]) for hour in range(len(hours) - 1)])
    remembered = float(np.sqrt(np.mean((endless - windowed[1:]) ** 2)))
    within = model.manifest.tolerance * max(1.0, float(np.abs(windowed).max()))
    print(f"  {len(given)} windows of {steps} hours: {worse(apart, alone):.1e} apart (allowed {within:.1e});")
    print(f"  a stream that is never reset differs by {remembered:.2g} (rms), as it should")
    return {
        "windows": len(given), "hours": steps, "max_abs": worse(apart, alone), "tolerance": within,
        "within": worse(apart, alone) <= within, "rms_without_resets": remembered,
    }  # fmt: skip


def part_soak(options, folder):
    """Steps through a pool while streams open, close, reset and move; each is checked against the model run whole."""
    model = Model(exported(cell(32), folder, "lstm32"), threads=1)
    random, most = np.random.default_rng(0), 256
    done = checked = moved = 0
    worst, curve, next_look = 0.0, [], 0
    began = time.perf_counter()
    with model.pool(max_streams=most + 1, max_wait_ms=0.2) as pool:
        lives = {}

        def check(given, answers):
            nonlocal checked, worst
            if given:
                wanted = model(np.array(given)[np.newaxis])[0]
                worst = worse(worst, difference(answers, wanted))
                checked += 1

        while done < options.soak_steps:
            if done >= next_look:
                curve.append([done, resident_bytes()])
                next_look += max(1, options.soak_steps // 100)
            for _ in range(int(random.integers(0, 4))):
                if len(lives) < most:
                    lives[pool.open()] = ([], [])
            for stream in [stream for stream in lives if random.random() < 0.01]:
                fate = random.random()
                if fate < 0.2:
                    # The same stream, elsewhere: its state goes on in another.
                    other = pool.open()
                    other.restore(stream.to_bytes())
                    lives[other] = lives.pop(stream)
                    stream.close()
                    moved += 1
                elif fate < 0.4:
                    stream.reset()
                    check(*lives[stream])
                    lives[stream] = ([], [])
                else:
                    stream.close()
                    check(*lives.pop(stream))
            chosen = [stream for stream in lives if random.random() < 0.8]
            steps = random.standard_normal((len(chosen), 1, FEATURES)).astype(np.float32)
            if random.random() < 0.3:
                waiting = [stream.feed(x) for stream, x in zip(chosen, steps, strict=True)]
                answers = [future.result() for future in waiting]
            else:
                answers = list(pool.step(dict(zip(chosen, steps, strict=True))).values())
            for stream, x, answer in zip(chosen, steps, answers, strict=True):
                lives[stream][0].append(x[0])
                lives[stream][1].append(answer[0].copy())
            done += len(chosen)
        for given, answers in lives.values():
            check(given, answers)
        curve.append([done, resident_bytes()])
        statistics = dataclasses.asdict(pool.statistics())
    seconds = time.perf_counter() - began
    half = [size for steps, size in curve if steps >= options.soak_steps / 2]
    growth = half[-1] - half[0]
    print(f"  {done:,} steps in {seconds:.0f} s, {checked:,} sequences checked, {moved} moved: {worst:.1e} apart;")
    print(f"  memory grew by {growth / 1e6:.1f} MB in the second half")
    within = model.manifest.tolerance
    return {
        "steps": done, "sequences": checked, "moved": moved, "max_abs": worst, "tolerance": within,
        "within": worst <= within, "resident_bytes": curve, "second_half_growth": growth / half[0],
        "statistics": statistics,
    }  # fmt: skip


def resident_bytes():
    """Memory of this process that is in RAM; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def conditions(options):
    """Where, when and how."""
    chosen = ("min_seconds", "max_seconds", "drift_steps", "calls", "soak_steps")
    packages = ("numpy", "onnxruntime", "keras", "tensorflow", "ai-edge-litert")
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": dataclasses.asdict(this_machine()),
        "versions": {
            "edgeseq": edgeseq.__version__, "python": platform.python_version(), **installed_versions(packages),
        },
        "settings": {"parts": list(options.part or PARTS), "threads": 1, "seed": 0}
        | {name: getattr(options, name) for name in chosen},
    }  # fmt: skip


def finite(value):
    """`value` for JSON, where a number that is not finite is null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


PARTS = {name.removeprefix("part_"): function for name, function in list(globals().items()) if name.startswith("part_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--readme", type=Path, default=streaming_report.README, help="the file with the marks")
    parser.add_argument("--min-seconds", type=float, default=1.0)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="of the parts that are timed, each")
    parser.add_argument("--drift-steps", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--soak-steps", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    options = parser.parse_args()
    results = conditions(options) | {"parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.part or PARTS:
            print(f"{name}: {PARTS[name].__doc__.splitlines()[0]}", flush=True)
            results["parts"][name] = PARTS[name](options, Path(folder))
            # After each part: a long run that is stopped keeps what it found.
            if options.output:
                text = json.dumps(finite(results), indent=1, allow_nan=False)
                write_bytes(options.output, (text + "\n").encode())
    if options.output:
        streaming_report.write(options.output, options.readme)


if __name__ == "__main__":
    main()
