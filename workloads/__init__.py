"""Built-in networks: their definitions, what was published about them, and weights made only when asked for.

workloads.names(), workloads.info("vit_tiny"), workloads.build("gpt2_small", batch=2, bind={"sequence": 256})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.registry import build, build_reduced, names, representatives

if TYPE_CHECKING:
    from workloads.counts import Counts, count, count_all
    from workloads.facts import Claim, WorkloadInfo, claims, info
    from workloads.storage import materialise, save

__all__ = [
    "Claim",
    "Counts",
    "WorkloadInfo",
    "build",
    "build_reduced",
    "claims",
    "count",
    "count_all",
    "info",
    "materialise",
    "names",
    "representatives",
    "save",
]

_LAZY = {
    "Claim": "workloads.facts",
    "Counts": "workloads.counts",
    "WorkloadInfo": "workloads.facts",
    "claims": "workloads.facts",
    "count": "workloads.counts",
    "count_all": "workloads.counts",
    "info": "workloads.facts",
    "materialise": "workloads.storage",
    "save": "workloads.storage",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'workloads' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
