"""What machine this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq.bench import machine
from edgeseq.runtime.nvidia import Driver

X86 = """processor\t: 0
model name\t: Some Processor @ 2.4GHz
flags\t\t: fpu sse2 avx2 avx512f amx_int8 avx512_vnni

processor\t: 1
model name\t: Other
flags\t\t: fpu
"""

ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
"""


def read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> machine.Machine:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    return machine.this_machine()


def test_a_processor_is_read_from_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(X86, tmp_path, monkeypatch)
    assert found.cpu_model == "Some Processor @ 2.4GHz"
    assert found.cpu_features == ("avx2", "avx512f", "avx512_vnni", "amx_int8")


def test_an_arm_processor_has_no_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(ARM, tmp_path, monkeypatch)
    assert found.cpu_features == ("asimd", "asimddp", "i8mm")
    assert found.cpu_model


def test_other_systems_tell_no_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "none")
    found = machine.this_machine()
    assert found.cpu_features == ()
    assert found.cpu_model
    assert found.cores >= 1


def test_only_cores_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    assert machine.usable_cores() == machine.os.cpu_count()


def test_versions_are_of_what_is_installed() -> None:
    assert set(machine.installed_versions(["numpy", "no-such-package"])) == {"numpy"}


def place(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text + "\n")


def test_caches_are_those_that_data_goes_through(tmp_path: Path) -> None:
    for number, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "300M")]
    ):
        place(tmp_path / f"index{number}", level=level, type=kind, size=size)
    place(tmp_path / "index9", level="4", type="Unified")
    assert machine._caches(tmp_path) == {"L1d": 49_152, "L2": 2_097_152, "L3": 314_572_800}
    assert machine._caches(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert machine._cpu_limit(tmp_path) == limit


def test_gpus_are_named_with_their_driver() -> None:
    driver = Driver(cuda=(13, 0), devices=("NVIDIA H200", "NVIDIA A2"), error=None)
    assert machine._gpus(driver, "580.65.06") == ("NVIDIA H200, driver 580.65.06", "NVIDIA A2, driver 580.65.06")
    assert machine._gpus(driver, None) == ("NVIDIA H200", "NVIDIA A2")
    assert machine._gpus(Driver(cuda=None, devices=(), error="there is no NVIDIA driver"), None) == ()


def test_this_machine_tells_its_memory() -> None:
    memory = machine.this_machine().memory_bytes
    assert memory is None or memory > 100_000_000
