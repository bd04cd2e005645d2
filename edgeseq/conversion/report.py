"""What an export tells."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.parity import Parity
from edgeseq.runtime.manifest import RecurrentLayer


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of `edgeseq.export`. It exists only when the file does, so its parity is always good."""

    path: str
    """The `.onnx` file written."""
    golden_path: str
    """The folder of golden samples beside it."""
    data_path: str | None
    """The file beside it that holds the weights of a model above 2 GB; None where they are in the `.onnx` file."""
    size_bytes: int
    """Size of the `.onnx` file, and of the data file where there is one."""
    parameters: int
    """Keras's parameter count."""
    nodes: int
    """Number of ONNX nodes, those in subgraphs included."""
    recurrent: tuple[RecurrentLayer, ...]
    """One entry a recurrent Keras layer, a Bidirectional being one: name, layer_type, strategy, op_types, reason."""
    loops: int
    """Number of ONNX Loop nodes, those in subgraphs included."""
    states: tuple[str, ...]
    """Input names of the states that the caller carries."""
    parity: Parity
    """Against Keras, over batches, lengths, masks and, for a streaming file, ways to cut the sequence."""
    mixed_precision_distance: float | None
    """For a model with a mixed policy, which is exported in float32: how far its own answers are from those, as
    max |mixed - float32| / max(1, max |float32|); None for any other."""
    notes: tuple[str, ...]
    """What the user should know, such as sizes at which Keras itself fails."""
    conversion_seconds: float
    """Wall time of the conversion, verification apart."""
    verification_seconds: float
    """Wall time of asking Keras, running the file, and comparing."""
