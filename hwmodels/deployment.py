"""What a device's memory plan needs to know of the element type that a graph is deployed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from codesign.dtypes import DTYPES
from codesign.graph import Graph
from codesign.work import Work


def deployed_type(graph: Graph, works: Sequence[Work]) -> str | None:
    """The type that replaced the graph's floating types, as the operands of its works show it; the graph's own
    floating type when nothing replaced it, None when it has none."""
    original = {tensor.dtype for tensor in graph.tensors.values()}
    operands = (operand for work in works for operand in (*work.writes, *work.reads))
    if replaced := Counter(operand.dtype for operand in operands if operand.dtype not in original):
        return replaced.most_common(1)[0][0]
    return next((name for name in sorted(original) if DTYPES[name].is_float), None)
