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
    return _kept(njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(function))


def summing_kernel(function: Callable[..., Any]) -> Any:
    """`kernel` for sums in any order, as vectors make them; infinities and not-a-numbers keep their meaning."""
    return _kept(njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function))


def _kept(dispatcher: Any) -> Any:
    index = dispatcher._cache._cache_file
    index._source_stamp = (index._source_stamp, folder_stamp())
    return dispatcher


@cache
def folder_stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of every file a kernel may take code from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((file.name, (found := file.stat()).st_mtime_ns, found.st_size) for file in files)
