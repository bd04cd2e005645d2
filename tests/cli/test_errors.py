"""Every exit code by a real cause, with words a person can use and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.tiny import tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]


def refused(ran: Any, code: int, *said: str) -> None:
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    for text in said:
        assert text in ran.err


def test_missing_files(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for arguments in (
        ("export", f"{gone}.keras", "-o", tmp_path / "m.onnx"),
        ("export", made.keras, "-o", tmp_path / "m.onnx", "--samples", f"{gone}.npz"),
        ("export", made.keras, "-o", tmp_path / "m.onnx", "--preprocessing", f"{gone}.json"),
        ("inspect", f"{gone}.onnx"),
        ("check", f"{gone}.onnx"),
        ("check", made.onnx, "-r", f"{gone}.keras"),
        ("quantize", made.onnx, "-o", tmp_path / "q.onnx", "--samples", f"{gone}.npz"),
        ("bench", f"{gone}.onnx"),
        ("bench", made.onnx, "--baseline", f"{gone}.json"),
        ("run", made.onnx, f"{gone}.npy"),
        ("report", f"{gone}.json", "-o", tmp_path / "r.html"),
    ):
        refused(edgeseq_command(*arguments), 2, "not found", "gone")
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_are_kept(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    taken = {suffix: tmp_path / f"taken{suffix}" for suffix in (".onnx", ".json", ".npz", ".html", ".keras")}
    for path in taken.values():
        path.write_text("mine")
    for arguments in (
        ("export", made.keras, "-o", taken[".onnx"]),
        ("quantize", made.onnx, "-o", taken[".onnx"], "--samples", made.samples),
        ("bench", made.onnx, "-o", taken[".json"]),
        ("run", made.onnx, made.samples, "-o", taken[".npz"]),
        ("report", made.samples, "-o", taken[".html"]),
        ("train", "middle", "-o", taken[".keras"]),
    ):
        refused(edgeseq_command(*arguments), 2, "output exists", "--overwrite")
    assert all(path.read_text() == "mine" for path in taken.values())
    ran = edgeseq_command("run", made.onnx, made.samples, "-o", taken[".npz"], "--overwrite")
    assert ran.code == 0
    assert np.load(taken[".npz"])["y"].shape == (16, 2)


def test_not_a_model_and_unreadable_data(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    text = "this is not a model, an array or JSON"
    for suffix in (".onnx", ".keras", ".h5", ".npz", ".json"):
        (tmp_path / f"bad{suffix}").write_text(text)
    bad = tmp_path / "bad"
    before = sorted(tmp_path.iterdir())
    for arguments in (
        ("inspect", f"{bad}.onnx"),
        ("check", f"{bad}.onnx"),
        ("bench", f"{bad}.onnx"),
        ("export", f"{bad}.keras", "-o", tmp_path / "m.onnx"),
        ("export", f"{bad}.h5", "-o", tmp_path / "m.onnx"),
        ("export", made.keras, "-o", tmp_path / "m.onnx", "--samples", f"{bad}.npz"),
        ("export", made.keras, "-o", tmp_path / "m.onnx", "--preprocessing", f"{bad}.json"),
        ("quantize", made.onnx, "-o", tmp_path / "q.onnx", "--samples", f"{bad}.npz"),
        ("run", made.onnx, f"{bad}.npz"),
        ("report", f"{bad}.json", "-o", tmp_path / "r.html"),
    ):
        refused(edgeseq_command(*arguments), 5, "cannot read", "bad")
    assert sorted(tmp_path.iterdir()) == before


def test_providers(edgeseq_command: Any, made: Any) -> None:
    refused(edgeseq_command("check", made.onnx, "-p", "gpu"), 2, "unknown provider 'gpu'", "cuda")
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    for command in (("check",), ("bench",), ("run", made.samples)):
        ran = edgeseq_command(command[0], made.onnx, *command[1:], "-p", "cuda")
        refused(ran, 3, "provider 'cuda' cannot start", "pip install 'edgeseq[gpu]'")
    error = edgeseq_command("check", made.onnx, "-p", "cuda", "--json").document("error")["error"]
    assert (error["type"], error["exit_code"]) == ("ProviderUnavailable", 3)
    assert error["details"]["provider"] == "cuda"


def test_a_refused_layer_is_named(edgeseq_command: Any, tmp_path: Path) -> None:
    import keras

    @keras.saving.register_keras_serializable(package="tests")
    class MyLSTM(keras.layers.LSTM):  # type: ignore[misc]
        def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            return super().inner_loop(sequences * 2, initial_state, mask, training)

    model = keras.Sequential([keras.Input((None, 2)), MyLSTM(3, name="odd_one")])
    model.save(tmp_path / "m.keras")
    refused(edgeseq_command("export", tmp_path / "m.keras", "-o", tmp_path / "m.onnx"), 4, "odd_one")
    ran = edgeseq_command("export", tmp_path / "m.keras", "-o", tmp_path / "m.onnx", "--json")
    error = ran.document("error")["error"]
    assert (ran.code, error["type"], error["details"]["layer"]) == (4, "UnsupportedLayer", "odd_one")
    assert not (tmp_path / "m.onnx").exists()


def test_parity_failure_prints_its_table(edgeseq_command: Any, made: Any) -> None:
    # A tolerance below what float32 can hold.
    ran = edgeseq_command("check", made.onnx, "--tolerance", "1e-12")
    assert ran.code == 1
    assert "beyond" in ran.out
    assert "parity failed" in ran.out
    document = edgeseq_command("check", made.onnx, "--tolerance", "1e-12", "--json").document("check")
    assert document["outputs"][0]["within"] is False


def test_not_a_number_is_null_and_never_parity(edgeseq_command: Any, tmp_path: Path) -> None:
    model = tmp_path / "double.onnx"
    model.write_bytes(tiny_model())
    np.save(tmp_path / "nan.npy", np.float32([1, np.nan]))
    ran = edgeseq_command("check", model, "-r", model, "-i", tmp_path / "nan.npy", "--json")
    output = ran.document("check")["outputs"][0]
    assert (ran.code, output["max_abs"], output["within"]) == (1, None, False)
    values = edgeseq_command("run", model, tmp_path / "nan.npy", "--json").document("run")["outputs"][0]["values"]
    assert values == [2, None]


def test_inputs_that_do_not_fit(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "rank.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "dtype.npy", np.zeros((4, 2, 3), np.complex64))
    refused(edgeseq_command("run", made.onnx, tmp_path / "rank.npy"), 2, "(batch, time, 3)", "(4, 3)")
    refused(edgeseq_command("run", made.onnx, tmp_path / "dtype.npy"), 2, "float32", "complex64")


def test_inputs_to_check_need_a_reference(edgeseq_command: Any, made: Any) -> None:
    refused(edgeseq_command("check", made.onnx, "-i", made.samples), 2, "inputs need a reference")


def test_notes_are_shown(edgeseq_command: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeseq.errors import UnsupportedLayer

    def refuse(*arguments: Any, **options: Any) -> None:
        error = UnsupportedLayer("gru_2", "it is odd")
        error.add_note("while lowering layer 'gru_2'")
        raise error

    monkeypatch.setattr("edgeseq.parity.compare", refuse)
    ran = edgeseq_command("check", made.onnx)
    assert ran.err == (
        "error: layer 'gru_2' cannot be exported exactly: it is odd\nnote: while lowering layer 'gru_2'\n"
    )


def test_a_bug_of_ours(edgeseq_command: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("edgeseq.inspection.inspect", broken)
    refused(edgeseq_command("inspect", made.onnx), 70, "bug in edgeseq", "KeyError: 'planted'", "--debug")
    debugged = edgeseq_command("inspect", made.onnx, "--debug")
    assert debugged.code == 70
    assert "Traceback (most recent call last)" in debugged.err
    assert "raise KeyError" in debugged.err
    error = edgeseq_command("inspect", made.onnx, "--json").document("error")["error"]
    assert (error["type"], error["exit_code"]) == ("KeyError", 70)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", __file__), 5, "test_errors.py: Permission denied"),
        # Outputs are written beside their place and then renamed.
        (PermissionError(1, "Not permitted", __file__, None, "m.onnx"), 2, "cannot write to the folder"),
        (OSError(30, "Read-only file system", "/gone/m.onnx"), 2, "cannot write to the folder /gone: Read-only"),
        (OSError(28, "No space left on device"), 3, "No space left on device"),
        (MemoryError("Unable to allocate 9 TiB"), 3, "not enough memory"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    edgeseq_command: Any, made: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr("edgeseq.inspection.inspect", refuse)
    refused(edgeseq_command("inspect", made.onnx), code, said)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs /sys, a folder where nobody may make a file")
def test_an_output_folder_that_cannot_be_written(edgeseq_command: Any, made: Any) -> None:
    ran = edgeseq_command("run", made.onnx, made.samples, "-o", "/sys/kernel/out.npz")
    refused(ran, 2, "cannot write to the folder /sys/kernel: ", "Name an output in a folder that you may change")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_an_error(made: Any, options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "edgeseq", "inspect", made.onnx, *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            timeout=60,
        )
    assert ran.returncode == 3
    assert ran.stderr == (
        "error: cannot write standard output: No space left on device. Free space on that disk, or write to another\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.parametrize("name", ["out.npz", "out.npy", "out.json"])
def test_a_file_that_has_no_room_is_named(made: Any, tmp_path: Path, name: str) -> None:
    # No file larger than this, which is as when the disk is full.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))"
    program = f"import sys; {limit}; from edgeseq.__main__ import main; sys.exit(main())"
    np.savez(tmp_path / "in.npz", x=np.zeros((64, 12, 3), np.float32))
    command = [sys.executable, "-c", program, "run", made.onnx, tmp_path / "in.npz", "-o", tmp_path / name]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.startswith(f"error: cannot write {tmp_path / name}: ")
    assert "Free space on that disk" in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz"]


def test_a_full_disk_in_an_export_names_no_temporary_file(
    edgeseq_command: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseq import files

    def full(path: Path) -> None:
        if path.name == "model_hash.txt" or path.suffix == ".pb":
            raise OSError(28, "No space left on device", str(path))

    edgeseq_command("export", made.keras, "-o", tmp_path / "first.onnx")
    monkeypatch.setattr(files, "_flush", full)
    ran = edgeseq_command("export", made.keras, "-o", tmp_path / "m.onnx")
    refused(ran, 3, f"cannot write {tmp_path / 'm.golden'}", "No space left on device", "Free space on that disk")
    assert "/." not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.golden", "first.onnx"]


def test_a_folder_that_turns_out_not_to_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeseq import files
    from edgeseq.errors import WrongUsage

    def denied(path: str, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(WrongUsage) as caught:
        files.write_bytes(tmp_path / "a.onnx", b"")
    assert str(caught.value) == (
        f"cannot write to the folder {tmp_path}: Permission denied. Name an output in a folder that you may change"
    )


def test_closed_streams_are_no_error(made: Any) -> None:
    command = f'"{sys.executable}" -m edgeseq inspect "{made.onnx}" >&- 2>&-'
    assert subprocess.run(command, shell=True, cwd=REPOSITORY, timeout=60).returncode == 0


def test_a_reader_that_goes_away_changes_nothing(edgeseq_process: Any, made: Any) -> None:
    for arguments, code in ((["check", made.onnx], 0), (["check", made.onnx, "--tolerance", "1e-12", "--json"], 1)):
        process: subprocess.Popen[str] = edgeseq_process(arguments)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(timeout=60), err) == (code, "")


def test_bench_refuses_what_cannot_be(edgeseq_command: Any, made: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 5, 7), np.float32))
    np.save(tmp_path / "three.npy", np.zeros((3, 20, 3), np.float32))
    np.savez(tmp_path / "misnamed.npz", z=np.zeros((1, 5, 3), np.float32))
    (tmp_path / "old.json").write_text("mine")
    for options, said in (
        (("--max-seconds", 0), "max seconds must be above 0"),
        (("--max-seconds", "nan"), "max seconds"),
        (("--min-seconds", -1), "min seconds"),
        (("--min-seconds", 5, "--max-seconds", 2), "--min-seconds 5 does not fit into --max-seconds 2"),
        (("--threads", 4000), "4000 threads are too many"),
        (("-i", tmp_path / "three.npy", "--scenario", "single"), "one row a call; got the batches 3"),
        (("-i", tmp_path / "three.npy", "--batch", 1), "one batch of 3; got the batch 1 besides"),
        (("-i", tmp_path / "three.npy", "--time-steps", 50), "inputs have lengths of their own"),
        (("-o", tmp_path / "results.txt"), "as .json; got results.txt"),
        (("-o", tmp_path / "old.json", "--baseline", tmp_path / "old.json", "--overwrite"), "also what is read"),
        (("-o", made.onnx, "--overwrite"), "also what is read"),
        (("-i", tmp_path / "wrong.npz"), "input 'x' has the shape"),
        (("-i", tmp_path / "misnamed.npz"), "unexpected 'z'"),
    ):
        refused(edgeseq_command("bench", made.onnx, *options), 2, said)
    assert (tmp_path / "old.json").read_text() == "mine"
