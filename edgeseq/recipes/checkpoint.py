"""The state of an unfinished training on disk, so that a killed one goes on exactly where it was.

Keras's own `BackupAndRestore` keeps the weights but neither the history, the best weights nor the patience that is
left, so a resumed training could end elsewhere than one that was never stopped. Here all of it goes into one file that
appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq import files
from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.recipes.plan import Array

_FILE = "state.npz"
# What a killed writer leaves: see `files.whole_file`.
_HALF_WRITTEN = ".state." + "[0-9a-f]" * 32 + ".npz"


@dataclass
class TrainingState:
    """All that changes from epoch to epoch, the model's variables apart."""

    epoch: int = 0
    """Epochs finished."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Name -> one value for each finished epoch."""
    best_value: float | None = None
    """Best monitored value so far."""
    best_epoch: int = 0
    """Epoch of the best value, counted from 1."""
    stopped: bool = False
    """Whether early stopping has ended the training."""
    best_weights: list[Array] = field(default_factory=list)
    """Weights after the best epoch, in Keras's order."""


def folder_of(output: Path) -> Path:
    """The folder beside the output that holds its checkpoint while a training is unfinished."""
    return output.with_name(f"{output.stem}.checkpoint")


def check_folder(output: Path, *, discarding: bool) -> None:
    """Raise WrongUsage when the checkpoint's place beside `output` is taken by what this module did not write.

    A damaged state may still be ours, but is not known to be: with `discarding`, it is refused here, too.
    """
    folder = folder_of(output)
    advice = "Move it away, or give the model another name"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WrongUsage(f"{folder} is in the place of the training's checkpoint and is no folder. {advice}")
    if not (folder / _FILE).exists() and set(folder.iterdir()) - set(folder.glob(_HALF_WRITTEN)):
        raise WrongUsage(f"{folder} is in the place of the training's checkpoint and holds other files. {advice}")
    if discarding:
        try:
            saved_settings(output)
        except InvalidFile as error:
            raise WrongUsage(f"{folder / _FILE} cannot be read as a checkpoint, so it stays. {advice}") from error


def saved_settings(output: Path) -> dict[str, Any] | None:
    """The settings of the unfinished training beside `output`, or None when there is none.

    Raises InvalidFile when the checkpoint is damaged.
    """
    path = folder_of(output) / _FILE
    return _header(path)["settings"] if path.exists() else None


def saved_epoch(output: Path) -> int:
    """Finished epochs of the unfinished training beside `output`; 0 when there is none."""
    path = folder_of(output) / _FILE
    return int(_header(path)["progress"]["epoch"]) if path.exists() else 0


def write(output: Path, settings: dict[str, Any], state: TrainingState, model: Any) -> None:
    """Replace the checkpoint beside `output` by the present state of the training."""
    folder = folder_of(output)
    folder.mkdir(exist_ok=True)
    progress = {key: value for key, value in asdict(state).items() if key != "best_weights"}
    header = json.dumps({"settings": settings, "progress": progress})
    arrays = {f"variable_{i}": np.asarray(variable) for i, variable in enumerate(_variables(model))}
    arrays |= {f"best_{i}": weight for i, weight in enumerate(state.best_weights)}
    with files.whole_file(folder / _FILE) as temporary:
        np.savez(temporary, header=np.frombuffer(header.encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def restore(output: Path, model: Any) -> TrainingState:
    """Put the checkpoint's variables into `model` and return the rest.

    Raises InvalidFile when the file is damaged or its variables are not the model's.
    """
    path = folder_of(output) / _FILE
    state = TrainingState(**_header(path)["progress"])
    with _opened(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    variables = _variables(model)
    saved = [arrays.get(f"variable_{i}") for i in range(len(variables))]
    if any(old is None or old.shape != tuple(new.shape) for old, new in zip(saved, variables, strict=True)):
        raise InvalidFile(path, f"its variables are not those of this model; remove {path.parent} to start afresh")
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)
    state.best_weights = [arrays[f"best_{i}"] for i in range(sum(name.startswith("best_") for name in arrays))]
    return state


def discard(output: Path) -> None:
    """Remove the checkpoint beside `output`, with whatever a killed writer left; other files in its folder stay."""
    folder = folder_of(output)
    for file in (folder / _FILE, *folder.glob(_HALF_WRITTEN)):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _variables(model: Any) -> list[Any]:
    """Weights, random states and optimizer slots, in a fixed order. Metrics start afresh with every epoch."""
    metrics = {id(variable) for variable in model.metrics_variables}
    model.optimizer.build(model.trainable_variables)
    return [variable for variable in model.variables if id(variable) not in metrics] + list(model.optimizer.variables)


def _header(path: Path) -> dict[str, Any]:
    with _opened(path) as archive:
        header = json.loads(archive["header"].tobytes())
        return {part: dict(header[part]) for part in ("settings", "progress")}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    # TypeError: an archive of other contents, or a single array.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidFile(path, f"not a checkpoint ({error}); remove {path.parent} to start afresh") from error
