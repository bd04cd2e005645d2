"""Energy counters: a made-up sysfs and a made-up NVML, since few machines let them be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseq.bench import energy
from edgeseq.bench.energy import Energy, Meter, energies, gpu_meters, processor_meters


def zone(folder: Path, name: str, label: str, *, count: int | None = 0, limit: int = 1_000_000) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "name").write_text(label + "\n")
    (place / "max_energy_range_uj").write_text(f"{limit}\n")
    if count is not None:
        (place / "energy_uj").write_text(f"{count}\n")
    return place


def test_the_processors_counters_are_named_and_read(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", count=7)
    zone(tmp_path, "intel-rapl:0:1", "dram", count=5, limit=50)
    zone(tmp_path, "intel-rapl:1", "psys")
    (tmp_path / "intel-rapl").mkdir()
    zone(tmp_path, "dtpm:0", "another kind")
    meters = processor_meters(tmp_path)
    assert [(meter.name, meter.read(), meter.wraps_at) for meter in meters] == [
        ("package-0", 7, 1_000_000),
        ("package-0 dram", 5, 50),
        ("psys", 0, 1_000_000),
    ]
    (package / "energy_uj").write_text("90\n")
    assert meters[0].read() == 90


def test_counters_that_may_not_be_read_are_left_out(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", count=None)
    # A folder cannot be read as a file, whoever asks: root may read any file.
    (zone(tmp_path, "intel-rapl:1", "package-1", count=None) / "energy_uj").mkdir()
    zone(tmp_path, "intel-rapl:2", "package-2")
    assert [meter.name for meter in processor_meters(tmp_path)] == ["package-2"]
    assert processor_meters(tmp_path / "none") == ()


def test_a_counter_starts_again_at_its_end() -> None:
    meter = Meter(name="package-0", read=lambda: 0, wraps_at=1000)
    assert meter.spent(100, 150) == 50
    assert meter.spent(950, 50) == 100
    assert Meter(name="GPU 0", read=lambda: 0).spent(5, 9) == 4


def test_energy_of_a_call() -> None:
    meters = [Meter(name=name, read=lambda: 0) for name in ("package-0", "GPU 0")]
    # 30 J and 6 J over 1,000 calls in 2 s.
    assert energies(meters, [30_000_000, 6_000_000], 1000, 2_000_000_000) == (
        Energy(counter="package-0", microjoules_per_call=30_000.0, watts=15.0),
        Energy(counter="GPU 0", microjoules_per_call=6_000.0, watts=3.0),
    )
    assert energies(meters, [0, 0], 0, 0) == ()
    assert [found.counter for found in energies(meters, [None, 1], 1, 1)] == ["GPU 0"]


class Nvml:
    """Two GPUs: the first counts millijoules, the second is too old to."""

    def __init__(self, broken: bool = False):
        self.broken = broken
        self.millijoules = 40

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's name
        return 9 if self.broken else 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: int, device: Any) -> int:  # noqa: N802
        device._obj.value = number + 100
        return 15 if number == 2 else 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, count: Any) -> int:  # noqa: N802
        if device.value == 101:
            return 3
        count._obj.value = self.millijoules
        return 0


def test_gpus_are_read_in_microjoules() -> None:
    library = Nvml()
    [meter] = gpu_meters(lambda _: library)
    assert (meter.name, meter.read()) == ("GPU 0", 40_000)
    library.millijoules = 41
    assert meter.read() == 41_000


def test_no_gpu_no_counters() -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    assert gpu_meters(missing) == ()
    assert gpu_meters(lambda _: Nvml(broken=True)) == ()


@pytest.mark.parametrize(
    ("providers", "expected"),
    [
        (["cpu"], ["package-0"]),
        (["cpu", "cpu"], ["package-0"]),
        (["cuda"], ["package-0", "GPU 0"]),
        (["torch, CUDA"], ["package-0", "GPU 0"]),
    ],
)
def test_gpus_are_read_when_the_only_subject_uses_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: list[str], expected: list[str]
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "gpu_meters", lambda: (Meter(name="GPU 0", read=lambda: 0),))
    meters, note = energy.find_meters(providers)
    assert ([meter.name for meter in meters], note) == (expected, "")


def test_a_gpu_is_not_read_for_subjects_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "gpu_meters", lambda: (Meter(name="GPU 0", read=lambda: 0),))
    meters, note = energy.find_meters(["cpu", "cuda"])
    assert [meter.name for meter in meters] == ["package-0"]
    assert "too slow for subjects that take turns" in note
    monkeypatch.setattr(energy, "gpu_meters", lambda: ())
    assert energy.find_meters(["cpu", "cuda"])[1] == ""
