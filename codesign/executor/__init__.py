"""The functional executor: a Graph run numerically with numpy and numba."""

from codesign.executor.executor import Exact, Executor, Numerics, Observer, SaturatingPairs, execute
from codesign.executor.inputs import random_inputs
from codesign.executor.limits import Limits

__all__ = ["Exact", "Executor", "Limits", "Numerics", "Observer", "SaturatingPairs", "execute", "random_inputs"]
