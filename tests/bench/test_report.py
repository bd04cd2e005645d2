"""The page: what it says, that it needs nothing from outside, and that no name can break it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench.record import write_run
from edgeseq.bench.report import Section, save_picture, write_report
from edgeseq.errors import InvalidFile, MissingInput, OutputExists, WrongUsage

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """The parts of a page that tests ask for."""

    def __init__(self, path: Path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self._cell = False
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._cell:
            self.rows[-1][-1] += data + " "

    def row(self, name: str) -> list[str]:
        [row] = [row for row in self.rows if row and row[0].strip() == name]
        return [" ".join(cell.split()) for cell in row]


@pytest.fixture
def run(make_run: Any, make_result: Any) -> Any:
    return make_run(
        make_result("Keras predict", 45.0, max_abs=None, answers="reference", size_bytes=None, threads=None),
        make_result("Keras export", 1.2, threads=0),
        make_result("model.onnx", 1.0),
        make_result("small.onnx", 0.5, size_bytes=1_480_000, max_abs=0.0031, count=44, p90_ns=None),
    )


def test_the_table_holds_the_figures(run: Any, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    heads = [
        "",
        "Size",
        "Difference",
        "p50",
        "p90",
        "Speed against Keras predict",
        "Speed against Keras export",
        "Threads",
    ]
    assert [" ".join(cell.split()) for cell in page.rows[0]] == heads
    assert page.row("Keras predict")[1:3] == ["–", "reference"]
    assert page.row("Keras predict")[7] == "its own"
    assert page.row("Keras export")[7] == "all"
    small = page.row("small.onnx")
    assert small[1:4] == ["1.48 MB", "0.0031", "500 µs 495 to 505 µs"]
    assert small[4] == "– needs 64 calls, has 44"
    # Every round of the two has the same ratio, so the interval has no width.
    assert small[5] == "90.0 × 90.0 to 90.0"
    assert small[6] == "2.40 × 2.40 to 2.40"
    assert "small.onnx is 90.0 × as fast as Keras predict, 95 % interval 90.0 to 90.0." in page.words
    assert "Batch 1, 250 time steps." in page.words
    assert "Some Processor, 2 cores" in page.words


def test_no_difference_is_an_answer(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    rounds = tuple(1e6 * factor for factor in (0.9, 1.1) * 10)
    run = make_run(make_result("Keras export"), make_result("model.onnx", round_p50_ns=rounds))
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.row("model.onnx")[5].endswith("no difference")
    assert "No difference found between model.onnx and Keras export" in page.words


def test_slower_is_said_as_plainly(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    write_report([make_run(make_result("Keras export"), make_result("model.onnx", 2.0))], tmp_path / "report.html")
    assert "model.onnx is slower than Keras export: 0.500 × its speed" in Page(tmp_path / "report.html").words


def test_a_subject_that_failed_shows_its_error(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    failed = make_result("Keras export", error="Fail: no Erfc < 20 " * 40, round_p50_ns=(), distribution_ns=())
    write_report([make_run(make_result("model.onnx"), failed)], tmp_path / "report.html")
    [name, error] = Page(tmp_path / "report.html").row("Keras export")
    assert name == "Keras export"
    assert error.startswith("Fail: no Erfc < 20")
    assert error.endswith("…")
    assert len(error) < 320


def test_a_run_in_which_nothing_was_measured_still_has_its_page(
    make_run: Any, make_result: Any, tmp_path: Path
) -> None:
    failed = make_result(error="Fail", round_p50_ns=(), distribution_ns=(), warm_up=None)
    write_report([make_run(failed)], tmp_path / "report.html")
    assert "img" not in Page(tmp_path / "report.html").tags
    with pytest.raises(WrongUsage, match="nothing to draw"):
        save_picture(make_run(failed), tmp_path / "bars.png")


def test_the_page_needs_nothing_from_outside(run: Any, tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    write_report([run], tmp_path / "report.html", after=[Section(title="Curves", picture=tmp_path / "curve.png")])
    page = Page(tmp_path / "report.html")
    # Two drawings, each light and dark, and the picture.
    assert len(page.links) == 5
    assert all(link.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for link in page.links)
    assert "http" not in page.html.lower()
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "script" not in page.tags
    assert "prefers-color-scheme: dark" in page.html


def test_drawings_do_not_reach_outside_either(run: Any, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report.html")
    for link in Page(tmp_path / "report.html").links:
        svg = base64.b64decode(link.split(",")[1]).decode()
        assert svg.lstrip().startswith("<?xml")
        assert 'href="http' not in svg
        assert "<image" not in svg


def test_a_name_cannot_become_markup(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    run = make_run(make_result(evil), make_result("b", error=evil, round_p50_ns=(), distribution_ns=()))
    section = Section(title=evil, text=evil, headers=("a", evil), rows=((evil, evil),))
    write_report([run], tmp_path / "report.html", title=evil, before=[section])
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert page.words.count(evil) >= 7


def test_extra_sections_stand_where_they_were_put(run: Any, tmp_path: Path) -> None:
    before = Section(title="Training", text="Two epochs.\n\nAccuracy 0.84.")
    after = Section(title="Predictions", headers=("Review", "Answer"), rows=(("Good film", 0.9), ("Bad film", 0.1)))
    write_report([run], tmp_path / "report.html", before=[before], after=[after])
    page = Page(tmp_path / "report.html")
    assert page.words.index("Two epochs.") < page.words.index("Keras predict") < page.words.index("Predictions")
    assert page.row("Good film") == ["Good film", "0.9"]
    assert "<p>Two epochs.</p><p>Accuracy 0.84.</p>" in page.html


def test_results_are_read_from_files_and_named_after_them(run: Any, tmp_path: Path) -> None:
    for name in ("monday.json", "tuesday.json"):
        write_run(run, tmp_path / name)
    write_report([tmp_path / "monday.json", tmp_path / "tuesday.json"], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "<h2>monday</h2>" in page.html
    assert "<h2>tuesday</h2>" in page.html


def test_other_references_can_be_named(run: Any, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report.html", references=["model.onnx"])
    page = Page(tmp_path / "report.html")
    assert page.row("small.onnx")[5] == "2.00 × 2.00 to 2.00"
    with pytest.raises(WrongUsage, match="no subject is named 'other'"):
        write_report([run], tmp_path / "other.html", references=["other"])


def test_what_cannot_be_written_is_refused_before_anything_is(run: Any, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("mine")
    with pytest.raises(OutputExists):
        write_report([run], target)
    assert target.read_text() == "mine"
    with pytest.raises(WrongUsage, match="nothing to report"):
        write_report([], tmp_path / "new.html")
    with pytest.raises(MissingInput):
        write_report([tmp_path / "none.json"], tmp_path / "new.html")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidFile):
        write_report([tmp_path / "bad.json"], tmp_path / "new.html")
    with pytest.raises(MissingInput):
        write_report([run], tmp_path / "new.html", after=[Section(title="x", picture=tmp_path / "none.png")])
    (tmp_path / "x.bmp").write_bytes(b"BM")
    with pytest.raises(WrongUsage, match=r"not x\.bmp"):
        write_report([run], tmp_path / "new.html", after=[Section(title="x", picture=tmp_path / "x.bmp")])
    with pytest.raises(WrongUsage, match="1 cells, its header 2"):
        write_report([run], tmp_path / "new.html", after=[Section(title="x", headers=("a", "b"), rows=(("a",),))])
    assert not (tmp_path / "new.html").exists()


@pytest.mark.parametrize("kind", ["bars", "distribution"])
def test_pictures_are_files_too(run: Any, tmp_path: Path, kind: str) -> None:
    save_picture(run, tmp_path / "a.png", kind=kind)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    save_picture(run, tmp_path / "a.svg", kind=kind)
    save_picture(run, tmp_path / "dark.svg", kind=kind, dark=True)
    light, dark = (tmp_path / "a.svg").read_text(), (tmp_path / "dark.svg").read_text()
    assert "#0b6bcb" in light
    assert "#0b6bcb" not in dark
    assert "#58a6ff" in dark
    save_picture(run, tmp_path / "b.svg", kind=kind)
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize(("name", "kind", "message"), [("a.png", "pie", "not 'pie'"), ("a.jpg", "bars", r"not a\.jpg")])
def test_other_pictures_are_refused(run: Any, tmp_path: Path, name: str, kind: str, message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        save_picture(run, tmp_path / name, kind=kind)


def test_a_report_is_html_and_never_over_what_it_reads(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"as \.html; got report\.txt"):
        write_report([make_run(make_result())], tmp_path / "report.txt")
    assert list(tmp_path.iterdir()) == []
    write_run(make_run(make_result()), tmp_path / "results.json")
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(WrongUsage, match="also what is read"):
        write_report([tmp_path / "results.json"], tmp_path / "results.json", overwrite=True)
    assert (tmp_path / "results.json").read_bytes() == before
