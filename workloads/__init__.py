"""Built-in networks: their definitions, what was published about them, and weights made only when asked for.

workloads.names(), workloads.info("vit_tiny"), workloads.build("gpt2_small", batch=2, bind={"sequence": 256})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.registry import build, info, names

if TYPE_CHECKING:
    from workloads.facts import WorkloadInfo
    from workloads.storage import materialise, save

__all__ = ["WorkloadInfo", "build", "info", "materialise", "names", "save"]

_LAZY = {"WorkloadInfo": "workloads.facts", "materialise": "workloads.storage", "save": "workloads.storage"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'workloads' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
