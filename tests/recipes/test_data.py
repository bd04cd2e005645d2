from __future__ import annotations

import gzip
import socket
import threading
from unittest.mock import Mock

import keras
import numpy as np
import pytest

import edgeseq
from edgeseq.errors import DataUnavailable, InvalidFile, MissingInput
from edgeseq.recipes import data, readers, train
from edgeseq.recipes.frames import make_films
from edgeseq.recipes.registry import RECIPES, Request


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without data folders, cache or network: whoever asks for an address is refused at once."""

    def refuse(*arguments, **keywords):
        raise OSError("no network in this test")

    monkeypatch.delenv("EDGESEQ_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(edgeseq, "__file__", str(tmp_path / "edgeseq" / "__init__.py"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path


def test_the_real_reviews_are_read(data_folder):
    texts, labels = readers.read_reviews(data_folder / "imdb" / "test.jsonl.gz")
    assert len(texts) == 25_000
    assert labels.sum() == 12_500


def test_the_real_series_are_read(data_folder):
    columns, values = readers.read_table(data_folder / "ett" / "ETTh1.csv")
    assert columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert values.shape == (17_420, 7)
    assert values[0, 6] == pytest.approx(30.531)
    assert readers.read_table(data_folder / "series" / "airline-passengers.csv")[1][[0, -1], 0].tolist() == [112, 432]
    assert readers.read_table(data_folder / "series" / "daily-min-temperatures.csv")[1].shape == (3_650, 1)


def test_the_real_vowels_are_read(data_folder):
    sequences, labels = readers.read_sequences(data_folder / "japanese_vowels" / "JapaneseVowels_TRAIN.ts")
    assert len(sequences) == 270
    assert {sequence.shape[1] for sequence in sequences} == {12}
    assert np.bincount(labels).tolist() == [30] * 9
    # Channels are the file's outer lists, steps its inner ones.
    assert sequences[0][:2, 0] == pytest.approx([1.860936, 1.891651])
    assert sequences[0][0, 1] == pytest.approx(-0.207383)


def test_the_real_digits_are_read(data_folder):
    images = readers.read_digits(data_folder / "mnist" / "t10k-images-idx3-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert 30 < images.mean() < 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [  # mtime=0: the bytes are the tests' names, which every worker must agree on
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b'{"text": "a"}\n', mtime=0), "line 1 is not a review"),
        (gzip.compress(b'{"text": "a", "label": 1}\n{"text": "b", "label": 7}\n', mtime=0), "line 2: .* got label 7"),
        (gzip.compress(b'{"text": "a", "label": 1}\n' * 1000, mtime=0)[:-20], "ended before|Error|invalid"),
        (gzip.compress(b'\xff\xfe{"text"', mtime=0), "utf-8"),
        (gzip.compress(b"", mtime=0), "no reviews"),
    ],
)
def test_damaged_reviews_are_refused_with_the_place(tmp_path, content, reason):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=reason):
        readers.read_reviews(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a table"),
        ("date,x\n1,2\n2,three\n", "line 3 .*three"),
        ("date,x,y\n1,2,3\n2,4\n", "line 3 .* 2 columns, the heading 3"),
        ("date,x\n1,nan\n", "not finite"),
    ],
)
def test_damaged_tables_are_refused_with_the_place(tmp_path, content, reason):
    path = tmp_path / "series.csv"
    path.write_text(content)
    with pytest.raises(InvalidFile, match=reason):
        readers.read_table(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("@data\n", "no sequences"),
        ("@classLabel true 1 2\n1,2:3,4:9\n", "line 2 .*'9'"),
        ("@classLabel true 1 2\n1,2:3:1\n", "line 2"),
        ("@classLabel true 1 2\n1,2:3,4:1\n1,2:1\n", "line 3 has 1 channels"),
    ],
)
def test_damaged_sequences_are_refused_with_the_place(tmp_path, content, reason):
    path = tmp_path / "x.ts"
    path.write_text(content)
    with pytest.raises(InvalidFile, match=reason):
        readers.read_sequences(path)


def test_damaged_digits_are_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x03" + np.array([2, 28, 28], ">i4").tobytes() + b"\x00" * 784))
    with pytest.raises(InvalidFile, match="784 bytes of pixels, 1568 are announced"):
        readers.read_digits(path)
    path.write_bytes(gzip.compress(b"something else altogether"))
    with pytest.raises(InvalidFile, match="not an IDX file"):
        readers.read_digits(path)


def test_a_damaged_file_stops_a_training_before_anything_is_written(small_data, tmp_path):
    folder = tmp_path / "data" / "imdb"
    folder.mkdir(parents=True)
    (folder / "train.jsonl.gz").write_bytes(b"broken")
    (folder / "test.jsonl.gz").write_bytes(b"broken")
    with pytest.raises(InvalidFile, match=r"train\.jsonl\.gz"):
        train("imdb", tmp_path / "m.keras", data=tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_named_folder_is_the_only_place_looked_at(small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEQ_DATA", str(small_data))
    assert data.locate("imdb", None) == small_data / "imdb"
    with pytest.raises(MissingInput, match=r"data folder not found.*elsewhere"):
        data.locate("imdb", tmp_path / "elsewhere")
    with pytest.raises(MissingInput, match=r"train.jsonl.gz.*ai.stanford.edu"):
        data.locate("imdb", tmp_path)


def test_the_folder_beside_the_current_one_is_found(small_data, nowhere, monkeypatch):
    (nowhere / "project").mkdir()
    (nowhere / "shared").mkdir()
    (nowhere / "shared" / "data").symlink_to(small_data)
    assert data.locate("ett", None) is None
    monkeypatch.chdir(nowhere / "project")
    found = data.locate("ett", None)
    assert found is not None
    assert found.samefile(small_data / "ett")


@pytest.mark.parametrize("recipe", ["imdb", "frames", "forecast", "stateful", "vowels"])
def test_without_data_and_network_the_error_says_where_to_get_it(recipe, nowhere):
    with pytest.raises(DataUnavailable, match=r"is not available: .*https://.*\(--data, or EDGESEQ_DATA\)") as caught:
        train(recipe, nowhere / "m.keras")
    assert caught.value.dataset in data.DATA_SETS
    assert not list(nowhere.glob("m.*"))


def test_a_server_that_never_answers_is_given_up(nowhere, monkeypatch):
    answered = threading.Event()

    def silent(*arguments, **keywords):
        answered.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(data, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(DataUnavailable, match="did not answer within"):
        data.load_public("imdb", ("imdb.npz",), lambda: pytest.fail("the loader was called"))
    answered.set()


def test_a_public_loader_that_fails_is_said(tmp_path, monkeypatch):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "imdb.npz").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def load():
        raise ValueError("Incomplete or corrupted file detected")

    with pytest.raises(DataUnavailable, match=r"its public loader failed \(Incomplete.*ai\.stanford\.edu"):
        data.load_public("imdb", ("imdb.npz",), load)


def test_reviews_of_the_public_loader_have_the_same_ids(nowhere, monkeypatch):
    def load_data(num_words):
        reviews = [[1, 4, 5] * 100, [1, 9_999, 2]]
        return (reviews, np.array([0, 1])), (reviews, np.array([0, 1]))

    ranks = {f"word{rank}": rank for rank in range(12_000, 0, -1)}
    monkeypatch.setattr(keras.datasets.imdb, "load_data", load_data)
    monkeypatch.setattr(keras.datasets.imdb, "get_word_index", lambda: ranks)
    monkeypatch.setattr(data, "_check_reachable", Mock())
    plan = RECIPES["imdb"].prepare(
        Request(data=None, epochs=None, batch_size=None, seed=0),
        cell="lstm",
        bidirectional=False,
        mask=False,
        samples=0,
    )
    assert plan.source == "keras.datasets.imdb"
    step = plan.preprocessing["inputs"]["tokens"]
    # The word of rank 1 has the id 4, and the last of the 10,000 ids is 9,999.
    assert (step["vocabulary"][0], step["vocabulary"][-1]) == ("word1", "word9996")
    inputs = np.concatenate([plan.train.inputs, plan.validation.inputs])
    assert inputs.shape == (2, 250)
    assert sorted(inputs[:, -1].tolist()) == [2, 5]


def test_films_move_and_stay_in_the_frame():
    images = np.full((3, 28, 28), 255, np.uint8)
    films = make_films(images, np.random.default_rng(0), count=4, length=30, size=32, digits=1)
    assert films.shape == (4, 30, 32, 32, 1)
    # A digit is never cut off at an edge: every frame holds all of its 14 x 14 pixels.
    assert np.all(films.sum(axis=(2, 3, 4)) == 14 * 14)
    assert np.all(np.abs(films[:, 1:] - films[:, :-1]).sum(axis=(2, 3, 4)) > 0)
