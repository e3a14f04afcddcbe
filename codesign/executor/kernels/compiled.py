"""How a kernel is compiled: without the interpreter's lock, and kept on disk until any file of this folder changes.

numba keeps machine code beside a stamp of the file that defines the function, and so misses a change in a helper of
another file whose code went into it. Kernels are made of such helpers; their stamp covers the whole folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """`function` compiled by numba when it is first called, its machine code kept between processes."""
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(function)
    index = dispatcher._cache._cache_file
    index._source_stamp = (index._source_stamp, folder_stamp())
    return dispatcher


@cache
def folder_stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of every file a kernel may take code from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((file.name, (found := file.stat()).st_mtime_ns, found.st_size) for file in files)
