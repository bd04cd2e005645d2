"""summary.json: of each run how edgeseq stands to every rival, then means and targets over all runs that are there.

A ratio meets its target, misses it, or is undecided: see `judge`. A target is met when all its ratios meet it, missed
when one misses it, and undecided otherwise, since noise is no success.
"""

from __future__ import annotations

import dataclasses
import json
import math

import systems
from rival_libraries.ours import FP32, INT8, OURS

from edgeseq.bench.noise import speed_range
from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT, speedup
from edgeseq.bench.stats import TIE
from edgeseq.files import write_bytes

NAME = "summary.json"
BEST_RIVAL, LOOP, CONV_LOOP, PREDICT = 1.2, 4.0, 1.35, 40.0
LSTMS = ("imdb-lstm", "forecast", "stateful", "vowels", "cmapss", "lstm-1024", "speech")
"""Systems whose recurrent layers are LSTMs with tanh, where int8 is held against the best rival's."""
MET, MISSED, UNDECIDED = "met", "missed", "undecided"
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
        # None with too few calls, where the ratio is still known from the rounds.
        p50 = result.p50_ns
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
        "stopped": run.stopped,
        "warnings": list(run.warnings),
        "disturbance": run.disturbance and disturbance(run.disturbance),
        "floor": {**facts["floor"], "beaten_by": below},
        "best_rival": best_rival(subjects),
        "edgeseq_int8_speedup": int8 or {},
        "subjects": subjects,
    }


def disturbance(found):
    """What the machine did besides, as one figure each."""
    figures = dataclasses.asdict(found)
    return {"speed_range": speed_range(figures.pop("probe_ns")), **figures}


def as_ratio(ratio):
    interval = ratio.interval and [ratio.interval.low, ratio.interval.high]
    return {"value": ratio.value, "interval": interval}


def fp32_rivals(subjects):
    """Those that fp32 is judged against: the same work, the states of a stateful model returned."""
    return [name for name in fp32_measured(subjects) if subjects[name]["returns_states"]]


def fp32_measured(subjects):
    """All fp32 rivals with a time."""
    return [
        name
        for name, subject in subjects.items()
        if subject["precision"] == "fp32" and subject["edgeseq_speedup"] and name not in OURS
    ]


def best_rival(subjects):
    """The fp32 rival that stands best against edgeseq; None when none was measured."""
    return min(fp32_rivals(subjects), key=lambda name: subjects[name]["edgeseq_speedup"]["value"], default=None)


def geometric_mean(ratios):
    """The mean of ratios that were measured apart, with its interval; None without any.

    Half the width of each interval, in logarithms, is taken as an independent error: they add in quadrature. Without
    an interval of each there is none of the mean. That the best rival of a system was chosen by what was measured is
    not in it: of rivals that are alike, the luckiest is taken.
    """
    if not ratios:
        return None
    value = math.exp(sum(math.log(ratio["value"]) for ratio in ratios) / len(ratios))
    intervals = [ratio["interval"] for ratio in ratios]
    if not all(intervals):
        return {"value": value, "interval": None}
    half = math.hypot(*(math.log(high / low) / 2 for low, high in intervals)) / len(ratios)
    return {"value": value, "interval": [value * math.exp(-half), value * math.exp(half)]}


def means(runs):
    """For each setting, how many times as fast edgeseq fp32 is as each rival and as the best one."""
    rows = []
    for threads, large in sorted({(run["threads"], is_large(run)) for run in runs.values()}, key=str, reverse=True):
        chosen = [run for run in runs.values() if (run["threads"], is_large(run)) == (threads, large)]
        names = dict.fromkeys(name for run in chosen for name in run["subjects"] if name != FP32)
        best = best_ratios(chosen)
        rows.append(
            {
                "threads": threads,
                "batch": "large" if large else "single",
                "best_rival": {"mean": geometric_mean(best), "systems": len(best)},
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
    return [run["subjects"][run["best_rival"]]["edgeseq_speedup"] for run in runs if run["best_rival"]]


def ratios_to(runs, name):
    found = [run["subjects"].get(name) for run in runs]
    return [subject["edgeseq_speedup"] for subject in found if subject and subject["edgeseq_speedup"]]


def targets(runs):
    """What was promised for one thread and a single row, and whether it is so; empty without such runs."""
    chosen = {run["system"]: run for run in runs.values() if run["threads"] == 1 and not is_large(run)}
    if not chosen:
        return []
    tutorial = {name: run for name, run in chosen.items() if systems.SYSTEMS[name].tutorial}
    return [
        every("fp32 no slower than any fp32 rival", chosen, lambda _: 1.0, list),
        mean_target(chosen),
        every(
            "Keras's export: 4 x where it holds a Loop (1.35 x for ConvLSTM), never slower",
            chosen,
            least_to_export,
            lambda names: [name for name in names if name == KERAS_EXPORT],
        ),
        every(
            "40 x predict on the tutorial systems",
            tutorial,
            lambda _: PREDICT,
            lambda names: [name for name in names if name == KERAS_PREDICT],
        ),
        judged(
            "int8 no slower than LiteRT's, PyTorch's and onnxruntime's dynamic int8 on LSTMs",
            [
                (system, name, ratio, 1.0)
                for system, run in chosen.items()
                if system in LSTMS
                for name, ratio in run["edgeseq_int8_speedup"].items()
                if run["subjects"][name]["returns_states"] and run["subjects"][INT8]["returns_states"]
            ],
            forgetful(
                {system: run for system, run in chosen.items() if system in LSTMS},
                lambda subjects: [name for name, subject in subjects.items() if subject["precision"] == "int8"],
            ),
        ),
    ]


def least_to_export(run):
    notes = run["subjects"].get(KERAS_EXPORT, {}).get("notes", ())
    if not any("Loop" in note for note in notes):
        return 1.0
    return CONV_LOOP if run["system"] == "frames" else LOOP


def every(target, chosen, least, pick):
    """Judges those fp32 rivals that `pick` takes of a list of names, in all the runs."""
    return judged(
        target,
        [
            (system, name, run["subjects"][name]["edgeseq_speedup"], least(run))
            for system, run in chosen.items()
            for name in pick(fp32_rivals(run["subjects"]))
        ],
        forgetful(chosen, lambda subjects: pick(fp32_measured(subjects))),
    )


def forgetful(chosen, pick):
    """(system, rival) of those left out because they do not return the states."""
    return [
        (system, name)
        for system, run in chosen.items()
        for name in pick(run["subjects"])
        if not run["subjects"][name]["returns_states"]
    ]


def judge(ratio, least):
    """One of `MET`, `MISSED` and `UNDECIDED`.

    Met when the interval lies above `least`, missed when it lies below, undecided without one. Where nothing more than
    "no slower" is asked for (`least` is 1), an interval around 1 that is narrow (`TIE`) is a tie, which meets it.
    """
    if not ratio["interval"]:
        return UNDECIDED
    low, high = ratio["interval"]
    if high < least:
        return MISSED
    return MET if low >= least or (least == 1.0 and is_tie(ratio)) else UNDECIDED


def is_tie(ratio):
    """Whether neither is slower beyond `TIE`."""
    low, high = ratio["interval"] or (0.0, math.inf)
    return low <= 1.0 <= high and high <= TIE * low


def judged(target, ratios, left_out):
    """The outcome over all (system, rival, ratio, least), with those that do not meet it."""
    found = {outcome: [] for outcome in (MET, MISSED, UNDECIDED)}
    for system, name, ratio, least in ratios:
        found[judge(ratio, least)].append({"system": system, "rival": name, "least": least, **ratio})
    ties = sum(not_above(row) for row in found[MET])
    said = [f"{len(found[MET])} of {len(ratios)} met" + (f", {ties} of them ties" if ties else "")]
    said += [
        f"{len(found[outcome])} {outcome}: {listed(found[outcome])}"
        for outcome in (MISSED, UNDECIDED)
        if found[outcome]
    ]
    return {
        "target": target + remark(left_out),
        "outcome": MISSED if found[MISSED] else UNDECIDED if found[UNDECIDED] or not ratios else MET,
        "figure": ". ".join(said) if ratios else "nothing was measured",
        "count": len(ratios),
        "missed": found[MISSED],
        "undecided": found[UNDECIDED],
    }


def not_above(row):
    return row["interval"][0] < row["least"]


def listed(rows):
    by_system = {}
    for row in rows:
        by_system.setdefault(row["system"], []).append(f"{row['rival']} {row['value']:.2f} x")
    return "; ".join(f"{system}: {', '.join(found)}" for system, found in by_system.items())


def remark(left_out):
    """Which rivals were left out of a target, for its text."""
    if not left_out:
        return ""
    by_system = {}
    for system, name in left_out:
        by_system.setdefault(system, []).append(name)
    named = "; ".join(f"{system}: {', '.join(names)}" for system, names in by_system.items())
    return f" (without those that do not return the states, {named})"


def mean_target(chosen):
    ratios = best_ratios(chosen.values())
    mean = geometric_mean(ratios)
    figure = "nothing was measured"
    if mean is not None:
        between = mean["interval"] and f" ({mean['interval'][0]:.2f} to {mean['interval'][1]:.2f})"
        figure = f"{mean['value']:.2f} x{between or ''} over {len(ratios)} system{'' if len(ratios) == 1 else 's'}"
    left_out = forgetful(chosen, fp32_measured)
    return {
        "target": "1.2 x the best fp32 rival in the geometric mean" + remark(left_out),
        "outcome": UNDECIDED if mean is None else judge(mean, BEST_RIVAL),
        "figure": figure,
        "count": len(ratios),
        "missed": [],
        "undecided": [],
    }
