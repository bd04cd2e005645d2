"""What `benchmarks/streaming.py` holds streams against sees what is wrong, and what it tells people of its results."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import Model
from edgeseq.runtime.pool import Pool

# Last, as some of its modules have everyday names.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import streaming
import streaming_report


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Few steps, and few models."""
    few = {name: streaming.STREAMABLE[name] for name in ("LSTM", "SimpleRNN", "Conv1D dilated")}
    monkeypatch.setattr(streaming, "STREAMABLE", few)
    hours = np.random.default_rng(0).standard_normal((300, 3))
    monkeypatch.setattr(streaming.windows, "load", lambda *_: SimpleNamespace(values=hours))
    return SimpleNamespace(drift_steps=50, calls=50, soak_steps=50, min_seconds=0, max_seconds=0.2, data=None)


def spoil(
    monkeypatch: pytest.MonkeyPatch, made: str, spoiled: Callable[[Any], Any], calls: Callable[[int], bool]
) -> None:
    """Let what models' method `made` returns have `spoiled` answers to those `calls` of step, counted from 1 on.

    That of the benchmark alone: the check at export sees what is right.
    """
    numbers = itertools.count(1)

    class Spoiled(Model):
        pass

    def make(self: Any, *args: Any, **options: Any) -> Any:
        found = getattr(Model, made)(self, *args, **options)
        real = found.step

        def step(given: Any) -> Any:
            answer = real(given)
            return spoiled(answer) if calls(next(numbers)) else answer

        found.step = step
        return found

    setattr(Spoiled, made, make)
    monkeypatch.setattr(streaming, "Model", Spoiled)


def nan_in_the_first(answer: np.ndarray) -> np.ndarray:
    answer = np.array(answer)
    answer[0, ..., 0] = np.nan
    return answer


def test_chunks_of_any_length_equal_the_whole(options: SimpleNamespace, tmp_path: Path) -> None:
    found = streaming.part_drift(options, tmp_path)
    assert (found["steps"], list(found["layers"])) == (50, ["LSTM", "SimpleRNN", "Conv1D dilated"])
    for row in found["layers"].values():
        assert row["within"]
        assert row["reference_max_abs"] > 0.1
        assert 0 < row["keras_max_abs"] < row["tolerance"]
        assert len(row["chunks of random"]["by_position"]) == 50


def test_a_stateful_model_is_held_against_its_file(options: SimpleNamespace, tmp_path: Path) -> None:
    found = streaming.part_stateful(options, tmp_path)
    assert found["within"]
    assert found["calls"] == 50
    assert 0 < found["max_abs"] < found["tolerance"]


def test_hours_are_held_against_their_windows(options: SimpleNamespace, tmp_path: Path) -> None:
    found = streaming.part_forecast(options, tmp_path)
    assert found["within"]
    assert (found["windows"], found["hours"]) == (60, 10)
    assert found["rms_without_resets"] > 100 * found["tolerance"]


def test_each_sequence_of_a_pool_is_held_against_the_model_alone(options: SimpleNamespace, tmp_path: Path) -> None:
    found = streaming.part_soak(options, tmp_path)
    assert found["within"]
    assert found["steps"] >= 50
    assert found["sequences"] > 3
    assert found["resident_bytes"][-1][0] == found["steps"]


@pytest.mark.parametrize("spoiled", [nan_in_the_first, lambda answer: answer + 1e-3])
@pytest.mark.parametrize(
    ("part", "call"), [("drift", 10), ("stateful", 10), ("forecast", 10), ("forecast", 20), ("forecast", 30)]
)
def test_one_wrong_answer_of_a_stream_is_seen(
    part: str, call: int, spoiled: Callable[[Any], Any], options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "stream", spoiled, lambda number: number == call)
    found = streaming.PARTS[part](options, tmp_path)
    assert_wrong(found["layers"]["LSTM"] if part == "drift" else found, spoiled)


@pytest.mark.parametrize("spoiled", [nan_in_the_first, lambda answer: answer + 1e-3])
def test_one_wrong_answer_of_a_pool_is_seen(
    spoiled: Callable[[Any], Any], options: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_first(answers: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
        first = next(iter(answers))
        return answers | {first: spoiled(answers[first])}

    spoil(monkeypatch, "pool", lambda answers: answers and of_the_first(answers), lambda number: number < 4)
    assert_wrong(streaming.part_soak(options, tmp_path), spoiled)


def assert_wrong(found: dict[str, Any], spoiled: Callable[[Any], Any]) -> None:
    assert not found["within"]
    assert math.isnan(found["max_abs"]) == (spoiled is nan_in_the_first)
    json.dumps(streaming.finite(found), allow_nan=False)


def test_a_subject_that_fails_is_told_and_not_reckoned_with(
    options: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Pool, "step", fails)
    found = streaming.part_pool(options, tmp_path)
    assert "no memory" in found["rows"]["bulk step"]["error"]
    assert found["bulk_over_apart"] is None
    assert found["queue_overhead_ns_per_step"] is None


def ratio(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "interval": [low, high]}


def line(difference: float) -> dict[str, Any]:
    return {
        "max_abs": difference,
        "within": True,
        "chunks of 1": {"max_abs": difference, "by_position": [0.0, difference]},
    }


RESULTS: dict[str, Any] = {
    "started": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu_model": "A processor", "cores": 2},
    "parts": {
        "step": {
            "over_plain": ratio(1.6, 1.5, 2.0),
            "over_litert": ratio(3.0, 2.9, 3.1),
            "litert_error": None,
            "warnings": [],
        },
        "pool": {
            "streams": 64,
            "bulk_over_apart": ratio(6.0, 5.5, 6.5),
            "bulk_over_queued": ratio(1.5, 1.25, 1.75),
            "warnings": [],
        },
        "growth": {
            "rows": [
                {"streams": 1, "ns_per_stream": 100.0},
                {"streams": 64, "ns_per_stream": 20.0},
                {"streams": 4096, "ns_per_stream": 25.0},
            ]
        },
        "drift": {
            "steps": 1000,
            "edges": [0, 500, 1000],
            "layers": {"LSTM": line(0.0), "GRU": line(2e-7), "TCN": line(1e-6)},
        },
        "stateful": {"calls": 1000, "resets": 20, "max_abs": 1e-7, "tolerance": 1e-5, "within": True},
        "forecast": {"windows": 3000, "hours": 10, "max_abs": 2e-7, "tolerance": 1e-5, "within": True},
        "soak": {
            "steps": 10**6,
            "sequences": 9000,
            "max_abs": 0.0,
            "tolerance": 1e-5,
            "within": True,
            "second_half_growth": 0.001,
            "resident_bytes": [[0, 10**8], [10**6, 10**8]],
        },
    },
}


def written(results: dict[str, Any], folder: Path) -> str:
    path, readme = folder / "streaming.json", folder / "README.md"
    path.write_text(json.dumps(results), encoding="utf-8")
    readme.write_text("before\n<!-- streaming -->\nold\n<!-- /streaming -->\nafter\n", encoding="utf-8")
    streaming_report.write(path, readme)
    return readme.read_text(encoding="utf-8")


def test_the_readme_tells_ratios_and_differences(tmp_path: Path) -> None:
    text = written(RESULTS, tmp_path)
    assert text.startswith("before\n<!-- streaming -->\nMeasured 2026-01-02 on A processor, 2 cores, one thread.")
    assert text.endswith("<!-- /streaming -->\nafter\n")
    assert "old" not in text
    cells = [[cell.strip() for cell in row.split("|")] for row in text.splitlines()]
    rows = {row[1]: row[2:4] for row in cells if len(row) == 5}
    figures = {
        "`session.run` with a dict": ["0.625 (0.500 to 0.667)", "at most 0.8"],
        "LiteRT": ["3.00 (2.90 to 3.10)", "-"],
        "a bulk step of 64": ["6.00 (5.50 to 6.50)", "at least 5"],
        "queue": ["0.500 (0.250 to 0.750)", "-"],
        "1, 64, 4,096": ["1.00, 0.200, 0.250", "-"],
        "1,000 steps in chunks": ["3 of 3 models within", "all, by the tolerance of an export"],
        "1,000 calls, 20 resets": ["1.0e-07", "at most 1.0e-05"],
        "3,000 windows of 10 hours": ["2.0e-07", "at most 1.0e-05"],
        "1,000,000 steps through a pool": ["bit-equal", "at most 1.0e-05"],
        "memory": ["0.10 %", "flat (at most 1 %)"],
    }
    for part, wanted in figures.items():
        assert [found for what, found in rows.items() if part in what] == [wanted]
    assert "from the whole: TCN 1.0e-06; GRU 2.0e-07. Bit-equal: LSTM." in text
    # No times: they are another machine's tomorrow.
    assert not [unit for unit in ("ns", "µs", "ms") if f" {unit}" in text]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"streaming-{name}-{theme}.png" for name in ("growth", "drift", "soak") for theme in ("light", "dark")
    }


def test_what_was_promised_and_is_not_met_comes_first(tmp_path: Path) -> None:
    results = copy.deepcopy(RESULTS)
    parts = results["parts"]
    parts["step"] |= {"over_plain": ratio(1.2, 1.1, 1.3), "over_litert": None, "litert_error": "not installed"}
    parts["pool"] |= {"bulk_over_apart": ratio(4.0, 3.9, 4.1), "bulk_over_queued": None, "warnings": ["a busy machine"]}
    parts["drift"]["layers"]["GRU"] |= {"max_abs": None, "within": False}
    parts["stateful"] |= {"max_abs": None, "within": False}
    parts["soak"] |= {"second_half_growth": 0.2}
    told, table = written(results, tmp_path).split("Measured")
    for part, outcome in {
        "`session.run`": "undecided (0.833 (0.769 to 0.909); promised: at most 0.8)",
        "a bulk step": "missed (4.00 (3.90 to 4.10); promised: at least 5)",
        "in chunks": "missed (2 of 3 models within;",
        "stateful": "missed (NaN; promised: at most 1.0e-05)",
        "memory": "missed (20.00 %; promised: flat (at most 1 %))",
    }.items():
        assert [row for row in told.splitlines() if part in row and outcome in row]
    assert told.count("\n- ") == 5
    assert "| not installed |" in table
    assert "from the whole: GRU NaN; TCN" in table
    assert "Remarks on the run are with the figures." in table


def test_without_all_parts_there_are_pictures_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = RESULTS | {"parts": {"growth": RESULTS["parts"]["growth"]}}
    assert "\nold\n" in written(results, tmp_path)
    assert "not measured are step, pool, drift" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_readme_without_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no marks\n", encoding="utf-8")
    (tmp_path / "streaming.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the marks"):
        streaming_report.write(tmp_path / "streaming.json", readme)
    assert readme.read_text(encoding="utf-8") == "no marks\n"


def test_results_say_where_when_and_how_they_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "GROWTH", (1, 2))
    path = tmp_path / "results.json"
    given = ["--part", "growth", "-o", str(path), "--min-seconds", "0", "--max-seconds", "0.1"]
    monkeypatch.setattr(sys, "argv", ["streaming.py", *given])
    streaming.main()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [row["streams"] for row in found["parts"]["growth"]["rows"]] == [1, 2]
    assert found["settings"]["parts"] == ["growth"]
    assert (found["settings"]["max_seconds"], found["settings"]["soak_steps"]) == (0.1, 10**6)
    assert {"edgeseq", "python", "numpy", "onnxruntime", "keras"} <= set(found["versions"])
    assert found["machine"]["cores"] > 0
    assert found["started"].endswith("+00:00")
    assert (tmp_path / "results-growth-dark.png").exists()
