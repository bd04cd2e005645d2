"""The console script `edgeseq`, and `python -m edgeseq`. Importing this imports neither typer nor rich."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` None takes those of the process, which then ends."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        # Before the command itself began, or while its last words were said.
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    finally:
        if arguments is None:
            # All is said and flushed; Python would show a traceback for an interrupt while it shuts down.
            signal.signal(signal.SIGINT, _leave)


def _run(arguments: Sequence[str]) -> int:
    try:
        # rich itself, of which this loads little, is otherwise first needed when there is something to print.
        import rich  # noqa: F401

        from edgeseq.cli.boundary import run
    except ModuleNotFoundError as error:
        from edgeseq.errors import MissingExtra

        package = (error.name or "").split(".")[0]
        if package not in ("typer", "rich"):
            raise
        missing = MissingExtra(package, "cli", "the edgeseq command")
        sys.stderr.write(f"error: {missing}\n")
        return missing.exit_code
    return run(arguments)


def _leave(*_: Any) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
