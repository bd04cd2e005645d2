"""The page: what it says, that it needs nothing from outside, and that no name can break it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench.cold import ColdStart
from edgeseq.bench.energy import Energy
from edgeseq.bench.layers import LayerTime
from edgeseq.bench.lengths import LengthFacts
from edgeseq.bench.noise import Disturbance
from edgeseq.bench.record import write_run
from edgeseq.bench.report import Section, save_picture, write_report
from edgeseq.bench.sample import Settings
from edgeseq.bench.server import RateTrial, Served
from edgeseq.bench.stats import Interval
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
        self.said: list[str] = []
        self._cell = False
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.said += [value or "" for name, value in attrs if name == "alt"]
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
    assert page.row("Keras predict")[7] == "its own threads"
    assert page.row("Keras export")[7] == "all threads"
    small = page.row("small.onnx")
    assert small[1:4] == ["1.48 MB", "0.0031", "500 µs 495 to 505 µs"]
    assert small[4] == "– needs 64 calls, has 44"
    # Every round of the two has the same ratio, so the interval has no width.
    assert small[5] == "90.0 × 90.0 to 90.0"
    assert small[6] == "2.40 × 2.40 to 2.40"
    assert "small.onnx is 90.0 × as fast as Keras predict, 95 % interval 90.0 to 90.0." in page.words
    assert "Batch 1, 250 time steps, inputs golden." in page.words
    assert "Some Processor, 2 cores" in page.words


def test_no_difference_is_an_answer(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    for spread, verdict, said in (
        (0.01, "no difference", "No difference found between model.onnx and Keras export"),
        # An interval this wide holds 1 and much else.
        (0.1, "undecided", "Undecided between model.onnx and Keras export: "),
    ):
        rounds = tuple(1e6 * factor for factor in (1 - spread, 1 + spread) * 10)
        run = make_run(make_result("Keras export"), make_result("model.onnx", round_p50_ns=rounds))
        write_report([run], tmp_path / "report.html", overwrite=True)
        page = Page(tmp_path / "report.html")
        assert page.row("model.onnx")[5].endswith(f", {verdict}")
        assert said in page.words


@pytest.mark.parametrize(
    ("answers", "max_abs", "why"),
    [
        ("other answers: output 0 differs by 93%", 0.28, "other answers"),
        ("not comparable: other inputs", None, "not comparable"),
    ],
)
def test_what_answers_otherwise_is_told_and_never_praised(
    make_run: Any, make_result: Any, answers: str, max_abs: float | None, why: str, tmp_path: Path
) -> None:
    run = make_run(
        make_result("Keras predict", 9.0, max_abs=None, answers="reference"),
        make_result("right.onnx"),
        make_result("other.onnx", 0.1, answers=answers, max_abs=max_abs),
    )
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "right.onnx is 9.00 × as fast as Keras predict" in page.words
    assert "other.onnx is" not in page.words
    assert page.row("other.onnx")[5] == f"– {why}"
    assert f"other.onnx: {answers}; its speed is held against no other's" in page.words
    assert page.words.index("its speed is held") < page.words.index("right.onnx is 9.00")
    assert not any("other.onnx 90.0 ×" in said for said in page.said)
    # Nor is it what others are held against.
    write_report([run], tmp_path / "against.html", references=["other.onnx"])
    assert "as other.onnx" not in Page(tmp_path / "against.html").words


def test_the_percentile_that_was_asked_for_has_its_column(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    asked = make_result(asked_ns=1_100_000, asked_interval_ns=Interval(low=1.0e6, high=1.3e6))
    write_report([make_run(asked, settings=Settings(percentile=0.75))], tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert heads(page) == ["", "Size", "p50", "p75", "p90"]
    assert page.row("model.onnx")[3] == "1.10 ms 1.00 to 1.30 ms"
    write_report([make_run(make_result(), settings=Settings(percentile=0.9999))], tmp_path / "b.html")
    assert "p99.99 needs 66,381 calls" in Page(tmp_path / "b.html").words


def test_a_percentile_without_interval_says_why(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    for number, why in ((20, "rounds differ too much"), (5, "too few rounds")):
        run = make_run(make_result("a", p50_interval_ns=None, round_p50_ns=(1e6,) * number))
        write_report([run], tmp_path / "a.html", overwrite=True)
        assert Page(tmp_path / "a.html").row("a")[2] == f"1.00 ms {why}"


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
    with pytest.raises(WrongUsage, match="nothing in this run has a measured time"):
        save_picture(make_run(failed), tmp_path / "bars.png")


def test_the_page_needs_nothing_from_outside(run: Any, tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    write_report([run], tmp_path / "report.html", after=[Section(title="Curves", picture=tmp_path / "curve.png")])
    page = Page(tmp_path / "report.html")
    # Five drawings (medians, speed, distributions, sizes, drift), each light and dark, and the picture.
    assert len(page.links) == 11
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


@pytest.mark.parametrize("kind", ["bars", "distribution", "speed", "trade-off", "drift"])
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


def heads(page: Page) -> list[str]:
    return [" ".join(cell.split()) for cell in page.rows[0]]


def test_columns_without_a_figure_are_left_out_and_why_is_said(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    one = make_result("a.onnx", size_bytes=None)
    write_report([make_run(one)], tmp_path / "one.html")
    page = Page(tmp_path / "one.html")
    assert heads(page) == ["", "p50", "p90"]
    assert "p99 needs 662 calls, p99.9 needs 6,636 calls" not in page.words  # 800 calls are enough for p99
    assert "Not given: p99.9 needs 6,636 calls of a subject; the most here is 800." in page.words
    known = make_result("b.onnx", 2.0, count=9000, p99_ns=3_000_000, p99_interval_ns=Interval(low=2.9e6, high=3.1e6))
    write_report([make_run(make_result("a.onnx", count=500), known)], tmp_path / "two.html")
    page = Page(tmp_path / "two.html")
    assert heads(page)[:6] == ["", "Size", "Difference", "p50", "p90", "p99"]
    assert page.row("a.onnx")[5] == "– needs 662 calls, has 500"
    assert page.row("b.onnx")[5] == "3.00 ms 2.90 to 3.10 ms"


def test_energy_and_notes_and_warnings(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    energy = (Energy(counter="package-0", microjoules_per_call=15_100.0, watts=21.3),)
    run = make_run(
        make_result("a.onnx", energy=energy, notes=("2 nodes ran <elsewhere>",)),
        make_result("b.onnx"),
        warnings=("the machine was busy",),
    )
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    column = heads(page).index("Energy, package-0")
    assert page.row("a.onnx")[column] == "15.1 mJ a call, at 21.3 W"
    assert page.row("b.onnx")[column] == "–"
    assert "a.onnx: 2 nodes ran <elsewhere>" in page.words
    assert '<div class="care" role="note"><h3>Read with care</h3><ul><li>the machine was busy</li>' in page.html
    assert page.html.index("the machine was busy") < page.html.index("<table>")


def test_a_sweep_names_its_best_and_holds_each_batch_against_itself(
    make_run: Any, make_result: Any, tmp_path: Path
) -> None:
    results = [
        make_result(f"{model}, batch {batch}", ms * batch**0.5, model=model, batch=batch,
                    throughput_per_s=1e3 * batch**0.5 / ms)
        for model, ms in (("a", 1.0), ("b", 0.5)) for batch in (1, 4, 16)
    ]  # fmt: skip
    write_report([make_run(*results, scenario="offline")], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert heads(page) == ["", "Size", "Difference", "p50", "p90", "Speed against a", "Rows a second"]
    assert page.row("b, batch 4")[5] == "2.00 × 2.00 to 2.00"
    assert page.row("a")[1:] == ["1,000/s", "2,000/s", "4,000/s"]
    assert "Most rows a second: 8,000/s by b at batch 16." in page.words
    assert "<b>8,000/s</b></span></td>" in page.html
    assert "Batch 1, 4 and 16, 250 time steps, 1 thread, all rows there at once" in page.words


def test_layers_cold_start_and_server_have_tables(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    layers = (
        LayerTime(layer="lstm", op_types=("LSTM", "Squeeze"), provider="CPUExecutionProvider", mean_ns=7e5, share=0.7),
    )
    cold = ColdStart(
        processes=10, import_ns=90_000_000, open_ns=20_000_000, first_run_ns=3_000_000, total_ns=163_000_000,
        total_interval_ns=Interval(low=160e6, high=170e6), imported_bytes=41_000_000, opened_bytes=47_000_000,
        steady_bytes=52_000_000, peak_bytes=None, calls=50,
    )  # fmt: skip
    tried = RateTrial(
        rate_per_s=800.0, queries=600, p50_ns=1_000_000, p50_interval_ns=None, p90_ns=2_000_000, p99_ns=None,
        within_deadline=0.995, busy=0.5, load=0.5, met=None,
    )  # fmt: skip
    served = Served(
        deadline_ns=5_000_000, at_rate=tried, highest_rate_per_s=700.0, trials=(), service_ns=7e5, searched="found"
    )
    run = make_run(make_result("a.onnx", layers=layers, cold_start=cold, server=served), scenario="server")
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.row("lstm")[1:] == ["700 µs", "70.0 %", "LSTM, Squeeze", "CPU"]
    assert page.row("outside of nodes")[2] == "30.0 %"
    [row] = [row for row in page.rows if "163 ms" in "".join(row)]
    assert [" ".join(cell.split()) for cell in row][1:] == [
        "163 ms 160 to 170 ms", "90.0 ms", "20.0 ms", "3.00 ms", "41.0 MB", "47.0 MB", "52.0 MB", "–",
    ]  # fmt: skip
    assert page.row("a.onnx, 800/s")[1:] == [
        "600", "1.00 ms", "2.00 ms", "– needs 662 queries", "50.0 %", "99.50%", "not known",
    ]  # fmt: skip
    assert "a.onnx keeps p99 within 5.00 ms up to 700 queries a second." in page.words


def test_the_method_tells_how_it_ended_and_what_the_machine_did(
    make_run: Any, make_result: Any, tmp_path: Path
) -> None:
    lengths = LengthFacts(
        source="reviews.txt", sha256="cd" * 32, sequences=25000, shortest=12, median=174, longest=250, inputs=40,
        density=0.713,
    )  # fmt: skip
    run = make_run(
        make_result(lengths=lengths),
        stopped="limit",
        settings=Settings(precision=0.02, percentile=0.99),
        disturbance=Disturbance(probe_ns=(1e5, 1.2e5), other_cores=0.35, stolen_share=0.02, involuntary_switches=7),
    )
    write_report([run], tmp_path / "report.html")
    words = Page(tmp_path / "report.html").words
    assert (
        "Lengths of reviews.txt: 12 to 250 steps, median 174, 40 inputs in turn, 71.3% of their steps valid." in words
    )
    assert "the time was up before every interval was narrow enough" in words
    assert "until the 95 % interval of p99 is at most 2 % wide, for every subject" in words
    assert (
        "the same arithmetic took 100 µs to 120 µs; other processes kept 0.35 cores busy; "
        "the host took 2.0% of the time; interrupted 7 times"
    ) in words
    assert "<dt>Ended</dt>" in Page(tmp_path / "report.html").html
    older = make_run(make_result(), settings=Settings(precision=None))
    write_report([older], tmp_path / "older.html")
    page = Page(tmp_path / "older.html")
    for name in ("Precision", "Ended", "Disturbance", "Lengths", "GPUs"):
        assert f"<dt>{name}</dt>" not in page.html


def test_pictures_say_what_they_show(run: Any, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.said[0] == page.said[1]
    assert page.said[0].startswith("Median time of a call, fastest first: small.onnx 550 µs; model.onnx 1.10 ms")
    assert page.html.count('<img class="light"') == page.html.count('<img class="dark"') == 5


def test_several_systems_have_one_picture_and_failures_their_reason(
    make_run: Any, make_result: Any, tmp_path: Path
) -> None:
    failed = {"error": "no Loop", "count": 0, "round_p50_ns": (), "distribution_ns": (), "throughput_per_s": None}
    for name, changes in (("imdb", {}), ("frames", failed)):
        names = (("OpenVINO", 2.0, {}), ("LiteRT", 3.0, changes), ("edgeseq fp32", 1.0, {}))
        write_run(make_run(*(make_result(n, ms, **kw) for n, ms, kw in names)), tmp_path / f"{name}.json")
    write_report([tmp_path / "imdb.json", tmp_path / "frames.json"], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "<h2>All together: batch 1, 1 thread</h2>" in page.html
    # OpenVINO is the runs' first subject: the others are held against it.
    assert page.row("imdb")[1:] == ["OpenVINO", "0.667 × 0.667 to 0.667", "2.00 × 2.00 to 2.00"]
    assert page.row("frames")[1:] == ["OpenVINO", "–", "2.00 × 2.00 to 2.00"]
    assert ["LiteRT", "frames", "no Loop"] in [[" ".join(cell.split()) for cell in row] for row in page.rows]
    assert "edgeseq fp32 is 2.00 × as fast as the best rival of each system" in page.said[0]
    files = [tmp_path / "imdb.json", tmp_path / "frames.json"]
    write_report(files, tmp_path / "other.html", references=["OpenVINO", "LiteRT"])
    assert Page(tmp_path / "other.html").row("imdb")[1:] == ["OpenVINO", "2.00 × 2.00 to 2.00"]


def test_the_same_results_make_the_same_page(run: Any, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
