"""What machine this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq.bench import machine

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
