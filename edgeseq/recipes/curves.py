"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgeseq import files


def draw(path: Path, title: str, history: Mapping[str, Sequence[float]], best_epoch: int) -> None:
    """Write a PNG with one plot a measure: training and validation over the epochs, and the epoch that was kept."""
    measures = [name for name in history if not name.startswith("val_") and name != "seconds"]
    # Figure and canvas are made directly: pyplot would keep a global list of figures and may want a display.
    figure = Figure(figsize=(5 * len(measures), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, name in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), index)
        for series, label in ((name, "training"), (f"val_{name}", "validation")):
            if series in history:
                epochs = range(1, len(history[series]) + 1)
                axes.plot(epochs, history[series], marker="." if len(epochs) < 30 else "", label=label)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        if _spans_decades(history[name]):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(name)
        axes.legend()
    with files.whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 100 * min(values)
