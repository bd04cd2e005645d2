"""From the results of `rivals.py` to people: a page, pictures, and the table in README.md.

python benchmarks/rivals_report.py FOLDER [--readme PATH]

Writes FOLDER.html, FOLDER-light.png and FOLDER-dark.png beside FOLDER, and the lines between the marks in README.md:
ratios only, since times are another machine's tomorrow.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import rival_summary
import systems
from readme_marks import README, replace
from rival_libraries.ours import FP32, INT8

from edgeseq.bench import Section, read_run, write_report
from edgeseq.bench.pictures import DARK, LIGHT, rivals_finding, rivals_picture
from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT
from edgeseq.bench.standings import standings
from edgeseq.bench.tables import failures
from edgeseq.bench.units import duration, significant, size
from edgeseq.files import write_bytes

ROWS = {False: "a single row a call", True: "32 rows a call (ConvLSTM 4)"}
THREADS = {1: "one thread", 0: "all threads"}
JUDGED = (FP32, INT8)
HANDED = (
    "Every library is told the same number of threads; all threads are one a physical core. Keras's predict, LiteRT, "
    "edgeseq and the ONNX files are handed numpy arrays in every call; tf.function, PyTorch and OpenVINO have the "
    "inputs bound before, so that a copy is not timed."
)


def settings(summary, folder):
    """(threads, many rows) -> system's title -> the run, in the order of the systems; one thread, single row first."""
    found = {}
    for system in systems.SYSTEMS:
        for stem, row in summary["runs"].items():
            if row["system"] == system:
                key = row["threads"], rival_summary.is_large(row)
                found.setdefault(key, {})[row["title"]] = (read_run(folder / f"{stem}.json"), row)
    return dict(sorted(found.items(), key=lambda pair: (pair[0][0] == 0, pair[0][1])))


def fp32_rivals(rows):
    """Rivals that compute in fp32: what fp32 is held against."""
    return list(dict.fromkeys(name for row in rows for name in rival_summary.fp32_rivals(row["subjects"])))


def contest(measured):
    """The standings of those alone that are drawn: edgeseq's and the rivals that do the same work in fp32."""
    found = {}
    rows = [row for _, row in measured.values()]
    for run, row in measured.values():
        names = {*JUDGED, *rival_summary.fp32_rivals(row["subjects"])}
        results = tuple(result for result in run.results if result.name in names)
        found[row["system"]] = dataclasses.replace(run, results=results)
    return standings(found, ours=judged(rows), rivals=fp32_rivals(rows))


def judged(rows):
    return [name for name in JUDGED if any(name in row["subjects"] for row in rows)]


def said(ratio):
    """A ratio with its interval."""
    if ratio is None:
        return "-"
    between = ratio["interval"] and f" ({significant(ratio['interval'][0])} to {significant(ratio['interval'][1])})"
    return f"{significant(ratio['value'])}{between or ''}"


def ours_said(subject):
    """Median and share of the floor, as texts."""
    if subject["p50_ns"] is None:
        return "too few calls", "-"
    return duration(subject["p50_ns"]), f"{subject['floor_share']:.0%}"


def section(name, measured, folder):
    """One setting: picture, what it says, and all figures."""
    rows = [row for _, row in measured.values()]
    pictures, found = [], contest(measured)
    for theme, suffix in ((LIGHT, "light"), (DARK, "dark")):
        path = folder / f"{name}-{suffix}.svg".replace(" ", "-")
        path.write_bytes(rivals_picture(found, theme, "svg"))
        pictures.append(path)
    subjects = list(dict.fromkeys(subject for row in rows for subject in row["subjects"] if subject != FP32))
    yield Section(
        title=f"Against the best fp32 rival of each system: {name}",
        text="\n\n".join(rivals_finding(found)),
        picture=pictures[0],
        dark_picture=pictures[1],
        caption="To the right of 1 is faster than the fastest fp32 rival. Large symbols are edgeseq, with intervals. "
        "Rivals that do not return the states of a stateful model are in the table alone.",
    )
    yield Section(
        title=f"How many times as fast as each edgeseq fp32 is: {name}",
        text="Time of the subject / time of edgeseq's fp32 file in the same rounds, with 95 % intervals. The last "
        "column is the measured roofline / the time: see benchmarks/floor.py.",
        headers=("", *subjects, "edgeseq p50", "of the floor"),
        rows=tuple(
            (
                title,
                *(said((row["subjects"].get(subject) or {}).get("edgeseq_speedup")) for subject in subjects),
                *ours_said(row["subjects"][FP32]),
            )
            for title, (_, row) in measured.items()
        ),
    )
    notes = [
        (subject, title, "; ".join(found["notes"]))
        for title, (_, row) in measured.items()
        for subject, found in row["subjects"].items()
        if found["notes"]
    ]
    failed = failures(standings({title: run for title, (run, _) in measured.items()}, ours=judged(rows)))
    if failed or notes:
        yield Section(
            title=f"Not measured, or with a remark: {name}",
            headers=("Subject", "Where", "Why"),
            rows=(*failed, *notes),
        )
    warned = [(row["title"], warning) for row in rows for warning in row["warnings"]]
    if warned:
        yield Section(title=f"What the machine did besides: {name}", headers=("System", "Warning"), rows=tuple(warned))


def write_page(found, summary, output, folder):
    targets = Section(
        title="Targets: one thread, a single row",
        text="Met: the interval lies above what was promised; missed: it lies below; undecided: it holds it. An "
        f"interval around 1 that is no wider than {rival_summary.TIE - 1:.0%} is a tie, which meets 'no slower'.",
        headers=("Target", "", "Figure"),
        rows=tuple((target["target"], target["outcome"].upper(), target["figure"]) for target in summary["targets"]),
    )
    sections = [targets]
    for (threads, large), measured in found.items():
        sections += section(f"{THREADS[threads]}, {ROWS[large]}", measured, folder)
    first_run, _ = next(iter(next(iter(found.values())).values()))
    machine = f"{first_run.machine.cpu_model}, {first_run.machine.cores} cores, {first_run.machine.system}"
    versions = ", ".join(f"{name} {version}" for name, version in first_run.versions.items())
    sections.append(
        Section(title="Where and how", text=f"{first_run.started[:10]}. {machine}.\n\n{versions}.\n\n{HANDED}")
    )
    write_report([], output, title="edgeseq and its rivals", before=sections, overwrite=True)


def readme_table(measured):
    """Markdown: one thread, a single row."""
    lines = [
        "| model | of the floor | vs `predict` | vs Keras's export | vs best other fp32 | int8 vs best other int8 |",
        "|---|---|---|---|---|---|",
    ]
    for title, (_, row) in measured.items():
        ours = row["subjects"][FP32]
        best = min(
            (name for name in rival_summary.fp32_rivals(row["subjects"]) if name not in (KERAS_EXPORT, KERAS_PREDICT)),
            key=lambda name: row["subjects"][name]["edgeseq_speedup"]["value"],
            default=None,
        )
        int8 = row["edgeseq_int8_speedup"]
        cells = (
            title,
            ours_said(ours)[1],
            *(
                short((row["subjects"].get(name) or {}).get("edgeseq_speedup"))
                for name in (KERAS_PREDICT, KERAS_EXPORT)
            ),
            f"{short(row['subjects'][best]['edgeseq_speedup'])} ({best})" if best else "-",
            short(min(int8.values(), key=lambda ratio: ratio["value"])) if int8 else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def short(ratio):
    return "-" if ratio is None else f"{significant(ratio['value'])} x"


def not_first(measured):
    """Markdown: where another fp32 rival is faster, then ties and what is undecided, a line for each system."""
    slower, ties, undecided = {}, {}, {}
    for title, (_, row) in measured.items():
        for name in rival_summary.fp32_rivals(row["subjects"]):
            ratio = row["subjects"][name]["edgeseq_speedup"]
            outcome = rival_summary.judge(ratio, 1.0)
            if outcome == rival_summary.MISSED:
                slower.setdefault(title, []).append((ratio["value"], name, ratio))
            elif outcome == rival_summary.UNDECIDED:
                undecided.setdefault(title, []).append((ratio["value"], name, ratio))
            elif rival_summary.is_tie(ratio):
                ties.setdefault(title, []).append((ratio["value"], name, ratio))
    first = "Faster than edgeseq (the rival's time / edgeseq's, with its 95 % interval)"
    return [
        *(lines(first, slower) if slower else ["No fp32 rival is faster beyond its interval.", ""]),
        *lines("Ties", ties),
        *lines("Undecided, as the intervals are wide or there were too few rounds for one", undecided),
    ]


def lines(heading, found):
    """Markdown of title -> (value, rival, ratio): the slowest first; nothing without any."""
    if not found:
        return []
    rows = [
        f"- {title}: {'; '.join(f'{name} {said(ratio)}' for _, name, ratio in sorted(rivals, key=lambda one: one[0]))}"
        for title, rivals in found.items()
    ]
    return [f"{heading}:", "", *rows, ""]


def told(targets):
    """Markdown: what was promised and is not met, in short; the page names every case."""
    found = []
    for target in targets:
        if target["outcome"] == rival_summary.MET:
            continue
        figure = target["figure"]
        if target["missed"] or target["undecided"]:
            numbers = [(len(target[name]), name) for name in (rival_summary.MISSED, rival_summary.UNDECIDED)]
            figure = " and ".join(f"{number} {name}" for number, name in numbers if number) + f" of {target['count']}"
        found.append(f"- {target['target']}: {target['outcome']} ({figure})")
    return ["Promised, and not shown to be met:", "", *found, ""] if found else []


def write_readme(found, summary, name, readme):
    first = next(iter(found.values()))
    run, _ = next(iter(first.values()))
    [mean] = [row["best_rival"] for row in summary["means"] if (row["threads"], row["batch"]) == (1, "single")]
    machine = f"{run.machine.cpu_model}, {run.machine.cores} cores"
    disturbed = sum(bool(row["warnings"]) for _, row in first.values())
    replace(
        readme,
        "rivals",
        [
            "<picture>",
            f'  <source media="(prefers-color-scheme: dark)" srcset="docs/{name}-dark.png">',
            f'  <img alt="Speed of every rival on every system" src="docs/{name}-light.png" width="760">',
            "</picture>",
            "",
            f"Measured {run.started[:10]} on {machine}, one thread, one row a call, all side by side: "
            f"{said(mean['mean'])} x the best rival in the geometric mean of {mean['systems']} systems."
            + (
                f" The machine was disturbed in {disturbed} of {len(first)} runs; the page says how."
                if disturbed
                else ""
            ),
            "",
            *readme_table(first),
            "",
            *not_first(first),
            *told(summary["targets"]),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what rivals.py wrote")
    parser.add_argument("--readme", type=Path, default=README, help="the file with the marks to write between")
    options = parser.parse_args()
    folder = options.folder.resolve()
    summary = rival_summary.read(folder)
    found = settings(summary, folder)
    if (1, False) not in found:
        raise SystemExit(f"{folder} holds no run with one thread and a single row: those are what is reported first")
    first = next(iter(found.values()))
    drawn = contest(first)
    for theme, suffix in ((LIGHT, "light"), (DARK, "dark")):
        write_bytes(folder.with_name(f"{folder.name}-{suffix}.png"), rivals_picture(drawn, theme, "png"))
    output = folder.with_suffix(".html")
    with tempfile.TemporaryDirectory() as temporary:
        write_page(found, summary, output, Path(temporary))
    write_readme(found, summary, folder.name, options.readme)
    print(
        f"wrote {output.name} ({size(output.stat().st_size)}), the pictures beside it, "
        f"and the table in {options.readme.name}"
    )


if __name__ == "__main__":
    main()
