"""A kind of picture: what it needs of a run, how it is drawn, and what it says to those who do not see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from edgeseq.bench.pictures.canvas import Style, Theme, rendered, result_styles
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun


@dataclass(frozen=True, kw_only=True)
class View:
    """A run, and from where it is looked at."""

    run: BenchmarkRun
    """What was measured."""
    references: Sequence[str]
    """Names of what the others are held against."""

    def styles(self, theme: Theme) -> dict[str, Style]:
        """How each subject is drawn, the same in every picture."""
        return result_styles(self.run.results, self.references, theme)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of picture."""

    title: str
    """Heading."""
    caption: str
    """How to read it, in a sentence."""
    shows: Callable[[View], Sequence[object]]
    """What of a run is drawn; nothing where the run lacks what it takes."""
    lacking: str
    """What a run lacks that has nothing to show, and what to ask for."""
    draw: Callable[[View, Theme], Figure]
    """The picture of a view that has something to show."""
    finding: Callable[[View], str]
    """What it shows, in words and figures."""

    def render(self, view: View, theme: Theme, suffix: str) -> bytes:
        """The picture in a format of matplotlib's such as ``svg``."""
        return rendered(self.draw(view, theme), suffix)


def timed(view: View) -> list[BenchmarkResult]:
    """Subjects with measured times."""
    return [result for result in view.run.results if result.distribution_ns]
