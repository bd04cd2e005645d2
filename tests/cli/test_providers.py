"""Providers at the command line: what did not run where it was asked for is an error, or told.

onnxruntime's CPU build has a second provider, Azure's, which starts and has no kernels: all falls back from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

AZURE = "AzureExecutionProvider"
QUICK = ("--min-seconds", "0.02")

needs_azure = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has no second provider"
)


@pytest.fixture
def commands(made: Any, tmp_path: Any) -> dict[str, tuple[Any, ...]]:
    """The commands that run a file, by name."""
    x = tmp_path / "x.npy"
    with np.load(made.samples) as samples:
        np.save(x, samples[samples.files[0]])
    return {
        "check": ("check", made.onnx),
        "run": ("run", made.onnx, x),
        "bench": ("bench", made.onnx, *QUICK),
    }


@needs_azure
@pytest.mark.parametrize("name", ["check", "run"])
def test_one_name_means_that_provider(edgeseq_command: Any, commands: Any, name: str) -> None:
    ran = edgeseq_command(*commands[name], "-p", AZURE)
    assert ran.code == 4
    assert "not on AzureExecutionProvider" in ran.err
    assert "of layer 'lstm'" in ran.err


@needs_azure
def test_a_file_that_falls_back_has_no_times(edgeseq_command: Any, commands: Any) -> None:
    ran = edgeseq_command(*commands["bench"], "-p", AZURE, "--json")
    [result] = ran.document("bench")["results"]
    assert ran.code == 1
    assert result["count"] == 0
    assert "not on AzureExecutionProvider" in result["error"]
    assert result["notes"] == []


@needs_azure
@pytest.mark.parametrize("name", ["check", "run", "bench"])
def test_a_list_is_consent_and_reports(edgeseq_command: Any, commands: Any, name: str) -> None:
    ran = edgeseq_command(*commands[name], "-p", f"{AZURE},cpu")
    assert ran.code == 0
    assert "nodes ran on CPUExecutionProvider, not on AzureExecutionProvider: " in ran.out


def test_what_cannot_start_is_told_and_the_tolerance_is_the_one_of_where_it_ran(
    edgeseq_command: Any, commands: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    ran = edgeseq_command(*commands["check"], "-p", "cuda,cpu", "--json")
    document = ran.document("check")
    assert ran.code == 0
    assert "cuda was not used: it cannot start" in document["notes"][0]
    assert {output["tolerance"] for output in document["outputs"]} == {1e-5}


@pytest.mark.parametrize("name", ["check", "run", "bench"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("device_id",), "'device_id' is not KEY=VALUE, as in device_id=1"),
        (("=1",), "'=1' is not KEY=VALUE"),
        (("a=1", "a=2"), "a is given twice"),
        (("device_id=1",), "the provider 'cpu' takes no options; got device_id"),
    ],
)
def test_options_that_cannot_be(edgeseq_command: Any, commands: Any, name: str, given: Any, message: str) -> None:
    options = [part for text in given for part in ("--provider-option", text)]
    ran = edgeseq_command(*commands[name], *options)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())


@needs_azure
def test_options_reach_the_provider_and_the_record(edgeseq_command: Any, commands: Any, monkeypatch: Any) -> None:
    opened = []
    session = onnxruntime.InferenceSession

    def spy(*arguments: Any, **keywords: Any) -> Any:
        opened.append(keywords["providers"])
        return session(*arguments, **keywords)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    providers = ("-p", "cpu", "-p", f"{AZURE},cpu")
    ran = edgeseq_command(*commands["bench"], *providers, "--provider-option", "a = b", "--json")
    first, second = ran.document("bench")["results"]
    assert (first["provider_options"], second["provider_options"]) == ({}, {"a": "b"})
    assert opened[0] == [("CPUExecutionProvider", {})]
    assert opened[-1] == [(AZURE, {"a": "b"}), "CPUExecutionProvider"]
