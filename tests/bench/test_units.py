"""Numbers as people read them."""

from __future__ import annotations

import pytest

from edgeseq.bench import units


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"), (7, "7.00 ns"), (850, "850 ns"), (12_100, "12.1 µs"), (999_600, "1.00 ms"),
        (1_234_567, "1.23 ms"), (45_000_000, "45.0 ms"), (2_500_000_000, "2.50 s"), (90e9, "90.0 s"),
    ],
)  # fmt: skip
def test_durations(ns: float, text: str) -> None:
    assert units.duration(ns) == text


def test_a_range_names_a_common_unit_once() -> None:
    assert units.durations(1_050_000, 1_230_000) == "1.05 to 1.23 ms"
    assert units.durations(950_000, 1_230_000) == "950 µs to 1.23 ms"


@pytest.mark.parametrize(("size_bytes", "text"), [(12, "12 B"), (5_640_000, "5.64 MB"), (2_400_000_000, "2.40 GB")])
def test_sizes_are_decimal(size_bytes: int, text: str) -> None:
    assert units.size(size_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.2e-7, "1.2e-07"), (0.0031, "0.0031"), (9.96, "10"), (12345.6, "12,000")]
)
def test_significant_digits(value: float, text: str) -> None:
    assert units.significant(value, 2) == text


def test_ratios() -> None:
    assert units.times(44.72) == "44.7 ×"


def test_rates_energies_and_memory() -> None:
    assert units.rate(1234.5) == "1,230/s"
    assert units.energy(15_100.0) == "15.1 mJ"
    assert (units.binary_size(48 * 2**10), units.binary_size(33 * 2**20), units.binary_size(12)) == (
        "48 KiB", "33 MiB", "12 B",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("threads", "text"), [(None, "its own threads"), (0, "all threads"), (1, "1 thread"), (4, "4 threads")]
)
def test_threads(threads: int | None, text: str) -> None:
    assert units.threads_text(threads) == text
    assert units.threads_text(None, unset="advised") == "advised threads"


def test_a_range_of_ratios_shows_its_width() -> None:
    assert units.ratios(0.951, 1.02) == "0.951 to 1.02"
    assert units.ratios(1.3312, 1.3334) == "1.331 to 1.333"
    assert units.ratios(2.0, 2.0) == "2.00 to 2.00"
