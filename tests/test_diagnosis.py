"""The doctor: what it finds in installations that are simulated, and in the real one."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgeseq import diagnosis
from edgeseq.diagnosis import Check, Diagnosis, diagnose, machine, packages, starting
from edgeseq.diagnosis.threads import Threads
from edgeseq.errors import MissingExtra, ProviderUnavailable
from edgeseq.runtime.nvidia import Driver
from edgeseq.runtime.providers import SHORT_NAMES
from edgeseq.runtime.tiny import tiny_model

REPOSITORY = Path(__file__).resolve().parent.parent

COMPLETE = {
    "numpy": "2.4.6",
    "onnxruntime": "1.31.1",
    "onnx": "1.23.2",
    "onnx-ir": "1.1.0",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "tf2onnx": "1.17.0",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "matplotlib": "3.11.2",
    "pillow": "13.0.0",
}


class Session:
    """A session that computes x + x, or whatever `answer` is, on the provider asked for, or on `place`."""

    def __init__(self, answer: list[float] | None = None, place: str = ""):
        self.answer, self.place = answer, place
        self.profile = ""

    def end_profiling(self) -> str:
        arguments = {"op_name": "Add", "provider": self.place, "input_type_shape": [{"float": [2]}]}
        events = [{"cat": "Node", "name": "/Add_kernel_time", "args": arguments}]
        Path(self.profile).write_text(json.dumps(events))
        return self.profile

    def run(self, _: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.array(self.answer) if self.answer else feed["x"] * 2]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that exactly these packages are installed, and that these providers start (others raise)."""

    def pretend(packages: dict[str, str], **providers: Any) -> None:
        def version(name: str) -> str:
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        def open_session(source: bytes, *, provider: str, profile: str = "", threads: int = 0) -> Any:
            assert source == tiny_model()
            state = providers.get(provider, ProviderUnavailable(provider, "built without it", "Install it."))
            if isinstance(state, Exception):
                raise state
            state.profile, state.place = profile, state.place or SHORT_NAMES.get(provider, provider)
            return state

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(starting, "open_session", open_session)
        others = tuple(name for name in providers if name not in SHORT_NAMES)
        monkeypatch.setattr(starting, "other_providers", lambda: others)
        monkeypatch.setattr(starting, "nvidia_libraries", dict)

    return pretend


def check(found: Diagnosis, name: str) -> Check:
    [one] = [check for check in found.checks if check.name == name]
    return one


GPU = {**{name: version for name, version in COMPLETE.items() if name != "onnxruntime"}, "onnxruntime-gpu": "1.31.1"}
LIBRARIES = {"libcublas.so.13": True, "libcudnn.so.9": True, "libnvinfer.so.10": False}


def gpu_machine(monkeypatch: Any, driver: Driver, libraries: dict[str, bool]) -> None:
    monkeypatch.setattr(diagnosis, "read_driver", lambda: driver)
    monkeypatch.setattr(starting, "nvidia_libraries", lambda: libraries)
    monkeypatch.setattr(diagnosis, "driver_version", lambda: "580.65.06" if driver.devices else None)
    versions = {"CUDA runtime": "13.0", "cuDNN": "9.28.0"}
    monkeypatch.setattr(diagnosis, "library_versions", lambda names: versions if "libcudnn.so.9" in names else {})


def test_a_gpu_with_cuda_alone_is_well(install: Any, monkeypatch: Any) -> None:
    install(GPU, cpu=Session(), cuda=Session())
    gpu_machine(monkeypatch, Driver(cuda=(13, 0), devices=("NVIDIA H200", "NVIDIA L4"), error=None), LIBRARIES)
    found = diagnose()
    assert found
    assert found.providers == ("cpu", "cuda")
    assert check(found, "NVIDIA driver").detail == "580.65.06, runs CUDA up to 13.0; NVIDIA H200, NVIDIA L4"
    assert check(found, "NVIDIA libraries").ok is None
    told = "missing libnvinfer.so.10; found libcublas.so.13, libcudnn.so.9; CUDA runtime 13.0, cuDNN 9.28.0"
    assert check(found, "NVIDIA libraries").detail == told
    assert found.library_versions == {"CUDA runtime": "13.0", "cuDNN": "9.28.0"}
    assert found.driver_version == "580.65.06"
    assert found.verdict == "nothing is broken: models run on cpu, cuda"
    assert check(found, "provider tensorrt").ok is None


def test_tensorrt_is_expected_where_it_is_installed(install: Any, monkeypatch: Any) -> None:
    install({**GPU, "tensorrt-cu13": "10.16.1"}, cpu=Session(), cuda=Session())
    gpu_machine(monkeypatch, Driver(cuda=(13, 0), devices=("NVIDIA H200",), error=None), LIBRARIES)
    assert check(diagnose(), "provider tensorrt").ok is False


def test_a_gpu_build_without_a_gpu_is_broken(install: Any, monkeypatch: Any) -> None:
    install(GPU, cpu=Session())
    gpu_machine(monkeypatch, Driver(cuda=None, devices=(), error="there is no NVIDIA driver"), {"libcudnn.so.9": False})
    found = diagnose()
    assert not found
    assert check(found, "NVIDIA driver").ok is False
    libraries = check(found, "NVIDIA libraries")
    assert (libraries.ok, libraries.detail) == (False, "missing libcudnn.so.9")
    assert libraries.advice == "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def test_nobody_expects_a_driver_of_the_cpu_build(install: Any, monkeypatch: Any) -> None:
    install(COMPLETE, cpu=Session())
    gpu_machine(monkeypatch, Driver(cuda=None, devices=(), error="there is no NVIDIA driver"), {})
    found = diagnose()
    assert found
    assert check(found, "NVIDIA driver").ok is None
    assert check(found, "NVIDIA libraries").ok is None


def test_a_complete_installation_is_well(install: Any) -> None:
    install(COMPLETE, cpu=Session())
    found = diagnose()
    assert found
    assert found.providers == ("cpu",)
    assert [one.name for one in found.checks if one.ok is False] == []
    assert check(found, "extra export").ok is True
    gpu = check(found, "extra gpu")
    assert (gpu.ok, gpu.advice) == (None, "")
    assert found.versions["keras"] == "3.15.1"
    assert found.versions["onnxruntime-gpu"] is None
    cuda = check(found, "provider cuda")
    assert (cuda.ok, cuda.detail, cuda.advice) == (None, "built without it", "Install it.")


def test_a_missing_package_is_named_with_the_command_that_brings_it(install: Any) -> None:
    install({name: version for name, version in COMPLETE.items() if name != "tf2onnx"}, cpu=Session())
    found = diagnose()
    export = check(found, "extra export")
    assert (export.ok, export.advice) == (None, "pip install 'edgeseq[export]'")
    assert "missing tf2onnx" in export.detail
    assert found  # what is not installed is not broken


def test_a_package_of_a_wrong_version_is_broken(install: Any) -> None:
    install({**COMPLETE, "keras": "3.14.0"}, cpu=Session())
    found = diagnose()
    export = check(found, "extra export")
    assert (export.ok, export.detail) == (False, "keras is 3.14.0, wanted >=3.15,<3.16")
    assert export.advice == "pip install 'edgeseq[export]'"
    assert not found


def test_both_onnxruntimes_at_once_are_broken_and_the_repair_is_told(install: Any) -> None:
    install({**COMPLETE, "onnxruntime-gpu": "1.31.1"}, cpu=Session())
    found = diagnose()
    both = check(found, "onnxruntime")
    assert both.ok is False
    assert "both installed" in both.detail
    assert both.advice.startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install")
    assert not found


def test_numpy_alone(install: Any) -> None:
    missing = MissingExtra("onnxruntime", "cpu", "running a model")
    install({"numpy": "2.4.6"}, cpu=missing, cuda=missing, tensorrt=missing)
    found = diagnose()
    assert not found
    assert found.providers == ()
    assert check(found, "onnxruntime").ok is False
    assert check(found, "provider cpu").ok is False
    assert check(found, "provider cpu").advice == "pip install 'edgeseq[cpu]'"
    assert check(found, "provider cuda").ok is None
    assert check(found, "provider cuda").advice == "pip install 'edgeseq[gpu]'"


def test_on_a_gpu_build_a_provider_that_cannot_start_is_broken(install: Any) -> None:
    packages = {**GPU, "tensorrt": "10.16.1"}
    cannot = ProviderUnavailable("tensorrt", "libnvinfer.so.10 not found", "pip install tensorrt")
    install(packages, cpu=Session(), cuda=Session(), tensorrt=cannot)
    found = diagnose()
    assert found.providers == ("cpu", "cuda")
    assert check(found, "onnxruntime").detail == "onnxruntime-gpu 1.31.1"
    assert check(found, "extra cpu").detail == "not installed, edgeseq[gpu] is in its place"
    broken = check(found, "provider tensorrt")
    assert (broken.ok, broken.detail, broken.advice) == (False, "libnvinfer.so.10 not found", "pip install tensorrt")


def test_whatever_a_provider_raises_the_others_are_asked_too(install: Any) -> None:
    install(COMPLETE, cpu=ImportError("libstdc++.so.6:\n version not found"), cuda=Session())
    found = diagnose()
    assert check(found, "provider cpu").detail == "ImportError: libstdc++.so.6: version not found"
    assert found.providers == ("cuda",)
    assert not found


def test_a_provider_that_computes_wrongly_is_broken(install: Any) -> None:
    install(COMPLETE, cpu=Session([2.0, 3.0]))
    wrong = check(diagnose(), "provider cpu")
    assert (wrong.ok, wrong.detail) == (False, "it computes 1 + 1 = [2.0, 3.0]")


@pytest.mark.parametrize(
    ("version", "ok"), [("3.10.9", False), ("3.11.0rc1", True), ("3.13.7", True), ("3.14.0", False)]
)
def test_the_python_version_is_held_against_what_edgeseq_is_made_for(
    install: Any, monkeypatch: pytest.MonkeyPatch, version: str, ok: bool
) -> None:
    install(COMPLETE, cpu=Session())
    monkeypatch.setattr(packages.platform, "python_version", lambda: version)
    python = check(diagnose(), "python")
    assert python.ok is ok
    assert bool(python.advice) is not ok


def test_the_tables_of_extras_and_versions_are_those_of_the_project_file() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    def wanted_by(extra: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for requirement in project["optional-dependencies"][extra]:
            name, inner, wanted = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?(.*)", requirement).groups()
            found |= wanted_by(inner) if name == "edgeseq" else {name: wanted}
        return found

    extras = [extra for extra in project["optional-dependencies"] if extra != "dev"]
    assert {extra: wanted_by(extra) for extra in extras} == packages.EXTRAS
    assert project["requires-python"] == packages.PYTHON
    assert project["dependencies"] == [f"numpy{packages.NUMPY}"]


def test_the_tiny_model_is_valid_onnx() -> None:
    model = onnx.load_from_string(tiny_model())
    onnx.checker.check_model(model, full_check=True)
    [answer] = ReferenceEvaluator(model).run(None, {"x": np.array([1.5, -2.0], np.float32)})
    assert answer.tolist() == [3.0, -4.0]


def test_the_real_installation_starts_the_cpu() -> None:
    found = diagnose()
    assert "cpu" in found.providers
    assert check(found, "provider cpu").detail == "a session starts and computes"
    document = json.loads(json.dumps(dataclasses.asdict(found)))
    assert {"name", "ok", "detail", "advice"} == set(document["checks"][0])


def test_neither_tensorflow_nor_onnx_is_imported() -> None:
    code = "import sys, edgeseq; edgeseq.diagnose(); print({'tensorflow', 'keras', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "set()"


def test_two_others_at_once_are_told_by_name(install: Any) -> None:
    install({**COMPLETE, "onnxruntime-openvino": "1.24.1"}, cpu=Session())
    found = check(diagnose(), "onnxruntime")
    assert found.detail.startswith("onnxruntime 1.31.1 and onnxruntime-openvino 1.24.1 are both installed")
    assert found.advice.startswith("pip uninstall -y onnxruntime onnxruntime-openvino, then")


def test_another_build_is_an_onnxruntime_too(install: Any) -> None:
    alone = {name: version for name, version in COMPLETE.items() if name != "onnxruntime"}
    install({**alone, "onnxruntime-openvino": "1.24.1"}, cpu=Session(), OpenVINOExecutionProvider=Session())
    found = diagnose()
    assert found
    assert check(found, "onnxruntime").detail == "onnxruntime-openvino 1.24.1"
    assert check(found, "extra cpu").detail == "not installed, onnxruntime-openvino is in its place"
    assert found.providers == ("cpu", "OpenVINOExecutionProvider")
    assert found.versions["onnxruntime-openvino"] == "1.24.1"


def test_a_provider_that_starts_and_takes_no_node_is_not_said_to_compute(install: Any) -> None:
    install(COMPLETE, cpu=Session(), AzureExecutionProvider=Session(place="CPUExecutionProvider"))
    found = diagnose()
    azure = check(found, "provider AzureExecutionProvider")
    assert (azure.ok, azure.detail) == (None, "a session starts, but leaves 1 + 1 to another provider")
    assert found.providers == ("cpu",)
    assert found


def test_the_verdict_names_what_is_broken(install: Any) -> None:
    install({**COMPLETE, "keras": "3.14.0"}, cpu=Session())
    assert diagnose().verdict == "something is broken: extra export; models run on cpu"
    install(COMPLETE)
    assert diagnose().verdict == "something is broken: provider cpu; no model can run"


def threads(**changes: Any) -> Threads:
    facts = {"logical_cores": 16, "physical_cores": 8, "usable_cores": 16, "cpu_limit": None, "variables": {}}
    return Threads(**{**facts, **changes})


@pytest.mark.parametrize(
    ("found", "default", "told"),
    [
        (threads(), 8, None),
        (threads(cpu_limit=2.5), 8, "--threads 2"),
        (threads(usable_cores=4), 8, "--threads 4"),
        (threads(cpu_limit=0.5), 8, "--threads 1"),
        (threads(cpu_limit=2.5), None, None),
    ],
)
def test_more_threads_than_there_is_room_for(found: Threads, default: int | None, told: str | None) -> None:
    advice = machine.check_threads(found, default).advice
    assert told in advice if told else advice == ""


def test_limits_and_variables_are_told() -> None:
    detail = machine.check_threads(threads(cpu_limit=2.5, variables={"OMP_NUM_THREADS": "4"}), 8).detail
    assert detail == (
        "8 physical, 16 logical cores, 16 usable; the container may use 2.5 CPUs' time; "
        "onnxruntime starts 8 a session unless told; OMP_NUM_THREADS=4 has no effect on onnxruntime"
    )


def test_the_cache_folder(tmp_path: Path) -> None:
    absent = machine.check_cache(tmp_path / "a" / "b")
    assert (absent.ok, absent.detail) == (True, f"{tmp_path / 'a' / 'b'}, made when it is needed")
    assert not (tmp_path / "a").exists()
    (tmp_path / "engine").write_bytes(bytes(1500))
    assert machine.check_cache(tmp_path).detail == f"{tmp_path}, 1.50 kB"
    blocked = machine.check_cache(tmp_path / "engine" / "cache")
    assert (blocked.ok, "EDGESEQ_CACHE" in blocked.advice) == (None, True)
    assert f"{tmp_path / 'engine'} is no folder" in blocked.detail


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    found = machine.check_cache(tmp_path)
    assert (found.ok, found.detail) == (None, f"{tmp_path} cannot be written")


def test_the_data_folder(tmp_path: Path) -> None:
    assert machine.check_data(None).ok is None
    missing = machine.check_data(str(tmp_path / "no"))
    assert (missing.ok, "EDGESEQ_DATA" in missing.advice) == (False, True)
    (tmp_path / "imdb").mkdir()
    assert machine.check_data(str(tmp_path)).detail == f"{tmp_path} with imdb"


def test_a_processor_without_avx2_is_told_of() -> None:
    def advice(architecture: str, *features: str) -> str:
        found = diagnosis.Machine(
            cpu_model="x", cores=1, cpu_features=features, architecture=architecture, system="Linux"
        )
        return machine.check_processor(found).advice

    assert "Without AVX2" in advice("x86_64", "avx")
    assert advice("x86_64", "avx", "avx2") == advice("aarch64", "asimd") == advice("x86_64") == ""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted on Linux")
def test_the_threads_that_onnxruntime_starts_are_counted() -> None:
    found = diagnose()
    assert found.default_threads is not None
    assert 1 <= found.default_threads <= (found.threads.physical_cores or found.threads.logical_cores)
