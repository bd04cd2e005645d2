"""Where the time of a call goes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.bench.pictures.canvas import (
    Theme,
    named_rows,
    rendered,
    result_styles,
    row_band,
    row_name,
    time_axis,
    value_label,
)
from edgeseq.bench.pictures.kind import Kind
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun
from edgeseq.bench.sweeps import layer_name
from edgeseq.bench.units import duration, significant

_MOST_ROWS = 8
OUTSIDE = "outside of nodes"
"""What is written for the rest of a call."""


def outside_share(result: BenchmarkResult) -> float:
    """Share of a profiled call that no node took; 0 where nodes at the same time add up to more than the call."""
    return max(0.0, 1.0 - sum(layer.share for layer in result.layers))


def _profiled(run: BenchmarkRun) -> list[BenchmarkResult]:
    return [result for result in run.results if result.layers]


def _lacks(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    return None if _profiled(run) else "no subject has times by layer; measure with `edgeseq bench ... --layers`"


def _rows(result: BenchmarkResult) -> list[tuple[str, float, float]]:
    """Name, time in nanoseconds and share; the smallest layers together, what is outside last."""
    rows = [(layer_name(layer), layer.mean_ns, layer.share) for layer in result.layers]
    if len(rows) > _MOST_ROWS:
        rest = rows[_MOST_ROWS - 1 :]
        rows = rows[: _MOST_ROWS - 1]
        rows.append((f"{len(rest)} more layers", sum(row[1] for row in rest), sum(row[2] for row in rest)))
    outside = outside_share(result)
    called_ns = next((layer.mean_ns / layer.share for layer in result.layers if layer.share > 0), 0.0)
    if outside > 0:
        rows.append((OUTSIDE, outside * called_ns, outside))
    return rows


def _draw(run: BenchmarkRun, references: Sequence[str], theme: Theme, suffix: str) -> bytes:
    found = _profiled(run)
    looks = result_styles(run.results, references, theme)
    longest = max(time_ns for result in found for _, time_ns, _ in _rows(result))
    total = sum(len(_rows(result)) for result in found)
    figure, axes = named_rows(theme, total, row_inches=0.44, extra_inches=0.85 + 0.42 * (len(found) - 1))
    row, gap = 0.0, 0.95
    for result in found:
        row_band(axes, theme, row - 1.05, 0.5, result.name)
        for name, time_ns, share in _rows(result):
            axes.barh(
                row, time_ns, height=0.34, color=theme.rivals[0] if name == OUTSIDE else looks[result.name].colour
            )
            value_label(axes, theme, time_ns, row, f"{duration(time_ns)}, {significant(share * 100, 2)} %")
            row_name(axes, theme, row, name, bold=False)
            row += 1
        row += gap
    axes.set_ylim(row - gap - 0.6, -1.35)
    axes.set_xlim(0, longest * 1.45)
    time_axis(axes, "mean time within a profiled call", logarithmic=False)
    return rendered(figure, suffix)


def _finding(run: BenchmarkRun, references: Sequence[str]) -> str:  # noqa: ARG001 - a function of a Kind
    sentences = []
    for result in _profiled(run):
        listed = ", ".join(f"{name} {significant(share * 100, 2)} %" for name, _, share in _rows(result))
        sentences.append(f"Time of {result.name}: {listed}.")
    return " ".join(sentences)


LAYERS = Kind(
    title="Where the time goes",
    caption="Mean over the profiled calls, which are slower than timed ones; the shares are what to read.",
    lacks=_lacks,
    draw=_draw,
    finding=_finding,
)
