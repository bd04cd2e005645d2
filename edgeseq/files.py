"""Files appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeseq.errors import EdgeseqError, InvalidFile, MissingInput, OutputExists, Unavailable, WrongUsage

StrPath = str | os.PathLike[str]

# What the disk, or a limit of the system, has no room for.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Where the system lets nobody, or not this user, make a file.
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_input(path: StrPath, what: str = "file") -> Path:
    """Return `path` as a Path; raise MissingInput when nothing is there."""
    found = Path(path)
    if not found.exists():
        raise MissingInput(path, what)
    return found


def check_output(path: StrPath, *, overwrite: bool = False, sources: Iterable[StrPath] = ()) -> Path:
    """Return `path` as a Path that may be written: its folder exists, and it is absent or may be replaced.

    `sources` are the files that the work reads: an output in the place of one of them is refused even with
    `overwrite`. Raises OutputExists, or WrongUsage when the folder is missing or cannot be written, or the path is
    itself a folder. Call it before long work.
    """
    target = Path(path)
    if target.exists() and any(Path(source).exists() and target.samefile(source) for source in sources):
        raise WrongUsage(f"output {target} is also what is read. Choose another name")
    if target.is_dir():
        raise WrongUsage(f"output is a folder: {target}. Name a file in it.")
    if target.exists() and not overwrite:
        raise OutputExists(target)
    if not target.parent.is_dir():
        raise WrongUsage(f"folder of the output does not exist: {target.parent}. Create it first.")
    try:
        # Not os.access: it lets root write where no file can be made, as in /proc.
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _denied(target, error.strerror) from error
    return target


def _denied(target: Path, reason: str | None) -> WrongUsage:
    return WrongUsage(
        f"cannot write to the folder {target.parent}: {reason}. Name an output in a folder that you may change"
    )


@contextlib.contextmanager
def _named(target: Path, temporary: Path) -> Iterator[None]:
    """What fails meanwhile is said of `target`: nobody has heard of `temporary`."""
    try:
        yield
    except EdgeseqError as error:
        if type(error) is Unavailable and str(temporary) in str(error):
            # Said of a file in a folder that is itself temporary.
            raise Unavailable(str(error).replace(str(temporary), str(target))) from error.__cause__
        raise
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable(
                f"cannot write {target}: {error.strerror}. Nothing is left of it. Free space on that disk, "
                "raise the limit on files (ulimit -f), or name an output on another disk"
            ) from error
        if error.filename is None or not os.fspath(error.filename).startswith(str(temporary)):
            raise
        if error.errno in DENIED:
            raise _denied(target, error.strerror) from error
        error.filename = str(target)
        raise


@contextlib.contextmanager
def whole_file(path: StrPath, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed.

    The temporary name keeps the suffix, because some writers choose their format by it. Without `overwrite`, a file
    that another process put there meanwhile stays, and OutputExists is raised. Raises Unavailable when the disk is
    full, and WrongUsage when the folder cannot be written.
    """
    target = Path(path)
    temporary = _beside(target)
    with _named(target, temporary):
        # Made with the permissions that any new file would have, and only if nothing is there.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _flush(temporary)
            if overwrite:
                temporary.replace(target)
            else:
                _place_if_free(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: StrPath) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Raises what `whole_file` does.
    """
    target = Path(path)
    temporary, old = _beside(target), _beside(target)
    with _named(target, temporary):
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            if target.exists():
                # Only after the new one is in its place does the old one go.
                target.replace(old)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not target.exists():
                old.replace(target)
            shutil.rmtree(old, ignore_errors=True)


def _place_if_free(temporary: Path, target: Path) -> None:
    try:
        # Unlike a rename, a link fails where something is.
        os.link(temporary, target)
    except FileExistsError as error:
        raise OutputExists(target) from error
    except OSError:
        # A file system without links, such as FAT.
        if target.exists():
            raise OutputExists(target) from None
        temporary.replace(target)


def _beside(target: Path) -> Path:
    """A name in the same folder, and so on the same disk, that nothing has yet."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: StrPath) -> Any:
    """The document in a JSON file; raises MissingInput when there is none, InvalidFile when it is not JSON."""
    found = check_input(path)
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InvalidFile(path, f"not JSON ({error})") from error


def write_json(path: StrPath, document: Any) -> None:
    """Write `document` as indented JSON to `path`, whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
