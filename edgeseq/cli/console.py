"""Printing for people: consoles that print text as it is, tables, and progress on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from edgeseq.bench.tables import Table as Figures

ProgressCallback = Callable[[str, int, int], None]

_NAME_WIDTH = 30
_WIDTH = 120
"""Of what is not a terminal, where rich would take 80 and break tables for nobody."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the boundary: rich would end the process with exit code 1."""
        raise BrokenPipeError


def console(stream: TextIO) -> Console:
    """A console on `stream` that takes text as it is: brackets are no markup, and numbers are not coloured."""
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(*heads: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` are aligned to the right. No text is ever cut off."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold", header_style="dim")
    return made


def figures(found: Figures) -> Table:
    """A table of figures, each with its note under it."""
    made = table("", *found.heads, right=found.heads)
    made.columns[0].min_width = min(_NAME_WIDTH, max((len(row.name) for row in found.rows), default=0))
    for row in found.rows:
        shown = [f"{cell.value}\n{cell.note}" if cell.note else cell.value for cell in row.cells]
        made.add_row(row.name, *(["failed"] if row.error else shown))
    return made


def section(out: Console, title: str, made: Table) -> None:
    """A table under its title."""
    out.print(title, style="bold", soft_wrap=True)
    out.print(made)


def notes(out: Console, texts: Sequence[str]) -> None:
    """One line a note."""
    for text in texts:
        out.print(f"note: {text}", soft_wrap=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressCallback | None]:
    """A callback (stage, done, total) that draws one bar on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield show


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A sign of life on stderr for work that does not tell how far it is; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with console(sys.stderr).status(text):
        yield
