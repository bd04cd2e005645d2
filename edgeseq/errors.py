"""Every error edgeseq raises on purpose, and the exit code each becomes at the command line.

EdgeseqError
├── NegativeResult            1  the question was answered, and the answer is no
│   ├── ParityFailed             two answers differ by more than the tolerance
│   ├── BudgetNotMet             no quantized form keeps the budget
│   └── RegressionFound          a benchmark is slower than its baseline
├── WrongUsage                2  the call cannot mean anything (also a ValueError)
│   ├── MissingInput             a file or folder is not there (also a FileNotFoundError)
│   ├── OutputExists             the output is there already (also a FileExistsError)
│   ├── InputMismatch            an array or argument does not fit what the model takes
│   │   └── StateMismatch        a saved state is another model's, or of another batch
│   └── StreamClosed             a stream is used after it was closed
│       └── PoolClosed           ... or after its pool was
├── Unavailable               3  this machine lacks something, and the message says what installs it
│   ├── ProviderUnavailable      an execution provider cannot start
│   ├── CompiledElsewhere        a file was compiled for another device or other versions than there are here
│   ├── MissingExtra             a Python package of one of edgeseq's extras is not installed
│   ├── DataUnavailable          a data set is neither here nor reachable
│   └── PoolFull                 a pool has no place for another stream, or its queue none for another chunk
├── Refused                   4  it could be done, but not exactly, or not natively
│   ├── UnsupportedLayer         a layer, or an option of one
│   ├── UnsupportedOp            an op that ONNX has no equal of
│   ├── PlacementRefused         nodes would run on another execution provider than the one asked for
│   ├── LoopRefused              it would need an ONNX Loop, and the user did not allow one
│   └── DependentRows            a stream's answers would depend on other streams, or on how it is cut into chunks
├── InvalidFile               5  a file is there but cannot be read as what it should be
└── InvalidState              5  bytes are no saved state, or a damaged one
    └── NewerState               a saved state is of a newer format

Anything else that reaches the command line is a bug of ours (70). Raise facts where they are known, and add
context on the way up with ``error.add_note("while lowering layer 'gru_2'")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


class EdgeseqError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 70


class NegativeResult(EdgeseqError):
    """The work was done and its result is a no."""

    exit_code = 1


class ParityFailed(NegativeResult):
    """Two sets of answers differ by more than the tolerance. `parity` holds the measured differences."""

    def __init__(self, message: str, parity: object = None):
        super().__init__(message)
        self.parity = parity


class BudgetNotMet(NegativeResult):
    """No quantized form keeps the budget. `nearest` is a dataclass with the forms and figures of what comes nearest."""

    def __init__(self, message: str, nearest: object = None):
        super().__init__(message)
        self.nearest = nearest


class RegressionFound(NegativeResult):
    """A measured time is worse than the baseline beyond the interval."""


class WrongUsage(EdgeseqError, ValueError):
    """The arguments do not fit together or are not allowed."""

    exit_code = 2


class MissingInput(WrongUsage, FileNotFoundError):
    """A file or folder that was named does not exist. `path` is what was looked for."""

    def __init__(self, path: str | os.PathLike[str], what: str = "file", advice: str = ""):
        self.path = os.fspath(path)
        super().__init__(f"{what} not found: {self.path}." + (f" {advice}" if advice else ""))

    def __str__(self) -> str:
        return str(self.args[0])


class OutputExists(WrongUsage, FileExistsError):
    """The output exists and overwriting was not allowed. `path` is the output."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        super().__init__(
            f"output exists: {self.path}. Choose another name, or allow overwriting it "
            "(--overwrite at the command line, overwrite=True in Python)."
        )

    def __str__(self) -> str:
        return str(self.args[0])


class InputMismatch(WrongUsage):
    """An array's name, dtype, rank or shape is not what the model takes.

    `name` is the model's input, `stream` the one of a pool that it was for, where there is one.
    """

    def __init__(self, message: str, name: str | None = None, stream: object = None):
        super().__init__(message)
        self.name, self.stream = name, stream


class StateMismatch(InputMismatch):
    """A saved state does not belong here. `what` differs (``model`` or ``batch``): `saved` and, here, `wanted`."""

    def __init__(self, what: str, saved: str, wanted: str, advice: str = ""):
        self.what, self.saved, self.wanted = what, saved, wanted
        super().__init__(
            f"the saved state is of another {what}: {saved}; here it is {wanted}." + (f" {advice}" if advice else "")
        )


class StreamClosed(WrongUsage):
    """A stream is used after it was closed, or was closed before its turn. `stream` is that stream."""

    def __init__(self, message: str, stream: object = None):
        self.stream = stream
        super().__init__(message)


class PoolClosed(StreamClosed):
    """A pool is used after it was closed, or was closed, or broke down, before an answer. A cause, if any, is set."""


class Unavailable(EdgeseqError):
    """Something this needs is not on this machine."""

    exit_code = 3


class ProviderUnavailable(Unavailable):
    """An execution provider cannot start here.

    `provider` is the name asked for, `reason` the real cause, `advice` what mends it.
    """

    def __init__(self, provider: str, reason: str, advice: str = ""):
        self.provider, self.reason, self.advice = provider, reason, advice
        super().__init__(f"provider '{provider}' cannot start: {reason}." + (f" {advice}" if advice else ""))


class CompiledElsewhere(Unavailable):
    """A compiled file meets another device, or other versions, than it was built for.

    `path` is the file, `differences` has what it was built for and what is here, by what they are.
    """

    def __init__(self, path: str | os.PathLike[str], differences: Mapping[str, tuple[str, str]]):
        self.path, self.differences = os.fspath(path), dict(differences)
        told = "; ".join(f"{name} {was or 'unknown'}, here {now or 'none'}" for name, (was, now) in differences.items())
        super().__init__(
            f"{self.path} was compiled for another machine: {told}. Compile the original again on this one: "
            "edgeseq compile"
        )


class MissingExtra(Unavailable):
    """A package that belongs to one of edgeseq's extras is missing.

    `package` is the import that failed, `extra` the extra that brings it.
    """

    def __init__(self, package: str, extra: str, purpose: str):
        self.package, self.extra = package, extra
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'edgeseq[{extra}]'"
        )


class DataUnavailable(Unavailable):
    """A data set is neither in a local folder nor reachable. `dataset` is its name."""

    def __init__(self, dataset: str, message: str):
        self.dataset = dataset
        super().__init__(message)


class PoolFull(Unavailable):
    """A pool holds as much as it may. `what` there are too many of (``streams`` or ``chunks``), `limit` their most."""

    def __init__(self, what: str, limit: int, advice: str):
        self.what, self.limit = what, limit
        super().__init__(f"the pool is full: it takes {limit} {what} at a time. {advice}")


class Refused(EdgeseqError):
    """edgeseq will not do this, because the result would not be exact or not native."""

    exit_code = 4


class UnsupportedLayer(Refused):
    """A layer, or an option of it, cannot be exported exactly. `layer` is its name, `reason` says why."""

    def __init__(self, layer: str, reason: str):
        self.layer, self.reason = layer, reason
        super().__init__(f"layer '{layer}' cannot be exported exactly: {reason}")


class UnsupportedOp(Refused):
    """TensorFlow ops that have no ONNX equal. `ops` lists them."""

    def __init__(self, ops: Sequence[str], advice: str = ""):
        self.ops = tuple(ops)
        super().__init__(f"no ONNX equal for: {', '.join(self.ops)}." + (f" {advice}" if advice else ""))


class PlacementRefused(Refused):
    """Floating-point nodes ran on another provider than the one asked for. `nodes` lists their names."""

    def __init__(self, message: str, nodes: Sequence[str] = ()):
        self.nodes = tuple(nodes)
        super().__init__(message)


class ModelRefused(Refused):
    """An execution provider starts here, and does not take this model. `provider` is its name, `reason` says why."""

    def __init__(self, provider: str, reason: str):
        self.provider, self.reason = provider, reason
        super().__init__(
            f"provider '{provider}' starts, but does not take this model: {reason}. Use another provider, or allow one "
            f"by a list, as '{provider},cpu'"
        )


class LoopRefused(Refused):
    """The graph would hold an ONNX Loop, which most accelerators refuse. `layer` is the cause where known."""

    def __init__(self, message: str, layer: str | None = None):
        self.layer = layer
        super().__init__(message)


class DependentRows(Refused):
    """Rows and steps have one scale in common, so that a stream's answers would depend on what it runs with.

    `path` is the file, `cause` the layer and its form, or the op.
    """

    def __init__(self, path: str | os.PathLike[str], cause: str):
        self.path, self.cause = os.fspath(path), cause
        super().__init__(
            f"{self.path} cannot stream exactly: {cause} takes one scale for all rows and steps of a call, so that a "
            "stream's answers would depend on the rows beside it and on how it is cut into chunks. Quantize with "
            "--forbid-row-leak (allow_row_leak=False in Python)"
        )


class InvalidFile(EdgeseqError):
    """A file exists but is damaged, of another format, or of a newer version. `path` is the file."""

    exit_code = 5

    def __init__(self, path: str | os.PathLike[str], reason: str):
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"cannot read {self.path}: {reason}")


class InvalidState(EdgeseqError):
    """Bytes are no saved state of a stream, or a damaged one. `reason` says why."""

    exit_code = 5

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(f"cannot read the saved state: {reason}")


class NewerState(InvalidState):
    """A saved state is of a newer format: `version`, where this edgeseq reads up to `known`."""

    def __init__(self, version: int, known: int):
        self.version, self.known = version, known
        super().__init__(
            f"it has format version {version}; this edgeseq reads up to {known}. "
            "Upgrade with: pip install --upgrade edgeseq"
        )
