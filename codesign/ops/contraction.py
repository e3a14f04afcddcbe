"""Products of matrices and tensors: MatMul, Gemm, Einsum. All reduce to a batched product that BLAS computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codesign.errors import nearest
from codesign.graph import Op
from codesign.ops.activations import ACTIVATIONS
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, broadcast, operator
from codesign.ops.einsum import Einsum, parse
from codesign.work import Contraction, Move, Reduce, Work


def matmul_shape(op: Op, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the matrix product as numpy defines it: vectors promoted, leading dimensions broadcast."""
    if not left or not right:
        raise bad(op, "a product needs at least one dimension on each side")
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    inner = right[-2] if len(right) > 1 else right[0]
    if left[-1] != inner:
        raise bad(op, f"inner dimensions differ: {list(left)} x {list(right)}")
    try:
        leading = broadcast(left[:-2], right[:-2])
    except ValueError:
        raise bad(op, f"leading dimensions do not broadcast: {list(left)} x {list(right)}") from None
    return (*leading, *rows, *columns)


def matmul_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], right_index: int = 1) -> Contraction:
    """The product as a Contraction: a right side without leading dimensions sees all rows of the left as one m.

    Of experts (a matrix of weights for each matrix on the left), those to which statistics say that no row goes are
    neither fetched nor multiplied, as grouped products leave them out (Gale et al. 2023, arXiv:2211.15841).
    """
    left, right = required(op, inputs, 0, "A"), required(op, inputs, right_index, "B")
    if left.filled is not None and right.role == "weight" and left.shape[:-2] == right.shape[:-2]:
        reached = replace(left, shape=_reached(left, left.shape), density=_density_where_filled(left), filled=None)
        given = list(inputs)
        given[0], given[right_index] = reached, replace(right, shape=_reached(left, right.shape))
        return matmul_work(op, given, outputs, right_index)
    others = [index for index in range(len(inputs)) if index not in (0, right_index)]
    shared_right = math.prod(right.shape[:-2]) == 1
    leading = math.prod(broadcast(left.shape[:-2], right.shape[:-2]))
    rows = left.shape[-2] if len(left.shape) > 1 else 1
    return Contraction(
        kind=op.kind,
        reads=operands(inputs, 0, right_index, *others),
        writes=tuple(output.operand() for output in outputs),
        batch=1 if shared_right else leading,
        m=rows * leading if shared_right else rows,
        n=right.shape[-1] if len(right.shape) > 1 else 1,
        k=left.shape[-1],
        dtype=left.dtype,
    )


def _reached(left: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with as many entries along its first axis as have anything in `left`; one at least."""
    assert left.filled is not None
    return (max(1, math.ceil(left.filled * shape[0])), *shape[1:])


def _density_where_filled(left: Value) -> float:
    return min(1.0, left.density / left.filled) if left.filled else left.density


def matmul(left: Array, right: Array) -> Array:
    """The product, as one matrix product when all matrices on the left meet the same matrix on the right."""
    if right.ndim == 2 and left.ndim > 2:
        product = left.reshape(-1, left.shape[-1]) @ right
        return product.reshape(*left.shape[:-1], right.shape[-1])
    return np.asarray(np.matmul(left, right))


@operator("MatMul")
class MatMul(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [(matmul_shape(op, left.shape, right.shape), left.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [narrowed(matmul(widened(left), widened(right)), left.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return matmul_work(op, inputs, outputs)


@operator("Gemm")
class Gemm(Operator):
    """alpha A' B' + beta C, with A' and B' transposed where `transA` and `transB` say so."""

    @staticmethod
    def _sides(op: Op, inputs: Sequence[Value | None]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        left, right = required(op, inputs, 0, "A").shape, required(op, inputs, 1, "B").shape
        if len(left) != 2 or len(right) != 2:
            raise bad(op, f"expected two matrices, got shapes {list(left)} and {list(right)}")
        left = left[::-1] if op.attributes.get("transA", 0) else left
        right = right[::-1] if op.attributes.get("transB", 0) else right
        if left[1] != right[0]:
            raise bad(op, f"inner dimensions differ: {list(left)} x {list(right)} (after transposition)")
        return left, right

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = self._sides(op, inputs)
        shape = (left[0], right[1])
        addend = optional(inputs, 2)
        try:
            fits = addend is None or broadcast(addend.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits and addend is not None:
            raise bad(op, f"'C' of shape {list(addend.shape)} does not broadcast to the product's {list(shape)}")
        return [(shape, required(op, inputs, 0, "A").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        dtype, addend = required(op, inputs, 0, "A").dtype, optional(inputs, 2)
        left, right = (widened(required(op, inputs, index, "AB"[index])) for index in (0, 1))
        product = (left.T if op.attributes.get("transA", 0) else left) @ (
            right.T if op.attributes.get("transB", 0) else right
        )
        alpha, beta = (op.attributes.get(name, 1.0) for name in ("alpha", "beta"))
        if alpha != 1.0:
            product *= product.dtype.type(alpha)
        if addend is not None and beta != 0.0:
            product += widened(addend) if beta == 1.0 else widened(addend) * product.dtype.type(beta)
        return [narrowed(product, dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        left, right = self._sides(op, inputs)
        return Contraction(
            kind=op.kind,
            reads=operands(inputs, 0, 1, 2),
            writes=(outputs[0].operand(),),
            batch=1,
            m=left[0],
            n=right[1],
            k=left[1],
            dtype=required(op, inputs, 0, "A").dtype,
        )


@operator("FusedGemm", domain="com.microsoft")
class FusedGemm(Gemm):
    """Gemm, then the activation named in the attributes."""

    @staticmethod
    def _activation(op: Op) -> Op:
        """The activation as an operation of its own."""
        name = text(op, "activation")
        if name not in ACTIVATIONS:
            raise bad(op, f"activation '{name}' is unknown{nearest(name, ACTIVATIONS)}")
        keys = ("alpha", "beta", "gamma")
        given = {key: op.attributes[f"activation_{key}"] for key in keys if f"activation_{key}" in op.attributes}
        return Op(op.name, name, (), (), given)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._activation(op)
        return super().infer(op, inputs)

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        (result,), activation = super().compute(op, inputs), self._activation(op)
        return [ACTIVATIONS[activation.kind].apply(activation, result)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        each = ACTIVATIONS[self._activation(op).kind].flops
        product = super().work(op, inputs, outputs)
        return replace(product, epilogue_flops=product.epilogue_flops + int(each * outputs[0].elements))


@operator("Einsum")
class EinsumOperator(Operator):
    """A sum of products over named axes; more than two operands are contracted from left to right."""

    @staticmethod
    def _plan(op: Op, shapes: list[tuple[int, ...]]) -> Einsum:
        try:
            return parse(str(op.attributes.get("equation", "")), shapes)
        except ValueError as error:
            raise bad(op, str(error)) from None

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values = [required(op, inputs, index, "Inputs") for index in range(len(inputs))]
        plan = self._plan(op, [value.shape for value in values])
        return [(plan.shape, values[0].dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        arrays = [required(op, inputs, index, "Inputs") for index in range(len(inputs))]
        result = self._plan(op, [array.shape for array in arrays]).compute([widened(array) for array in arrays])
        return [narrowed(result, arrays[0].dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        values = [required(op, inputs, index, "Inputs") for index in range(len(inputs))]
        plan = self._plan(op, [value.shape for value in values])
        reads, writes = operands(inputs), (outputs[0].operand(),)
        if len(values) == 1:
            columns = values[0].elements // max(outputs[0].elements, 1)
            if columns <= 1:
                return Move(kind=op.kind, reads=reads, writes=writes, contiguous_bytes=reads[0].bytes)
            return Reduce(
                kind=op.kind, reads=reads, writes=writes, rows=outputs[0].elements, columns=columns,
                dtype=values[0].dtype,
            )  # fmt: skip
        products = [
            Contraction(kind=op.kind, reads=reads, writes=writes, batch=b, m=m, n=n, k=k, dtype=values[0].dtype)
            for b, m, n, k in plan.products()
        ]
        largest = max(products, key=lambda product: product.macs)
        rest = 2 * (sum(product.macs for product in products) - largest.macs)
        return replace(largest, epilogue_flops=rest)


@operator("FusedMatMul", "TransposeMatMul", domain="com.microsoft")
class FusedMatMul(Operator):
    """alpha A' B': the last two axes swapped where `transA`, `transB` say so, the batch axes and the one after them
    rotated where `transBatchA`, `transBatchB` do."""

    @staticmethod
    def _order(op: Op, side: str, rank: int) -> tuple[int, ...]:
        order = list(range(rank))
        if op.attributes.get(f"transBatch{side}", 0) and rank > 2:
            order = [*order[1:-1], order[0], order[-1]]
        if op.attributes.get(f"trans{side}", 0) and rank > 1:
            order[-2:] = order[:-3:-1]
        return tuple(order)

    def _values(self, op: Op, inputs: Sequence[Value | None]) -> list[Value]:
        values = [required(op, inputs, index, side) for index, side in enumerate("AB")]
        return [
            replace(value, shape=tuple(value.shape[axis] for axis in self._order(op, side, len(value.shape))))
            for value, side in zip(values, "AB", strict=True)
        ]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = self._values(op, inputs)
        return [(matmul_shape(op, left.shape, right.shape), left.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        arrays = [required(op, inputs, index, side) for index, side in enumerate("AB")]
        left, right = (
            widened(array).transpose(self._order(op, side, array.ndim))
            for array, side in zip(arrays, "AB", strict=True)
        )
        product = matmul(left, right)
        return [narrowed(product * product.dtype.type(op.attributes.get("alpha", 1.0)), arrays[0].dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        scaled = op.attributes.get("alpha", 1.0) != 1.0
        work = matmul_work(op, self._values(op, inputs), outputs)
        return replace(work, epilogue_flops=outputs[0].elements * scaled)
