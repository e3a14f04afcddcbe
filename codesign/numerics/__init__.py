"""Number formats of hardware, and graphs executed in them.

policy = codesign.numerics.policy("int8")
ranges = codesign.numerics.calibrate(graph, policy, samples, seed_weights=0)
outputs = codesign.Executor(graph, codesign.numerics.Arithmetic(graph, policy, ranges), seed_weights=0).run(inputs)
"""

from codesign.numerics.arithmetic import Arithmetic, calibrate
from codesign.numerics.formats import number_format
from codesign.numerics.policy import Policy, policy, presets

__all__ = ["Arithmetic", "Policy", "calibrate", "number_format", "policy", "presets"]
