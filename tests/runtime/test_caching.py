"""The cache folder of each system, and names by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq.errors import InvalidFile, MissingInput, Unavailable
from edgeseq.runtime.caching import cache_folder, hash_model, key_of, make_folder
from edgeseq.runtime.tiny import tiny_model


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    for name in ("EDGESEQ_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/user"))


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {}, "/home/user/.cache/edgeseq"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/edgeseq"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/user/.cache/edgeseq"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/home/user/Library/Caches/edgeseq"),
        ("win32", {}, "/home/user/AppData/Local/edgeseq/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/edgeseq/Cache"),
        ("win32", {"LOCALAPPDATA": "/local", "EDGESEQ_CACHE": "/named"}, "/named"),
        ("linux", {"XDG_CACHE_HOME": "/caches", "EDGESEQ_CACHE": "/named"}, "/named"),
    ],
)
def test_the_folder_of_each_system(monkeypatch, platform, variables, wanted):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder(platform) == Path(wanted)


def test_a_relative_folder_stays_where_it_was_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESEQ_CACHE", "here")
    assert cache_folder() == tmp_path / "here"


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="EDGESEQ_CACHE"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_a_key_changes_with_each_ingredient_and_not_with_their_order():
    key = key_of({"a": 1, "b": {"c": "2"}})
    assert key == key_of({"b": {"c": "2"}, "a": 1})
    assert len({key, key_of({"a": 2, "b": {"c": "2"}}), key_of({"a": 1, "b": {"c": "3"}}), key_of({"a": 1})}) == 4
    assert len(key) == 32


def test_the_hash_of_a_model_is_its_content(tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first.write_bytes(tiny_model())
    second.write_bytes(tiny_model())
    assert hash_model(first) == hash_model(second)
    second.write_bytes(tiny_model().replace(b"tiny", b"tinx"))
    assert hash_model(first) != hash_model(second)
    with pytest.raises(MissingInput):
        hash_model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InvalidFile):
        hash_model(tmp_path / "text.onnx")


def test_the_hash_covers_weights_in_other_files(tmp_path, write):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    value = helper.make_tensor_value_info
    path = write(
        nodes,
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        {"w": np.ones(4, np.float32)},
        None,
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=0)
    before = hash_model(path)
    (tmp_path / "w.data").write_bytes(b"\0" * 16)
    assert hash_model(path) != before
    (tmp_path / "w.data").unlink()
    with pytest.raises(MissingInput, match=r"file of weights not found: .*w\.data"):
        hash_model(path)


def test_the_hash_covers_weights_of_subgraphs_in_other_files(tmp_path, write):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    result = value("z", TensorProto.FLOAT, [4])
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    branches = {
        "then_branch": helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "then", [], [result], [weight]),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "else", [], [result]),
    }
    path = write(
        [helper.make_node("If", ["yes"], ["y"], **branches)],
        [value("x", TensorProto.FLOAT, [4]), value("yes", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, [4])],
        {},
        None,
    )
    model = onnx.load(path)
    [inner] = [weight for branch in model.graph.node[0].attribute for weight in branch.g.initializer]
    onnx.external_data_helper.set_external_data(inner, "w.data")
    (tmp_path / "w.data").write_bytes(inner.raw_data)
    inner.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    before = hash_model(path)
    (tmp_path / "w.data").write_bytes(b"\0" * 16)
    assert hash_model(path) != before
