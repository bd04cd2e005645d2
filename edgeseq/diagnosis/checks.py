"""What a check of the installation says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What."""
    ok: bool | None
    """True when it works, False when it is broken, None when it is not there and need not be."""
    detail: str
    """What was found."""
    advice: str = ""
    """What to do about it, a command where there is one; empty when nothing needs doing."""
