"""A session on the provider asked for, or the reason why not."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeseq.errors import (
    InputMismatch,
    InvalidFile,
    MissingExtra,
    MissingInput,
    ProviderUnavailable,
    Unavailable,
    WrongUsage,
)
from edgeseq.runtime import Model, nvidia, providers


def test_the_cpu_opens_a_path_and_bytes(make_lstm: Callable[..., Any]):
    path: Path = make_lstm().path
    for source in (path, str(path), path.read_bytes()):
        session = providers.open_session(source, threads=1)
        assert session.get_providers() == ["CPUExecutionProvider"]
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL


@pytest.mark.parametrize("threads", [None, 0])
def test_all_cores_unless_told(make_lstm: Callable[..., Any], threads: int | None):
    session = providers.open_session(make_lstm().path, threads=threads)
    assert session.get_session_options().intra_op_num_threads == 0


def test_an_unknown_provider_lists_the_allowed(make_lstm: Callable[..., Any]):
    with pytest.raises(WrongUsage, match=r"unknown provider 'gpu'; allowed are cpu, cuda, tensorrt, .*OpenVINO"):
        Model(make_lstm().path, provider="gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, r"threads must be 0 \(all cores\) or more, at most 4096; got -1"),
        ({"threads": 10**6}, "at most 4096; got 1000000"),
        ({"threads": 1.5}, r"threads must be an integer; got 1\.5"),
        ({"threads": True}, "threads must be an integer; got True"),
        ({"provider_options": {"device_id": 0}}, "the provider 'cpu' takes no options; got device_id"),
        ({"provider_options": "device_id"}, "provider_options must be a dict with names as its keys; got 'device_id'"),
        ({"provider_options": {0: 1}}, r"provider_options must be a dict with names as its keys; got \{0: 1\}"),
    ],
)
def test_bad_options_are_wrong_usage(make_lstm: Callable[..., Any], options: dict[str, Any], message: str):
    with pytest.raises(WrongUsage, match=message):
        Model(make_lstm().path, **options)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("cuda", r"pip install 'edgeseq\[gpu\]'"),
        ("tensorrt", r"pip install 'edgeseq\[gpu\]'"),
        ("OpenVINOExecutionProvider", "an onnxruntime built with OpenVINOExecutionProvider"),
    ],
)
def test_a_provider_that_is_not_compiled_in(
    make_lstm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, advice: str
):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderUnavailable, match=advice) as caught:
        Model(make_lstm().path, provider=name)
    assert caught.value.provider == name
    assert (
        caught.value.reason == f"the installed onnxruntime {onnxruntime.__version__} was built without it; it has cpu"
    )


class _Session:
    """Stands in for onnxruntime's session where a GPU build finds no GPU."""

    raises: Exception | None = None

    def __init__(self, _source: Any, _options: Any, **keywords: Any):
        assert keywords["enable_fallback"] == 0
        if self.raises:
            raise self.raises

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> type[_Session]:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so"))
    monkeypatch.setattr(_Session, "raises", None)
    return _Session


def test_a_silent_fallback_is_an_error(
    make_lstm: Callable[..., Any], gpu_build: type[_Session], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(ProviderUnavailable, match="would run on the CPU"):
        Model(make_lstm().path, provider="cuda")
    assert capsys.readouterr().out == ""


def test_the_driver_that_is_missing_is_the_reason(
    make_lstm: Callable[..., Any], gpu_build: type[_Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(nvidia, "find_cause", functools.partial(nvidia.find_cause, load=_nothing))
    with pytest.raises(ProviderUnavailable, match=r"there is no NVIDIA driver .*--gpus all"):
        Model(make_lstm().path, provider="cuda")


def _nothing(name: str) -> Any:
    raise OSError(f"{name}: not found")


def test_the_library_of_another_provider_that_is_broken_is_the_reason(
    make_lstm: Callable[..., Any], gpu_build: type[_Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_openvino.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    with pytest.raises(ProviderUnavailable, match=r"libonnxruntime_providers_openvino\.so: "):
        Model(make_lstm().path, provider="OpenVINOExecutionProvider")


def test_the_reason_that_onnxruntime_gave(
    make_lstm: Callable[..., Any], gpu_build: type[_Session], monkeypatch: pytest.MonkeyPatch
):
    state = onnxruntime.capi.onnxruntime_pybind11_state
    monkeypatch.setattr(
        gpu_build, "raises", state.Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 100:\n no device")
    )
    with pytest.raises(ProviderUnavailable) as caught:
        Model(make_lstm().path, provider="cuda")
    assert caught.value.reason == "CUDA failure 100: no device"
    long = "/src/cuda_call.cc:154 CudaCall(ERRTYPE) CUDA failure 36: not supported ; GPU=-1 ; file=x"
    monkeypatch.setattr(gpu_build, "raises", state.Fail(long))
    with pytest.raises(ProviderUnavailable) as caught:
        Model(make_lstm().path, provider="cuda")
    assert caught.value.reason == "CUDA failure 36: not supported"
    monkeypatch.setattr(gpu_build, "raises", state.InvalidGraph("[ONNXRuntimeError] : 10 : INVALID_GRAPH : bad node"))
    with pytest.raises(InvalidFile, match="bad node"):
        Model(make_lstm().path, provider="cuda")


@pytest.mark.usefixtures("gpu_build")
def test_provider_options_reach_the_provider(monkeypatch: pytest.MonkeyPatch):
    seen = []

    class Session(_Session):
        def __init__(self, _source: Any, _options: Any, **keywords: Any):
            seen.append(keywords["providers"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_options(self) -> dict[str, dict[str, str]]:
            return {"CUDAExecutionProvider": {"device_id": "0", "use_tf32": "1"}}

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    providers.open_session(b"", provider="cuda", provider_options={"device_id": 0})
    assert seen == [[("CUDAExecutionProvider", {"device_id": 0})]]
    with pytest.raises(
        WrongUsage, match=r"'cuda' has no option 'device'\. Did you mean 'device_id'\? It has device_id, use_tf32"
    ):
        providers.open_session(b"", provider="cuda", provider_options={"device": 0})


def test_options_are_blamed_only_where_the_provider_starts_without_them(
    gpu_build: type[_Session], monkeypatch: pytest.MonkeyPatch
):
    state = onnxruntime.capi.onnxruntime_pybind11_state

    class Session(_Session):
        def __init__(self, _source: Any, _options: Any, **keywords: Any):
            if keywords["providers"][0][1]:
                raise state.Fail("[ONNXRuntimeError] : 1 : FAIL : cannot parse abc")

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_options(self) -> dict[str, dict[str, str]]:
            return {"CUDAExecutionProvider": {"device_id": "0"}}

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(WrongUsage, match=r"refuses its options \{'device_id': 'abc'\}: cannot parse abc"):
        providers.open_session(b"", provider="cuda", provider_options={"device_id": "abc"})
    with pytest.raises(WrongUsage, match="has no option 'devise_id'"):
        providers.open_session(b"", provider="cuda", provider_options={"devise_id": "0"})
    monkeypatch.setattr(onnxruntime, "InferenceSession", gpu_build)
    with pytest.raises(ProviderUnavailable, match="would run on the CPU"):
        providers.open_session(b"", provider="cuda", provider_options={"device_id": "abc"})


def test_both_packages_at_once_are_told(make_lstm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.31.1")
    with pytest.raises(ProviderUnavailable, match="onnxruntime and onnxruntime-gpu are installed, and overwrite each"):
        Model(make_lstm().path, provider="cuda")


def test_damaged_models_are_invalid(make_lstm: Callable[..., Any], tmp_path: Path):
    whole = make_lstm().path.read_bytes()
    with pytest.raises(InvalidFile, match=r"cannot read a model in memory: .*protobuf"):
        providers.open_session(whole[:-20])
    # The wire is sound, the graph is not: only onnxruntime can tell.
    model = onnx.load_from_string(whole)
    model.graph.node[0].op_type = "Nonsense"
    path = tmp_path / "nonsense.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidFile, match="Nonsense"):
        Model(path)


def test_missing_external_data_is_named(make_lstm: Callable[..., Any], tmp_path: Path):
    path = tmp_path / "external.onnx"
    model = onnx.load(make_lstm().path)
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=100)
    Model(path)
    (tmp_path / "weights.data").unlink()
    with pytest.raises(InvalidFile, match=r"weights\.data"):
        Model(path)


def test_a_missing_file(tmp_path: Path):
    for opened in (Model, providers.open_session):
        with pytest.raises(MissingInput, match="absent"):
            opened(tmp_path / "absent.onnx")


def test_a_value_that_an_op_refuses_is_an_input_mismatch_and_nothing_is_printed(
    embedding: tuple[Path, np.ndarray], capfd: pytest.CaptureFixture[str]
):
    model = Model(embedding[0])
    with pytest.raises(InputMismatch, match=r"onnxruntime refuses this input: .*idx=8"):
        model([[8]])
    assert capfd.readouterr() == ("", "")


def test_shapes_that_do_not_fit_inside_the_graph_are_an_input_mismatch(write: Callable[..., Path]):
    float_ = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("a", float_, ["n", 2]),
        helper.make_tensor_value_info("b", float_, ["m", 2]),
    ]
    outputs = [helper.make_tensor_value_info("y", float_, ["k", 2])]
    model = Model(write([helper.make_node("Add", ["a", "b"], ["y"])], inputs, outputs, {}, None))
    with pytest.raises(InputMismatch, match=r"onnxruntime refuses this input: .*Add"):
        model([np.ones((2, 2)), np.ones((3, 2))])
    np.testing.assert_array_equal(model([np.ones((1, 2)), np.ones((3, 2))]), np.full((3, 2), 2))


@pytest.mark.parametrize("name", ["InvalidArgument", "Fail", "RuntimeException", "NotImplemented"])
def test_every_refusal_of_a_run_is_an_input_mismatch(name: str):
    class Session:
        def run(self, _outputs: Any, _feed: Any, _options: Any) -> None:
            raise getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)("[ONNXRuntimeError] : 6 : NAME : no such")

    with pytest.raises(InputMismatch, match=r"^onnxruntime refuses this input: no such$"):
        providers.run(Session(), [], {})


def test_the_refusal_of_a_bound_run_has_the_same_words():
    """onnxruntime raises another exception there, with other words before the reason."""

    class Session:
        def run_with_iobinding(self, _binding: Any, _options: Any) -> None:
            raise RuntimeError("Error in execution: no such")

    with pytest.raises(InputMismatch, match=r"^onnxruntime refuses this input: no such$"):
        providers.run_bound(Session(), None)


def test_a_gpu_that_fails_is_no_fault_of_the_input():
    class Session:
        def run(self, _outputs: Any, _feed: Any, _options: Any) -> None:
            failed = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException
            raise failed("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : /x.cc:1 CUDA failure 2: out of memory ; GPU=0 ;")

    with pytest.raises(Unavailable, match=r"CUDA failure 2: out of memory\. Try a smaller batch"):
        providers.run(Session(), [], {})


@pytest.mark.parametrize("body", ["raise ModuleNotFoundError('absent', name='onnxruntime')", ""])
def test_without_onnxruntime_the_extra_is_named(make_lstm: Callable[..., Any], tmp_path: Path, body: str):
    """A module that cannot be imported, and the empty folder that a half uninstall leaves."""
    path = make_lstm().path
    (tmp_path / "onnxruntime").mkdir()
    if body:
        (tmp_path / "onnxruntime" / "__init__.py").write_text(body)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from edgeseq.runtime import Model\n"
        "from edgeseq.errors import MissingExtra\n"
        f"try:\n    Model({str(path)!r})\nexcept MissingExtra as error:\n    print(error)\n"
    )
    if not body:
        # A namespace folder loses against a real package further down the path.
        code = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n" + code
        code = f"import numpy\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the package 'onnxruntime', which is not installed" in done.stdout, done.stderr
    assert "pip install 'edgeseq[cpu]'" in done.stdout
    assert MissingExtra("onnxruntime", "cpu", "running a model").exit_code == 3
