"""The wire reader against the onnx package, and against damage."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from edgeseq.errors import InvalidFile, MissingInput
from edgeseq.runtime import wire

DTYPES = ["float32", "float64", "float16", "bool"] + [
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
# One folder serves all examples of a test: each overwrites the file.
examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@examples
@given(array=any_array, name=st.text(max_size=20))
def test_the_onnx_package_reads_what_we_write(tmp_path: Path, array: np.ndarray, name: str):
    path = tmp_path / "tensor.pb"
    wire.write_tensor(path, name, array)
    tensor = onnx.load_tensor(str(path))
    assert tensor.name == name
    assert same(numpy_helper.to_array(tensor), array)
    if name:
        assert path.read_bytes() == numpy_helper.from_array(array, name).SerializeToString()
    read_name, read_array = wire.read_tensor(path)
    assert read_name == name
    assert same(read_array, array)
    assert read_array.flags.writeable or not array.size


@examples
@given(array=any_array)
def test_typed_fields_are_read_as_the_onnx_package_reads_them(tmp_path: Path, array: np.ndarray):
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = helper.make_tensor("t", code, array.shape, array.flatten())
    assert not tensor.raw_data
    path = tmp_path / "tensor.pb"
    path.write_bytes(tensor.SerializeToString())
    # The package reads a half-precision NaN through float64, which may change its payload: compare values.
    np.testing.assert_array_equal(wire.read_tensor(path)[1], numpy_helper.to_array(tensor))
    assert wire.read_tensor(path)[1].dtype == array.dtype


def test_unpacked_elements_are_read(tmp_path: Path):
    path = tmp_path / "tensor.pb"
    # dims 2, data_type int32 (6), int32_data (field 5, wire type 0) 7 and -1: minus one is ten bytes long.
    path.write_bytes(b"\x08\x02\x10\x06\x28\x07\x28" + b"\xff" * 9 + b"\x01")
    assert wire.read_tensor(path)[1].tolist() == [7, -1]
    # dims 2, data_type float (1), float_data (field 4, wire type 5) 1.0 and 2.0.
    path.write_bytes(b"\x08\x02\x10\x01\x25\x00\x00\x80\x3f\x25\x00\x00\x00\x40")
    assert wire.read_tensor(path)[1].tolist() == [1.0, 2.0]


def test_packed_dims_are_read(tmp_path: Path):
    path = tmp_path / "tensor.pb"
    path.write_bytes(b"\x0a\x02\x01\x02\x10\x02\x4a\x02\x05\x06")
    assert wire.read_tensor(path)[1].tolist() == [[5, 6]]


def test_a_big_endian_or_strided_array_is_written_by_value(tmp_path: Path):
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    wire.write_tensor(tmp_path / "tensor.pb", "t", array)
    assert wire.read_tensor(tmp_path / "tensor.pb")[1].tolist() == array.tolist()


def test_a_dtype_without_a_number_type_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"float32, uint8.* got complex64"):
        wire.write_tensor(tmp_path / "tensor.pb", "t", np.zeros(2, np.complex64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\x08", "the integer at byte 1 is cut short"),
        (b"\x08" + b"\xff" * 11, "the integer at byte 1 is cut short"),
        (b"\x4a\x05ab", "field 9 at byte 2 is cut short"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x08\x02", "not a tensor of numbers"),
        (b"\x08\x03\x10\x02\x4a\x02\x05\x06", r"2 values, which do not fill its shape \(3,\)"),
        (b"\x08\x01\x10\x01\x4a\x02\x05\x06", "2 bytes are no whole number of float32"),
        (b"\x08" + b"\xff" * 9 + b"\x01\x10\x02\x4a\x01\x05", "do not fill its shape"),
        (b"\x08\x01\x10\x02\x28\xac\x02", "integers that are not uint8"),
        (b"\x10\x08", "ONNX data type 8"),
        (b"\x10\x01\x70\x01", "in another file"),
        (b"\x10\x02\x48\x01", "wrong wire type"),
        (b"\x08\x01\x10\x02\x4a\x01\x05\x42\x01\xff", "invalid start byte"),
    ],
)
def test_a_damaged_tensor_says_what_is_wrong(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "tensor.pb"
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=reason) as caught:
        wire.read_tensor(path)
    assert caught.value.path == str(path)


@settings(examples, max_examples=300)
@given(content=st.binary(max_size=60))
def test_garbage_is_a_tensor_or_invalid(tmp_path: Path, content: bytes):
    path = tmp_path / "tensor.pb"
    path.write_bytes(content)
    try:
        _, array = wire.read_tensor(path)
    except InvalidFile:
        return
    assert array.dtype.name in DTYPES


@settings(examples, max_examples=200)
@given(data=st.data())
def test_a_cut_or_changed_tensor_is_a_tensor_or_invalid(tmp_path: Path, data: st.DataObject):
    whole = bytearray(numpy_helper.from_array(np.arange(6, dtype=np.int64).reshape(2, 3), "name").SerializeToString())
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    if cut:
        cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "tensor.pb"
    path.write_bytes(cut)
    try:
        wire.read_tensor(path)
    except InvalidFile:
        return


def model_bytes(metadata: dict[str, str]) -> bytes:
    node = helper.make_node("Identity", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weight = numpy_helper.from_array(np.zeros(1000, np.float32), "unused")
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], [weight]))
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


@examples
@given(metadata=st.dictionaries(st.text(max_size=10), st.text(max_size=300), max_size=4))
def test_metadata_as_the_onnx_package_wrote_it(tmp_path: Path, metadata: dict[str, str]):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes(metadata))
    assert wire.read_metadata(path) == metadata


@settings(examples, max_examples=150)
@given(data=st.data())
def test_a_cut_model_is_metadata_or_invalid(tmp_path: Path, data: st.DataObject):
    whole = model_bytes({"edgeseq": "text" * 20})
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        assert wire.read_metadata(path) == {}  # cut between two fields: the entry, which comes last, is gone
    except InvalidFile:
        return


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04 rest", "a ZIP archive, such as a .keras file, not an ONNX model. Make one with: edgeseq export"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"hello world", "not an ONNX model"),
        (b"\x08\x08", "holds no graph"),
    ],
)
def test_what_is_no_model_is_said(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=reason):
        wire.read_metadata(path)


def test_a_folder_and_a_missing_file(tmp_path: Path):
    with pytest.raises(InvalidFile, match="directory"):
        wire.read_metadata(tmp_path)
    with pytest.raises(MissingInput, match="nowhere"):
        wire.read_metadata(tmp_path / "nowhere.onnx")


def test_the_weights_are_not_read(tmp_path: Path):
    path = tmp_path / "model.onnx"
    size = 256 << 20
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.ClearField("graph")
    helper.set_model_props(model, {"key": "value"})
    with path.open("wb") as file:
        file.write(b"\x3a\x80\x80\x80\x80\x01")  # field 7, the graph, of 256 MiB: a hole in the file
        file.seek(size, 1)
        file.write(model.SerializeToString())
    tracemalloc.start()
    try:
        assert wire.read_metadata(path) == {"key": "value"}
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=300)), st.dictionaries(st.text(max_size=8), st.text()))
def test_metadata_is_replaced_and_all_else_stays(tmp_path: Path, old: dict[str, str], new: dict[str, str]) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, old)
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    onnx.save(model, source)
    wire.write_with_metadata(source, target, new)
    assert wire.read_metadata(target) == {**old, **new}
    written = onnx.load(target)
    assert len(written.metadata_props) == len({**old, **new})  # none twice
    del model.metadata_props[:], written.metadata_props[:]
    assert written == model


def outside(name: str, location: str) -> TensorProto:
    """A tensor of four floats whose values are in the file `location`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_weights_outside_are_found_wherever_they_are(tmp_path: Path) -> None:
    def constant(location: str) -> NodeProto:
        return helper.make_node("Constant", [], [location], value=outside("value", location))

    def body(name: str, nodes: list[NodeProto], *weights: TensorProto) -> GraphProto:
        return helper.make_graph(nodes, name, [], [], list(weights))

    loop = helper.make_node("Loop", ["", "yes"], [], body=body("inmost", [constant("inmost.data")]))
    branches = {
        "then_branch": body("then", [loop], outside("w", "then.data")),
        "else_branch": body("else", [constant("else.data"), constant("else.data")]),
    }
    other = helper.make_node("Many", ["x"], ["z"], domain="other")
    other.attribute.append(helper.make_attribute("tensors", [outside("t", "tensors.data")]))
    other.attribute.append(helper.make_attribute("graphs", [body("g", [constant("graphs.data")])]))
    sparse = SparseTensorProto(values=outside("s", "sparse.data"))
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], **branches), other],
        "graph",
        [],
        [],
        [outside("top", "top.data"), numpy_helper.from_array(np.zeros(4, np.float32), "inside")],
        sparse_initializer=[sparse],
    )
    function = helper.make_function("local", "F", [], ["y"], [constant("function.data")], [])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    wanted = ("top", "sparse", "tensors", "graphs", "then", "else", "inmost", "function")
    assert sorted(wire.read_data_files(path)) == sorted(f"{name}.data" for name in wanted)


def test_values_inside_are_stepped_over(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros(2 << 20, np.float32), "w")
    node = helper.make_node("Constant", [], ["y"], value=weight)
    graph = helper.make_graph([node], "graph", [], [], [weight, outside("v", "v.data")])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    tracemalloc.start()
    try:
        assert wire.read_data_files(path) == ("v.data",)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
