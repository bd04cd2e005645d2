"""A stream fed by lines or raw frames: forms, states kept in files, and what is said of a bad line."""

from __future__ import annotations

import errno
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeseq.errors import InputMismatch, InvalidFile, InvalidState, MissingInput, OutputExists, WrongUsage
from edgeseq.lines import Interrupts
from edgeseq.running import run_file
from edgeseq.runtime.manifest import Manifest, RecurrentLayer, StateSpec, TensorSpec
from edgeseq.stepping import step_file

Write = Callable[..., Path]


def spec(name: str, *axes: str | int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


@pytest.fixture
def sums(write_sums: Write, tmp_path: Path) -> Path:
    return write_sums(tmp_path / "sums.onnx", 2)


@pytest.fixture
def pairs(write_model: Write, tmp_path: Path) -> Path:
    """As `sums`, of x + w with w (batch, 2) that has no time axis; and `last` (batch, 1, 2), which has none either."""
    manifest = Manifest(
        inputs=(spec("x", "batch", "time", 2), spec("w", "batch", 2)),
        outputs=(spec("y", "batch", "time", 2), spec("last_sum", "batch", 2)),
        input_structure=["x", "w"],
        output_structure={"tuple": ["y", "last_sum"]},
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1, 2)),),
        chunk_multiple=2,
    )
    nodes = [
        helper.make_node("Unsqueeze", ["w", "axes"], ["wide"]),
        helper.make_node("Add", ["x", "wide"], ["both"]),
        helper.make_node("CumSum", ["both", "one"], ["sums"]),
        helper.make_node("Add", ["sums", "state_in"], ["y"]),
        helper.make_node("Gather", ["y", "last"], ["state_out"], axis=1),
        helper.make_node("Squeeze", ["state_out", "axes"], ["last_sum"]),
    ]
    weights = {"one": np.int64(1), "axes": np.int64([1]), "last": np.int64([-1])}
    return write_model(tmp_path / "pairs.onnx", nodes, manifest, weights)


def lines(path: Path, *texts: str) -> Path:
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_a_line_is_a_step_or_a_chunk_and_its_answer_has_its_form(sums: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", "[1, 2]", "", "[[1, 1], [1, 1]]", '{"x": [1, 0]}', "[[0, 0]]")
    report = step_file(sums, source)
    assert report.answers == ([1, 2], [[2, 3], [3, 4]], [4, 4], [[4, 4]])
    assert (report.chunks, report.steps) == (4, 5)


def test_answers_are_written_one_by_one(sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    out = tmp_path / "out.jsonl"

    class Feeding(io.RawIOBase):
        """Gives the next line only when it has seen the answer to the one before."""

        def __init__(self) -> None:
            self.left = [b"[1, 1]\n", b"[1, 1]\n"]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            seen.append(out.read_text())
            line = self.left.pop(0) if self.left else b""
            buffer[: len(line)] = line
            return len(line)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Feeding())))
    report = step_file(sums, "-", out)
    assert seen == ["", "[1.0, 1.0]\n", "[1.0, 1.0]\n[2.0, 2.0]\n"]
    assert report.answers is None


def test_several_inputs_and_outputs_are_objects(pairs: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", '{"x": [[1, 1], [1, 1]], "w": [0, 1]}')
    assert step_file(pairs, source).answers == ({"y": [[1, 2], [2, 4]], "last_sum": [2, 4]},)


def test_chunks_are_of_the_multiple_that_the_file_takes(pairs: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", '{"x": [1, 1], "w": [0, 1]}')
    with pytest.raises(InputMismatch, match=r"^line 1 of .*in.jsonl: input 'x' takes chunks of 2, 4, 6"):
        step_file(pairs, source)
    np.savez(tmp_path / "in.npz", x=np.ones((1, 4, 2), np.float32), w=np.zeros((1, 2), np.float32))
    # Not one step at a time, which would be refused.
    assert run_file(pairs, tmp_path / "in.npz", stream=True).calls == 2


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        (f"[1, {10**400}]", InputMismatch, "line 2 of .*: input 'x' takes float32 .*; got an integer of more than 64"),
        ("[1, 2", InvalidFile, "line 2 is not JSON"),
        ("[1, 2, 3]", InputMismatch, "line 2 of .*: input 'x' has the shape"),
        ("5", InputMismatch, r"line 2 of .*: input 'x' takes \(time, 2\), or \(2\) for a single step; got a number"),
        ("[[1, 2], [3]]", InputMismatch, "line 2 of .*unequal lengths"),
        ("[" * 70 + "]" * 70, InputMismatch, "line 2 of .*is no array, .*dimension"),
        ("[" * 100_000, InvalidFile, "line 2 is not JSON .*recursion"),
        ("[null, 1]", InputMismatch, "line 2 of .*: input 'x' takes float32"),
        ('{"z": [1, 2]}', InputMismatch, "line 2 of .*'?x"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), InvalidFile, "line 2 is not JSON"),
    ],
)
def test_a_bad_line_is_named_and_what_was_before_it_stands(
    sums: Path, tmp_path: Path, line: str, error: type[Exception], said: str
) -> None:
    source = lines(tmp_path / "in.jsonl", "[1, 2]", line, "[1, 2]")
    with pytest.raises(error, match=said) as caught:
        step_file(sums, source, tmp_path / "out.jsonl", state_out=tmp_path / "state")
    assert (tmp_path / "out.jsonl").read_text() == "[1.0, 2.0]\n"
    assert caught.value.__notes__ == [f"chunks answered: 1 (steps: 1); the state after them is in {tmp_path / 'state'}"]
    # The line mended, another run goes on where this one ended.
    rest = lines(tmp_path / "rest.jsonl", "[1, 2]")
    assert step_file(sums, rest, state_in=tmp_path / "state").answers == ([2, 4],)


def test_a_state_goes_from_lines_to_arrays_and_back(sums: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state"
    step_file(sums, lines(tmp_path / "in.jsonl", "[1, 1]"), state_out=kept)
    np.save(tmp_path / "x.npy", np.ones((1, 3, 2), np.float32))
    # In the place of the one that is read: it is read before.
    report = run_file(sums, tmp_path / "x.npy", stream=True, state_in=kept, state_out=kept, overwrite=True)
    assert report.outputs[0].values == [[[2, 2], [3, 3], [4, 4]]]
    assert step_file(sums, tmp_path / "in.jsonl", state_in=kept).answers == ([5, 5],)


def test_one_file_is_not_for_answers_and_the_state(sums: Path, tmp_path: Path) -> None:
    source, out = lines(tmp_path / "in.jsonl", "[1, 1]"), tmp_path / "out.jsonl"
    np.save(tmp_path / "x.npy", np.ones((1, 3, 2), np.float32))
    (tmp_path / "link").symlink_to(out)
    for before in (None, "mine"):
        if before is not None:
            out.write_text(before)
        for state in (out, tmp_path / "link"):
            with pytest.raises(WrongUsage, match=r"would take the place of the outputs in .*out\.jsonl"):
                step_file(sums, source, out, state_out=state, overwrite=True)
            assert (out.read_text() if out.exists() else None) == before
    with pytest.raises(WrongUsage, match="would take the place of the outputs"):
        run_file(sums, tmp_path / "x.npy", tmp_path / "y.npy", stream=True, state_out=tmp_path / "y.npy")


def test_a_state_is_kept_where_the_first_chunk_fails(
    sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = lines(tmp_path / "in.jsonl", "[1, 1]"), lines(tmp_path / "bad.jsonl", "[1]")
    step_file(sums, good, state_out=tmp_path / "state")
    with pytest.raises(InputMismatch, match="line 1") as caught:
        step_file(sums, bad, state_in=tmp_path / "state", state_out=tmp_path / "same")
    told = f"chunks answered: 0 (steps: 0); the state after them is in {tmp_path / 'same'}"
    assert caught.value.__notes__ == [told]
    assert (tmp_path / "same").read_bytes() == (tmp_path / "state").read_bytes()
    with pytest.raises(InputMismatch):
        step_file(sums, bad, state_out=tmp_path / "first")
    assert step_file(sums, good, state_in=tmp_path / "first").answers == ([1, 1],)

    class Waiting(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: Any) -> int:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("Ctrl-C while the stream waits ends it")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Waiting())))
    report = step_file(sums, "-", state_in=tmp_path / "state", state_out=tmp_path / "interrupted")
    assert (report.interrupted_by, report.answers) == ("SIGINT", ())
    assert (tmp_path / "interrupted").read_bytes() == (tmp_path / "state").read_bytes()


def test_a_state_whose_size_no_chunk_has_told_yet(write_model: Write, tmp_path: Path) -> None:
    axes: tuple[str | int, ...] = ("batch", "time", "height")
    manifest = Manifest(
        inputs=(spec("x", *axes),),
        outputs=(spec("y", *axes),),
        input_structure="x",
        output_structure="y",
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1, "height")),),
    )
    nodes = [helper.make_node("Add", ["x", "state_in"], ["y"]), helper.make_node("Neg", ["state_in"], ["state_out"])]
    model = write_model(tmp_path / "m.onnx", nodes, manifest)
    with pytest.raises(InputMismatch) as caught:
        step_file(model, lines(tmp_path / "in.jsonl", "1"), state_out=tmp_path / "state")
    [note] = caught.value.__notes__
    assert note.startswith("chunks answered: 0 (steps: 0); no state is kept: the states' size (height) is known only")
    assert not (tmp_path / "state").exists()


def test_a_state_is_that_after_the_last_answer_that_was_written(sums: Path, tmp_path: Path) -> None:
    written: list[str] = []

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(text)
            return len(text)

    source = lines(tmp_path / "in.jsonl", "[1, 1]", "[2, 2]", "[3, 3]")
    with pytest.raises(OSError, match="No space") as caught:
        step_file(sums, source, lines=Full(), state_out=tmp_path / "state")
    assert caught.value.__notes__ == [f"chunks answered: 1 (steps: 1); the state after them is in {tmp_path / 'state'}"]
    rest = lines(tmp_path / "rest.jsonl", "[2, 2]", "[3, 3]")
    assert step_file(sums, rest, state_in=tmp_path / "state").answers == ([3, 3], [6, 6])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_tells_how_far_the_stream_came(sums: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    source = lines(tmp_path / "in.jsonl", "[1, 1]", "[1, 1]")
    with pytest.raises(OSError, match="No space") as caught:
        step_file(sums, source, tmp_path / "out.jsonl", overwrite=True)
    assert caught.value.__notes__ == ["chunks answered: 0 (steps: 0)"]


def test_states_that_cannot_be_had_or_kept(sums: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", "[1, 1]")
    np.save(tmp_path / "x.npy", np.ones((1, 3, 2), np.float32))
    (tmp_path / "bad").write_bytes(b"no state")
    with pytest.raises(InvalidState):
        step_file(sums, source, tmp_path / "out.jsonl", state_in=tmp_path / "bad")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(MissingInput):
        step_file(sums, source, state_in=tmp_path / "none")
    with pytest.raises(OutputExists):
        step_file(sums, source, state_out=tmp_path / "bad")
    with pytest.raises(WrongUsage, match="for streams"):
        run_file(sums, tmp_path / "x.npy", state_out=tmp_path / "state")


@pytest.mark.parametrize(("dtype", "chunk"), [("float32", None), ("int16", 2), ("float64", 5)])
def test_raw_frames(sums: Path, tmp_path: Path, dtype: str, chunk: int | None) -> None:
    x = np.arange(6).reshape(3, 2)
    (tmp_path / "x.raw").write_bytes(x.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    report = step_file(sums, tmp_path / "x.raw", frames=dtype, chunk=chunk)
    assert report.answers is not None
    assert [len(answer) for answer in report.answers] == {None: [1, 1, 1], 2: [2, 1], 5: [3]}[chunk]
    assert [step for answer in report.answers for step in answer] == x.cumsum(axis=0).tolist()


def test_frames_that_end_too_early_or_cannot_be(sums: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(np.ones(5, "<f4").tobytes())
    with pytest.raises(InvalidFile, match="within frame 3: 4 of 8 bytes"):
        step_file(sums, tmp_path / "x.raw", tmp_path / "out.jsonl", frames="float32")
    assert (tmp_path / "out.jsonl").read_text() == "[[1.0, 1.0]]\n[[2.0, 2.0]]\n"
    for options, said in (
        ({"frames": "complex64"}, "frames are of float32"),
        ({"frames": "float32", "chunk": 0}, "at least 1"),
        ({"chunk": 2}, "each is a chunk"),
    ):
        with pytest.raises(WrongUsage, match=said):
            step_file(sums, tmp_path / "x.raw", **options)  # type: ignore[arg-type]
    with pytest.raises(WrongUsage, match="model of one input; this one has x, w"):
        step_file(pairs, tmp_path / "x.raw", frames="float32")


def test_a_wrong_call_leaves_an_output_that_is_there(sums: Path, pairs: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "x.raw", tmp_path / "out.jsonl"
    source.write_bytes(np.ones(4, "<f4").tobytes())
    out.write_text("mine")
    for model, options, said in ((sums, {"chunk": 0}, "at least 1, got 0"), (pairs, {}, "of one input")):
        with pytest.raises(WrongUsage, match=said):
            step_file(model, source, out, frames="float32", overwrite=True, **options)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("time", "changes", "chunks"), [(3, {}, 2), ("time", {"chunk_multiple": 2}, 3), ("time", {}, 6)]
)
def test_chunks_are_of_the_fewest_steps_that_the_file_takes(
    write_sums: Write, tmp_path: Path, time: str | int, changes: dict[str, Any], chunks: int
) -> None:
    model = write_sums(tmp_path / "m.onnx", 2, time=time, **changes)
    x = np.ones((1, 6, 2), "<f4")
    (tmp_path / "x.raw").write_bytes(x.tobytes())
    np.save(tmp_path / "x.npy", x)
    assert step_file(model, tmp_path / "x.raw", frames="float32").chunks == chunks
    assert run_file(model, tmp_path / "x.npy", stream=True).calls == chunks


def test_a_state_that_overflowed_is_not_kept(write_sums: Write, tmp_path: Path) -> None:
    fused = RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",))
    model = write_sums(tmp_path / "m.onnx", recurrent=(fused,))
    with pytest.raises(WrongUsage, match="overflowed"):
        step_file(model, lines(tmp_path / "in.jsonl", "3e38", "3e38"), state_out=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_never_falls_between_a_chunk_and_its_answer(
    sums: Path, tmp_path: Path, number: signal.Signals
) -> None:
    written: list[str] = []

    class Sink(io.StringIO):
        def write(self, text: str) -> int:
            signal.raise_signal(number)
            written.append(text)
            return len(text)

    before = signal.getsignal(number)
    source = lines(tmp_path / "in.jsonl", "[1, 1]", "[1, 1]")
    report = step_file(sums, source, lines=Sink(), state_out=tmp_path / "state")
    assert (report.interrupted_by, report.chunks, report.steps) == (number.name, 1, 1)
    assert [json.loads(text) for text in written] == [[1, 1]]
    assert signal.getsignal(number) is before
    assert step_file(sums, source, state_in=tmp_path / "state").answers == ([2, 2], [3, 3])


def test_a_signal_that_the_process_ignores_stays_ignored_and_none_stays_taken(
    sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sink(io.StringIO):
        def write(self, text: str) -> int:
            signal.raise_signal(signal.SIGTERM)
            return len(text)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        report = step_file(sums, lines(tmp_path / "in.jsonl", "[1, 1]", "[1, 1]"), lines=Sink())
        assert (report.interrupted_by, report.chunks) == (None, 2)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)

    # One that comes while handlers are put back is noted, and the others are put back too.
    set_signal, interrupts = signal.signal, Interrupts()
    with interrupts:
        monkeypatch.setattr(signal, "signal", lambda *how: (set_signal(*how), signal.raise_signal(signal.SIGTERM))[0])
        monkeypatch.setattr(signal, "raise_signal", lambda _: interrupts._handle(signal.SIGTERM, None))
    monkeypatch.undo()
    assert interrupts.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_end_of_the_input_before_any_chunk(sums: Path, tmp_path: Path) -> None:
    report = step_file(sums, lines(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", state_out=tmp_path / "state")
    assert (report.chunks, (tmp_path / "out.jsonl").read_text()) == (0, "")
    assert step_file(sums, lines(tmp_path / "in.jsonl", "[1, 1]"), state_in=tmp_path / "state").answers == ([1, 1],)
