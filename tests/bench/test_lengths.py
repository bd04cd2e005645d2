"""Lengths of real sequences: read from every form of file, and fed as a cycle that has their distribution."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.bench.lengths import FileLengths, _means_of_parts, length_inputs, read_lengths
from edgeseq.errors import InvalidFile, MissingInput, WrongUsage
from edgeseq.runtime.manifest import Manifest, MaskSpec, TensorSpec
from edgeseq.runtime.preprocessing import Preprocessing

TEXT = {
    "kind": "text",
    "lowercase": True,
    "filters": ",.",
    "split": " ",
    "vocabulary": ["the", "film", "good"],
    "first_id": 3,
    "pad_id": 0,
    "unknown_id": 2,
    "start_id": 1,
    "length": None,
    "padding": "post",
    "truncating": "post",
}


def manifest(time: str | int = "time", *, mask: float | None = None, ids: bool = False, **changes: Any) -> Manifest:
    axes = ("batch", time) if ids else ("batch", time, 3)
    spec = TensorSpec(name="x", dtype="int32" if ids else "float32", axes=axes, vocabulary_size=6 if ids else None)
    masks = () if mask is None else (MaskSpec(input="x", layer="skip", value=mask),)
    return Manifest(inputs=(spec,), outputs=(), input_structure="x", output_structure=[], masks=masks, **changes)


def lengths(*values: int, side: str | None = None) -> FileLengths:
    return FileLengths(source="lengths.txt", sha256="ab" * 32, lengths=np.array(values, np.int64), side=side)


def padded(rows: list[int], steps: int, *, pad: float = 0.0, side: str = "post") -> Any:
    x = np.full((len(rows), steps, 3), pad, np.float32)
    for row, length in zip(x, rows, strict=True):
        valid = np.arange(3.0 * length).reshape(length, 3) + 1
        row[slice(0, length) if side == "post" else slice(steps - length, steps)] = valid
    return x


@pytest.mark.parametrize(
    ("name", "content"),
    [("l.txt", "7\n29\n0\n"), ("l.csv", 'length\n"7"\n"29"\n"0"\n'), ("l.txt", "\ufeff7\r\n29\r\n\r\n0")],
)
def test_whole_numbers_one_a_line(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    found = read_lengths(path, manifest())
    assert found.lengths.tolist() == [7, 29, 0]
    assert (found.source, found.side) == (name, None)
    assert found.sha256 == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", "12.5\n10\n", "line 1 is not one whole number: '12.5'"),
        ("l.txt", "7\nseven\n", "line 2 is not one whole number: 'seven'"),
        ("l.csv", "a,b\n7,8\n", "line 2 is not one whole number: '7,8'"),
        ("l.txt", "length\n", "holds no lengths"),
        ("l.txt", "7\n-1\n", "0 steps or more; it holds -1"),
        ("l.txt", b"\xff\xfe7", "not text in UTF-8"),
        ("l.jsonl", "{\n", "line 1 is no JSON object with a 'text'"),
        ("l.jsonl", '{"review": "good"}\n', "line 1 is no JSON object with a 'text'"),
        ("l.jsonl", '{"text": 3}\n', "the 'text' of line 1 is no text"),
        ("l.jsonl.gz", "not packed", "not text in UTF-8"),
        ("l.npy", b"no array", "not a numpy file"),
    ],
)
def test_what_is_no_length_is_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidFile, match=message):
        read_lengths(path, manifest(ids=True, preprocessing={"inputs": {"x": TEXT}}))


def test_files_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_lengths(tmp_path / "none.txt", manifest())
    (tmp_path / "l.json").write_text("[7]")
    with pytest.raises(WrongUsage, match=r"read from \.txt, \.csv.*; got l\.json"):
        read_lengths(tmp_path / "l.json", manifest())
    (tmp_path / "l.jsonl").write_text('{"text": "good"}')
    with pytest.raises(WrongUsage, match="no preprocessing that makes steps"):
        read_lengths(tmp_path / "l.jsonl", manifest(ids=True))
    (tmp_path / "l.txt").write_text("7")
    flat = Manifest(
        inputs=(TensorSpec(name="x", dtype="float32", axes=("batch", 3)),),
        outputs=(),
        input_structure="x",
        output_structure=[],
    )
    with pytest.raises(WrongUsage, match="no time axis"):
        read_lengths(tmp_path / "l.txt", flat)


def test_arrays_of_lengths(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array([7, 29], np.int32))
    assert read_lengths(tmp_path / "l.npy", manifest()).lengths.tolist() == [7, 29]
    np.savez(tmp_path / "l.npz", lengths=np.array([7, 29]))
    assert read_lengths(tmp_path / "l.npz", manifest()).lengths.tolist() == [7, 29]
    np.save(tmp_path / "l.npy", np.array([7.0, 29.0]))
    with pytest.raises(InvalidFile, match="whole numbers; it holds float64"):
        read_lengths(tmp_path / "l.npy", manifest())
    np.savez(tmp_path / "l.npz", a=np.array([7]), b=np.array([8]))
    with pytest.raises(InvalidFile, match="it holds a, b, and which of them are the lengths is not told"):
        read_lengths(tmp_path / "l.npz", manifest())
    # Other lengths beside those of the input that counts would be left out without a word.
    np.savez(tmp_path / "l.npz", x=np.array([7]), b=np.array([8]))
    with pytest.raises(InvalidFile, match="it holds x, b, and which of them"):
        read_lengths(tmp_path / "l.npz", manifest())
    np.savez(tmp_path / "l.npz", x=np.ones((2, 9, 3)), lengths=np.array([7, 8]))
    assert read_lengths(tmp_path / "l.npz", manifest()).lengths.tolist() == [7, 8]
    np.save(tmp_path / "l.npy", np.zeros((4, 5)))
    with pytest.raises(InvalidFile, match=r"float64 of shape \(4, 5\): neither lengths"):
        read_lengths(tmp_path / "l.npy", manifest())


@pytest.mark.parametrize("side", ["pre", "post"])
@pytest.mark.parametrize("mask", [None, 0.0, -9.0])
def test_valid_steps_of_sequences_are_counted(mask: float | None, side: str, tmp_path: Path) -> None:
    x = padded([4, 0, 7], 7, pad=mask or 0.0, side=side)
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(3))
    found = read_lengths(tmp_path / "x.npz", manifest(mask=mask))
    assert (found.lengths.tolist(), found.side) == ([4, 0, 7], side)


def test_a_zero_within_a_sequence_is_a_step_unless_it_is_masked(tmp_path: Path) -> None:
    x = padded([5], 7)
    x[0, 2] = 0.0
    np.save(tmp_path / "x.npy", x)
    assert read_lengths(tmp_path / "x.npy", manifest()).lengths.tolist() == [5]
    assert read_lengths(tmp_path / "x.npy", manifest(mask=0.0)).lengths.tolist() == [4]
    # All features must have the mask's value.
    x[0, 2, 1] = 1.0
    np.save(tmp_path / "x.npy", x)
    assert read_lengths(tmp_path / "x.npy", manifest(mask=0.0)).lengths.tolist() == [5]


def test_texts_go_through_the_files_own_preprocessing(tmp_path: Path) -> None:
    texts = ["The film, good", "film", "a b c d e f"]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt", encoding="utf-8") as file:
        # U+2028 ends a line to Unicode, and not to JSON lines; here it is the end of a word.
        file.writelines(json.dumps({"id": 1, "text": text + "\u2028"}, ensure_ascii=False) + "\n" for text in texts)
    said = manifest(ids=True, preprocessing={"inputs": {"x": TEXT}})
    # The words and the start.
    assert read_lengths(tmp_path / "t.jsonl.gz", said).lengths.tolist() == [4, 2, 7]
    cut = manifest(ids=True, preprocessing={"inputs": {"x": {**TEXT, "length": 3}}})
    assert read_lengths(tmp_path / "t.jsonl.gz", cut).lengths.tolist() == [3, 2, 3]


def test_real_reviews_have_their_lengths(data_folder: Path, tmp_path: Path) -> None:
    with gzip.open(data_folder / "imdb" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [next(file) for _ in range(50)]
    (tmp_path / "some.jsonl").write_text("".join(lines), encoding="utf-8")
    found = read_lengths(tmp_path / "some.jsonl", manifest(ids=True, preprocessing={"inputs": {"x": TEXT}}))
    together = Preprocessing({"inputs": {"x": TEXT}}).before({"x": [json.loads(line)["text"] for line in lines]})["x"]
    assert found.lengths.tolist() == (together != 0).sum(axis=1).tolist()


def test_real_recordings_are_fed_as_they_are_distributed(data_folder: Path, tmp_path: Path) -> None:
    rows = (data_folder / "japanese_vowels" / "JapaneseVowels_TEST.ts").read_text(encoding="utf-8").split("@data\n")[1]
    real = np.array([line.split(":")[0].count(",") + 1 for line in rows.splitlines()])
    assert (real.min(), real.max()) == (7, 29)
    np.save(tmp_path / "lengths.npy", real)
    found = length_inputs(read_lengths(tmp_path / "lengths.npy", manifest()), manifest(), batch=1)
    assert found.lengths is not None
    assert (found.lengths.sequences, found.lengths.inputs, found.lengths.density) == (370, 32, 1.0)
    fed = [inputs.time_steps for inputs in found.inputs if inputs.time_steps is not None]
    # Means of 32 parts: each of them is at most a 64th of the recordings away from the truth.
    for share in (0.1, 0.5, 0.9):
        low, high = (np.quantile(real, share + step, method="inverted_cdf") for step in (-1 / 64, 1 / 64))
        assert low <= np.quantile(fed, share, method="inverted_cdf") <= high
    # Lengths are whole numbers: half a step of 32 inputs' sum at most.
    assert np.mean(fed) == pytest.approx(real.mean(), abs=0.5 / 32)
    assert fed != sorted(fed)
    assert found.time_steps == max(fed)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_mean_is_the_files_however_rare_its_longest_are(batch: int) -> None:
    many = lengths(*[5] * 990, *[500] * 10)
    facts = length_inputs(many, manifest(), batch=batch).lengths
    assert facts is not None
    assert facts.mean == pytest.approx(9.95, abs=0.5 / (32 * batch))
    assert (facts.file_shortest, facts.file_mean, facts.file_longest) == (5, 9.95, 500)
    assert (facts.shortest, facts.median) == (5, 5)
    # 500 is a hundredth: the last of 32 parts of 31.25 lengths holds 10 of it, the last of 96 of 10.4 nearly 10.
    assert facts.longest == {1: 163, 3: 480, 32: 500}[batch]


@pytest.mark.parametrize("count", [1, 3, 7, 32, 1000])
def test_parts_are_never_outside_of_what_they_hold(count: int) -> None:
    random = np.random.default_rng(count)
    for values in ([5], [5, 5, 6], random.integers(0, 40, 57), random.geometric(0.02, 333), [0] * 9 + [10**9]):
        ordered = np.sort(np.asarray(values, np.int64))
        found = _means_of_parts(ordered, count)
        assert len(found) == count
        assert found.mean() == pytest.approx(ordered.mean(), abs=0.5 / count)
        ends = np.arange(count + 1) * len(ordered) / count
        for part, (low, high) in zip(found, itertools.pairwise(ends), strict=True):
            assert ordered[int(low)] <= part <= ordered[min(math.ceil(high), len(ordered)) - 1]


def test_a_cycle_has_each_length_once_where_they_are_few() -> None:
    found = length_inputs(lengths(5, 2, 9), manifest(), batch=1)
    assert sorted(inputs.arrays["x"].shape for inputs in found.inputs) == [(1, 2, 3), (1, 5, 3), (1, 9, 3)]
    assert len(length_inputs(lengths(*[4] * 100), manifest(), batch=2).inputs) == 1
    assert len(length_inputs(lengths(*range(1, 101)), manifest(), batch=1, most=8).inputs) == 8


@pytest.mark.parametrize("side", [None, "pre", "post"])
@pytest.mark.parametrize("mask", [None, 0.0, -9.0])
def test_rows_are_padded_to_the_longest_of_their_input(mask: float | None, side: str | None) -> None:
    found = length_inputs(lengths(1, 3, 6, 8, side=side), manifest(mask=mask), batch=2)
    assert found.lengths is not None
    valid = steps = 0
    for inputs in found.inputs:
        x = inputs.arrays["x"]
        assert (inputs.batch, inputs.time_steps, inputs.source) == (2, x.shape[1], "made")
        assert x.flags.c_contiguous
        there = (x != (mask or 0.0)).all(axis=2)
        assert there.sum(axis=1).max() == x.shape[1]
        # Valid steps are together, at the end unless the rows of the file are at their start.
        ordered = np.sort(there, axis=1)
        np.testing.assert_array_equal(there, ordered[:, ::-1] if side == "post" else ordered)
        valid, steps = valid + int(there.sum()), steps + there.size
    assert valid == 2 * (1 + 3 + 6 + 8)
    assert found.lengths.density == valid / steps
    assert (found.lengths.shortest, found.lengths.median, found.lengths.longest) == (1, 3, 8)


def test_ids_are_padded_as_their_preprocessing_does_it() -> None:
    said = manifest(ids=True, preprocessing={"inputs": {"x": {**TEXT, "pad_id": 5}}})
    [x] = (inputs.arrays["x"] for inputs in length_inputs(lengths(1, 9), said, batch=2, most=1).inputs)
    short = x[(x[:, -1] == 5).argmax()]
    assert (short[1:] == 5).all()
    masked = manifest(ids=True, mask=0.0, preprocessing={"inputs": {"x": {**TEXT, "padding": "pre"}}})
    [x] = (inputs.arrays["x"] for inputs in length_inputs(lengths(1, 9), masked, batch=2, most=1).inputs)
    assert x.dtype == np.int32
    # Made ids are never the mask's: every other step counts.
    assert sorted((x != 0).sum(axis=1)) == [1, 9]
    assert (x[:, -1] != 0).all()


def test_rows_of_like_lengths_share_an_input_where_they_may_be_sorted() -> None:
    many = lengths(*range(1, 257))
    mixed = length_inputs(many, manifest(), batch=8).lengths
    alike = length_inputs(many, manifest(), batch=8, sort_rows=True).lengths
    assert mixed is not None
    assert alike is not None
    # Eight neighbours of 256 lengths differ by 3.5 on average from the longest: 1 - 3.5 / 132.
    assert alike.density == pytest.approx(0.973, abs=0.002)
    assert mixed.density < 0.7
    assert (
        (alike.shortest, alike.longest, alike.inputs) == (mixed.shortest, mixed.longest, mixed.inputs) == (1, 256, 32)
    )
    steps = [inputs.time_steps for inputs in length_inputs(many, manifest(), batch=8, sort_rows=True).inputs]
    assert steps != sorted(steps)


def test_a_fixed_time_axis_cuts_and_needs_a_mask() -> None:
    found = length_inputs(lengths(2, 4, 30), manifest(10, mask=0.0), batch=1)
    assert found.lengths is not None
    assert {inputs.arrays["x"].shape for inputs in found.inputs} == {(1, 10, 3)}
    assert (found.lengths.longest, found.lengths.density) == (10, pytest.approx(16 / 30))
    with pytest.raises(WrongUsage, match="exactly 10 time steps and has no mask, so that lengths change nothing"):
        length_inputs(lengths(2, 4), manifest(10), batch=1)


def test_a_batch_that_the_file_does_not_take_is_refused() -> None:
    spec = TensorSpec(name="x", dtype="float32", axes=(1, "time", 3))
    said = Manifest(inputs=(spec,), outputs=(), input_structure="x", output_structure=[])
    with pytest.raises(WrongUsage, match="a batch of exactly 1, not 4"):
        length_inputs(lengths(2, 4), said, batch=4)


def test_a_sequence_without_steps_is_one_step_of_padding() -> None:
    [inputs] = length_inputs(lengths(0), manifest(mask=0.0), batch=1).inputs
    np.testing.assert_array_equal(inputs.arrays["x"], np.zeros((1, 1, 3)))


def test_all_sequences_of_a_model_are_equally_long_and_other_inputs_are_whole() -> None:
    specs = (
        TensorSpec(name="context", dtype="float32", axes=("batch", 4)),
        TensorSpec(name="source", dtype="int32", axes=("batch", "time"), vocabulary_size=9),
        TensorSpec(name="target", dtype="float32", axes=("batch", "time_2", 2)),
        TensorSpec(name="valid", dtype="bool", axes=("batch", "time")),
    )
    names = [spec.name for spec in specs]
    said = Manifest(inputs=specs, outputs=(), input_structure=names, output_structure=[])
    [inputs] = length_inputs(lengths(2, 5), said, batch=2, most=1).inputs
    assert (inputs.arrays["context"] != 0).all()
    for name in ("source", "target", "valid"):
        there = inputs.arrays[name].reshape(2, 5, -1).any(axis=2)
        assert sorted(there.sum(axis=1)) == [2, 5]


def test_the_seed_alone_decides() -> None:
    def fed(seed: int) -> list[Any]:
        cycle = length_inputs(lengths(*range(1, 60)), manifest(), batch=2, seed=seed)
        return [inputs.arrays["x"] for inputs in cycle.inputs]

    assert all(np.array_equal(a, b) for a, b in zip(fed(1), fed(1), strict=True))
    assert [a.shape for a in fed(1)] != [a.shape for a in fed(2)]
