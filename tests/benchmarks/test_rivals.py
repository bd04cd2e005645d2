"""What `scripts/benchmark` decides from what it measured, and the floor's counts, against sums by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L

# Last, as some of its modules have everyday names.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import floor
import rival_summary
import rivals_report
from rival_libraries import rival
from rival_libraries.cores import physical_cores


def ratio(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "interval": None if low is None else [low, high]}


def subject(found: dict[str, Any] | None, *, precision: str = "fp32", states: bool = True) -> dict[str, Any]:
    return {"precision": precision, "edgeseq_speedup": found, "returns_states": states, "notes": []}


def run(system: str, subjects: dict[str, Any], int8: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    subjects = {"edgeseq": subject(None), "edgeseq int8": subject(ratio(0.5), precision="int8"), **subjects}
    return {
        "system": system,
        "title": system,
        "threads": 1,
        "batch": 1,
        "best_rival": rival_summary.best_rival(subjects),
        "subjects": subjects,
        "edgeseq_int8_speedup": int8 or {},
        **given,
    }


@pytest.mark.parametrize(
    ("found", "least", "outcome"),
    [
        (ratio(1.3, 1.2, 1.4), 1.2, "met"),
        (ratio(1.1, 1.0, 1.19), 1.2, "missed"),
        (ratio(1.2, 1.19, 1.21), 1.2, "undecided"),
        (ratio(9.0), 1.2, "undecided"),
        # Ties count where no more than "no slower" is asked for.
        (ratio(0.99, 0.96, 1.02), 1.0, "met"),
        (ratio(0.99, 0.8, 1.2), 1.0, "undecided"),
        (ratio(0.97, 0.96, 0.99), 1.0, "missed"),
    ],
)
def test_a_ratio_meets_its_target_misses_it_or_is_undecided(found: Any, least: float, outcome: str) -> None:
    assert rival_summary.judge(found, least) == outcome


def test_a_tie_is_narrow_and_holds_one() -> None:
    assert rival_summary.is_tie(ratio(1.0, 0.96, 1.04))
    assert not rival_summary.is_tie(ratio(1.0, 0.9, 1.1))
    assert not rival_summary.is_tie(ratio(1.05, 1.01, 1.06))
    assert not rival_summary.is_tie(ratio(1.0))


@pytest.mark.parametrize(
    ("other", "outcome"),
    [
        (ratio(1.5, 1.4, 1.6), "met"),
        (ratio(1.0, 0.7, 1.3), "undecided"),
        (ratio(0.8, 0.7, 0.9), "missed"),
    ],
)
def test_a_target_is_met_when_every_ratio_meets_it(other: Any, outcome: str) -> None:
    runs = {"a": run("forecast", {"tf2onnx": subject(ratio(2.0, 1.9, 2.1)), "LiteRT": subject(other)})}
    [target] = [found for found in rival_summary.targets(runs) if found["target"].startswith("fp32 no slower")]
    assert target["outcome"] == outcome
    assert target["count"] == 2
    if outcome != "met":
        assert f"1 {outcome}: forecast: LiteRT" in target["figure"]


def test_what_does_not_return_the_states_is_left_out_and_named() -> None:
    subjects = {"PyTorch": subject(ratio(0.5, 0.4, 0.6), states=False), "tf.function": subject(ratio(2.0, 1.9, 2.1))}
    targets = rival_summary.targets({"a": run("stateful", subjects, batch=4)})
    assert targets[0]["outcome"] == "met"
    assert targets[0]["count"] == 1
    assert "stateful: PyTorch" in targets[0]["target"]
    assert "stateful: PyTorch" in targets[1]["target"]
    assert "PyTorch" not in targets[2]["target"]


def test_int8_is_held_against_every_library_that_does_the_same() -> None:
    int8 = {"LiteRT dynamic range": ratio(1.2, 1.1, 1.3), "PyTorch dynamic int8": ratio(0.9, 0.8, 0.95)}
    rivals = {name: subject(ratio(1.0), precision="int8") for name in int8}
    target = rival_summary.targets({"a": run("forecast", rivals, int8)})[-1]
    assert target["outcome"] == "missed"
    assert [row["rival"] for row in target["missed"]] == ["PyTorch dynamic int8"]


def test_the_mean_has_an_interval_and_counts_what_is_in_it() -> None:
    found = rival_summary.geometric_mean([ratio(2.0, 2.0 / 1.1, 2.2), ratio(0.5, 0.5 / 1.2, 0.6)])
    assert found["value"] == pytest.approx(1.0)
    half = math.sqrt(math.log(1.1) ** 2 + math.log(1.2) ** 2) / 2
    assert found["interval"] == pytest.approx([math.exp(-half), math.exp(half)])
    assert rival_summary.geometric_mean([ratio(2.0, 1.9, 2.1), ratio(2.0)])["interval"] is None
    assert rival_summary.geometric_mean([]) is None
    runs = {
        "a": run("forecast", {"LiteRT": subject(ratio(1.3, 1.25, 1.35))}),
        "b": run("middle", {"LiteRT": subject(None)}),
    }
    [row] = rival_summary.means(runs)
    assert row["best_rival"]["systems"] == 1
    target = rival_summary.targets(runs)[1]
    assert target["outcome"] == "met"
    assert target["figure"] == "1.30 x (1.25 to 1.35) over 1 system"


def test_the_readme_names_rivals_that_are_first_ties_and_what_is_undecided() -> None:
    subjects = {
        "slow": subject(ratio(2.0, 1.9, 2.1)),
        "fast": subject(ratio(0.8, 0.75, 0.85)),
        "alike": subject(ratio(1.0, 0.98, 1.02)),
        "noisy": subject(ratio(1.0, 0.5, 2.0)),
    }
    text = "\n".join(rivals_report.not_first({"A": (None, run("forecast", subjects))}))
    assert "- A: fast 0.800 (0.750 to 0.850)" in text
    assert "Ties:\n\n- A: alike 1.00" in text
    assert "for one:\n\n- A: noisy 1.00" in text
    assert "slow" not in text


def works(layers: list[Any], inputs: np.ndarray, lengths: np.ndarray | None = None) -> list[Any]:
    model = keras.Sequential([keras.Input(inputs.shape[1:], dtype=str(inputs.dtype)), *layers])
    return floor.count(model, inputs, lengths)


def test_an_lstm_reads_its_recurrent_matrix_in_every_step_but_the_first() -> None:
    [lstm, dense] = works([L.LSTM(4), L.Dense(2)], np.zeros((3, 5, 7), np.float32))
    # Four gates of 4 units: kernel 7 x 16, recurrent 4 x 16, bias 16; 3 rows, 5 steps.
    assert lstm.once_bytes == (7 * 16 + 16) * 4
    assert lstm.once_ops == 2 * 3 * 5 * 7 * 16
    assert lstm.step_bytes == 4 * 16 * 4
    assert lstm.step_ops == (2 * 3 * 4 * 16,) * 4
    assert (dense.once_bytes, dense.once_ops, dense.step_bytes) == ((4 * 2 + 2) * 4, 2 * 3 * 4 * 2, 0)


def test_both_directions_of_a_gru_count_and_masked_steps_do_not() -> None:
    lengths = np.array([2, 4])
    found = works([L.Masking(), L.Bidirectional(L.GRU(4))], np.zeros((2, 4, 7), np.float32), lengths)
    assert len(found) == 2
    for gru in found:
        # Three gates, two biases each; 6 steps of the 8 are real.
        assert gru.once_bytes == (7 * 12 + 2 * 12) * 4
        assert gru.once_ops == 2 * 6 * 7 * 12
        assert gru.step_ops == (2 * 2 * 4 * 12, 2 * 1 * 4 * 12, 2 * 1 * 4 * 12)


def test_an_embedding_is_the_rows_that_are_looked_up() -> None:
    [found] = works([L.Embedding(100, 8)], np.zeros((2, 5), np.int32))
    assert (found.once_bytes, found.once_ops) == (2 * 5 * 8 * 4, 0)


def test_a_convolution_counts_only_taps_inside_the_frame() -> None:
    found = works([L.ConvLSTM2D(2, 3, padding="same")], np.zeros((1, 3, 4, 4, 1), np.float32))
    # Of 3 x 3 taps on 4 x 4 pixels, 10 x 10 lie inside (4 * 3 - 2 along each side).
    assert found[0].once_ops == 2 * 3 * 100 * 1 * 8
    assert found[0].step_ops == (2 * 100 * 2 * 8,) * 2


def test_the_floor_is_the_longer_of_reading_and_computing_step_by_step() -> None:
    work = floor.Work(layer="a", once_bytes=100, once_ops=50, step_bytes=40, step_ops=(10, 400))
    machine = SimpleNamespace(bytes_per_s=lambda size: 10.0 if size == 140 else 20.0, ops_per_s=100.0)
    found = floor.floor([work], machine)
    # 100 / 10; then 40 / 20 a step, or 400 / 100.
    assert found["ns"] == pytest.approx((10 + 2 + 4) * 1e9)
    assert (found["bytes"], found["ops"], found["weights_bytes"]) == (180, 460, 140)


def test_physical_cores_are_counted_once(tmp_path: Path) -> None:
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        place = tmp_path / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(siblings + "\n", encoding="ascii")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    assert physical_cores({0, 1, 2}, tmp_path / "absent") == 3


def test_what_was_stopped_half_way_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "file" / "model.xml"

    def stopped(target: Path) -> None:
        target.write_text("half", encoding="ascii")
        raise KeyboardInterrupt

    def made(target: Path) -> None:
        target.write_text("whole", encoding="ascii")
        target.with_suffix(".bin").write_text("weights", encoding="ascii")

    with pytest.raises(KeyboardInterrupt):
        rival.once(path, stopped)
    assert not path.exists()
    assert rival.once(path, made) == path
    assert path.read_text(encoding="ascii") == "whole"
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "model.bin", "model.xml"]


def test_what_failed_fails_again_with_its_reason(tmp_path: Path) -> None:
    def fails(_: Path) -> None:
        raise ValueError("no such op")

    path = tmp_path / "file" / "model.onnx"
    with pytest.raises(rival.Failed, match="no such op"):
        rival.once(path, fails)
    with pytest.raises(rival.Failed, match="no such op"):
        rival.once(path, lambda target: target.write_text("", encoding="ascii"))
