"""Cold starts: a fresh process loads the runtime alone, tells what it paid, and says why when it fails."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeseq
from edgeseq.bench import cold, cold_child
from edgeseq.bench.cold import ColdStart, measure_cold_starts
from edgeseq.bench.subjects import Subject, file_subject
from edgeseq.errors import EdgeseqError, WrongUsage

HEAVY = {"tensorflow", "keras", "onnx", "onnx_ir", "matplotlib", "typer", "rich", "edgeseq.bench", "edgeseq.parity"}


def start(**changes: Any) -> dict[str, Any]:
    return {
        "answered_ns": 50,
        "import_ns": 20,
        "open_ns": 10,
        "first_run_ns": 5,
        "job_ns": 1,
        "imported_bytes": 100,
        "opened_bytes": 150,
        "steady_bytes": 160,
        "peak_bytes": 200,
        "calls": 50,
        "total_ns": 60,
        **changes,
    }


def cold_start(subject: Subject, **options: Any) -> ColdStart:
    return measure_cold_starts([subject], **options)[subject.name]


def test_a_fresh_process_imports_the_runtime_alone(make_lstm: Any, tmp_path: Path) -> None:
    job = {
        "path": str(make_lstm()),
        "options": {"threads": 1},
        "feeds": (np.zeros((1, 5, 3), np.float32),),
        "calls": 2,
        "calls_ns": 10**9,
    }
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    arguments = ["", str(tmp_path / "job"), str(Path(edgeseq.__file__).parent.parent)]
    code = (
        f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_path({cold_child.__file__!r}, run_name='__main__'); "
        "print('modules', *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, modules = run.stdout.splitlines()
    assert first == f"{cold_child.MARK}answered"
    assert second.startswith(f"{cold_child.MARK}{{")
    loaded = set(modules.split()[1:])
    assert {"edgeseq.runtime", "numpy", "onnxruntime"} <= loaded
    assert not loaded & HEAVY


def test_the_parts_of_a_start_lie_within_the_whole(make_lstm: Any) -> None:
    found = cold_start(file_subject(make_lstm()), processes=2, calls=3)
    assert (found.processes, found.calls) == (2, 3)
    assert found.import_ns > 0
    assert found.open_ns > 0
    assert found.first_run_ns > 0
    # Medians of two are means, so that sums stay sums; the interpreter's own start comes on top.
    assert found.import_ns + found.open_ns + found.first_run_ns < found.total_ns
    assert found.total_interval_ns is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell memory in use")
def test_memory_is_told_in_bytes(make_lstm: Any) -> None:
    found = cold_start(file_subject(make_lstm()), processes=1, calls=3)
    assert found.imported_bytes is not None
    assert found.opened_bytes is not None
    assert found.steady_bytes is not None
    assert found.peak_bytes is not None
    # Python with numpy and onnxruntime takes some 50 MB: neither thousands nor billions of bytes.
    assert 10e6 < found.imported_bytes < 1e9
    assert found.imported_bytes < found.opened_bytes <= found.peak_bytes
    assert found.steady_bytes <= found.peak_bytes


def test_the_inputs_reach_the_process_as_they_are_nested(make_lstm: Any) -> None:
    subject = file_subject(make_lstm(input_structure={"dict": {"series": "x"}}))
    assert isinstance(subject.fed, dict)
    assert cold_start(subject, processes=1, calls=1).calls == 1


def test_a_process_that_fails_tells_what_it_printed(make_lstm: Any) -> None:
    good = file_subject(make_lstm())
    bad = dataclasses.replace(good, name="bad", feeds=(np.zeros((1, 5, 2), np.float32),))
    with pytest.raises(EdgeseqError, match=r"(?s)runs bad ended with code 1 and printed: .*InputMismatch: input 'x'"):
        cold_start(bad, processes=1)
    told = []
    found = measure_cold_starts(
        [bad, good], processes=2, calls=1, failed=lambda subject, error: told.append((subject.name, str(error)))
    )
    assert set(found) == {good.name}
    assert found[good.name].processes == 2
    [(name, error)] = told
    assert name == "bad"
    assert "InputMismatch" in error


def test_what_has_no_file_cannot_be_started() -> None:
    rival = Subject(name="rival", call=lambda: 0.0)
    assert measure_cold_starts([rival]) == {}
    with pytest.raises(WrongUsage, match="at least 1, not 0 and 50"):
        measure_cold_starts([rival], processes=0)


def test_processes_of_several_are_interleaved_at_random(make_lstm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = file_subject(make_lstm("a.onnx")), file_subject(make_lstm("b.onnx"))
    order: list[str] = []

    def pretend(subject: Subject, *_: Any) -> dict[str, Any]:
        order.append(subject.name)
        return start(total_ns=len(order))

    monkeypatch.setattr(cold, "_start", pretend)
    done: list[tuple[int, int]] = []
    found = measure_cold_starts([a, b], processes=20, progress=lambda _, now, total: done.append((now, total)))
    rounds = list(zip(order[::2], order[1::2], strict=True))
    assert set(rounds) == {("a.onnx", "b.onnx"), ("b.onnx", "a.onnx")}
    assert (done[0], done[-1]) == ((0, 40), (40, 40))
    assert found["a.onnx"].processes == found["b.onnx"].processes == 20


def test_figures_are_medians_with_an_interval() -> None:
    starts = [start(total_ns=100 + number, imported_bytes=number, calls=50 - number) for number in range(9)]
    found = cold._put_together(starts)
    assert (found.total_ns, found.imported_bytes, found.calls) == (104, 4, 42)
    assert found.total_interval_ns is not None
    # Ranks 2 and 8 of 9: 1 - 2 x 10 / 2^9 = 96 %; ranks 3 and 7 would hold the median with 82 % only.
    assert (found.total_interval_ns.low, found.total_interval_ns.high) == (101, 107)
    assert cold._put_together(starts[:5]).total_interval_ns is None
    assert cold._put_together([start(), start(peak_bytes=None)]).peak_bytes is None


def test_without_a_common_clock_the_parent_looks_at_its_own(make_lstm: Any, clock: Any) -> None:
    clock.tick = 7
    found = cold_start(file_subject(make_lstm()), processes=1, calls=1, clock=clock)
    # One step of the pretended clock, less what the process took to read its inputs, which is more than 7 ns.
    assert found.total_ns < 0
