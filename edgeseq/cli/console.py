"""Printing for people: consoles that print text as it is, tables, and progress on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from edgeseq.bench.tables import Table as Figures

ProgressCallback = Callable[[str, int, int], None]

_WHOLE = 30
"""Letters of a column that is never broken: figures are shorter, and half a figure reads as another one."""
_HEAD_WIDTH, _GAP = 14, 2
_UNLIMITED = 1_000_000
"""Width of what is not a terminal, where rich would take 80."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the boundary: rich would end the process with exit code 1."""
        raise BrokenPipeError


def console(stream: TextIO) -> Console:
    """A console on `stream` that takes text as it is: brackets are no markup, and numbers are not coloured."""
    width = None if stream.isatty() or "COLUMNS" in os.environ else _UNLIMITED
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


class _Table(Table):
    """A table that breaks long texts where it has to, and becomes one block a row where its figures have no room."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[str(cell) for cell in column.cells] for column in self.columns]
        widths = [
            max(cell_len(line) for text in (str(column.header), *texts) for line in text.split("\n"))
            for column, texts in zip(self.columns, cells, strict=True)
        ]
        # Where room is short rich breaks the broadest column first: texts, as long as all this fits.
        if sum(min(width, _WHOLE) + _GAP for width in widths) - _GAP <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        heads = [str(column.header).replace("\n", " ") for column in self.columns[1:]]
        for name, *values in zip(*cells, strict=True):
            yield Text(name, style="bold", overflow="fold")
            block = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
            block.add_column(style="dim", overflow="fold")
            block.add_column(overflow="fold")
            for head, value in zip(heads, values, strict=True):
                block.add_row(head, value.replace("\n", ", "))
            yield Padding(block, (0, 0, 1, _GAP), expand=False)


def table(*heads: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` are aligned to the right. No text is ever cut off."""
    made = _Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold", header_style="dim")
    return made


def figures(found: Figures) -> Table:
    """A table of figures, each with its note under it."""
    heads = [textwrap.fill(head, _HEAD_WIDTH, break_long_words=False) for head in found.heads]
    made = table("", *heads, right=heads)
    for row in found.rows:
        shown = [f"{cell.value}\n{cell.note}" if cell.note else cell.value for cell in row.cells]
        made.add_row(row.name, *(["failed", *[""] * (len(heads) - 1)] if row.error else shown))
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
