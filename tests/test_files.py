"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseq import errors, files


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_file_takes_its_place_at_the_end(tmp_path):
    with files.whole_file(tmp_path / "a.keras") as temporary:
        assert temporary.suffix == ".keras"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
    assert (tmp_path / "a.keras").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    files.write_bytes(tmp_path / "ours", b"")
    (tmp_path / "others").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "others").stat().st_mode


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    folder = tmp_path / "golden"
    for content in ("old", "new"):
        with files.whole_folder(folder) as temporary:
            (temporary / content).write_text(content)
    assert [entry.name for entry in folder.iterdir()] == ["new"]
    with pytest.raises(RuntimeError), files.whole_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert [entry.name for entry in tmp_path.rglob("*")] == ["golden", "new"]


def test_two_that_write_one_new_file_do_not_both_succeed(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(errors.OutputExists), files.whole_file(path, overwrite=False) as temporary:
        temporary.write_text("second")
        path.write_text("first")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_output_never_takes_the_place_of_what_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("")
    with pytest.raises(errors.WrongUsage, match="is also what is read"):
        files.check_output(path, overwrite=True, sources=[tmp_path / "other", tmp_path / "." / "a.txt"])


def test_a_failure_between_old_and_new_brings_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "old").write_text("old")

    def fails(self, target):
        if self.name.startswith(".golden") and target == folder and not (self / "old").exists():
            raise OSError("disk full")
        return replace(self, target)

    replace = type(folder).replace
    monkeypatch.setattr(type(folder), "replace", fails)
    with pytest.raises(OSError, match="disk full"), files.whole_folder(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["golden", "old"]


def test_json_is_read_or_refused(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, None]})
    assert files.read_json(path) == {"a": [1, None]}
    path.write_text("{")
    with pytest.raises(errors.InvalidFile, match="not JSON"):
        files.read_json(path)


def test_outputs_are_checked_before_the_work(tmp_path):
    path = tmp_path / "there"
    path.write_text("")
    with pytest.raises(errors.OutputExists, match="--overwrite"):
        files.check_output(path)
    assert files.check_output(path, overwrite=True) == path
    with pytest.raises(errors.WrongUsage, match="is a folder"):
        files.check_output(tmp_path, overwrite=True)
    with pytest.raises(errors.WrongUsage, match="does not exist"):
        files.check_output(tmp_path / "nowhere" / "file")
    if Path("/proc").is_dir():
        with pytest.raises(errors.WrongUsage, match="cannot write to the folder"):
            files.check_output("/proc/file")


def test_errors_are_also_what_python_calls_them(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.check_input(tmp_path / "nowhere")
    (tmp_path / "there").write_text("")
    with pytest.raises(FileExistsError):
        files.check_output(tmp_path / "there")
    with pytest.raises(ValueError, match="is a folder"):
        files.check_output(tmp_path)


def test_what_a_provider_lacks_stays_that_error(tmp_path):
    """It may name the temporary place, but it is more than a message."""
    with pytest.raises(errors.ProviderUnavailable) as raised, files.whole_folder(tmp_path / "engine") as temporary:
        raise errors.ProviderUnavailable("tensorrt", f"cannot open {temporary}/x", "install it")
    assert (raised.value.provider, raised.value.advice) == ("tensorrt", "install it")
