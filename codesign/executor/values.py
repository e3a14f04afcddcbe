"""Values of a run: arrays, and for sequences and optionals lists of them and None."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.ops.base import Array


def owned(outputs: Mapping[str, Any], foreign: Sequence[Any]) -> dict[str, Any]:
    """`outputs`, copied where they share memory with what is not theirs: inputs and weights."""
    others = [array for value in foreign for array in _arrays(value)]

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(item) for item in value]
        if value is None or not any(np.may_share_memory(value, other) for other in others):
            return value
        return value.copy()

    return {name: own(value) for name, value in outputs.items()}


def described(value: Any) -> str:
    """Type and shape of a value, for a message."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"a sequence of {len(value)}"
    return f"{name_of(value.dtype)}{list(value.shape)}"


def _arrays(value: Any) -> Iterator[Array]:
    if isinstance(value, list):
        for item in value:
            yield from _arrays(item)
    elif value is not None:
        yield value
