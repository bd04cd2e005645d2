"""`edgeseq run --stream` as a process between pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import Model

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def piped(made: Any) -> Any:
    """Starts `edgeseq run` on the streaming file, fed through a pipe."""
    # Ctrl-C must interrupt also where the tests were started in the background, which ignores it.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "{before}\n"
        "from edgeseq.__main__ import main; sys.exit(main())"
    )

    def start(*arguments: object, before: str = "") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program.format(before=before), "run", made.streaming, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )

    return start


def ask(process: subprocess.Popen[bytes], value: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_each_line_is_answered_before_the_next_one(piped: Any, made: Any, tmp_path: Path) -> None:
    steps = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    [wanted] = Model(made.streaming)(steps[np.newaxis])
    first = piped("-", "--stream", "--state-out", tmp_path / "state")
    answers = [ask(first, step.tolist()) for step in steps[:2]]
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out, err) == (0, b"", b"")
    second = piped("-", "--stream", "--state-in", tmp_path / "state")
    answers += ask(second, steps[2:].tolist())
    np.testing.assert_allclose(answers, wanted, atol=1e-6)
    # Ctrl-C while it waits: no traceback, and what was answered stands.
    second.send_signal(signal.SIGINT)
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (130, b"")
    assert err == b"interrupted: chunks answered: 1 (steps: 4)\n"


def test_a_reader_that_goes_away_ends_the_stream(piped: Any) -> None:
    process = piped("-", "--stream")
    ask(process, [1, 2, 3])
    process.stdout.close()
    process.stdin.write(b"[1, 2, 3]\n" * 3)
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_with_json_there_is_one_document(piped: Any) -> None:
    process = piped("-", "--stream", "--json")
    out, _ = process.communicate(b"[1, 2, 3]\n[[1, 2, 3], [1, 2, 3]]\n", timeout=60)
    document = json.loads(out)
    assert (document["chunks"], document["steps"], document["output_path"]) == (2, 3, None)
    assert [np.shape(answer) for answer in document["answers"]] == [(2,), (2, 2)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_answers_so_far_and_the_state(
    piped: Any, made: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # Sent by the stream itself as it waits for the second line: nothing else tells that the first one is answered.
    before = (
        "import os, edgeseq.lines as lines; all_of = lines.json_lines\n"
        "def one(*given):\n"
        "    yield next(all_of(*given))\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    raise AssertionError('it waits')\n"
        "lines.json_lines = one\n"
    )
    process = piped("-", "--stream", "--json", "--state-out", tmp_path / "state", before=before)
    out, err = process.communicate(b"[1, 2, 3]\n[1, 2, 3]\n", timeout=60)
    assert process.returncode == code
    assert (
        err.decode() == f"interrupted: chunks answered: 1 (steps: 1); the state after them is in {tmp_path / 'state'}\n"
    )
    document = json.loads(out)
    assert (document["interrupted_by"], document["chunks"]) == (number.name, 1)
    stream, x = Model(made.streaming).stream(), np.array([[[1, 2, 3]]], np.float32)
    np.testing.assert_allclose(document["answers"], stream.step(x)[0], atol=1e-6)
    other = Model(made.streaming).stream()
    other.restore((tmp_path / "state").read_bytes())
    np.testing.assert_allclose(other.step(x), stream.step(x), atol=1e-6)


def test_a_bad_line(piped: Any, tmp_path: Path) -> None:
    process = piped("-", "--stream", "-o", tmp_path / "out.jsonl")
    out, err = process.communicate(b"[1, 2, 3]\n[1, 2]\n", timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"error: line 2 of standard input: input 'x' has the shape")
    assert err.endswith(b"note: chunks answered: 1 (steps: 1)\n")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_frames_need_a_stream(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("run", made.streaming, made.samples, "--frames", "float32")
    assert (ran.code, ran.out) == (2, "")
    assert "--stream" in ran.err


QUICK = ("--min-runs", 11, "--min-seconds", 0, "--precision", 0)


def test_bench_of_streams(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    arguments = ("bench", "--stream", made.streaming, *QUICK, "--chunk", 2, "--step-ms", 500)
    ran = edgeseq_command(*arguments, "--max-seconds", 0.2, "--json", "-o", tmp_path / "run.json")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert document["streams"] == json.loads((tmp_path / "run.json").read_text())["streams"]
    [figures] = document["streams"]
    assert (figures["chunk"], figures["step_ns"], figures["capacity"]["deadline_ns"]) == (2, 500_000_000, 1_000_000_000)
    shown = edgeseq_command("bench", "--stream", made.streaming, *QUICK)
    assert shown.code == 0
    assert "vs session.run" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stream", "--layers", "--rate", "5"), "with --stream there is no --rate, --layers"),
        (("--stream", "--threads", "1", "--threads", "2"), "--threads is given once"),
        (("--stream", "--deadline-ms", "0"), "--deadline-ms must be above 0"),
        (("--chunk", "2"), "are for streams"),
    ],
)
def test_options_of_bench_that_do_not_go_with_streams(
    edgeseq_command: Any, made: Any, arguments: tuple[str, ...], said: str
) -> None:
    ran = edgeseq_command("bench", made.streaming, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_bench_of_a_file_that_does_not_stream(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("bench", "--stream", made.onnx)
    assert (ran.code, ran.out) == (2, "")
    assert "has no states to carry" in ran.err
