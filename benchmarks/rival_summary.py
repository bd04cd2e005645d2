"""summary.json: of each run how edgeseq stands to every rival, then means and targets over all runs that are there."""

from __future__ import annotations

import json
import math

import systems
from rival_libraries.ours import FP32, INT8, OURS
from rival_libraries.rival import FORGETS

from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT, speedup
from edgeseq.files import write_bytes

NAME = "summary.json"
BEST_RIVAL, LOOP, CONV_LOOP, PREDICT = 1.2, 4.0, 1.35, 40.0
LSTMS = ("imdb-lstm", "forecast", "stateful", "vowels", "cmapss", "lstm-1024", "speech")
"""Systems whose recurrent layers are LSTMs with tanh, where int8 is held against the best rival's."""
FLOOR_NOISE = 1.05
"""The floor is measured as everything is: what is below it by less than this is at it."""


def read(folder):
    path = folder / NAME
    empty = {"runs": {}, "means": [], "targets": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def write(folder, summary):
    summary["runs"] = dict(sorted(summary["runs"].items()))
    summary["means"], summary["targets"] = means(summary["runs"]), targets(summary["runs"])
    write_bytes(folder / NAME, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())


def summarize(system, threads, batch, run, facts):
    """One run as plain data; `edgeseq_speedup` is the rival's time / edgeseq's, so above 1 edgeseq fp32 is faster."""
    subjects = {}
    for result in run.results:
        known = facts["subjects"][result.name]
        ratio = speedup(run[FP32], result) if result.name != FP32 else None
        p50 = result.p50_ns or (result.distribution_ns[50] if result.distribution_ns else None)
        subjects[result.name] = {
            **known,
            "p50_ns": p50,
            "edgeseq_speedup": ratio and as_ratio(ratio),
            "floor_share": facts["floor"]["ns"] / p50 if p50 else None,
        }
    int8 = INT8 in subjects and {
        name: as_ratio(speedup(run[INT8], run[name]))
        for name, subject in subjects.items()
        if name != INT8 and subject["precision"] == "int8" and speedup(run[INT8], run[name])
    }
    below = [
        name
        for name, subject in subjects.items()
        if subject["precision"] == "fp32" and (subject["floor_share"] or 0) > FLOOR_NOISE
    ]
    return {
        "system": system,
        "title": systems.SYSTEMS[system].title,
        "threads": threads,
        "batch": batch,
        "started": run.started,
        "floor": {**facts["floor"], "beaten_by": below},
        "best_rival": best_rival(subjects),
        "edgeseq_int8_speedup": int8 or {},
        "subjects": subjects,
    }


def as_ratio(ratio):
    interval = ratio.interval and [ratio.interval.low, ratio.interval.high]
    return {"value": ratio.value, "interval": interval}


def fp32_rivals(subjects):
    """Those that fp32 is held against; what drops a stateful model's state does not do its work."""
    return [
        name
        for name, subject in subjects.items()
        if subject["precision"] == "fp32"
        and subject["edgeseq_speedup"]
        and name not in OURS
        and FORGETS not in subject["notes"]
    ]


def best_rival(subjects):
    """The fp32 rival that stands best against edgeseq; None when none was measured."""
    return min(fp32_rivals(subjects), key=lambda name: subjects[name]["edgeseq_speedup"]["value"], default=None)


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def means(runs):
    """For each setting, how many times as fast edgeseq fp32 is as each rival and as the best one."""
    rows = []
    for threads, large in sorted({(run["threads"], is_large(run)) for run in runs.values()}, key=str, reverse=True):
        chosen = [run for run in runs.values() if (run["threads"], is_large(run)) == (threads, large)]
        names = dict.fromkeys(name for run in chosen for name in run["subjects"] if name != FP32)
        rows.append(
            {
                "threads": threads,
                "batch": "large" if large else "single",
                "systems": len(chosen),
                "best_rival": geometric_mean(best_ratios(chosen)),
                "rivals": {
                    name: {"mean": geometric_mean(ratios_to(chosen, name)), "systems": len(ratios_to(chosen, name))}
                    for name in names
                },
            }
        )
    return rows


def is_large(run):
    """Whether a run is one of many rows; a stateful model's only batch is its single one."""
    return run["batch"] != systems.SYSTEMS[run["system"]].batches[0]


def best_ratios(runs):
    return [run["subjects"][run["best_rival"]]["edgeseq_speedup"]["value"] for run in runs if run["best_rival"]]


def ratios_to(runs, name):
    found = [run["subjects"].get(name) for run in runs]
    return [subject["edgeseq_speedup"]["value"] for subject in found if subject and subject["edgeseq_speedup"]]


def targets(runs):
    """What was promised for one thread and a single row, and whether it is so; empty without such runs."""
    chosen = {run["system"]: run for run in runs.values() if run["threads"] == 1 and not is_large(run)}
    if not chosen:
        return []
    return [
        every("fp32 no slower than any fp32 rival", of_each(chosen, lambda _: 1.0, list)),
        mean_target(chosen),
        every(
            "Keras's export: 4 x where it holds a Loop (1.35 x for ConvLSTM), never slower",
            of_each(chosen, least_to_export, lambda names: {KERAS_EXPORT} & {*names}),
        ),
        every(
            "40 x predict on the tutorial systems",
            of_each(
                {name: run for name, run in chosen.items() if systems.SYSTEMS[name].tutorial},
                lambda _: PREDICT,
                lambda names: {KERAS_PREDICT} & {*names},
            ),
        ),
        every(
            "int8 no slower than any rival's int8 on LSTMs",
            [
                (f"{name}, {rival}", ratio, 1.0)
                for name, run in chosen.items()
                if name in LSTMS
                for rival, ratio in run["edgeseq_int8_speedup"].items()
            ],
        ),
    ]


def least_to_export(run):
    notes = run["subjects"].get(KERAS_EXPORT, {}).get("notes", ())
    if not any("Loop" in note for note in notes):
        return 1.0
    return CONV_LOOP if run["system"] == "frames" else LOOP


def of_each(chosen, least, pick):
    """Name, ratio and least ratio of those fp32 rivals that `pick` takes, in all the runs."""
    return [
        (f"{name}, {rival}", run["subjects"][rival]["edgeseq_speedup"], least(run))
        for name, run in chosen.items()
        for rival in pick(fp32_rivals(run["subjects"]))
    ]


def every(target, ratios):
    """Met when no ratio lies below its least beyond the measurement's interval."""
    missed = {}
    for name, ratio, least in ratios:
        high = ratio["interval"][1] if ratio["interval"] else ratio["value"]
        if high < least:
            missed[name] = ratio
    figure = "; ".join(f"{name} {ratio['value']:.2f} x" for name, ratio in missed.items())
    return {
        "target": target,
        "met": bool(ratios) and not missed,
        "figure": figure or f"all {len(ratios)}",
        "missed": missed,
    }


def mean_target(chosen):
    value = geometric_mean(best_ratios(chosen.values()))
    figure = "nothing was measured" if value is None else f"{value:.2f} x"
    return {
        "target": "1.2 x the best fp32 rival in the geometric mean",
        "met": value is not None and value >= BEST_RIVAL,
        "figure": figure,
        "missed": {},
    }
