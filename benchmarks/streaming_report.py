"""From the results of `streaming.py` to people: pictures, and the table in README.md.

python benchmarks/streaming_report.py docs/streaming.json [--readme PATH]

Writes docs/streaming-growth-light.png and its like beside the results and, when all parts were measured, the lines
between the marks in README.md: ratios and differences only, since times are another machine's tomorrow.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

from readme_marks import README, replace
from rival_summary import MET, MISSED, judge
from rivals_report import said

from edgeseq.bench.pictures import DARK, LIGHT, new_figure, rendered
from edgeseq.bench.pictures.canvas import height_axis, legend, short_size, styles, ticks
from edgeseq.bench.units import significant
from edgeseq.files import write_bytes

PARTS = ("step", "pool", "growth", "drift", "stateful", "forecast", "soak")
STEP_AT_MOST, BULK_AT_LEAST = 0.8, 5.0
GROWTH_AT_MOST = 0.01
"""Share by which resident memory may grow and still be called flat: an allocator moves by less."""
TOLD = (1, 64, 4096)
"""Numbers of streams whose cost is told."""


class Row(NamedTuple):
    """A line of the table; `outcome` is None where nothing was promised."""

    what: str
    figure: str
    promised: str = "-"
    outcome: str | None = None


def turned(ratio, change):
    """A ratio seen another way: `change` of it and of the ends of its interval."""
    return ratio and {
        "value": change(ratio["value"]),
        "interval": ratio["interval"] and sorted(change(end) for end in ratio["interval"]),
    }


def timed(what, ratio, promised, least, change=lambda value: value):
    """A ratio that must be at least `least`, and is told as `change` makes it."""
    return Row(what, said(turned(ratio, change)), promised, judge(ratio or {"interval": None}, least))


def apart(what, part):
    """How far answers are from those that they are held against."""
    allowed = f"at most {part['tolerance']:.1e}"
    return Row(what, told_apart(part["max_abs"]), allowed, MET if part["within"] else MISSED)


def told_apart(difference):
    return "NaN" if difference is None else f"{difference:.1e}" if difference else "bit-equal"


def rows(step, pool, growth, drift, stateful, forecast, soak):
    """The table, from what each part found."""
    each = {row["streams"]: row["ns_per_stream"] for row in growth["rows"]}
    told = [count for count in TOLD if count in each]
    layers, steps = drift["layers"].values(), f"{drift['steps']:,} steps"
    within = sum(row["within"] for row in layers)
    grown = soak["second_half_growth"]
    return [
        timed(
            "a step of an LSTM 32: its time / that of `session.run` with a dict",
            step["over_plain"],
            f"at most {STEP_AT_MOST}",
            1 / STEP_AT_MOST,
            lambda value: 1 / value,
        ),
        Row("the same step by LiteRT: its time / edgeseq's", step["litert_error"] or said(step["over_litert"])),
        timed(
            f"a bulk step of {pool['streams']} streams of an LSTM 128: steps a second / those of streams apart",
            pool["bulk_over_apart"],
            f"at least {BULK_AT_LEAST:g}",
            BULK_AT_LEAST,
        ),
        Row(
            "what the queue adds to a step / that step in bulk",
            said(turned(pool["bulk_over_queued"], lambda value: value - 1)),
        ),
        Row(
            f"cost of a stream among {', '.join(f'{count:,}' for count in told)} in a bulk step / alone",
            ", ".join(significant(each[count] / each[1]) for count in told),
        ),
        Row(
            f"{steps} in chunks, against the whole and Keras",
            f"{within} of {len(layers)} models within",
            "all, by the tolerance of an export",
            MET if within == len(layers) else MISSED,
        ),
        apart(
            f"a stateful Keras model beside its file: {stateful['calls']:,} calls, {stateful['resets']:,} resets",
            stateful,
        ),
        apart(
            f"ETTh1 hour by hour after a reset, against {forecast['windows']:,} windows of {forecast['hours']} hours",
            forecast,
        ),
        apart(
            f"{soak['steps']:,} steps through a pool whose streams come and go: {soak['sequences']:,} sequences, each "
            "against the model alone",
            soak,
        ),
        Row(
            "memory of the same: growth in its second half",
            f"{grown * 100:.2f} %",
            f"flat (at most {GROWTH_AT_MOST * 100:g} %)",
            MET if grown <= GROWTH_AT_MOST else MISSED,
        ),
    ]


def drifted(drift):
    """Sentences: each model's largest difference from the whole, the largest first; those that have none."""
    found = {name: row["max_abs"] for name, row in drift["layers"].items()}
    order = sorted(found, key=lambda name: math.inf if found[name] is None else found[name], reverse=True)
    far = [f"{name} {told_apart(found[name])}" for name in order if found[name] != 0]
    equal = [name for name in found if found[name] == 0]
    return " ".join(
        [
            f"Chunks of one step and of random lengths over {drift['steps']:,} steps, the largest difference from the "
            f"whole: {'; '.join(far) or 'none'}.",
            *([f"Bit-equal: {'; '.join(equal)}."] if equal else []),
        ]
    )


def table(results, name):
    """Markdown, what was promised and is not met first; `name` is that of the results, which lie in docs/."""
    parts, machine = results["parts"], results["machine"]
    found = rows(**parts)
    missed = [
        f"- {row.what}: {row.outcome} ({row.figure}; promised: {row.promised})"
        for row in found
        if row.outcome not in (None, MET)
    ]
    remarks = any(parts[part]["warnings"] for part in ("step", "pool"))
    return [
        *(["Promised, and not shown to be met:", "", *missed, ""] if missed else []),
        f"Measured {results['started'][:10]} on {machine['cpu_model']}, {machine['cores']} cores, one thread. In "
        f"brackets: 95 % intervals.{' Remarks on the run are with the figures.' if remarks else ''}",
        "",
        "| | measured | promised |",
        "|---|---|---|",
        *(f"| {row.what} | {row.figure} | {row.promised} |" for row in found),
        "",
        f"{drifted(parts['drift'])} [All figures](docs/{name}.json); pictures: "
        + ", ".join(f"[{picture}](docs/{name}-{picture}-light.png)" for picture in PICTURES)
        + ".",
    ]


def growth_picture(part, theme):
    alone = part["rows"][0]["ns_per_stream"]
    curve = [row["streams"] for row in part["rows"]], [row["ns_per_stream"] / alone for row in part["rows"]]
    figure, axes = lines(theme, {"LSTM 128": curve}, "streams in a bulk step", "cost of a stream / alone", log=True)
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        ticks(axis, lambda value: f"{value:,.4g}", logarithmic=True)
    return figure


def drift_picture(part, theme):
    # What is bit-equal has no place on a logarithmic axis.
    curves = {
        name: (part["edges"][1:], [value or math.nan for value in row["chunks of 1"]["by_position"]])
        for name, row in part["layers"].items()
        if any(row["chunks of 1"]["by_position"])
    }
    figure, _ = lines(theme, curves, "step", "difference from the whole", log=True)
    return figure


def soak_picture(part, theme):
    steps, sizes = zip(*part["resident_bytes"], strict=True)
    figure, axes = lines(theme, {"this process": (steps, sizes)}, "steps", "resident memory")
    axes.set_ylim(bottom=0)
    ticks(axes.xaxis, lambda value: f"{value:,.0f}", logarithmic=False)
    ticks(axes.yaxis, short_size, logarithmic=False)
    return figure


def lines(theme, curves, x_label, y_label, *, log=False):
    figure, [axes] = new_figure(theme, 2.6 + 0.1 * len(curves))
    for name, look in styles(curves, (), theme).items():
        xs, ys = curves[name]
        marker = look.marker if len(xs) < 20 else ""
        axes.plot(
            xs, ys, label=name, color=look.colour, linestyle=look.line, marker=marker, markersize=3, linewidth=1.3
        )
    if log:
        axes.set_yscale("log")
    height_axis(axes, theme, y_label, logarithmic=log)
    axes.set_xlabel(x_label, fontsize=9)
    if curves:
        legend(figure, theme, axes, columns=2)
    return figure, axes


PICTURES = {"growth": growth_picture, "drift": drift_picture, "soak": soak_picture}


def write(path, readme):
    """Pictures of what the results at `path` hold beside them and, when all parts are there, the table in `readme`."""
    results = json.loads(path.read_text(encoding="utf-8"))
    for name, draw in PICTURES.items():
        for theme, suffix in ((LIGHT, "light"), (DARK, "dark")):
            if name in results["parts"]:
                picture = rendered(draw(results["parts"][name], theme), "png")
                write_bytes(path.with_name(f"{path.stem}-{name}-{suffix}.png"), picture)
    if missing := [name for name in PARTS if name not in results["parts"]]:
        print(f"{readme.name} stays as it is: not measured are {', '.join(missing)}")
        return
    replace(readme, "streaming", table(results, path.stem))
    print(f"wrote the pictures beside {path.name} and the table in {readme.name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what streaming.py wrote")
    parser.add_argument("--readme", type=Path, default=README, help="the file with the marks to write between")
    options = parser.parse_args()
    write(options.results, options.readme)


if __name__ == "__main__":
    main()
