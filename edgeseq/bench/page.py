"""One HTML page that needs nothing but itself: style inside, pictures as data, light and dark, phone, paper."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from edgeseq.bench.tables import NOTHING, Cell, Row, Table
from edgeseq.errors import WrongUsage

_STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #ffffff; --text: #1b2733; --faint: #5b6672;
  --line: #dde3e9; --accent: #0b6bcb; --bad: #b42318; --care: #fff6dc; --care-line: #b98900; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #0d1117; --card: #161b22; --text: #e6edf3; --faint: #9aa7b4;
  --line: #2d353f; --accent: #58a6ff; --bad: #ff8a80; --care: #2b2410; --care-line: #d9a520; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 0; }
h3.part { margin: 1.8rem 0 .6rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
.faint, figcaption, summary { color: var(--faint); font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.4rem;
  margin-top: 1.25rem; }
.care { background: var(--care); border-left: .3rem solid var(--care-line); border-radius: .4rem; padding: .8rem 1rem;
  margin: 0 0 1.2rem; }
.care ul, .notes { margin: .3rem 0 0; padding-left: 1.2rem; }
.notes { color: var(--faint); font-size: .875rem; margin-top: .7rem; overflow-wrap: anywhere; }
.care li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.key { list-style: none; margin: 0 0 1.2rem; padding: 0; }
.key li { margin: 0 0 .35rem; }
.key b { color: var(--accent); font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .55rem .5rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-size: .8rem; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
td.words, td.bad { white-space: normal; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
tbody th { font-weight: 600; min-width: 8rem; overflow-wrap: break-word; }
.wide tbody th:first-child, .wide td:first-child { padding-left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; color: var(--faint); font-size: .78rem; white-space: normal; min-width: 5.5rem;
  max-width: 7.5rem; margin-left: auto; }
td b { color: var(--accent); }
td.bad { color: var(--bad); overflow-wrap: anywhere; }
.pictures { columns: 26rem; column-gap: 2rem; margin-top: 1.4rem; }
figure { margin: 0 0 1.6rem; min-width: 0; break-inside: avoid; }
figcaption { margin-top: .3rem; max-width: 34rem; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; margin-top: .3rem; border-radius: .4rem; }
figure img.dark { display: none; }
@media screen and (prefers-color-scheme: dark) {
  figure img.light { display: none; }
  figure img.dark { display: block; } }
details { margin-top: 1.2rem; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .875rem; margin: .7rem 0 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  main { padding: 1rem .5rem 3rem; }
  section { padding: .8rem; }
  .pictures { columns: auto; }
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
  td small { display: block; max-width: none; }
  td.none { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .45rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --faint: #444; --line: #bbb; --accent: #000; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .care, .key { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  section { border: 0; padding: 0; }
  .pictures { columns: 2; column-gap: 1.5rem; }
  figure img { width: auto; max-width: 100%; max-height: 20cm; }
  .wide { overflow: visible; }
  th, td { padding: .3rem .4rem; }
  .wide table { font-size: 8pt; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""

# A unit does not leave its number for the next line.
_UNIT_SPACE = re.compile(r"(?<=\d) (?=(?:[nµm]?s|W)\b)")

_REASON_LETTERS = 300

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


def table(made: Table) -> str:
    """A table with its notes; one that is too wide for its page is moved sideways, or on a phone becomes cards."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("", *made.heads))
    body = "\n".join(_row(made.heads, row) for row in made.rows)
    wide = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    return wide + notes(made.notes)


def _row(heads: Sequence[str], row: Row) -> str:
    if row.error:
        cells = f'<td class="words bad" colspan="{len(heads)}">{escape(shortened(row.error))}</td>'
    else:
        cells = "".join(_cell(head, cell) for head, cell in zip(heads, row.cells, strict=True))
    return f'<tr><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _cell(head: str, cell: Cell) -> str:
    """A figure with its note under it, named where a phone shows rows as cards."""
    small = f"<small>{_UNIT_SPACE.sub(chr(160), escape(cell.note))}</small>" if cell.note else ""
    shown = f"<b>{escape(cell.value)}</b>" if cell.best else escape(cell.value)
    nothing = ' class="none"' if cell == NOTHING else ""
    return f'<td{nothing} data-label="{escape(head)}"><span>{shown}{small}</span></td>'


def shortened(reason: str) -> str:
    """An error as long as a table bears it."""
    return reason if len(reason) <= _REASON_LETTERS else reason[:_REASON_LETTERS] + " …"


def warnings(texts: Sequence[str]) -> str:
    """A box that cannot be overlooked; nothing without texts."""
    if not texts:
        return ""
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<div class="care" role="note"><h3>Read with care</h3><ul>{listed}</ul></div>'


def key_points(lines: Sequence[str]) -> str:
    """What to know first, each line finished HTML; nothing without lines."""
    return f'<ul class="key">{"".join(f"<li>{line}</li>" for line in lines)}</ul>' if lines else ""


def notes(texts: Sequence[str]) -> str:
    """Remarks under a table; nothing without texts."""
    return f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def part(title: str, content: Table | str | None) -> str:
    """A titled part of a section; nothing without content."""
    return f'<h3 class="part">{escape(title)}</h3>\n{_written(content)}' if content else ""


def folded(title: str, content: Table | str | None) -> str:
    """A part that is opened by its title, and on paper is open; nothing without content."""
    return f"<details><summary>{escape(title)}</summary>{_written(content)}</details>" if content else ""


def _written(content: Table | str) -> str:
    return content if isinstance(content, str) else table(content)


def pictures(drawings: Sequence[str]) -> str:
    """Figures side by side where there is room; nothing without any."""
    return f'<div class="pictures">{"".join(drawings)}</div>' if drawings else ""


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
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"


def drawing(title: str, light_svg: bytes, dark_svg: bytes, caption: str, finding: str = "") -> str:
    """A figure that shows the picture drawn for the reader's colour scheme; `finding` says what is to be seen in it."""
    # Two images and not a <picture>, whose choice browsers keep when a dark page is printed.
    images = "".join(
        f'<img class="{form}" alt="{escape(finding or title)}" src="{_data("image/svg+xml", content)}">'
        for form, content in (("light", light_svg), ("dark", dark_svg))
    )
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{heading}{images}<figcaption>{escape(caption)}</figcaption></figure>"


def embedded_picture(path: Path, caption: str) -> str:
    """A picture file as part of the page. Raises WrongUsage when browsers do not show its format."""
    kind = _PICTURE_TYPES.get(path.suffix.lower())
    if kind is None:
        raise WrongUsage(f"a page shows {', '.join(sorted(_PICTURE_TYPES))}, not {path.name}")
    label = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(caption or path.stem)}" src="{_data(kind, path.read_bytes())}">{label}</figure>'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
