"""States as bytes: what goes in comes out, in any process, and nothing else is taken."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeseq.errors import InputMismatch, InvalidState, NewerState, StateMismatch, WrongUsage
from edgeseq.runtime import Model, saved_state
from edgeseq.runtime.manifest import RecurrentLayer

H, C = "state_in.00.lstm.h", "state_in.01.lstm.c"
HASH = "ab" * 32


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@pytest.fixture
def model(make_lstm: Callable[..., Any]) -> Model:
    return Model(make_lstm(streaming=True, initial=0.25, model_hash=HASH).path, threads=1)


def packed(**changes: Any) -> bytes:
    states = {H: some(1, 4), C: some(1, 4)} | changes.pop("states", {})
    return saved_state.pack(states, **{"model_hash": HASH, "batch": 1, **changes})


DTYPES = st.sampled_from(["float32", "float16", "float64", "int32", "int64", "uint8", "bool"])
STATES = st.dictionaries(
    st.text(max_size=8),
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(STATES, st.text(max_size=70), st.integers(1, 10**6))
def test_what_goes_in_comes_out(states: dict[str, np.ndarray], model_hash: str, batch: int):
    data = saved_state.pack(states, model_hash=model_hash, batch=batch)
    found = saved_state.unpack(data, model_hash=model_hash, batch=batch)
    assert list(found) == list(states)
    for name, array in states.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.writeable or not array.size


def test_memory_order_does_not_matter():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = [saved_state.pack({"h": one}, model_hash="", batch=2) for one in (array, np.asfortranarray(array))]
    assert data[0] == data[1]


def test_every_damaged_byte_is_refused():
    data = packed()
    for place in range(len(data)):
        for change in (1, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(InvalidState):
                saved_state.unpack(bytes(damaged), model_hash=HASH, batch=1)


def test_every_cut_and_every_addition_is_refused():
    data = packed()
    for size in range(len(data)):
        with pytest.raises(InvalidState):
            saved_state.unpack(data[:size], model_hash=HASH, batch=1)
    with pytest.raises(InvalidState, match="checksum"):
        saved_state.unpack(data + b"\0", model_hash=HASH, batch=1)


@pytest.mark.parametrize("data", [b"", b"PK", "text", None, np.zeros(3)])
def test_what_is_no_saved_state(data: Any):
    with pytest.raises(InvalidState):
        saved_state.unpack(data, model_hash=HASH, batch=1)


def sealed(content: bytes) -> bytes:
    return content + saved_state._checksum(content)


def test_a_newer_version_is_named():
    content = bytearray(packed()[:-32])
    content[8:12] = struct.pack("<I", 7)
    with pytest.raises(NewerState, match="format version 7; this edgeseq reads up to 1") as raised:
        saved_state.unpack(sealed(bytes(content)), model_hash=HASH, batch=1)
    assert (raised.value.version, raised.value.known) == (7, 1)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"batch": 1', b'"batch": x'),
        (b'"float32"', b'"object9"'),
        (b'"float32"', b'"float64"'),  # more elements than there are bytes
        (b'"float32"', b'"float16"'),  # fewer
        (b"[1, 4]", b"[1,-4]"),
    ],
)
def test_a_header_that_lies_is_refused(was: bytes, now: bytes):
    content = packed()[:-32]
    assert was in content
    with pytest.raises(InvalidState, match="it is damaged"):
        saved_state.unpack(sealed(content.replace(was, now, 1)), model_hash=HASH, batch=1)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        *(
            json.dumps({"model_hash": HASH, "batch": 1, "states": [{"name": H, "dtype": "float32", "shape": shape}]})
            for shape in ([2**40, 2**40], [0, 2**70], [2**62])
        ),
    ],
    ids=["deep", "wide", "empty and wide", "long"],
)
def test_a_header_that_asks_for_too_much_is_refused(header: bytes | str):
    header = header.encode() if isinstance(header, str) else header
    content = struct.pack("<8sII", b"edgeseqS", 1, len(header)) + header
    with pytest.raises(InvalidState, match="it is damaged"):
        saved_state.unpack(sealed(content), model_hash=HASH, batch=1)


def test_another_model_and_another_batch():
    with pytest.raises(StateMismatch, match="of another model: abababababab; here it is cdcdcdcdcdcd") as raised:
        saved_state.unpack(packed(), model_hash="cd" * 32, batch=1)
    assert raised.value.what == "model"
    with pytest.raises(StateMismatch, match=r"of another batch: 1; here it is 2. Use: model.stream\(batch=1\)"):
        saved_state.unpack(packed(), model_hash=HASH, batch=2)


def test_a_stream_goes_on_where_it_was(model: Model):
    stream, x = model.stream(batch=2), some(2, 3, 3)
    stream.step(x)
    data = stream.to_bytes()
    expected = stream.step(x)
    other = model.stream(batch=2)
    other.restore(data)
    assert np.array_equal(other.step(x), expected)
    stream.restore(data)
    assert np.array_equal(stream.step(x), expected)
    assert stream.to_bytes() != data


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"model_hash": "cd" * 32}, StateMismatch),
        ({"batch": 3}, StateMismatch),
        ({"states": {C: some(1, 5)}}, InputMismatch),
        ({"states": {"other": some(1, 4)}}, InputMismatch),
        ({"states": {C: np.full((1, 4), np.nan, np.float32)}}, InputMismatch),
    ],
)
def test_what_is_refused_leaves_the_state(
    model: Model, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kind: type[Exception]
):
    monkeypatch.setattr(model.feed, "_finite_only", True)
    stream = model.stream()
    stream.step(some(1, 2, 3))
    before = stream.to_bytes()
    with pytest.raises(kind):
        stream.restore(packed(**changes))
    assert stream.to_bytes() == before
    assert issubclass(kind, WrongUsage)


@pytest.mark.parametrize("opened", [Model.stream, lambda model: model.pool().open()], ids=["stream", "pool"])
def test_a_state_that_overflowed_is_not_saved(
    write_sums: Callable[..., Path], tmp_path: Path, opened: Callable[[Model], Any]
):
    huge = np.full((1, 1), 3e38, np.float32)
    fused = RecurrentLayer(name="lstm", layer_type="LSTM", strategy="fused", op_types=("LSTM",))
    stream = opened(Model(write_sums(tmp_path / "fused.onnx", recurrent=(fused,))))
    stream.step(huge)
    stream.restore(stream.to_bytes())
    assert stream.step(huge) == np.inf
    with pytest.raises(WrongUsage, match=r"^state 'state_in' overflowed .*Start anew with reset\(\)"):
        stream.to_bytes()
    with pytest.raises(InputMismatch, match=r"state 'state_in' holds NaN or infinity.*Start anew with reset\(\)"):
        stream.state = stream.state
    stream.reset()
    stream.restore(stream.to_bytes())
    assert stream.step(np.ones((1, 1), np.float32)) == 1
    # Where no op of the file answers a number to infinity, it is a state as others are.
    stream = opened(Model(write_sums(tmp_path / "plain.onnx")))
    stream.step(huge), stream.step(huge)
    stream.restore(stream.to_bytes())
    assert stream.step(huge) == np.inf


def test_another_process_goes_on(model: Model, tmp_path: Path):
    stream, x = model.stream(), some(1, 3, 3)
    stream.step(x)
    (tmp_path / "state").write_bytes(stream.to_bytes())
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy, sys, pathlib; from edgeseq.runtime import Model\n"
        "folder = pathlib.Path(sys.argv[1]); stream = Model(sys.argv[2], threads=1).stream()\n"
        "stream.restore((folder / 'state').read_bytes())\n"
        "numpy.save(folder / 'y.npy', stream.step(numpy.load(folder / 'x.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(model.path)], check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), stream.step(x))
