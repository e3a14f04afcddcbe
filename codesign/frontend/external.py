"""Initialisers as weights: in the file, in external files mapped only when asked for, or absent.

External data must lie in the model's folder (ONNX specification, "External Tensor Data"): a model is untrusted input
and must not make us read other files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from codesign.dtypes import dtype, numpy_dtype
from codesign.errors import BadModel
from codesign.frontend.types import ENUM_OF, check_size, checked_shape, element_type_name, has_data, to_array
from codesign.graph import Tensor, Weight
from codesign.ops.base import Array

ABSENT_LOCATION = "weights.absent"
"""Location, beside the empty one, by which a structure-only model says that no values were ever stored."""
INLINE_ELEMENTS = 2**20
"""Integers up to this many elements are read at once: they may be shapes, axes or indices that shapes depend on."""
INLINE_FLOATS = 1024
"""Floats up to this many are read at once: scales of a Resize, limits of a Range, one-value constants."""


class WeightReader:
    """Makes weights of initialisers, and remembers which external files were missing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.missing: dict[str, int] = {}
        self._paths: dict[str, tuple[Path, int] | None] = {}

    def weight(self, name: str, tensor: onnx.TensorProto) -> Weight:
        """The weight that `tensor` stores. Raises BadModel for a wrong size or an unsafe location."""
        what = f"initialiser '{tensor.name}'"
        type_name = element_type_name(tensor.data_type, what)
        shape = checked_shape(tensor.dims, what)
        described = Tensor(name, shape, type_name)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return Weight(described, load=self._external(tensor, described, what))
        if described.elements == 0:
            return Weight(described, value=np.zeros(shape, numpy_dtype(type_name)))
        if not has_data(tensor):
            self._note_missing("the model")
            return Weight(described)
        check_size(tensor, shape, type_name)
        if is_inline(described):
            return Weight(described, value=to_array(tensor, shape, type_name))
        return Weight(described, load=lambda: to_array(tensor, shape, type_name))

    def warnings(self) -> list[str]:
        """One line for each external file that is missing."""
        return [
            f"values of {count} initialisers are absent from {location}: simulation needs only their shapes"
            for location, count in self.missing.items()
        ]

    def _note_missing(self, location: str) -> None:
        self.missing[location] = self.missing.get(location, 0) + 1

    def _external(self, tensor: onnx.TensorProto, described: Tensor, what: str) -> Callable[[], Array] | None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in self._paths:
            self._paths[location] = self._locate(location, what)
        found = self._paths[location]
        if found is None:
            self._note_missing("the model" if location in ("", ABSENT_LOCATION) else f"'{location}'")
            return None
        path, size = found
        offset = _count(entries.get("offset", "0"), "offset", what)
        needed = described.bytes
        length = _count(entries.get("length", str(needed)), "length", what)
        if length != needed:
            raise BadModel(
                f"{what}: external data holds {length} bytes, its shape {list(described.shape)} of {described.dtype} "
                f"needs {needed}"
            )
        if offset + length > size:
            raise BadModel(f"{what}: external file '{location}' ends at byte {size}, expected {offset + length}")
        return _reader(path, offset, described)

    def _locate(self, location: str, what: str) -> tuple[Path, int] | None:
        """Path and size of an external file; None when there is none. Raises BadModel when it is outside the folder."""
        if location in ("", ABSENT_LOCATION):
            return None
        relative = Path(location.replace("\\", "/"))
        if "\0" in location or relative.is_absolute() or ".." in relative.parts or relative.drive:
            raise BadModel(f"{what}: external data '{location}' is outside the model's folder")
        if self.folder is None:
            return None
        path = self.folder / relative
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BadModel(f"{what}: external data '{location}' links to a file outside the model's folder")
        if not path.exists():
            return None
        if not path.is_file():
            raise BadModel(f"{what}: external data '{location}' is not a regular file")
        return path, path.stat().st_size


def is_inline(tensor: Tensor) -> bool:
    """True when a constant of this size is kept in memory from the start."""
    return tensor.elements <= (INLINE_FLOATS if dtype(tensor.dtype).is_float else INLINE_ELEMENTS)


def _count(text: str, key: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise BadModel(f"{what}: external data {key} '{text[:40]}' is not a byte count")
    return int(text)


def _reader(path: Path, offset: int, described: Tensor) -> Callable[[], Array]:
    kind = dtype(described.dtype)

    def read() -> Array:
        if described.elements == 0:
            return np.zeros(described.shape, numpy_dtype(described.dtype))
        if kind.bits >= 8:
            mapped = np.memmap(path, numpy_dtype(described.dtype), "r", offset, described.shape)
            return mapped if mapped.flags.aligned else np.array(mapped)
        packed = onnx.TensorProto(data_type=ENUM_OF[described.dtype], dims=described.shape)
        packed.raw_data = np.memmap(path, np.uint8, "r", offset, (described.bytes,)).tobytes()
        return to_array(packed, described.shape, described.dtype)

    return read
