"""Remove operations whose results nobody reads."""

from __future__ import annotations

from codesign.graph import Graph, Op


def remove_dead_code(graph: Graph) -> Graph:
    """The graph without operations that no graph output depends on. What stays is unchanged, names included."""
    needed = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(name in needed for name in op.outputs if name):
            kept.append(op)
            needed.update(op.reads())
    if len(kept) == len(graph.ops):
        return graph
    return graph.with_ops(tuple(reversed(kept)))
