"""The one error boundary: arguments in, an exit code out, and no traceback on the way unless `--debug` asks for it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from edgeseq.cli.app import build
from edgeseq.cli.quiet import quiet
from edgeseq.cli.reply import Reply, plain, to_json
from edgeseq.errors import EdgeseqError, InvalidFile, Unavailable, WrongUsage
from edgeseq.files import DENIED, FULL

INTERRUPTED = 130
BUG = EdgeseqError.exit_code

# Conditions of the machine; any other failure that the system reports is about the file it names.
_MACHINE = (*FULL, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    _prepare_streams()
    exit_code = 0
    try:
        with quiet(debug=debug):
            reply = _invoke(arguments)
        if reply is not None:
            exit_code = reply.exit_code
            _print(reply, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; what the command found out stands.
        _discard_stdout()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary is here
        if debug:
            traceback.print_exc()
        return _report(error, as_json=as_json)
    return exit_code


def _invoke(arguments: Sequence[str]) -> Reply | None:
    """Parse and run; None for what printed by itself (`--help`, `--version`)."""
    # Not command.main(), which turns an interrupt into an exit code and loses the notes on it.
    command = build()
    try:
        with command.make_context("edgeseq", list(arguments)) as context:
            reply: Reply | None = command.invoke(context)
            return reply
    except typer.Exit:
        return None


def _print(reply: Reply, *, as_json: bool) -> None:
    from edgeseq.cli.console import console

    try:
        if as_json:
            sys.stdout.write(to_json(reply.document) + "\n")
        else:
            reply.show(console(sys.stdout))
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def _report(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong on stderr, and as a JSON document on stdout where that was asked for."""
    label, message, exit_code, notes = _in_words(error)
    notes = (*notes, *getattr(error, "__notes__", ()))
    if as_json:
        from edgeseq.cli.documents import ErrorDocument, Failure

        details = vars(error) if isinstance(error, EdgeseqError) else {}
        failure = Failure(
            type=type(error).__name__,
            message=message,
            notes=notes,
            exit_code=exit_code,
            details={name: plain(value) for name, value in details.items() if not name.startswith("_")},
        )
        with contextlib.suppress(OSError):
            sys.stdout.write(to_json(ErrorDocument(error=failure)) + "\n")
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()
    sys.stderr.write("\n".join([f"{label}: {message}", *(f"note: {note}" for note in notes)]) + "\n")
    return exit_code


def _in_words(error: BaseException) -> tuple[str, str, int, tuple[str, ...]]:
    """Label, message, exit code and notes of an exception."""
    if isinstance(error, EdgeseqError):
        return "error", str(error), error.exit_code, ()
    if isinstance(error, KeyboardInterrupt):
        said = str(error) or "outputs are written whole or not at all, so no partial file was left"
        return "interrupted", said, INTERRUPTED, ()
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "edgeseq"
        return "error", error.format_message(), WrongUsage.exit_code, (f"see: {path} --help",)
    if isinstance(error, MemoryError):
        return "error", f"not enough memory ({error})", Unavailable.exit_code, ()
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return "error", _about_the_machine(error), Unavailable.exit_code, ()
    if isinstance(error, OSError) and (folder := _unwritable(error)) is not None:
        advice = "Name an output in a folder that you may change."
        return "error", f"cannot write to the folder {folder}: {error.strerror}. {advice}", WrongUsage.exit_code, ()
    if isinstance(error, OSError) and error.filename is not None:
        return "error", f"{error.filename}: {error.strerror}", InvalidFile.exit_code, ()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    advice = "run the same command with --debug to see the traceback, and report it together with the command"
    return "error", f"this is a bug in edgeseq, not a fault of your input ({text})", BUG, (advice,)


def _about_the_machine(error: OSError) -> str:
    if error.errno not in FULL:
        return str(error)
    if error.filename is None:
        where = f"its own files in {tempfile.gettempdir()} or what was asked for"
        return f"cannot write {where}: {error.strerror}. Free space there, or set TMPDIR to a folder on another disk"
    return f"cannot write {error.filename}: {error.strerror}. Free space on that disk, or write to another"


def _unwritable(error: OSError) -> str | None:
    """The folder in which the system let no file be made; None when something else failed."""
    if not isinstance(error.filename, str | os.PathLike):
        return None
    name = os.path.abspath(error.filename)
    folder = os.path.dirname(name)
    # Outputs get their name by a rename; and reading what is not there, where one may look, fails as "not found".
    made = error.filename2 is not None or (not os.path.lexists(name) and os.access(folder, os.X_OK))
    return folder if error.errno == errno.EROFS or (error.errno in DENIED and made) else None


def _prepare_streams() -> None:
    """Streams that can be written to, whatever the process was started with."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the caller, as in `edgeseq ... >&-`: what would go there is not wanted.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open to the end
        elif isinstance(stream, io.TextIOWrapper):
            # What the terminal cannot show is shown escaped: a success must not end as an encoding error.
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Point stdout at nothing: Python would flush it at exit, and complain on stderr where that fails."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
