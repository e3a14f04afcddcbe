"""How the event loop is compiled: without numba's reference counting.

The loop allocates nothing, and the caller holds its arrays for the whole run, so there is nothing to count. Counting
would cost most of the time all the same: numba counts the arrays of a tuple, atomically, wherever a function takes it,
which made the loop ten to twenty times slower. (The option's underscore is numba's; slices that are written to and
temporary arrays need counting, so the compiler refuses them here.)
"""

from __future__ import annotations

from typing import Any

from numba import njit

_UNCOUNTED: dict[str, Any] = {"_nrt": False}

compiled = njit(cache=True, **_UNCOUNTED)
inlined = njit(cache=True, forceinline=True, **_UNCOUNTED)
