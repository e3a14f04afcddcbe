"""Fuse elementwise operations behind the operation that makes their input, so that it is stored once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from codesign.errors import UnsupportedOperator
from codesign.graph import Graph, Op
from codesign.ops.base import find
from codesign.transforms.match import View
from codesign.transforms.rewrite import sources_of

PRODUCTS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MatMul",
        "Gemm",
        "Einsum",
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
    }
)
ROWWISE = frozenset(
    {
        "Attention", "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization",
        "LpNormalization", "Softmax", "AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean", "ReduceSum",
    }
)  # fmt: skip


def fuse_epilogues(graph: Graph) -> Graph:
    """The graph with elementwise operations moved into the epilogue of the operation whose result they alone read.

    Products, attention, normalisations, pooling and elementwise operations take followers that keep the shape of the
    result: bias and residual additions, activations, scaling by channel, conversions. Values and names of what is
    still stored are unchanged. A follower of two candidates joins a product before a row-wise operation before an
    elementwise one, and of equals the later. The fused operation stands where its last follower stood, so that all
    operands are there.
    """
    view = View(graph)
    groups: dict[str, _Group] = {}
    order: list[_Group] = []
    for op in graph.ops:
        host = _host(view, groups, op)
        if host is None:
            host = _Group(op)
        else:
            del groups[host.result]
            order[host.position] = _EMPTY
            host.add(op)
        host.position = len(order)
        order.append(host)
        if len(op.outputs) == 1:
            groups[host.result] = host
    ops = tuple(group.fused() for group in order if group is not _EMPTY)
    return graph if len(ops) == len(graph.ops) else graph.with_ops(ops)


@dataclass(eq=False)
class _Group:
    """An operation with the followers it has so far; `position` is its place in the new order."""

    anchor: Op
    followers: list[Op] = field(default_factory=list)
    position: int = 0

    @property
    def result(self) -> str:
        return (self.followers[-1] if self.followers else self.anchor).outputs[0]

    @property
    def rank(self) -> tuple[int, int]:
        """Preference as a host: what it is, then how late it stands."""
        kind = 2 if self.anchor.kind in PRODUCTS else 1 if self.anchor.kind in ROWWISE else 0
        return kind, self.position

    def add(self, follower: Op) -> None:
        self.followers.append(follower)

    def fused(self) -> Op:
        if not self.followers:
            return self.anchor
        names = {self.anchor.outputs[0], *(follower.outputs[0] for follower in self.followers)}
        epilogue = tuple(
            replace(follower, inputs=tuple("@" if name in names else name for name in follower.inputs))
            for follower in self.followers
        )
        sources = sources_of((self.anchor, *self.followers))
        return replace(
            self.anchor, outputs=(self.result,), epilogue=(*self.anchor.epilogue, *epilogue), sources=sources
        )


_EMPTY = _Group(Op("", "", (), ()))


def _host(view: View, groups: dict[str, _Group], op: Op) -> _Group | None:
    """The group that `op` can follow, the best of several."""
    if op.bodies or op.epilogue or len(op.outputs) != 1 or epilogue_flops(op) is None:
        return None
    shape = view.shape(op.outputs[0])
    hosts = [
        groups[name]
        for name in op.inputs
        if name in groups
        and view.sole_reader(name) is op
        and view.shape(name) == shape
        and can_host(groups[name].anchor)
    ]
    return max(hosts, key=lambda host: host.rank, default=None)


def can_host(op: Op) -> bool:
    """True when elementwise operations may follow `op` before its result is stored."""
    if op.bodies:
        return False
    return op.kind in PRODUCTS or op.kind in ROWWISE or epilogue_flops(op) is not None


def epilogue_flops(op: Op) -> float | None:
    """Cost an element when `op` may follow another; None for operators that may not or are unknown."""
    try:
        return find(op).flops_per_element(op)
    except UnsupportedOperator:
        return None
