"""From the results of `rivals.py` to people: a page, pictures, and the table in README.md.

python benchmarks/rivals_report.py FOLDER

Writes FOLDER.html, FOLDER-light.png and FOLDER-dark.png beside FOLDER, and the lines between the marks in README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import rival_summary
import systems
from rival_libraries.ours import FP32, INT8

from edgeseq.bench import Section, read_run, write_report
from edgeseq.bench.pictures import DARK, LIGHT, rivals_finding, rivals_picture
from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT
from edgeseq.bench.standings import standings
from edgeseq.bench.tables import failures
from edgeseq.bench.units import duration, significant, size
from edgeseq.files import write_bytes

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- rivals -->", "<!-- /rivals -->"
ROWS = {False: "a single row a call", True: "32 rows a call (ConvLSTM 4)"}
THREADS = {1: "one thread", 0: "all threads"}
JUDGED = (FP32, INT8)


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
    """System -> its run with those alone that are drawn: edgeseq's and the rivals that do the same work in fp32."""
    found = {}
    for run, row in measured.values():
        names = {*JUDGED, *rival_summary.fp32_rivals(row["subjects"])}
        results = tuple(result for result in run.results if result.name in names)
        found[row["system"]] = dataclasses.replace(run, results=results)
    return found


def picture_of(measured, theme, suffix):
    rows = [row for _, row in measured.values()]
    return rivals_picture(contest(measured), theme, suffix, ours=judged(rows), rivals=fp32_rivals(rows))


def judged(rows):
    return [name for name in JUDGED if any(name in row["subjects"] for row in rows)]


def said(ratio):
    """A ratio with its interval."""
    if ratio is None:
        return "-"
    between = ratio["interval"] and f" ({significant(ratio['interval'][0])} to {significant(ratio['interval'][1])})"
    return f"{significant(ratio['value'])}{between or ''}"


def section(name, measured, folder):
    """One setting: picture, what it says, and all figures."""
    rows = [row for _, row in measured.values()]
    pictures = []
    for theme, suffix in ((LIGHT, "light"), (DARK, "dark")):
        path = folder / f"{name}-{suffix}.svg".replace(" ", "-")
        path.write_bytes(picture_of(measured, theme, "svg"))
        pictures.append(path)
    finding = rivals_finding(contest(measured), ours=judged(rows), rivals=fp32_rivals(rows))
    subjects = list(dict.fromkeys(subject for row in rows for subject in row["subjects"] if subject != FP32))
    yield Section(
        title=f"Against the best fp32 rival of each system: {name}",
        text=finding.replace("\n", "\n\n"),
        picture=pictures[0],
        dark_picture=pictures[1],
        caption="To the right of 1 is faster than the fastest fp32 rival. Large symbols are edgeseq, with intervals.",
    )
    yield Section(
        title=f"How many times as fast as each edgeseq fp32 is: {name}",
        text="Time of the subject / time of edgeseq's fp32 file in the same rounds, with 95 % intervals. The last "
        "column is the share of what the machine could do at most: see benchmarks/floor.py.",
        headers=("", *subjects, "edgeseq p50", "of the floor"),
        rows=tuple(
            (
                title,
                *(said((row["subjects"].get(subject) or {}).get("edgeseq_speedup")) for subject in subjects),
                duration(row["subjects"][FP32]["p50_ns"]),
                f"{row['subjects'][FP32]['floor_share']:.0%}",
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


def write_page(found, summary, output, folder):
    targets = Section(
        title="Targets: one thread, a single row",
        headers=("Target", "", "Figure"),
        rows=tuple(
            (target["target"], "met" if target["met"] else "NOT MET", target["figure"]) for target in summary["targets"]
        ),
    )
    sections = [targets]
    for (threads, large), measured in found.items():
        sections += section(f"{THREADS[threads]}, {ROWS[large]}", measured, folder)
    first_run, _ = next(iter(next(iter(found.values())).values()))
    machine = f"{first_run.machine.cpu_model}, {first_run.machine.cores} cores, {first_run.machine.system}"
    versions = ", ".join(f"{name} {version}" for name, version in first_run.versions.items())
    sections.append(Section(title="Where", text=f"{first_run.started[:10]}. {machine}.\n\n{versions}."))
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
        )
        int8 = row["edgeseq_int8_speedup"]
        cells = (
            title,
            f"{ours['floor_share']:.0%}",
            *(short(row["subjects"][name]["edgeseq_speedup"]) for name in (KERAS_PREDICT, KERAS_EXPORT)),
            f"{short(row['subjects'][best]['edgeseq_speedup'])} ({best})",
            short(min(int8.values(), key=lambda ratio: ratio["value"])) if int8 else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def short(ratio):
    return "-" if ratio is None else f"{significant(ratio['value'])} x"


def write_readme(found, summary, name):
    first = next(iter(found.values()))
    run, _ = next(iter(first.values()))
    [mean] = [row for row in summary["means"] if (row["threads"], row["batch"]) == (1, "single")]
    missed = [f"{target['target']}: {target['figure']}" for target in summary["targets"] if not target["met"]]
    machine = f"{run.machine.cpu_model}, {run.machine.cores} cores"
    text = "\n".join(
        [
            BEGIN,
            "<picture>",
            f'  <source media="(prefers-color-scheme: dark)" srcset="docs/{name}-dark.png">',
            f'  <img alt="Speed of every rival on every system" src="docs/{name}-light.png" width="760">',
            "</picture>",
            "",
            f"Measured {run.started[:10]} on {machine}, one thread, one row a call, all side by side: "
            f"{significant(mean['best_rival'])} x the best rival in the geometric mean of {mean['systems']} systems.",
            "",
            *readme_table(first),
            "",
            *(["Not reached: " + ". ".join(missed) + "."] if missed else []),
            END,
        ]
    )
    content = README.read_text(encoding="utf-8")
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{README} lacks the marks {BEGIN} and {END}")
    write_bytes(README, (before + text + after).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what rivals.py wrote")
    options = parser.parse_args()
    folder = options.folder.resolve()
    summary = rival_summary.read(folder)
    found = settings(summary, folder)
    first = next(iter(found.values()))
    for theme, suffix in ((LIGHT, "light"), (DARK, "dark")):
        write_bytes(folder.with_name(f"{folder.name}-{suffix}.png"), picture_of(first, theme, "png"))
    output = folder.with_suffix(".html")
    with tempfile.TemporaryDirectory() as temporary:
        write_page(found, summary, output, Path(temporary))
    write_readme(found, summary, folder.name)
    print(f"wrote {output.name} ({size(output.stat().st_size)}), the pictures beside it, and the table in README.md")


if __name__ == "__main__":
    main()
