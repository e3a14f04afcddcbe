"""Arrays by name in an .npz file: an execution's inputs and outputs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import BadParameter

Array = np.ndarray[Any, Any]


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays by name. Raises BadParameter, naming the file, when it is not an .npz file of plain arrays."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise BadParameter(f"inputs {path}: a single array; expected an .npz file of arrays by name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise BadParameter(f"inputs {path}: no such file") from error
    except (OSError, ValueError, EOFError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BadParameter(f"inputs {path}: not an .npz file of arrays ({' '.join(str(error).split())})") from error


def flattened(values: Mapping[str, Any]) -> dict[str, Array]:
    """Results of a run as arrays: the items of a sequence by name and number, without optionals that hold nothing."""
    arrays: dict[str, Array] = {}
    for name, value in values.items():
        if isinstance(value, list):
            arrays |= flattened({f"{name}.{number}": item for number, item in enumerate(value)})
        elif value is not None:
            arrays[name] = value
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name to `path`, whatever its suffix; types that the format lacks (bfloat16) as float32.

    (numpy.savez takes names as keyword arguments, so that an output called "file" could not be written.)
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, _storable(array), allow_pickle=False)


def _storable(array: Array) -> Array:
    if array.dtype.kind == "O":
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
