"""Tables for people: no figure is ever cut, however narrow the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from edgeseq.bench.tables import Cell, Row, Table
from edgeseq.cli.console import console, figures, table

HEADS = ("Speed against lstm.onnx, batch 1, 1 thread", "p50", "p99")
CELLS = (Cell(value="1.33 ×", note="1.331 to 1.333"), Cell(value="12.3 µs", note="12.1 to 12.6 µs"), Cell(value="–"))
FOUND = Table(heads=HEADS, rows=(Row(name="stateful.onnx", cells=CELLS), Row(name="b.onnx", cells=(), error="no")))


def printed(made: Any, width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    console(out).print(made)
    return out.getvalue()


@pytest.mark.parametrize("width", [None, 120, 90, 60, 45, 30])
def test_no_figure_is_cut_at_any_width(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = printed(figures(FOUND), width, monkeypatch)
    for cell in CELLS:
        assert cell.value in shown
        assert all(word in shown.split() for word in cell.note.split())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= (width or 1000)


def test_what_has_no_room_becomes_one_block_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line.rstrip() for line in printed(figures(FOUND), 80, monkeypatch).splitlines()[-3:]] == [
        "stateful.onnx          1.33 ×          12.3 µs    –",
        "               1.331 to 1.333  12.1 to 12.6 µs",
        "b.onnx                 failed",
    ]
    assert [line.rstrip() for line in printed(figures(FOUND), 50, monkeypatch).splitlines()[:5]] == [
        "stateful.onnx",
        "  Speed against           1.33 ×, 1.331 to 1.333",
        "  lstm.onnx, batch 1, 1",
        "  thread",
        "  p50                     12.3 µs, 12.1 to 12.6 µs",
    ]


def test_what_is_no_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    made = table("", "why")
    made.add_row("a", "word " * 100)
    assert len(printed(made, None, monkeypatch).splitlines()) == 2
    assert len(printed(made, 80, monkeypatch).splitlines()) > 6


def test_a_long_text_is_broken_and_the_figure_beside_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = table("", "a figure", "why")
    made.add_row("model.onnx", "0.524 × or less", "words " * 40)
    for width in range(61, 100):
        assert "0.524 × or less" in printed(made, width, monkeypatch)
