"""The one tolerance rule, and `compare` against golden samples, Keras, and another file."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
from keras import layers as L

import edgeseq
from edgeseq import errors
from edgeseq.parity import compare_answers
from edgeseq.runtime import wire


def one(mine, theirs, tolerance=1e-5):
    pair = ({"y": np.asarray(mine, np.float32)}, {"y": np.asarray(theirs, np.float32)})
    return compare_answers([pair], tolerance=tolerance, provider="cpu", reference="golden")


class TestRule:
    def test_small_references_count_as_one(self):
        parity = one([1e-4 + 9e-6], [1e-4])
        assert parity
        assert parity.outputs[0].max_rel == parity.outputs[0].max_abs
        assert not one([1e-4 + 1.1e-5], [1e-4])

    def test_large_references_scale_the_tolerance(self):
        assert one([1000.005], [1000.0])
        assert not one([1000.02], [1000.0])

    @pytest.mark.parametrize(("mine", "theirs"), [([np.nan], [1.0]), ([1.0], [np.nan]), ([np.nan], [np.nan])])
    def test_nan_never_passes(self, mine, theirs):
        parity = one(mine, theirs)
        assert not parity
        assert not parity.outputs[0].within

    def test_infinities_must_be_the_same(self):
        assert one([np.inf, 1.0], [np.inf, 1.0])
        assert not one([np.inf], [-np.inf])
        assert not one([1.0], [np.inf])

    def test_the_worst_output_and_trial_count(self):
        good, bad = np.zeros(2, np.float32), np.ones(2, np.float32)
        trials = [({"a": good, "b": good}, {"a": good, "b": good}), ({"a": good, "b": bad}, {"a": good, "b": good})]
        parity = compare_answers(trials, tolerance=1e-5, provider="cpu", reference="golden")
        assert not parity
        assert [(output.name, output.within, output.max_abs) for output in parity.outputs] == [
            ("a", True, 0.0),
            ("b", False, 1.0),
        ]
        assert parity.samples == 4

    def test_shapes_must_agree(self):
        with pytest.raises(errors.InputMismatch, match=r"'y' has shape \(2,\), its reference \(3,\)"):
            one([1, 2], [1, 2, 3])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((None, 3), name="x"), L.LSTM(5), L.Dense(2)])
    edgeseq.export(model, folder / "model.onnx")
    model.save(folder / "model.keras")
    return folder, model


class TestCompare:
    def test_every_kind_of_reference(self, exported):
        folder, model = exported
        x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
        for reference, inputs, kind in (
            (None, None, "golden"),
            (model, None, "keras"),
            (folder / "model.keras", x, "keras"),
            (folder / "model.onnx", x, "onnx"),
        ):
            parity = edgeseq.compare(folder / "model.onnx", reference, inputs)
            assert parity
            assert parity.reference == kind

    def test_another_model_is_not_the_same(self, exported):
        folder, model = exported
        other = keras.models.clone_model(model)
        parity = edgeseq.compare(folder / "model.onnx", other)
        assert not parity
        assert parity.outputs[0].max_abs > 1e-3

    def test_golden_answers_that_were_changed_are_noticed(self, exported, tmp_path):
        folder, _ = exported
        for name in ("model.onnx", "model.golden/model_hash", "model.golden/test_data_set_0/input_0.pb"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        golden = tmp_path / "model.golden" / "test_data_set_0" / "output_0.pb"
        name, array = wire.read_tensor(folder / "model.golden" / "test_data_set_0" / "output_0.pb")
        wire.write_tensor(golden, name, array + 1e-3)
        assert not edgeseq.compare(tmp_path / "model.onnx")

    def test_golden_samples_of_another_model_are_refused(self, exported, tmp_path):
        folder, _ = exported
        edgeseq.export(keras.Sequential([keras.Input((None, 3), name="x"), L.GRU(5)]), tmp_path / "model.onnx")
        (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
        with pytest.raises(errors.InvalidFile, match="belong to another model"):
            edgeseq.compare(tmp_path / "model.onnx")

    def test_golden_samples_that_lack_an_output_are_refused(self, exported, tmp_path):
        folder, _ = exported
        shutil.copytree(folder / "model.golden", tmp_path / "model.golden")
        shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
        (tmp_path / "model.golden" / "test_data_set_0" / "output_0.pb").unlink()
        with pytest.raises(errors.InvalidFile, match="the golden samples lack 'dense"):
            edgeseq.compare(tmp_path / "model.onnx")

    def test_a_reference_that_takes_other_inputs(self, exported):
        other = keras.Sequential([keras.Input((None, 7), name="x"), L.LSTM(5)])
        with pytest.raises(errors.InputMismatch, match="the Keras model does not take these inputs"):
            edgeseq.compare(exported[0] / "model.onnx", other)

    def test_no_golden_samples(self, exported, tmp_path):
        folder, _ = exported
        (tmp_path / "alone.onnx").write_bytes((folder / "model.onnx").read_bytes())
        with pytest.raises(errors.MissingInput, match="folder of golden samples not found"):
            edgeseq.compare(tmp_path / "alone.onnx")

    def test_inputs_without_a_reference_have_no_answers(self, exported):
        with pytest.raises(errors.WrongUsage, match="inputs need a reference"):
            edgeseq.compare(exported[0] / "model.onnx", None, np.ones((1, 2, 3), np.float32))

    @pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf")])
    def test_a_tolerance_that_means_nothing(self, exported, tolerance):
        with pytest.raises(errors.WrongUsage, match="must be a positive number"):
            edgeseq.compare(exported[0] / "model.onnx", tolerance=tolerance)


class TestInspect:
    def test_what_a_file_holds(self, exported):
        folder, model = exported
        found = edgeseq.inspect(folder / "model.onnx")
        assert found.parameters == model.count_params() == 192
        assert found.ops["LSTM"] == 1
        assert found.loops == 0
        assert [layer.strategy for layer in found.recurrent] == ["fused"]
        assert found.size_bytes == (folder / "model.onnx").stat().st_size
        assert found.opset == 18

    def test_a_file_of_others(self, tmp_path):
        model = keras.Sequential([keras.Input((4, 3), name="x"), L.GRU(5)])
        model(np.zeros((1, 4, 3)))
        model.export(tmp_path / "foreign.onnx", format="onnx", verbose=False)
        found = edgeseq.inspect(tmp_path / "foreign.onnx")
        assert not found.has_manifest
        assert found.loops == 1
        assert found.parameters is None

    def test_what_is_not_a_model(self, tmp_path):
        (tmp_path / "text.onnx").write_text("not a model")
        with pytest.raises(errors.InvalidFile):
            edgeseq.inspect(tmp_path / "text.onnx")
        with pytest.raises(errors.MissingInput):
            edgeseq.inspect(tmp_path / "nowhere.onnx")
