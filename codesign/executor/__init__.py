"""The functional executor: a Graph run numerically with numpy and numba."""

from codesign.executor.executor import Exact, Executor, Numerics, Observer, SaturatingPairs, execute
from codesign.executor.inputs import random_inputs

__all__ = ["Exact", "Executor", "Numerics", "Observer", "SaturatingPairs", "execute", "random_inputs"]
