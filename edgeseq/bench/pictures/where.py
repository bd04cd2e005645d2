"""Where the time of a call goes, layer by layer."""

from __future__ import annotations

from matplotlib.figure import Figure

from edgeseq.bench.layers import OUTSIDE, PROFILED, outside_share
from edgeseq.bench.pictures.canvas import Theme, named_rows, row_band, row_name, value_label
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.record import BenchmarkResult
from edgeseq.bench.units import duration, significant

_MOST_ROWS = 8


def _profiled(view: View) -> list[BenchmarkResult]:
    return [result for result in view.run.results if result.layers]


def _rows(result: BenchmarkResult) -> list[tuple[str, float, float]]:
    """Name, time in nanoseconds and share; the smallest layers together, what is outside last."""
    rows = [(layer.title, layer.mean_ns, layer.share) for layer in result.layers]
    if len(rows) > _MOST_ROWS:
        rest = rows[_MOST_ROWS - 1 :]
        rows = rows[: _MOST_ROWS - 1]
        rows.append((f"{len(rest)} more layers", sum(row[1] for row in rest), sum(row[2] for row in rest)))
    outside = outside_share(result.layers)
    called_ns = next((layer.mean_ns / layer.share for layer in result.layers if layer.share > 0), 0.0)
    if outside > 0:
        rows.append((OUTSIDE, outside * called_ns, outside))
    return rows


def _draw(view: View, theme: Theme) -> Figure:
    found = _profiled(view)
    looks = view.styles(theme)
    largest = max(share for result in found for *_, share in _rows(result))
    total = sum(len(_rows(result)) for result in found)
    figure, axes = named_rows(theme, total, row_inches=0.44, extra_inches=0.85 + 0.42 * (len(found) - 1))
    row, gap = 0.0, 0.95
    for result in found:
        row_band(axes, theme, row - 1.05, 0.5, result.name)
        for name, time_ns, share in _rows(result):
            colour = theme.rivals[0] if name == OUTSIDE else looks[result.name].colour
            axes.barh(row, share, height=0.34, color=colour)
            value_label(axes, theme, share, row, f"{duration(time_ns)}, {significant(share * 100, 2)} %")
            row_name(axes, theme, row, name, bold=False)
            row += 1
        row += gap
    axes.set_ylim(row - gap - 0.6, -1.35)
    axes.set_xlim(0, max(largest, 1.0) * 1.45)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel("share of a profiled call", fontsize=9)
    return figure


def _finding(view: View) -> str:
    sentences = []
    for result in _profiled(view):
        listed = ", ".join(f"{name} {significant(share * 100, 2)} %" for name, _, share in _rows(result))
        sentences.append(f"Time of {result.name}: {listed}.")
    return " ".join(sentences)


LAYERS = Kind(
    title="Where the time goes",
    caption=PROFILED,
    shows=_profiled,
    lacking="no subject has times by layer; measure with `edgeseq bench ... --layers`",
    draw=_draw,
    finding=_finding,
)
