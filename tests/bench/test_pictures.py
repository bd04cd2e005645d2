"""Pictures of a run: what each needs, what it says in words, and that it can be read by everybody."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench.cold import ColdStart
from edgeseq.bench.layers import LayerTime
from edgeseq.bench.noise import Disturbance
from edgeseq.bench.pictures import DARK, KINDS, LIGHT, Theme, View, rivals_finding, rivals_picture
from edgeseq.bench.pictures.canvas import MARKERS, result_styles, shortened, styles
from edgeseq.bench.report import save_picture
from edgeseq.bench.server import RateTrial, Served
from edgeseq.bench.standings import standings
from edgeseq.bench.stats import Interval
from edgeseq.errors import WrongUsage

FAILED = {"error": "RuntimeError: no", "round_p50_ns": (), "distribution_ns": (), "throughput_per_s": None}


def layer(name: str, share: float, *ops: str) -> LayerTime:
    return LayerTime(layer=name, op_types=ops or ("LSTM",), provider="CPU", mean_ns=share * 1e6, share=share)


def trial(rate: float, p99_ms: float, *, met: bool) -> RateTrial:
    ns = int(p99_ms * 1e6)
    return RateTrial(
        rate_per_s=rate,
        queries=1000,
        p50_ns=ns // 3,
        p50_interval_ns=None,
        p90_ns=ns // 2,
        p99_ns=ns,
        within_deadline=0.99,
        busy=0.5,
        load=0.5,
        met=met,
    )


COLD = ColdStart(
    processes=10,
    import_ns=90_000_000,
    open_ns=20_000_000,
    first_run_ns=3_000_000,
    total_ns=163_000_000,
    total_interval_ns=Interval(low=160e6, high=170e6),
    imported_bytes=41_000_000,
    opened_bytes=47_000_000,
    steady_bytes=52_000_000,
    peak_bytes=66_000_000,
    calls=50,
)
SERVED = Served(
    deadline_ns=5_000_000,
    at_rate=None,
    highest_rate_per_s=900.0,
    trials=(trial(1100, 7, met=False), trial(900, 4, met=True), trial(100, 2, met=True)),
    service_ns=700_000.0,
    searched="found",
)


@pytest.fixture
def full(make_run: Any, make_result: Any) -> Any:
    """A run in which every picture can be drawn."""
    return make_run(
        make_result("a, batch 1", 1.0, model="a", layers=(layer("lstm", 0.7), layer("", 0.1, "Cast")), max_abs=None,
                    answers="reference", cold_start=COLD, server=SERVED),
        make_result("a, batch 8", 4.0, model="a", batch=8, throughput_per_s=3000.0),
        make_result("b, batch 1", 0.5, model="b", size_bytes=1_000_000, max_abs=0.01),
        disturbance=Disturbance(probe_ns=(1e5,) * 13 + (2e5,) + (1e5,) * 6, other_cores=None, stolen_share=None,
                                involuntary_switches=None),
    )  # fmt: skip


def finding(kind: str, run: Any) -> str:
    return KINDS[kind].finding(View(run=run, references=run.references))


def drawn(kind: str, run: Any) -> list[str]:
    return texts(KINDS[kind].render(View(run=run, references=run.references), LIGHT, "svg"))


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg.decode())


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_a_file_light_and_dark_and_the_same_each_time(full: Any, kind: str, tmp_path: Path) -> None:
    for name, dark in (("a.svg", False), ("b.svg", False), ("dark.svg", True)):
        save_picture(full, tmp_path / name, kind=kind, dark=dark)
    save_picture(full, tmp_path / "a.png", kind=kind)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    light, dark_svg = (tmp_path / "a.svg").read_bytes(), (tmp_path / "dark.svg").read_bytes()
    assert light == (tmp_path / "b.svg").read_bytes()
    assert LIGHT.background.encode() in light
    assert DARK.background.encode() not in light
    assert DARK.background.encode() in dark_svg
    # Letters are text, which a reader can search and a screen reader can say.
    assert len(texts(light)) > 3


@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        ("throughput", "--batch 1 --batch 8"),
        ("layers", "--layers"),
        ("cold-start", "--cold-start"),
        ("server", "--scenario server"),
        ("speed", "two files, or --keras"),
        ("trade-off", "several, such as fp32 and int8"),
    ],
)
def test_what_a_run_lacks_is_said_with_what_to_ask_for(
    make_run: Any, make_result: Any, kind: str, asks: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match=asks):
        save_picture(make_run(make_result()), tmp_path / "a.png", kind=kind)
    assert not (tmp_path / "a.png").exists()


def test_one_round_has_no_drift(make_run: Any, make_result: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="two rounds"):
        save_picture(make_run(make_result(round_p50_ns=(1e6,))), tmp_path / "a.png", kind="drift")


def test_findings_are_figures_not_titles(full: Any) -> None:
    assert finding("bars", full) == (
        "Median time of a call, fastest first: b, batch 1 550 µs; a, batch 1 1.10 ms; a, batch 8 4.40 ms."
    )
    assert finding("speed", full) == "Times as fast as a, batch 1: b, batch 1 2.00 ×."
    assert finding("throughput", full).startswith("Most rows a second: 3,000/s by a at batch 8. a from 1,000/s")
    assert "b, batch 1 1.00 MB, 550 µs, off by 0.010" in finding("trade-off", full)
    assert finding("layers", full) == ("Time of a, batch 1: lstm 70 %, Cast of no layer 10 %, outside of nodes 20 %.")
    # What the parts do not explain is the interpreter's: 163 - 90 - 20 - 3.
    assert "163 ms (interpreter 50.0 ms, imports 90.0 ms" in finding("cold-start", full)
    assert "a, batch 1 keeps p99 within 5.00 ms up to 900 queries a second." in finding("server", full)
    assert "The machine's own: from 0 % to 100 %." in finding("drift", full)


def test_layers_beyond_the_first_are_put_together(make_run: Any, make_result: Any) -> None:
    run = make_run(make_result(layers=tuple(layer(f"layer_{number}", 0.05) for number in range(20))))
    found = finding("layers", run)
    assert "layer_6 5.0 %, 13 more layers 65 %" in found
    assert "outside" not in found


def test_times_of_other_batches_are_no_points_of_the_same_picture(full: Any) -> None:
    shown = drawn("trade-off", full)
    assert "a, batch 1: reference" in shown
    assert not any("batch 8" in text for text in shown)


def test_files_that_do_other_work_are_not_traded_off(make_run: Any, make_result: Any) -> None:
    one, other = make_result("a"), make_result("b", size_bytes=1_000)
    assert KINDS["trade-off"].shows(View(run=make_run(one, other), references=()))
    elsewhere = dataclasses.replace(other, time_steps=7)
    assert not KINDS["trade-off"].shows(View(run=make_run(one, elsewhere), references=()))


def test_what_is_not_traded_off_is_counted(full: Any) -> None:
    assert "1 not shown: no file, or other input shapes" in drawn("trade-off", full)
    assert finding("trade-off", full).endswith("1 not shown: no file, or other input shapes.")


def test_a_median_beside_its_p90_says_which_is_which(make_run: Any, make_result: Any) -> None:
    assert "1.10 ms, p90 1.20 ms" in drawn("bars", make_run(make_result()))
    assert "1.10 ms" in drawn("bars", make_run(make_result(p90_ns=None)))


def test_speeds_that_are_close_have_marks_to_read_them_by(make_run: Any, make_result: Any) -> None:
    shown = drawn("speed", make_run(make_result("a", 1.1), make_result("b", 1.0), make_result("c", 1.02)))
    assert len([text for text in shown if re.fullmatch(r"[\d.]+ ×", text)]) >= 2 + 3


def test_a_wide_interval_is_drawn_as_undecided(make_run: Any, make_result: Any) -> None:
    rounds = tuple(1e6 * factor for factor in (0.8, 1.3) * 10)
    run = make_run(make_result("a"), make_result("b", round_p50_ns=rounds))
    assert any(text.endswith(" ×, undecided") for text in drawn("speed", run))
    assert finding("speed", run).endswith(" × (undecided).")


def test_batches_of_one_model_have_colours_and_their_threads_dashes(make_result: Any) -> None:
    results = [make_result(f"{batch}, {n}", model="a", batch=batch, threads=n) for batch in (1, 8) for n in (0, 1)]
    looks = result_styles(results, ["1, 0", "8, 0"], LIGHT)
    assert looks["1, 0"].colour == looks["1, 1"].colour != looks["8, 1"].colour == looks["8, 0"].colour
    assert looks["1, 0"].line == looks["8, 0"].line != looks["1, 1"].line == looks["8, 1"].line


def test_many_distributions_become_rows(make_run: Any, make_result: Any) -> None:
    for count, title in (
        (8, "share of calls done within this time"),
        (9, "time of a call: middle 50 %, 80 % and 97 %"),
    ):
        run = make_run(*(make_result(f"m{number}", 1 + number / 10) for number in range(count)))
        shown = drawn("distribution", run)
        assert title in shown
        assert f"m{count - 1}" in shown


def test_a_stray_round_does_not_flatten_the_others(make_run: Any, make_result: Any) -> None:
    rounds = (*(1e6 * (1 + 0.01 * (number % 3)) for number in range(19)), 9e6)
    run = make_run(make_result(round_p50_ns=rounds))
    shown = drawn("drift", run)
    highest = max(float(text.removesuffix(" %")) for text in shown if re.fullmatch(r"\+[\d.]+ %", text))
    assert highest < 5
    assert "to 790 %" in finding("drift", run)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_have_enough_contrast(theme: Theme) -> None:
    for text in (theme.text, theme.faint):
        assert contrast(text, theme.background) >= 4.5  # WCAG 2.2, 1.4.3, small text
    for colour in (*theme.subjects, *theme.rivals):
        assert contrast(colour, theme.background) >= 3.0  # WCAG 2.2, 1.4.11, graphics


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_no_two_subjects_look_alike(make_result: Any) -> None:
    looks = styles([f"m{number}" for number in range(len(MARKERS))], (), LIGHT).values()
    assert len({(look.colour, look.marker) for look in looks}) == len(MARKERS)
    assert len({(look.colour, look.line) for look in looks}) == len(MARKERS)


def test_a_model_keeps_its_colour_in_every_setting(make_result: Any) -> None:
    results = [make_result(f"{model}, batch {batch}", model=model) for model in "ab" for batch in (1, 8)]
    looks = result_styles(results, ["a, batch 1"], LIGHT)
    assert looks["a, batch 1"].colour == looks["a, batch 8"].colour == LIGHT.rivals[0]
    assert looks["b, batch 1"].colour == looks["b, batch 8"].colour == LIGHT.subjects[0]
    assert looks["b, batch 1"].line != looks["b, batch 8"].line


def test_a_long_name_keeps_its_ends() -> None:
    name = "a" * 30 + "-middle-" + "b" * 30
    assert shortened(name, 21) == "a" * 10 + "…" + "b" * 10
    assert shortened("short", 21) == "short"


OURS = ("edgeseq fp32",)


@pytest.fixture
def systems(make_run: Any, make_result: Any) -> Any:
    def system(ours: float, *others: float) -> Any:
        names = ("Keras predict", "OpenVINO f32", "edgeseq fp32")
        results = [make_result(name, ms) for name, ms in zip(names, (*others, ours), strict=True)]
        return make_run(*results)

    second = system(2.0, 40.0, 1.0)
    failed = dataclasses.replace(second.results[0], **FAILED)
    return {
        "imdb": system(1.0, 50.0, 2.0),
        "frames": dataclasses.replace(second, results=(failed, *second.results[1:])),
    }


def test_rivals_have_a_row_a_system_and_a_symbol_a_subject(systems: Any) -> None:
    found = standings(systems, ours=OURS)
    shown = texts(rivals_picture(found, LIGHT, "svg"))
    assert "imdb · best rival: OpenVINO f32" in shown
    assert "geometric mean of all 2" in shown
    assert {"Keras predict", "OpenVINO f32", "edgeseq fp32"} <= set(shown)
    assert "times as fast as the best rival of the system (logarithmic scale)" in shown
    assert rivals_picture(found, LIGHT, "svg") == rivals_picture(found, LIGHT, "svg")
    assert "times as fast as Keras predict (logarithmic scale)" in texts(
        rivals_picture(standings(systems, ours=OURS, against="Keras predict"), DARK, "svg")
    )


def test_rivals_in_words(systems: Any) -> None:
    # 2 x on one system, half the speed on the other.
    assert rivals_finding(standings(systems, ours=OURS)) == (
        "edgeseq fp32 is 1.00 × as fast as the best rival of each system in the geometric mean of 2, "
        "from 0.500 × on frames to 2.00 × on imdb.",
    )
    # Where the reference failed there is no ratio, and no row.
    [said] = rivals_finding(standings(systems, ours=OURS, against="Keras predict"))
    assert "in the geometric mean of 1," in said


def test_rivals_that_cannot_be_drawn_are_refused(systems: Any) -> None:
    with pytest.raises(WrongUsage, match="nothing to draw"):
        rivals_picture(standings({"frames": systems["frames"]}, against="Keras predict"), LIGHT, "svg")
