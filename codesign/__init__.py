"""codesign: hardware simulation and co-design explorer for neural networks.

graph = codesign.load("zoo:vit_tiny", batch=8)
report = codesign.simulate(graph, codesign.device("h200", **{"dram.bandwidth": 4e12}), dtype="fp16")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codesign.executor import Executor, execute, random_inputs
    from codesign.model import load
    from codesign.registry import device, device_names
    from codesign.report.compare import compare
    from codesign.report.report import Report
    from codesign.simulation import simulate
    from codesign.statistics import measure
    from codesign.study.accuracy import accuracy
    from codesign.study.explain import explain
    from codesign.study.generation import generate
    from codesign.study.sweep import sweep

__all__ = [
    "Executor",
    "Report",
    "accuracy",
    "compare",
    "device",
    "device_names",
    "execute",
    "explain",
    "generate",
    "load",
    "measure",
    "random_inputs",
    "simulate",
    "sweep",
]

_HOMES = {
    "Executor": "codesign.executor",
    "execute": "codesign.executor",
    "random_inputs": "codesign.executor",
    "Report": "codesign.report.report",
    "accuracy": "codesign.study.accuracy",
    "compare": "codesign.report.compare",
    "device": "codesign.registry",
    "device_names": "codesign.registry",
    "explain": "codesign.study.explain",
    "generate": "codesign.study.generation",
    "load": "codesign.model",
    "measure": "codesign.statistics",
    "simulate": "codesign.simulation",
    "sweep": "codesign.study.sweep",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: `import codesign` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'codesign' has no attribute '{name}'")
    import importlib

    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found
