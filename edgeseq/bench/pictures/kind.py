"""A kind of picture: what it needs of a run, how it is drawn, and what it says to those who do not see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeseq.bench.pictures.canvas import Theme
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of picture; its functions take a run and the names of what the others are held against."""

    title: str
    """Heading."""
    caption: str
    """How to read it, in a sentence."""
    lacks: Callable[[BenchmarkRun, Sequence[str]], str | None]
    """What the run lacks to be drawn so, and what to ask for; None when it has all."""
    draw: Callable[[BenchmarkRun, Sequence[str], Theme, str], bytes]
    """The picture, in a format of matplotlib's such as ``svg``."""
    finding: Callable[[BenchmarkRun, Sequence[str]], str]
    """What it shows, in words and figures."""


def timed(run: BenchmarkRun) -> list[BenchmarkResult]:
    """Subjects with measured times."""
    return [result for result in run.results if result.distribution_ns]


def nothing_timed(run: BenchmarkRun, references: Sequence[str]) -> str | None:  # noqa: ARG001 - a function of a Kind
    """What is lacking for pictures that need times alone."""
    return None if timed(run) else "nothing in this run has a measured time"
