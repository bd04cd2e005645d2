"""`edgeseq doctor`."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from edgeseq.cli.reply import Reply
from edgeseq.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.diagnosis import Diagnosis

_MARKS = {True: "ok", False: "broken", None: "-"}
_FATAL = 4


def doctor() -> Reply:
    """Show what is installed, which providers really start, and what to do about the rest. Exit code 3: broken."""
    from edgeseq.diagnosis import diagnose

    # onnxruntime logs and prints what it fails to load; each of it is in the table, with what mends it.
    with contextlib.suppress(ImportError, AttributeError):
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
    with contextlib.redirect_stderr(io.StringIO()):
        found = diagnose()
    return Reply(document=found, show=lambda out: _show(found, out), exit_code=0 if found else Unavailable.exit_code)


def _show(found: Diagnosis, out: Console) -> None:
    from edgeseq.cli.console import table

    checks = table("", "what", "found", "to do")
    for check in found.checks:
        checks.add_row(_MARKS[check.ok], check.name, check.detail, check.advice)
    out.print(checks)
    out.print(found.verdict, soft_wrap=True)
