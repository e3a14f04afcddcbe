"""Which kernels a framework runs for the operations of a graph: one by one (eager, replayed), or fused by a compiler.

The graph comes optimised: elementwise followers stand in epilogues. A framework undoes most of that. It adds the bias
of a matrix product in the product, but that of a convolution in a kernel of its own; normalises a convolution's result
by three kernels; and runs every other follower by itself. A compiler (TorchInductor) leaves products to the libraries,
and makes one kernel of each run of elementwise operations, if it can the one of the norm that reads the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from codesign.graph import Graph, Op
from codesign.hardware import MappedOp
from codesign.lower import values_of
from codesign.ops.base import Value, find
from codesign.transforms.epilogue import PRODUCTS
from codesign.work import Attention, Contraction, Map, Move, Operand, Reduce, Work
from hwmodels.gpu.parameters import GpuParameters, Runtime
from hwmodels.gpu.rows import GROUPS
from hwmodels.gpu.streaming import CHANNELS, FUSED, ROLL
from hwmodels.residency import deployed_type

NORM = "BatchNormalization"
VIEWS = frozenset({"Split", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Expand", "Identity"})
"""Operations that a framework answers by another view of the same memory."""

_CHANNEL_MOVES = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1))
"""Orders that only move the channels of an image to the end or back, which they already are in channels-last memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One kernel's work, whether each operand read is in L2 from before, and whether its results stay there."""

    work: Work
    resident: tuple[bool, ...]
    keep: bool


@dataclass(frozen=True, slots=True)
class Pieces:
    """What the plan tells the mapper of an operation: the works that it becomes, one after the other."""

    works: tuple[Piece, ...]


def form_kernels(
    graph: Graph, ops: Sequence[MappedOp], works: Sequence[Work], parameters: GpuParameters
) -> tuple[MappedOp, ...]:
    """The operations with the kernels that the device's runtime makes of them."""
    former = _Former(graph, values_of(graph, deployed_type(works)), parameters.runtime)
    formed = []
    for op, mapped in zip(graph.ops, ops, strict=True):
        pieces = tuple(former.pieces(op, mapped))
        formed.append(replace(mapped, detail=Pieces(pieces)))
    return tuple(formed)


class _Former:
    """The runtime's rules over one graph."""

    def __init__(self, graph: Graph, values: Mapping[str, Value], runtime: Runtime) -> None:
        self.values = values
        self.fused = runtime == "fused"
        self.convolutional = any(op.kind == "Conv" for op in graph.ops)
        self.makers = {name: op for op in graph.ops for name in op.outputs}
        self.readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for name in op.reads():
                self.readers.setdefault(name, []).append(op)
        self.deferred: dict[str, tuple[Operand, ...]] = {}  # sums that the norm which reads them will make

    def pieces(self, op: Op, mapped: MappedOp) -> Iterator[Piece]:
        """The kernels of one operation; none for a view."""
        work = mapped.work
        if isinstance(work, Move):
            if not work.free and not self._is_view(op):
                kind = ROLL if self._is_roll(op) else work.kind
                yield Piece(replace(work, kind=kind), mapped.resident, mapped.keep_output)
        elif isinstance(work, Attention):
            yield from self._attention(op, work, mapped)
        elif isinstance(work, Contraction) and op.kind in PRODUCTS:
            yield from self._product(op, work, mapped)
        elif self.fused:
            if any(operand.role != "weight" for operand in work.reads):
                yield self._with_deferred(op, work, mapped)
        elif isinstance(work, Reduce) and work.kind in GROUPS and self.convolutional:
            yield from self._group_norm(op, work, mapped)
        elif isinstance(work, Map) and op.kind == NORM:
            yield from self._batch_norm(work.writes[0], mapped, True)
        else:
            yield from self._one_by_one(op, work, mapped)

    def _is_view(self, op: Op) -> bool:
        if op.kind in VIEWS or self.fused:  # a compiler lets the kernel before or after it move what it stores or loads
            return True
        if op.kind != "Transpose":
            return False
        order = tuple(op.attributes.get("perm", ()))
        return all(not self.readers.get(name) for name in op.outputs) or (
            self.convolutional and order in _CHANNEL_MOVES
        )

    def _is_roll(self, op: Op) -> bool:
        """Pieces of one tensor put together again in another order."""
        makers = [self.makers.get(name) for name in op.inputs if name]
        return op.kind == "Concat" and all(maker is not None and maker.kind == "Slice" for maker in makers)

    def _group_norm(self, op: Op, work: Reduce, mapped: MappedOp) -> Iterator[Piece]:
        """Its kernels want each channel's image in one piece: a copy before, and one back after."""
        value = work.writes[0]
        size = max(1, value.bytes // max(1, value.elements))
        copy = Move(kind="Transpose", reads=(value,), writes=(value,), contiguous_bytes=size)
        yield Piece(copy, mapped.resident[:1], mapped.keep_output)
        yield from self._one_by_one(op, work, mapped)
        yield Piece(copy, (), mapped.keep_output)

    def _one_by_one(self, op: Op, work: Work, mapped: MappedOp) -> Iterator[Piece]:
        """The operation, then each of its followers."""
        yield Piece(self._alone(op, work), mapped.resident, mapped.keep_output)
        yield from self._followers(op.epilogue, work.writes[0], mapped)

    def _alone(self, op: Op, work: Work) -> Work:
        """The work without the epilogue."""
        if not op.epilogue:
            return work
        taken = sum(len([name for name in follower.inputs if name and name != "@"]) for follower in op.epilogue)
        return replace(work, reads=work.reads[: len(work.reads) - taken], epilogue_flops=0)

    def _followers(self, followers: Sequence[Op], value: Operand, mapped: MappedOp) -> Iterator[Piece]:
        for follower in followers:
            others = self._others(follower)
            yield Piece(_map(follower.kind, (value, *others), value, _flops(follower)), (), mapped.keep_output)

    def _others(self, follower: Op) -> tuple[Operand, ...]:
        return tuple(self.values[name].operand() for name in follower.inputs if name and name != "@")

    def _product(self, op: Op, work: Contraction, mapped: MappedOp) -> Iterator[Piece]:
        """A product by the library, then what follows it."""
        followers, value = list(op.epilogue), work.writes[0]
        spatial = work.convolution is not None
        alone = self._alone(op, work)
        normalised = NORM in op.absorbed
        bias = alone.reads[2:] if spatial else ()
        if spatial:
            alone = replace(alone, reads=alone.reads[:2])
        elif followers and self._is_bias(followers[0], work):
            followers = followers[1:]
        yield Piece(alone, mapped.resident[: len(alone.reads)], mapped.keep_output)
        if self.fused:
            yield from self._fused_followers(op, followers, bias, value, mapped)
            return
        if bias and (not normalised or "Bias" in op.absorbed):
            yield Piece(_map("Add", (value, *bias), value, 1.0), (), mapped.keep_output)
        if normalised:
            yield from self._batch_norm(value, mapped, False)
        yield from self._followers(followers, value, mapped)

    def _is_bias(self, follower: Op, work: Contraction) -> bool:
        """An addition of a constant vector, which the libraries' kernels do before they store."""
        others = self._others(follower)
        return follower.kind == "Add" and len(others) == 1 and others[0].elements == work.n and (
            others[0].role == "weight"
        )

    def _fused_followers(
        self, op: Op, followers: Sequence[Op], bias: Sequence[Operand], value: Operand, mapped: MappedOp
    ) -> Iterator[Piece]:
        """One kernel of all that follows, unless the norm that reads the result makes it."""
        if not followers and not bias:
            return
        others = (*bias, *(other for follower in followers for other in self._others(follower)))
        flops = sum(_flops(follower) for follower in followers) + len(bias)
        result = op.outputs[0]
        readers = self.readers.get(result, ())
        if any(reader.kind.endswith("Normalization") or reader.kind == "ReduceMean" for reader in readers):
            self.deferred[result] = (value, *others)
            return
        yield Piece(_map(FUSED, (value, *others), value, flops), (), mapped.keep_output)

    def _with_deferred(self, op: Op, work: Work, mapped: MappedOp) -> Piece:
        """An operation that also makes the sum it reads, and stores it when others read it too."""
        kind = FUSED if isinstance(work, Map) else work.kind
        name = next((name for name in op.inputs if name in self.deferred), None)
        if name is None:
            return Piece(replace(work, kind=kind), mapped.resident, mapped.keep_output)
        parts = self.deferred.pop(name)
        shared = len(self.readers.get(name, ())) > 1
        writes = (*work.writes, parts[0]) if shared else work.writes
        return Piece(
            replace(work, kind=kind, reads=(*parts, *work.reads[1:]), writes=writes),
            (True,) * (len(parts) + len(work.reads) - 1),
            mapped.keep_output,
        )

    def _batch_norm(self, value: Operand, mapped: MappedOp, reads_input: bool) -> Iterator[Piece]:
        """The statistics converted, the reciprocal deviation, and the channels scaled and shifted."""
        channels = Operand(1, "float32")
        yield Piece(_map("Cast", (channels,), channels, 1.0), (), True)
        yield Piece(_map("Reciprocal", (channels,), channels, 4.0), (), True)
        vectors = (Operand(2, value.dtype, "weight"),) * 2
        resident = mapped.resident[:1] if reads_input else ()
        yield Piece(_map(CHANNELS, (value, *vectors), value, 2.0), resident, mapped.keep_output)

    def _attention(self, op: Op, work: Attention, mapped: MappedOp) -> Iterator[Piece]:
        """Fused attention; with a cache, new keys and values are written into it before; with a bias of each head the
        framework computes scores, softmax and result by themselves."""
        size = work.reads[1]
        pairs = work.batch * work.kv_heads * work.kv_length
        keys = replace(size, elements=pairs * work.head_dim)
        values = replace(size, elements=pairs * work.value_dim)
        resident = mapped.resident[:3]
        masked = len(op.inputs) > 3 and bool(op.inputs[3])
        first = 4 if masked else 3
        past = work.reads[1].elements < keys.elements
        if past:
            for new in work.reads[1:3]:
                copy = Move(kind="Slice", reads=(new,), writes=(new,), contiguous_bytes=max(1, work.head_dim))
                yield Piece(copy, (), True)
            resident = (resident[:1] or (False,)) + tuple(mapped.resident[first : first + 2] or (False, False))
        others = work.reads[3:4] if masked else ()
        whole = replace(work, reads=(work.reads[0], keys, values, *others), writes=work.writes[:1], epilogue_flops=0)
        biased = [other for other in others if other.elements >= work.heads * work.query_length * work.kv_length]
        if biased and work.query_length > 1 and work.heads > 1:
            yield from self._explicit(whole, biased[0], mapped)
        else:
            yield Piece(whole, (*resident, *(True for _ in others)), mapped.keep_output)
        yield from self._followers(op.epilogue, work.writes[0], mapped)

    def _explicit(self, work: Attention, bias: Operand, mapped: MappedOp) -> Iterator[Piece]:
        query, keys, values = work.reads[:3]
        products = work.batch * work.heads
        scores = replace(query, elements=products * work.query_length * work.kv_length)
        for part in (query, keys, values):
            yield Piece(Move(kind="Transpose", reads=(part,), writes=(part,), contiguous_bytes=64), (), True)
        first = Contraction(
            kind="MatMul", reads=(query, keys), writes=(scores,), batch=products, m=work.query_length,
            n=work.kv_length, k=work.head_dim, dtype=work.dtype,
        )  # fmt: skip
        yield Piece(first, (True, True), True)
        rows = products * work.query_length
        softmax = Reduce(
            kind="Softmax", reads=(scores,), writes=(scores,), rows=rows, columns=work.kv_length, passes=3,
            flops_per_element=5.0, dtype=work.dtype,
        )  # fmt: skip
        if self.fused:
            yield Piece(replace(softmax, reads=(scores, bias)[:1]), (True,), True)
        else:
            yield Piece(_map("Add", (scores, bias), scores, 1.0), (True, True), True)
            yield Piece(softmax, (True,), True)
        mixed = replace(first, reads=(scores, values), writes=(query,), n=work.value_dim, k=work.kv_length)
        yield Piece(mixed, (True, True), True)
        copy = Move(kind="Transpose", reads=(query,), writes=(query,), contiguous_bytes=64)
        yield Piece(copy, (True,), mapped.keep_output)


def _map(kind: str, reads: tuple[Operand, ...], result: Operand, flops: float) -> Map:
    value = replace(result, role="activation")
    return Map(
        kind=kind, reads=reads, writes=(value,), elements=result.elements, flops_per_element=flops, dtype=result.dtype
    )


def _flops(follower: Op) -> float:
    return find(follower).flops_per_element(follower) or 1.0


def pieces_of(op: MappedOp) -> tuple[MappedOp, ...]:
    """The kernels' works of an operation as the plan formed them; the operation itself without a plan."""
    if not isinstance(op.detail, Pieces):
        return (op,)
    found = []
    for piece in op.detail.works:
        resident = piece.resident if len(piece.resident) == len(piece.work.reads) else (True,) * len(piece.work.reads)
        found.append(MappedOp(op.name, piece.work, resident, piece.keep))
    return tuple(found)
