"""Models whose weights no single file can hold, tried with a limit that a small model reaches."""

from __future__ import annotations

import hashlib
import shutil

import keras
import numpy as np
import onnx
import pytest
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.conversion import exporting, outside
from edgeseq.runtime import Model, wire


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr(outside, "LARGEST_INSIDE_BYTES", 30_000)


def model(seed=0, words=1000):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((None,), dtype="int32", name="ids"), L.Embedding(words, 8), L.LSTM(6), L.Dense(1, name="y")]
    )


IDS = np.random.default_rng(0).integers(0, 1000, (3, 12)).astype(np.int32)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_weights_lie_beside_the_file_under_their_hash(tmp_path):
    keras_model = model()
    report = edgeseq.export(keras_model, tmp_path / "model.onnx")
    (data,) = tmp_path.glob("*.data")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert names(tmp_path) == [f"model.{digest[:12]}.data", "model.golden", "model.onnx"]
    assert report.data_path == str(data)
    assert report.size_bytes == data.stat().st_size + (tmp_path / "model.onnx").stat().st_size
    assert (tmp_path / "model.onnx").stat().st_size < 10_000
    assert wire.read_data_files(tmp_path / "model.onnx") == (data.name,)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    # 1000 words of 8; an LSTM of 6 has 4 x 6 x 8 = 192 and 4 x 6 x 6 = 144 floats and is below 1 KiB.
    assert [
        list(tensor.dims) for tensor in graph.initializer if onnx.external_data_helper.uses_external_data(tensor)
    ] == [[1000, 8]]
    np.testing.assert_allclose(Model(tmp_path / "model.onnx")(IDS), keras_model(IDS), atol=1e-6)


def test_a_small_model_has_no_data_file(tmp_path):
    report = edgeseq.export(model(words=100), tmp_path / "model.onnx")
    assert names(tmp_path) == ["model.golden", "model.onnx"]
    assert report.data_path is None
    assert report.size_bytes == (tmp_path / "model.onnx").stat().st_size


def test_the_answers_are_those_of_the_file_with_everything_inside(tmp_path, monkeypatch):
    stack = keras.Sequential([keras.Input((None, 40)), L.Bidirectional(L.LSTM(40, return_sequences=True)), L.GRU(30)])
    edgeseq.export(stack, tmp_path / "outside.onnx")
    monkeypatch.undo()
    edgeseq.export(stack, tmp_path / "inside.onnx")
    # Several tensors, each where Windows can map it into memory.
    graph = onnx.load(tmp_path / "outside.onnx", load_external_data=False).graph
    entries = [{e.key: e.value for e in tensor.external_data} for tensor in graph.initializer if tensor.external_data]
    assert len(entries) >= 5
    assert all(int(entry["offset"]) % 65536 == 0 for entry in entries)
    x = np.random.default_rng(0).standard_normal((2, 9, 40)).astype(np.float32)
    np.testing.assert_array_equal(Model(tmp_path / "outside.onnx")(x), Model(tmp_path / "inside.onnx")(x))


def test_exported_twice_it_has_the_same_bytes(tmp_path):
    keras_model, contents = model(), []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        edgeseq.export(keras_model, tmp_path / place / "model.onnx")
        contents.append(
            {entry.name: entry.read_bytes() for entry in (tmp_path / place).glob("model.*") if entry.is_file()}
        )
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


def test_everything_works_with_it(tmp_path):
    keras_model = model()
    keras_model.save(tmp_path / "model.keras")
    path = tmp_path / "model.onnx"
    edgeseq.export(keras_model, path)
    (data,) = tmp_path.glob("*.data")
    assert edgeseq.compare(path)
    assert edgeseq.compare(path, tmp_path / "model.keras")
    found = edgeseq.inspect(path)
    assert found.data_files == {data.name: data.stat().st_size}
    assert found.parameters == keras_model.count_params()
    assert found.weights_bytes > 4 * 8000
    result = edgeseq.benchmark(path, time_steps=4)
    assert result.size_bytes == path.stat().st_size + data.stat().st_size
    edgeseq.quantize(path, tmp_path / "small.onnx", samples=IDS, max_error=0.5)
    assert not wire.read_data_files(tmp_path / "small.onnx")
    assert edgeseq.compare(tmp_path / "small.onnx")


def test_streams_work_with_it(tmp_path):
    keras_model = keras.Sequential([keras.Input((None, 40), name="x"), L.LSTM(60, return_sequences=True)])
    edgeseq.export(keras_model, tmp_path / "model.onnx", streaming=True)
    assert list(tmp_path.glob("*.data"))
    x = np.random.default_rng(0).standard_normal((1, 5, 40)).astype(np.float32)
    stream = Model(tmp_path / "model.onnx").stream()
    steps = np.concatenate([stream.step(x[:, i : i + 1]) for i in range(5)], axis=1)
    np.testing.assert_allclose(steps, keras_model(x), atol=1e-6)


def test_a_missing_data_file_is_named(tmp_path):
    edgeseq.export(model(), tmp_path / "model.onnx")
    (data,) = tmp_path.glob("*.data")
    data.unlink()
    with pytest.raises(errors.InvalidFile, match=data.name):
        Model(tmp_path / "model.onnx")
    assert edgeseq.inspect(tmp_path / "model.onnx").data_files == {data.name: None}


def test_overwriting_takes_the_earlier_data_file_away(tmp_path):
    path = tmp_path / "model.onnx"
    edgeseq.export(model(1), path)
    (first,) = tmp_path.glob("*.data")
    with pytest.raises(errors.OutputExists):
        edgeseq.export(model(2), path)
    assert list(tmp_path.glob("*.data")) == [first]
    edgeseq.export(model(2), path, overwrite=True)
    (second,) = tmp_path.glob("*.data")
    assert second != first
    # The same content has the same name, and stays.
    edgeseq.export(model(2), path, overwrite=True)
    assert list(tmp_path.glob("*.data")) == [second]
    assert edgeseq.compare(path)
    edgeseq.export(model(2, words=10), path, overwrite=True)
    assert names(tmp_path) == ["model.golden", "model.onnx"]


def test_only_what_the_old_file_names_goes(tmp_path):
    path = tmp_path / "model.onnx"
    edgeseq.export(model(1), path)
    (data,) = tmp_path.glob("*.data")
    others = [tmp_path / "model.0123456789ab.data", tmp_path / f"other.{data.name.split('.')[1]}.data"]
    for other in others:
        other.write_bytes(b"another's")
    # A file of another tool, whose weights another file may share.
    foreign = tmp_path / "foreign.onnx"
    onnx.save(onnx.load(path), foreign, save_as_external_data=True, location="shared.data", size_threshold=1024)
    edgeseq.export(model(2, words=10), path, overwrite=True)
    edgeseq.export(model(2, words=10), foreign, overwrite=True)
    assert not data.exists()
    assert all(other.exists() for other in [*others, tmp_path / "shared.data"])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("moment", ["check", "verify", "write_golden"])
def test_a_failure_leaves_what_was_there(failure, moment, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    edgeseq.export(model(1), path)
    before = {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()}

    def fails(*_, **__):
        # The new data file is there by now, beside the old one.
        assert len(list(tmp_path.glob("model.*.data"))) == 2
        raise failure

    monkeypatch.setattr(exporting.finish if moment == "check" else exporting, moment, fails)
    with pytest.raises((KeyboardInterrupt, OSError)):
        edgeseq.export(model(2), path, overwrite=True)
    assert {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()} == before
    # The same weights again: what the file in place needs must stay.
    monkeypatch.setattr(exporting.finish if moment == "check" else exporting, moment, _fails_at_once(failure))
    with pytest.raises((KeyboardInterrupt, OSError)):
        edgeseq.export(model(1), path, overwrite=True)
    assert {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()} == before
    assert edgeseq.compare(path)


def _fails_at_once(failure):
    def fails(*_, **__):
        raise failure

    return fails


def test_a_failure_while_the_weights_are_written_leaves_nothing(tmp_path, monkeypatch):
    written = outside._pieces

    def half(tensors):
        pieces = list(written(tensors))
        yield pieces[0]
        if any(entry.suffix == ".data" for entry in tmp_path.iterdir()):
            raise KeyboardInterrupt
        yield from pieces[1:]

    monkeypatch.setattr(outside, "_pieces", half)
    with pytest.raises(KeyboardInterrupt):
        edgeseq.export(model(), tmp_path / "model.onnx")
    assert not names(tmp_path)


def test_an_output_that_is_no_model_can_be_overwritten(tmp_path):
    (tmp_path / "model.onnx").write_text("not a model")
    edgeseq.export(model(), tmp_path / "model.onnx", overwrite=True)
    assert edgeseq.compare(tmp_path / "model.onnx")


def test_a_copy_needs_its_data_file_and_nothing_else(tmp_path):
    edgeseq.export(model(), tmp_path / "model.onnx")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("model.onnx", next(tmp_path.glob("*.data")).name):
        shutil.move(tmp_path / name, elsewhere / name)
    assert Model(elsewhere / "model.onnx")(IDS).shape == (3, 1)
