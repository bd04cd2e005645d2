"""Help, version, what is loaded when, and words for arguments that cannot be parsed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

import edgeseq

COMMANDS = ("export", "inspect", "check", "quantize", "bench", "run", "report", "doctor", "train")


def test_version(edgeseq_command: Any) -> None:
    ran = edgeseq_command("--version")
    assert (ran.code, ran.out) == (0, f"edgeseq {edgeseq.__version__}\n")


def test_help_of_every_command(edgeseq_command: Any) -> None:
    root = edgeseq_command("--help")
    assert root.code == 0
    assert all(f"\n  {name} " in root.out for name in COMMANDS)
    for name in COMMANDS:
        ran = edgeseq_command(name, "-h")
        assert ran.code == 0
        assert "--json" in ran.out
        assert "--debug" in ran.out


def test_help_of_a_recipe_shows_its_own_options(edgeseq_command: Any) -> None:
    ran = edgeseq_command("train", "imdb", "--help")
    assert ran.code == 0
    for option in ("--cell <lstm|gru|simple_rnn>", "--bidirectional", "--mask", "--resume / --fresh", "--batch-size"):
        assert option in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing command"),
        (("compilr",), "No such command 'compilr'"),
        (("export", "--nope"), "--nope"),
        (("export", "m.keras"), "--output"),
        (("inspect",), "MODEL.onnx"),
        (("bench", "m.onnx", "--batch", "many"), "--batch"),
        (("quantize", "m.onnx", "-o", "q.onnx", "--samples", "x.npz", "--max-error", "lots"), "'lots' is neither 2%"),
        (("quantize", "m.onnx", "-o", "q.onnx"), "samples= are needed to measure on (--samples)"),
        (("quantize", "m.onnx", "-o", "q.onnx", "--samples", "x.npz", "--goal", "speed"), "goal must be balanced"),
        (("train",), "edgeseq train --list"),
        (("train", "imbd", "-o", "m.keras"), "imbd"),
        (("train", "imdb", "-o", "m.keras", "--cell", "transformer"), "--cell"),
    ],
)
def test_wrong_usage(edgeseq_command: Any, arguments: tuple[str, ...], said: str) -> None:
    ran = edgeseq_command(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_wrong_usage_as_json(edgeseq_command: Any) -> None:
    ran = edgeseq_command("export", "--nope", "--json")
    error = ran.document("error")["error"]
    assert (ran.code, error["exit_code"]) == (2, 2)
    assert "--nope" in error["message"]
    assert error["notes"] == ["see: edgeseq export --help"]


def test_without_typer_the_script_says_what_to_install(edgeseq_process: Any) -> None:
    for package in ("typer", "rich"):
        process = edgeseq_process(["doctor"], before=f"sys.modules[{package!r}] = None")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (3, "")
        assert f"needs the package '{package}'" in err
        assert "pip install 'edgeseq[cli]'" in err


REPORT_MODULES = """
import atexit
atexit.register(lambda: sys.stderr.write("|".join(sorted({name.split(".")[0] for name in sys.modules}))))
"""


def loaded(process: subprocess.Popen[str]) -> set[str]:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return set(err.rpartition("\n")[2].split("|"))


def test_help_and_run_load_nothing_heavy(edgeseq_process: Any, made: Any) -> None:
    helped = loaded(edgeseq_process(["--help"], before=REPORT_MODULES))
    assert helped.isdisjoint({"tensorflow", "keras", "onnx", "onnxruntime", "numpy", "pydantic"})
    run = loaded(edgeseq_process(["run", made.onnx, made.samples], before=REPORT_MODULES))
    assert "onnxruntime" in run
    assert run.isdisjoint({"tensorflow", "keras", "onnx", "tf2onnx", "matplotlib"})


CHATTER = """
import edgeseq.parity
compare = edgeseq.parity.compare
def chatting(*arguments, **options):
    print("chatter")
    return compare(*arguments, **options)
edgeseq.parity.compare = chatting
"""


def test_json_stdout_is_one_document_whatever_libraries_print(edgeseq_process: Any, made: Any) -> None:
    process = edgeseq_process(["check", made.onnx, "-r", made.keras, "--json"], before=CHATTER)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out)["reference"] == "keras"
    # What a library prints goes to stderr, and TensorFlow itself says nothing.
    assert err == "chatter\n"
