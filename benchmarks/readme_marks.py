"""The lines of README.md that a benchmark writes: those between two comments, the marks."""

from __future__ import annotations

from pathlib import Path

from edgeseq.files import write_bytes

README = Path(__file__).resolve().parent.parent / "README.md"


def replace(readme, mark, lines):
    """Put `lines` between ``<!-- mark -->`` and ``<!-- /mark -->``; exits where the file lacks them."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{readme} lacks the marks {begin} and {end}")
    write_bytes(readme, (before + "\n".join([begin, *lines, end]) + after).encode())
