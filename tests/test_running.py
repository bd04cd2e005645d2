"""Running a file on inputs from a file: readers, batches, streams, raw data, pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeseq.errors import InputMismatch, InvalidFile, OutputExists, WrongUsage
from edgeseq.running import run_file
from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

TEXT = {
    "kind": "text",
    "lowercase": True,
    "filters": "!",
    "split": " ",
    "vocabulary": ["good", "bad"],
    "first_id": 1,
    "pad_id": 0,
    "unknown_id": 9,
    "start_id": None,
    "length": 3,
    "padding": "pre",
    "truncating": "pre",
}


Write = Callable[..., Path]


def spec(name: str, *axes: str | int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


@pytest.fixture
def words(write_model: Write, tmp_path: Path) -> Path:
    """Ids int32 (batch, 3) to themselves times two, with text preprocessing."""
    manifest = Manifest(
        inputs=(spec("ids", "batch", 3, dtype="int32"),),
        outputs=(spec("y", "batch", 3, dtype="int32"),),
        input_structure="ids",
        output_structure="y",
        preprocessing={"inputs": {"ids": TEXT}},
    )
    return write_model(tmp_path / "words.onnx", [helper.make_node("Add", ["ids", "ids"], ["y"])], manifest)


@pytest.fixture
def two(write_model: Write, tmp_path: Path) -> Path:
    """a + b, and a - b, each (batch, 2)."""
    manifest = Manifest(
        inputs=(spec("a", "batch", 2), spec("b", "batch", 2)),
        outputs=(spec("sum", "batch", 2), spec("file", "batch", 2)),
        input_structure=["a", "b"],
        output_structure={"tuple": ["sum", "file"]},
    )
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["file"])]
    return write_model(tmp_path / "two.onnx", nodes, manifest)


@pytest.fixture
def running_sum(write_model: Write, tmp_path: Path) -> Path:
    """A stream: `y` (batch, time) sums up x so far, `total` (batch, 1) all of it; the state carries the sum."""
    manifest = Manifest(
        inputs=(spec("x", "batch", "time"),),
        outputs=(spec("y", "batch", "time"), spec("total", "batch", 1)),
        input_structure="x",
        output_structure={"dict": {"y": "y", "total": "total"}},
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1)),),
    )
    nodes = [
        helper.make_node("CumSum", ["x", "one"], ["sums"]),
        helper.make_node("Add", ["sums", "state_in"], ["y"]),
        helper.make_node("Gather", ["y", "last"], ["total"], axis=1),
        helper.make_node("Identity", ["total"], ["state_out"]),
    ]
    return write_model(tmp_path / "sum.onnx", nodes, manifest, {"one": np.int64(1), "last": np.int64([-1])})


def values(report: Any) -> dict[str, Any]:
    return {output.name: output.values for output in report.outputs}


def test_texts_from_a_file_json_lines_and_stdin(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Good bad!", "", "good good unheard good", "one \u2028 text\x85 bad"]
    expected = {"y": [[0, 2, 4], [0, 0, 0], [2, 18, 2], [18, 18, 4]]}
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps(text, ensure_ascii=False) for text in texts), encoding="utf-8"
    )
    (tmp_path / "o.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    for name in ("t.txt", "t.jsonl", "o.jsonl"):
        assert values(run_file(words, tmp_path / name, raw=True)) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    assert values(run_file(words, "-", raw=True)) == expected
    with pytest.raises(WrongUsage, match="--raw"):
        run_file(words, tmp_path / "t.txt")


def test_one_text(words: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("bad\n", encoding="utf-8")
    report = run_file(words, tmp_path / "t.txt", raw=True)
    assert (report.rows, values(report)) == (1, {"y": [[0, 0, 4]]})


def test_rows_run_in_batches(words: Path, tmp_path: Path) -> None:
    ids = np.arange(30, dtype=np.int32).reshape(10, 3)
    np.save(tmp_path / "ids.npy", ids)
    done: list[tuple[str, int, int]] = []
    report = run_file(words, tmp_path / "ids.npy", batch=4, progress=lambda *told: done.append(told))
    assert (report.rows, report.calls, values(report)) == (10, 3, {"y": (2 * ids).tolist()})
    assert done == [("running", 4, 10), ("running", 8, 10), ("running", 10, 10)]


def test_several_inputs_and_outputs_by_name(two: Path, tmp_path: Path) -> None:
    a, b = np.float32([[1, 2], [3, 4]]), np.float32([[10, 20], [30, 40]])
    np.savez(tmp_path / "in.npz", b=b, a=a)
    rows = [{"a": left.tolist(), "b": right.tolist()} for left, right in zip(a, b, strict=True)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("in.npz", "in.jsonl"):
        report = run_file(two, tmp_path / name, tmp_path / "out.npz", overwrite=True)
        assert report.outputs[0].values is None
        with np.load(tmp_path / "out.npz") as written:
            np.testing.assert_array_equal(written["sum"], a + b)
            np.testing.assert_array_equal(written["file"], a - b)
    np.savez(tmp_path / "wrong.npz", a=a, c=b)
    with pytest.raises(InputMismatch, match="missing 'b' and unexpected 'c'"):
        run_file(two, tmp_path / "wrong.npz")


@pytest.mark.parametrize("chunk", [None, 2, 5, 7])
def test_a_stream_joins_answers_over_time(running_sum: Path, tmp_path: Path, chunk: int | None) -> None:
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.save(tmp_path / "x.npy", x)
    report = run_file(running_sum, tmp_path / "x.npy", stream=True, chunk=chunk)
    size = chunk or 1
    ends = [min(start + size, 5) for start in range(0, 5, size)]
    assert report.calls == len(ends)
    found = values(report)
    assert found["y"] == np.cumsum(x, axis=1).tolist()
    # No time axis: one answer a chunk.
    assert found["total"] == np.cumsum(x, axis=1)[:, [end - 1 for end in ends], None].tolist()


def test_a_stream_needs_states_and_arrays(words: Path, running_sum: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(WrongUsage, match="no states"):
        run_file(words, tmp_path / "x.npy", stream=True)
    with pytest.raises(WrongUsage, match="raw"):
        run_file(running_sum, tmp_path / "x.npy", stream=True, raw=True)
    with pytest.raises(WrongUsage, match="chunk"):
        run_file(running_sum, tmp_path / "x.npy", chunk=2)
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    with pytest.raises(InputMismatch, match="no time axis"):
        run_file(running_sum, tmp_path / "flat.npy", stream=True)


def weighted(write_model: Write, path: Path, time: str | int, order: str) -> Path:
    """A stream with static inputs: x (batch, time, 2) @ w (batch, 2, 2) * scale (batch, 2) -> y; w -> seen."""
    batch: str | int = "batch" if isinstance(time, str) else 1
    inputs = {"w": spec("w", batch, 2, 2), "x": spec("x", batch, time, 2), "scale": spec("scale", batch, 2)}
    manifest = Manifest(
        inputs=tuple(inputs[name] for name in order.split()),
        outputs=(spec("y", batch, time, 2), spec("seen", batch, 2, 2)),
        input_structure=order.split(),
        output_structure=["y", "seen"],
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=(batch, 1)),),
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Unsqueeze", ["scale", "one"], ["scales"]),
        helper.make_node("Mul", ["xw", "scales"], ["y"]),
        helper.make_node("Identity", ["w"], ["seen"]),
        helper.make_node("Identity", ["state_in"], ["state_out"]),
    ]
    return write_model(path, nodes, manifest, {"one": np.int64([1])})


@pytest.mark.parametrize(
    ("time", "order", "calls"),
    [
        ("time", "w x scale", 6),
        ("time_2", "w x scale", 6),
        # Of fixed lengths the first input of three axes is the sequence.
        (3, "scale x w", 2),
    ],
)
def test_static_inputs_beside_a_sequence_are_not_cut(
    write_model: Write, tmp_path: Path, time: str | int, order: str, calls: int
) -> None:
    model = weighted(write_model, tmp_path / "m.onnx", time, order)
    arrays = {"w": np.float32([[[1, 2], [3, 4]]]), "x": np.ones((1, 6, 2), np.float32), "scale": np.float32([[1, 10]])}
    np.savez(tmp_path / "in.npz", **arrays)
    report = run_file(model, tmp_path / "in.npz", stream=True)
    assert report.calls == calls
    assert values(report)["y"] == [[[4, 60]] * 6]
    # No time axis: one answer a chunk.
    assert np.shape(values(report)["seen"]) == (1, calls, 2, 2)


def test_sequences_of_a_stream_are_equally_long(write_model: Write, tmp_path: Path) -> None:
    manifest = Manifest(
        inputs=(spec("a", "batch", "time", 1), spec("b", "batch", "time_2", 1)),
        outputs=(spec("y", "batch", "time", 1),),
        input_structure=["a", "b"],
        output_structure="y",
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1)),),
    )
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Identity", ["state_in"], ["state_out"])]
    model = write_model(tmp_path / "m.onnx", nodes, manifest)
    np.savez(tmp_path / "in.npz", a=np.ones((1, 4, 1)), b=np.ones((1, 5, 1)))
    with pytest.raises(InputMismatch, match=r"equally long; got \{'a': 4, 'b': 5\} time steps"):
        run_file(model, tmp_path / "in.npz", stream=True)
    np.savez(tmp_path / "in.npz", a=np.ones((1, 4, 1)), b=np.ones((1, 4, 1)))
    assert values(run_file(model, tmp_path / "in.npz", stream=True, chunk=3))["y"] == [[[2]] * 4]


def test_rows_of_a_foreign_file_are_cut_only_where_one_axis_counts_them(write_model: Write, tmp_path: Path) -> None:
    for first, second, calls in (("N", "N", 3), ("batch", "batch_2", 1), (10, 10, 1)):
        manifest = Manifest(
            inputs=(spec("a", first, 2),), outputs=(spec("y", second, 2),), input_structure="a", output_structure="y"
        )
        model = write_model(tmp_path / "m.onnx", [helper.make_node("Neg", ["a"], ["y"])], manifest)
        np.save(tmp_path / "a.npy", np.ones((10, 2), np.float32))
        report = run_file(model, tmp_path / "a.npy", batch=4)
        assert (report.calls, values(report)["y"]) == (calls, [[-1, -1]] * 10)


@pytest.fixture
def film(write_model: Write, tmp_path: Path) -> Path:
    """Frames to themselves, float32 (batch, time, 4, 4, 1); pixels from 0 to 255 in raw units."""
    axes = ("batch", "time", 4, 4, 1)
    pixels = {"kind": "scale", "offset": [0.0], "scale": [255.0]}
    manifest = Manifest(
        inputs=(spec("x", *axes),),
        outputs=(spec("y", *axes),),
        input_structure="x",
        output_structure="y",
        preprocessing={"inputs": {"x": pixels}, "outputs": {"y": pixels}},
    )
    return write_model(tmp_path / "film.onnx", [helper.make_node("Identity", ["x"], ["y"])], manifest)


def test_frames_become_pictures(film: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = np.zeros((2, 3, 4, 4, 1), np.float32)
    frames[0, 1] = 1.0
    frames[1, 2] = 0.6
    np.save(tmp_path / "x.npy", frames)
    np.save(tmp_path / "raw.npy", frames * 255)
    for name, raw in (("x.npy", False), ("raw.npy", True)):
        run_file(film, tmp_path / name, tmp_path / "out.png", raw=raw, overwrite=True)
        with image.open(tmp_path / "out.png") as picture:
            # Frames stand side by side, rows of the batch below one another; 0.6 x 255 = 153.
            assert picture.size == (12, 8)
            pixels = np.asarray(picture)
        np.testing.assert_array_equal(pixels[::4, ::4], [[0, 255, 0], [0, 0, 153]])
    run_file(film, tmp_path / "x.npy", tmp_path / "out.gif")
    with image.open(tmp_path / "out.gif") as picture:
        assert (picture.size, picture.n_frames) == ((4, 8), 3)


def test_a_picture_shows_one_output(two: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.ones((1, 2)), b=np.ones((1, 2)))
    with pytest.raises(WrongUsage, match="the file has 2: sum, file"):
        run_file(two, tmp_path / "in.npz", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_outputs_are_checked_before_anything_runs(words: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_text("mine")
    with pytest.raises(OutputExists):
        run_file(words, tmp_path / "gone.npy", tmp_path / "out.npz")
    with pytest.raises(WrongUsage, match=r"got out\.csv"):
        run_file(words, tmp_path / "gone.npy", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"\xff\xfe", "not text in UTF-8"),
        ("x.txt", b"", "no text"),
        ("x.jsonl", b"[1, 2, 3]\n[1,", "line 2 is not JSON"),
        ("x.jsonl", b"[1, 2, 3]\n" + b"[" * 100_000, "line 2 is not JSON"),
        ("x.jsonl", b'{"a": 1}\n{"b": 1}', "line 2 is no object with the keys of line 1"),
    ],
)
def test_unreadable_inputs(words: Path, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidFile, match=said):
        run_file(words, tmp_path / name, raw=True)


def test_ragged_rows_are_refused(words: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("[1, 2, 3]\n[1, 2]")
    with pytest.raises(InputMismatch, match="padded"):
        run_file(words, tmp_path / "x.jsonl")


def test_a_byte_order_mark_is_no_part_of_the_first_word(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("good bad", encoding="utf-8-sig")
    (tmp_path / "t.jsonl").write_text('"good bad"', encoding="utf-8-sig")
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffgood bad"))
    for inputs in (tmp_path / "t.txt", tmp_path / "t.jsonl", "-"):
        assert values(run_file(words, inputs, raw=True)) == {"y": [[0, 2, 4]]}
    (tmp_path / "t.txt").write_text("", encoding="utf-8-sig")
    with pytest.raises(InvalidFile, match="no text"):
        run_file(words, tmp_path / "t.txt", raw=True)


def test_a_wrong_name_of_a_single_array_is_refused(words: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", idz=np.ones((1, 3), np.int32))
    with pytest.raises(InputMismatch, match="keys 'ids'; missing 'ids' and unexpected 'idz'"):
        run_file(words, tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", np.ones((1, 3), np.int32))
    assert values(run_file(words, tmp_path / "x.npz")) == {"y": [[2, 2, 2]]}


def test_an_output_does_not_take_the_place_of_what_is_read(words: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=np.ones((1, 3), np.int32))
    (tmp_path / "link.npz").symlink_to(tmp_path / "x.npz")
    before = (tmp_path / "x.npz").read_bytes(), words.read_bytes()
    for output in (tmp_path / "x.npz", tmp_path / "link.npz", words):
        with pytest.raises(WrongUsage, match="is also what is read"):
            run_file(words, tmp_path / "x.npz", output, overwrite=True)
    assert ((tmp_path / "x.npz").read_bytes(), words.read_bytes()) == before
