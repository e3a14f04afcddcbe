"""The time of single operators without the engine: what their tasks take, to the picosecond that ticks are rounded to.

Calibration asks for tens of thousands of operators; a test holds this to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from codesign.hardware import MappedOp
from codesign.study.operators import CacheState
from codesign.work import Work
from hwmodels.gpu.kernel import seconds
from hwmodels.gpu.mapping import kernels_of, setting_of
from hwmodels.gpu.parameters import GpuParameters


def operator_seconds(works: Sequence[Work], parameters: GpuParameters, cache: CacheState) -> float:
    """Seconds of an operator's works one after the other, as `codesign.study.operators` defines cold and warm."""
    warm = cache == "warm"
    total = 0.0 if warm else parameters.launch.latency
    for index, work in enumerate(works):
        op = MappedOp(work.kind, work, (warm or index > 0,) * len(work.reads), keep_output=warm)
        setting = setting_of(op)
        total += sum(seconds(kernel, parameters, setting) for kernel in kernels_of(op, parameters))
    return total
