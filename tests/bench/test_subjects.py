"""Subjects made from files, ours and others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeseq.bench.inputs import find_inputs
from edgeseq.bench.lengths import read_lengths
from edgeseq.bench.subjects import error_text, file_subject, file_subjects, model_size_bytes
from edgeseq.errors import InputMismatch, MissingInput, ProviderUnavailable, WrongUsage
from edgeseq.runtime import Model
from edgeseq.runtime.golden import Golden, write_golden


def test_a_file_runs_as_the_runtime_runs_it(make_lstm: Any) -> None:
    path = make_lstm()
    subject = file_subject(path, batch=2, time_steps=5)
    assert subject.call is not None
    assert (subject.name, subject.provider, subject.batch, subject.time_steps) == ("lstm.onnx", "cpu", 2, 5)
    assert subject.inputs == "made"
    assert subject.fed.shape == (2, 5, 3)
    np.testing.assert_array_equal(subject.call(), Model(path)(subject.fed))
    assert subject.size_bytes == path.stat().st_size
    assert subject.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_threads_are_the_files_advice_for_the_batch_unless_given(make_lstm: Any) -> None:
    path = make_lstm()
    assert file_subject(path).threads == 1
    assert file_subject(path, batch=8).threads == 0
    assert file_subject(path, threads=2).threads == 2
    assert file_subject(path, inputs=np.zeros((9, 4, 3), np.float32)).threads == 0


def test_golden_samples_beside_the_file_are_used(make_lstm: Any) -> None:
    path = make_lstm()
    write_golden(path, Golden(inputs={"x": np.ones((1, 7, 3), np.float32)}, outputs={}), "")
    subject = file_subject(path)
    assert (subject.inputs, subject.time_steps) == ("golden", 7)
    np.testing.assert_array_equal(subject.fed, np.ones((1, 7, 3), np.float32))


def test_a_file_of_another_tool_is_measured_too(make_lstm: Any) -> None:
    subject = file_subject(make_lstm(manifest=False), batch=3, time_steps=4)
    assert subject.call is not None
    assert subject.fed.shape == (3, 4, 3)
    assert np.shape(subject.call()) == (3, 4)


def test_inputs_come_nested_as_the_model_takes_them(make_lstm: Any) -> None:
    subject = file_subject(make_lstm(input_structure={"dict": {"series": "x"}}))
    assert set(subject.fed) == {"series"}
    assert subject.call is not None
    assert np.shape(subject.call()) == (1, 4)


def test_the_safe_ids_run_on_a_small_vocabulary(make_embedding: Any) -> None:
    subject = file_subject(make_embedding(rows=10), batch=64)
    assert subject.call is not None
    assert np.shape(subject.call()) == (64, 2)
    assert subject.time_steps == 100


def test_files_that_take_the_same_are_fed_the_same(make_lstm: Any, make_embedding: Any) -> None:
    first, second = make_lstm("a.onnx"), make_lstm("b.onnx", seed=8)
    write_golden(first, Golden(inputs={"x": np.ones((1, 7, 3), np.float32)}, outputs={}), "")
    a, b, other = file_subjects([first, second, make_embedding(rows=10)])
    assert [a.name, b.name, other.name] == ["a.onnx", "b.onnx", "embedding.onnx"]
    assert b.inputs == "golden"
    np.testing.assert_array_equal(a.fed, b.fed)
    assert other.inputs == "made"


def test_files_of_one_name_are_told_apart_by_their_folders(make_lstm: Any, tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    paths = [make_lstm("old/m.onnx"), make_lstm("new/m.onnx"), make_lstm("other.onnx")]
    assert [subject.name for subject in file_subjects(paths)] == ["old/m.onnx", "new/m.onnx", "other.onnx"]


def test_given_inputs_are_a_batch_of_their_own(make_lstm: Any) -> None:
    x = np.zeros((3, 5, 3), np.float32)
    assert file_subjects([make_lstm()], inputs=x)[0].batch == 3
    assert file_subject(make_lstm(), inputs=x, batch=3).batch == 3
    for batch in (1, 2, [3, 1]):
        with pytest.raises(WrongUsage, match=r"given inputs are one batch of 3; got the batch .* leave the batch out"):
            file_subjects([make_lstm()], inputs=x, batch=batch)
    with pytest.raises(WrongUsage, match="inputs have lengths of their own"):
        file_subject(make_lstm(), inputs=x, time_steps=50)
    with pytest.raises(InputMismatch, match=r"lists or dicts of arrays; got \{\}"):
        file_subject(make_lstm(), inputs={})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": "3"}, "batch must be at least 1, a whole number, not '3'"),
        ({"batch": True}, "batch must be at least 1, a whole number, not True"),
        ({"batch": 2.0}, "batch must be at least 1, a whole number, not 2.0"),
        ({"time_steps": "9"}, "time_steps must be at least 1, a whole number, not '9'"),
        ({"threads": "a"}, "threads must be an integer; got 'a'"),
        ({"provider": 5}, "provider is a name, .*; got 5"),
        ({"lengths": 5}, "the file of lengths is given by its path; got 5"),
        ({"model": None}, "a model is given by its path; got None"),
    ],
)
def test_what_is_of_another_kind_is_named(make_lstm: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUsage, match=said):
        file_subject(**{"model": make_lstm(), **options})


def test_more_threads_than_cores_can_serve_are_refused(make_lstm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert [subject.threads for subject in file_subjects([make_lstm()], threads=[0, 8])] == [0, 8]
    with pytest.raises(WrongUsage, match=r"1000 threads are too many for 2 cores.*at most 8, or for 0"):
        file_subjects([make_lstm()], threads=[1, 1000])


def test_several_providers_are_named(make_lstm: Any) -> None:
    subjects = file_subjects([make_lstm()], providers=["cpu", "CPUExecutionProvider"])
    assert [subject.name for subject in subjects] == ["lstm.onnx (cpu)", "lstm.onnx (CPUExecutionProvider)"]


def test_a_sweep_is_every_file_with_every_batch_and_number_of_threads(make_lstm: Any) -> None:
    paths = [make_lstm("a.onnx"), make_lstm("b.onnx", seed=8)]
    found = file_subjects(paths, batch=[1, 32], threads=[1, 0, None, 1], time_steps=5)
    assert [subject.name for subject in found[:6]] == [
        "a.onnx, batch 1, 1 thread",
        "a.onnx, batch 1, all threads",
        "a.onnx, batch 1, advised threads",
        "a.onnx, batch 32, 1 thread",
        "a.onnx, batch 32, all threads",
        "a.onnx, batch 32, advised threads",
    ]
    assert [subject.threads for subject in found[:6]] == [1, 0, 1, 1, 0, 0]
    assert [subject.model for subject in found] == ["a.onnx"] * 6 + ["b.onnx"] * 6
    assert {subject.path for subject in found} == set(paths)
    for subject in found:
        assert subject.call is not None
        assert np.shape(subject.call()) == (subject.batch, 4)
        assert (subject.cycle, subject.feeds[0] is subject.fed) == (1, True)
    for one, other in zip(found[:6], found[6:], strict=True):
        np.testing.assert_array_equal(one.fed, other.fed)


def test_one_setting_is_not_named(make_lstm: Any) -> None:
    path = make_lstm()
    assert [subject.name for subject in file_subjects([path], batch=[32])] == ["lstm.onnx"]
    assert [subject.name for subject in file_subjects([path], batch=(1, 2))] == [
        "lstm.onnx, batch 1",
        "lstm.onnx, batch 2",
    ]
    [one, two] = file_subjects([path], threads=(1, 2), providers=["cpu"])
    assert (one.name, two.name) == ("lstm.onnx, 1 thread", "lstm.onnx, 2 threads")
    several = file_subjects([path], batch=(1, 2), providers=["cpu", "CPUExecutionProvider"])
    assert [several[1].name, several[1].model] == ["lstm.onnx (cpu), batch 2", "lstm.onnx (cpu)"]


def test_a_file_is_opened_once_for_each_number_of_threads(make_lstm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_one(path: Any, *, threads: Any, batch: Any, **rest: Any) -> Any:
        opened.append((threads, batch))
        return Model(path, threads=threads, batch=batch)

    monkeypatch.setattr("edgeseq.bench.subjects.Model", open_one)
    path = make_lstm()
    file_subjects([path], batch=[1, 2, 32], threads=[1, 0])
    assert opened == [(1, 1), (0, 1)]
    opened.clear()
    # It advises one thread below a batch of 8, and all from there on.
    found = file_subjects([path], batch=[1, 2, 32, 64])
    assert opened == [(None, 1), (0, 32)]
    assert [subject.threads for subject in found] == [1, 1, 0, 0]


def test_lengths_become_a_cycle_that_calls_go_through(make_lstm: Any, tmp_path: Path) -> None:
    (tmp_path / "lengths.txt").write_text("2\n5\n9\n")
    paths = [make_lstm("a.onnx"), make_lstm("b.onnx", seed=8)]
    a, b = file_subjects(paths, lengths=tmp_path / "lengths.txt", batch=2)
    assert a.cycle == len(a.feeds) == 3
    assert a.lengths is not None
    assert (a.lengths.source, a.lengths.longest, a.time_steps, a.batch) == ("lengths.txt", 9, 9, 2)
    assert a.call is not None
    expected = [Model(paths[0])(fed) for fed in a.feeds]
    for answer in (*expected, *expected):
        np.testing.assert_array_equal(a.call(), answer)
    assert not np.array_equal(expected[0], expected[1])
    for mine, other in zip(a.feeds, b.feeds, strict=True):
        assert mine is other or np.array_equal(mine, other)
    alone = file_subject(paths[0], lengths=tmp_path / "lengths.txt", batch=2)
    assert alone.lengths == a.lengths


def test_that_the_longest_are_not_fed_is_told(make_lstm: Any, tmp_path: Path) -> None:
    source = tmp_path / "lengths.txt"
    source.write_text("5\n" * 990 + "500\n" * 10)
    [note] = file_subject(make_lstm(), lengths=source).notes()
    assert note == (
        "the lengths in lengths.txt are 5 to 500 steps, mean 9.95; those fed 5 to 163, mean 9.938: no time of the "
        "longest is among those measured"
    )
    source.write_text("5\n500\n")
    assert file_subject(make_lstm(), lengths=source).notes() == ()


def test_texts_are_read_once_for_files_that_take_the_same(
    make_lstm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lengths.txt").write_text("2\n5\n9\n")
    read: list[Any] = []

    def counted(*arguments: Any) -> Any:
        read.append(arguments)
        return read_lengths(*arguments)

    monkeypatch.setattr("edgeseq.bench.subjects.read_lengths", counted)
    paths = [make_lstm("a.onnx"), make_lstm("b.onnx", seed=8)]
    found = file_subjects(paths, lengths=tmp_path / "lengths.txt", batch=[1, 8], sort_rows=True)
    assert len(read) == 1
    assert [subject.batch for subject in found] == [1, 8, 1, 8]


def test_what_does_not_go_together_is_refused(make_lstm: Any, tmp_path: Path) -> None:
    path, x = make_lstm(), np.zeros((2, 5, 3), np.float32)
    (tmp_path / "lengths.txt").write_text("2")
    with pytest.raises(WrongUsage, match="give inputs, lengths or time_steps"):
        file_subjects([path], inputs=x, lengths=tmp_path / "lengths.txt")
    with pytest.raises(WrongUsage, match="give lengths or time_steps"):
        file_subjects([path], time_steps=3, lengths=tmp_path / "lengths.txt")
    with pytest.raises(WrongUsage, match="got the batch 1, 32 besides"):
        file_subjects([path], inputs=x, batch=[1, 32])
    with pytest.raises(WrongUsage, match="at least one batch"):
        file_subjects([path], batch=[])
    with pytest.raises(WrongUsage, match="at least one number of threads"):
        file_subjects([path], threads=[])


def test_what_cannot_be_opened_is_an_error(make_lstm: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        file_subject(tmp_path / "none.onnx")
    with pytest.raises(ProviderUnavailable):
        # A build for the CPU has no OpenVINO.
        file_subject(make_lstm(), provider="OpenVINOExecutionProvider")
    with pytest.raises(InputMismatch):
        file_subject(make_lstm(), inputs={"z": np.zeros(3)})
    with pytest.raises(WrongUsage, match="at least one ONNX file"):
        file_subjects([])


def test_the_size_counts_weights_that_are_kept_outside(tmp_path: Path, make_lstm: Any) -> None:
    model = onnx.load(make_lstm())
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="outside.weights", size_threshold=0)
    assert (tmp_path / "outside.weights").stat().st_size > 0
    expected = path.stat().st_size + (tmp_path / "outside.weights").stat().st_size
    assert model_size_bytes(path) == expected


def test_a_long_name_of_a_file_of_weights_counts_too(tmp_path: Path, make_lstm: Any) -> None:
    path, name = tmp_path / "outside.onnx", f"{'w' * 150}.data"
    onnx.save(onnx.load(make_lstm()), path, save_as_external_data=True, location=name, size_threshold=0)
    assert model_size_bytes(path) == path.stat().st_size + (tmp_path / name).stat().st_size


def test_a_text_that_looks_like_weights_outside_is_none(tmp_path: Path, make_lstm: Any) -> None:
    model = onnx.load(make_lstm())
    (tmp_path / "other").write_bytes(b"not its weights")
    model.doc_string = "\n\x08location\x12\x05other"
    path = tmp_path / "inside.onnx"
    onnx.save(model, path)
    assert model_size_bytes(path) == path.stat().st_size


def test_an_engine_is_planned_for_what_is_measured(
    make_lstm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[Any] = []

    def opened(path: Any, *, provider: str, ranges: Any, **_: Any) -> Any:
        planned.append(ranges)
        return Model(path, batch=1)

    monkeypatch.setattr("edgeseq.bench.subjects.Model", opened)
    # The second has no samples of its own, and is fed those of the first.
    first, second = make_lstm("a.onnx"), make_lstm("b.onnx", seed=8)
    write_golden(first, Golden(inputs={"x": np.ones((1, 150, 3), np.float32)}, outputs={}), "")
    subjects = file_subjects([first, second], providers=["tensorrt"])
    assert [subject.time_steps for subject in subjects] == [150, 150]
    assert [ranges["time"] for ranges in planned] == [(1, 150, 150)] * 2
    planned.clear()
    (tmp_path / "lengths.txt").write_text("3\n40\n")
    file_subjects([second], providers=["tensorrt"], batch=[1, 4], lengths=tmp_path / "lengths.txt")
    # One engine for all that is measured: the longest and the largest.
    assert planned == [{"batch": (1, 4, 4), "time": (1, 40, 40)}]
    found: list[int] = []
    real = find_inputs

    def counted(*arguments: Any, seed: int = 0, **rest: Any) -> Any:
        found.append(seed)
        return real(*arguments, seed=seed, **rest)

    monkeypatch.setattr("edgeseq.bench.subjects.find_inputs", counted)
    file_subject(second, provider="tensorrt", seed=3)
    assert found == [3]


def test_a_manifest_is_read_for_an_engine_alone(make_lstm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Any) -> None:
        raise AssertionError("nothing is planned on the CPU")

    monkeypatch.setattr("edgeseq.bench.subjects.load_manifest", read)
    assert file_subject(make_lstm()).provider == "cpu"


def test_an_error_is_one_line_with_its_notes() -> None:
    error = ValueError("first\n  second")
    error.add_note("while loading x")
    assert error_text(error) == "ValueError: first second while loading x"
    assert error_text(WrongUsage("what to do")) == "what to do"
