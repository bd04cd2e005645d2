"""Golden samples: written, read back, and folders that are damaged or of other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseq.errors import InvalidFile, MissingInput
from edgeseq.runtime.golden import Golden, find_golden, golden_folder, read_golden, write_golden

X = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    # More than ten, so that the order of numbers is not that of text.
    write_golden(path, Golden(inputs={"x": X}, outputs={f"y{i}": X + i for i in range(12)}), "abc")
    return path


def test_samples_come_back_in_the_graphs_order(model: Path) -> None:
    found = read_golden(model, "abc")
    np.testing.assert_array_equal(found.inputs["x"], X)
    assert list(found.outputs) == [f"y{i}" for i in range(12)]
    np.testing.assert_array_equal(found.outputs["y11"], X + 11)
    assert found.own_outputs is None


def test_samples_of_another_model_are_refused_and_unsigned_ones_taken(model: Path) -> None:
    with pytest.raises(InvalidFile, match="belong to another model"):
        read_golden(model, "other")
    (golden_folder(model) / "model_hash").write_bytes(b"\xff")
    with pytest.raises(InvalidFile, match="belong to another model"):
        read_golden(model, "abc")
    (golden_folder(model) / "model_hash").unlink()
    assert list(read_golden(model, "other").inputs) == ["x"]


@pytest.mark.parametrize("name", ["input_x.pb", "input_.pb", "output_1_2.pb", "input_-1.pb", "own_output_².pb"])
def test_a_sample_without_a_number_is_named(model: Path, name: str) -> None:
    path = golden_folder(model) / "test_data_set_0" / name
    path.write_bytes((path.parent / "input_0.pb").read_bytes())
    with pytest.raises(InvalidFile, match=r"golden samples are named (own_)?\w+_0\.pb") as caught:
        read_golden(model, "abc")
    assert caught.value.path == str(path)


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="copy it along"):
        read_golden(tmp_path / "model.onnx", "")


def test_samples_are_found_through_a_link_but_written_beside_it(model: Path, tmp_path: Path) -> None:
    model.write_bytes(b"")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.onnx"
    link.symlink_to(model)
    np.testing.assert_array_equal(read_golden(link, "abc").inputs["x"], X)
    assert golden_folder(link) == tmp_path / "links" / "latest.golden"
    # Samples of its own come first.
    write_golden(link, Golden(inputs={"x": X + 1}, outputs={}), "abc")
    assert find_golden(link) == golden_folder(link)
    np.testing.assert_array_equal(read_golden(link, "abc").inputs["x"], X + 1)
    np.testing.assert_array_equal(read_golden(model, "abc").inputs["x"], X)
