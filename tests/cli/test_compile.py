"""The command `edgeseq compile`: parse, one call, print."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "cache"))


def test_a_dry_run_for_people_and_for_programs(made, edgeseq_command, tmp_path):
    target = tmp_path / "out.onnx"
    arguments = ("compile", made.onnx, "-o", target, "--dry-run", "--range", "time=1:50:100", "--precision", "fp16")
    ran = edgeseq_command(*arguments)
    assert ran.code == 0, ran.err
    assert "an engine would be built" in ran.out
    assert "trt_fp16_enable" in ran.out
    ran = edgeseq_command(*arguments, "--json")
    found = json.loads(ran.out)
    assert found["ranges"]["time"] == [1, 50, 100]
    assert found["profiles"]["trt_profile_opt_shapes"].endswith("x50x3")
    assert found["precision"] == "fp16"
    assert found["dry_run"] is True
    assert not target.exists()


def test_ranges_come_from_samples(made, edgeseq_command, tmp_path):
    ran = edgeseq_command("compile", made.onnx, "--dry-run", "--samples", made.samples, "--json")
    assert json.loads(ran.out)["ranges"] == {"batch": [1, 16, 16], "time": [1, 12, 12]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-p", "cpu"), 2, "nothing to compile for the provider 'cpu'"),
        (("--range", "time"), 2, "a range is AXIS=MIN:MAX"),
        (("--precision", "int8"), 2, "precision must be one of"),
        (("--provider-option", "device_id"), 2, "is not KEY=VALUE"),
        ((), 3, "provider 'tensorrt' cannot start"),
    ],
)
def test_failures_are_exit_codes_with_reasons(made, edgeseq_command, tmp_path, arguments, code, said):
    ran = edgeseq_command("compile", made.onnx, "-o", tmp_path / "out.onnx", *arguments)
    assert ran.code == code
    assert said in ran.err
