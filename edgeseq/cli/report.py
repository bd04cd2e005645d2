"""`edgeseq report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgeseq.cli.options import Output, Overwrite
from edgeseq.cli.reply import Reply


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.json...", help="What edgeseq bench wrote.", show_default=False)
    ],
    output: Output,
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "Benchmark",
    overwrite: Overwrite = False,
) -> Reply:
    """Make one self-contained HTML page of benchmark results, with pictures."""
    from edgeseq.bench import write_report
    from edgeseq.cli.documents import WrittenReport

    write_report(results, output, title=title, overwrite=overwrite)
    written = WrittenReport(
        path=os.fspath(output), size_bytes=output.stat().st_size, results=tuple(map(os.fspath, results))
    )
    return Reply(document=written, show=lambda out: out.print(f"wrote {written.path}", soft_wrap=True))
