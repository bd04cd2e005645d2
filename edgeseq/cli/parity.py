"""A parity result for people; `export` and `check` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseq.cli.console import section, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.parity import Parity

_REFERENCES = {"keras": "Keras", "golden": "the golden samples", "onnx": "the other file"}


def show_parity(parity: Parity, out: Console) -> None:
    """One row an output: how far it is from its reference, and how far it may be."""
    rows = "1 row" if parity.samples == 1 else f"{parity.samples} rows"
    against = _REFERENCES.get(parity.reference, parity.reference)
    made = table("output", "max abs", "relative", "allowed", "", right=("max abs", "relative", "allowed"))
    for output in parity.outputs:
        made.add_row(
            output.name,
            f"{output.max_abs:.2e}",
            f"{output.max_rel:.2e}",
            f"{output.tolerance:.2e}",
            "within" if output.within else "beyond",
        )
    section(out, f"Parity with {against} on {parity.provider}, {rows}", made)
