"""One HTML page that needs nothing but itself: style inside, pictures as data, light and dark, phone, paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from edgeseq.errors import WrongUsage

_STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #ffffff; --text: #1b2733; --faint: #5b6672;
  --line: #dde3e9; --accent: #0b6bcb; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --text: #e6edf3; --faint: #9aa7b4;
  --line: #2d353f; --accent: #58a6ff; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 .8rem; max-width: 46rem; }
.faint, figcaption, summary { color: var(--faint); font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.4rem;
  margin-top: 1.25rem; }
.key { list-style: none; margin: 0 0 1.2rem; padding: 0; }
.key li { margin: 0 0 .35rem; }
.key b { color: var(--accent); font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .55rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-size: .8rem; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
td.words, td.bad { white-space: normal; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
tbody th { font-weight: 600; min-width: 9rem; overflow-wrap: break-word; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; color: var(--faint); font-size: .78rem; }
td.bad { color: var(--bad); overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem;
  margin-top: 1.4rem; align-items: start; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; max-width: 40rem; height: auto; margin-top: .3rem; border-radius: .4rem; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .875rem; margin: .7rem 0 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  main { padding: 1.2rem .75rem 3rem; }
  section { padding: 1rem; }
  table, tbody, tr, td, tbody th { display: block; width: 100%; }
  thead { display: none; }
  tbody tr { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .75rem; margin-bottom: .75rem; }
  tbody th, td { border: 0; padding: .3rem 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  td::before { content: attr(data-label); color: var(--faint); text-align: left; flex: none; max-width: 45%; }
  tbody th { overflow-wrap: anywhere; }
  td { white-space: normal; }
  td.words, td.bad { display: block; text-align: left; }
  td.words::before { display: block; max-width: none; font-size: .8rem; }
  td small { display: block; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .45rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --faint: #444; --line: #bbb; --accent: #000; }
  section, figure, tr { break-inside: avoid; }
  section { border: 0; padding: 0; }
}
"""

_PICTURE_TYPES = {
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


def page(title: str, introduction: str, body: Sequence[str]) -> str:
    """The whole document; `title` and `introduction` are plain text, `body` finished HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="faint">{escape(introduction)}</p>\n</header>\n'
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """`text` with what HTML reads as markup made harmless."""
    return html.escape(str(text), quote=True)


def paragraphs(text: str) -> str:
    """Plain text as paragraphs, divided at empty lines."""
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def section(title: str, *parts: str) -> str:
    """A titled card that holds `parts`, finished HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def cell(label: str, value: str, note: str = "") -> str:
    """A figure in a table, with a note under it; `label` names it where a phone shows rows as cards."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td data-label="{escape(label)}"><span>{escape(value)}{small}</span></td>'


def text_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of plain text; the first column names the row. Raises WrongUsage when a row has another length."""
    for row in rows:
        if len(row) != len(headers):
            raise WrongUsage(f"a table row has {len(row)} cells, its header {len(headers)}: {list(row)}")
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td class="words" data-label="{escape(header)}"><span>{escape(value)}</span></td>'
            for header, value in zip(headers[1:], row[1:], strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    head = "".join(f'<th scope="col" class="words">{escape(header)}</th>' for header in headers)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"


def drawing(title: str, light_svg: bytes, dark_svg: bytes, caption: str) -> str:
    """A figure that shows the picture drawn for the reader's colour scheme."""
    return (
        f"<figure><h3>{escape(title)}</h3><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data("image/svg+xml", dark_svg)}">'
        f'<img alt="{escape(title)}" src="{_data("image/svg+xml", light_svg)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def embedded_picture(path: Path, caption: str) -> str:
    """A picture file as part of the page. Raises WrongUsage when browsers do not show its format."""
    kind = _PICTURE_TYPES.get(path.suffix.lower())
    if kind is None:
        raise WrongUsage(f"a page shows {', '.join(sorted(_PICTURE_TYPES))}, not {path.name}")
    label = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(caption or path.stem)}" src="{_data(kind, path.read_bytes())}">{label}</figure>'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
