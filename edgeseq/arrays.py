"""Arrays in files: `.npz` by name and `.npy` alone, read and written; `.json` written."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.errors import InvalidFile, WrongUsage
from edgeseq.files import StrPath

Array = npt.NDArray[Any]

READABLE = (".npz", ".npy")
WRITABLE = (".npz", ".npy", ".json")


def read_arrays(path: StrPath, what: str = "file of arrays") -> Array | dict[str, Array]:
    """The array of an `.npy` file, or the arrays of an `.npz` file by name.

    An `.npz` file with a single array gives that array alone: its name says nothing then, as `numpy.savez(path, x)`
    calls it ``arr_0``.

    Raises MissingInput, WrongUsage for another suffix, and InvalidFile when it is damaged, empty or holds objects.
    """
    arrays = _load(path, what)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def read_inputs(path: StrPath, what: str = "inputs") -> Array | dict[str, Array]:
    """As `read_arrays`, but a single array with a name of its own keeps it: a wrong one is then refused by the model.

    Only ``arr_0``, what numpy itself calls an array that was given no name, says nothing.
    """
    arrays = _load(path, what)
    names = list(arrays)
    return arrays[names[0]] if names in ([""], ["arr_0"]) else arrays


def _load(path: StrPath, what: str) -> dict[str, Array]:
    """The arrays by name; that of an `.npy` file has an empty one."""
    source = files.check_input(path, what)
    if source.suffix not in READABLE:
        raise WrongUsage(f"{what} must be an .npz or .npy file, got {source.name}. Save arrays with numpy.savez.")
    try:
        loaded = np.load(source, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
        else:
            arrays = {"": np.asarray(loaded)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidFile(source, f"it is not a numpy file of plain numbers ({error})") from error
    if not arrays:
        raise InvalidFile(source, "it holds no arrays")
    return arrays


def write_arrays(path: StrPath, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to an `.npz` or `.json` file by name, or a single one to an `.npy` file; whole or not at all.

    JSON holds nested lists, with null for what is not a finite number. Raises WrongUsage for another suffix, or for
    several arrays in an `.npy` file.
    """
    target = Path(path)
    if target.suffix not in WRITABLE:
        raise WrongUsage(f"arrays are written as {', '.join(WRITABLE)}; got {target.name}")
    if target.suffix == ".npy" and len(arrays) != 1:
        raise WrongUsage(f"an .npy file holds one array, not {len(arrays)} ({', '.join(arrays)}). Write an .npz file.")
    if target.suffix == ".json":
        document = {name: plain_numbers(array.tolist()) for name, array in arrays.items()}
        files.write_bytes(target, (json.dumps(document) + "\n").encode())
        return
    with files.whole_file(target) as temporary:
        if target.suffix == ".npy":
            # Into a file numpy writes by C's own buffers, and does not notice that their last part found no room.
            content = io.BytesIO()
            np.save(content, next(iter(arrays.values())), allow_pickle=False)
            temporary.write_bytes(content.getbuffer())
            return
        # Not numpy.savez, which takes the names as keywords and so cannot store an array called "file".
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def plain_numbers(value: Any) -> Any:
    """Nested lists of numbers as strict JSON can hold them: None for NaN and the infinities."""
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
