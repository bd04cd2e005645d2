"""Where every node of a file would run, told from rules before anything runs.

Reading a file needs the onnx package, which is imported only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseq.files import StrPath
from edgeseq.prediction.comparing import disagreements, surprises
from edgeseq.prediction.result import TARGETS, PredictedNode, Prediction

if TYPE_CHECKING:
    import onnx

__all__ = ["TARGETS", "PredictedNode", "Prediction", "disagreements", "predict", "surprises"]


def predict(model: onnx.ModelProto | StrPath, target: str) -> Prediction:
    """Where onnxruntime would place every node of `model`, an ONNX model or a path to one, on `target`.

    `target` is ``cuda`` or ``tensorrt``. The prediction is for the nodes of the file, subgraphs included;
    onnxruntime folds constants and fuses nodes before it places them. Constants, and nodes that compute with constants
    alone, are left out: they become weights.

    Raises WrongUsage for another target, MissingInput when there is no file, InvalidFile when it is no ONNX model, and
    MissingExtra without the onnx package.
    """
    from edgeseq.prediction.predicting import apply_rules

    return apply_rules(model, target)
