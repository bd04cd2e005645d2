"""The console script `edgeseq`, and `python -m edgeseq`. Importing this imports neither typer nor rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgeseq.errors import MissingExtra


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` None takes those of the process."""
    try:
        # rich itself, of which this loads little, is otherwise first needed when there is something to print.
        import rich  # noqa: F401

        from edgeseq.cli.boundary import run
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in ("typer", "rich"):
            raise
        missing = MissingExtra(package, "cli", "the edgeseq command")
        sys.stderr.write(f"error: {missing}\n")
        return missing.exit_code
    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
