"""The arithmetic of a policy, as the executor takes it: operands, sums and results of operations in their formats."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from codesign.dtypes import dtype, name_of
from codesign.errors import BadParameter
from codesign.executor.epilogue import follow
from codesign.executor.executor import Exact, Executor
from codesign.graph import Graph, Op
from codesign.numerics.calibration import Seen, needs_counts, range_of
from codesign.numerics.contractions import Contractor, Product, contractor_of
from codesign.numerics.formats import FloatFormat
from codesign.numerics.holding import Held, Layout, Range, as_is, held_bits, hold, row_layout
from codesign.numerics.plans import Plan, Plans
from codesign.numerics.policy import Accumulator, Holding, Policy
from codesign.numerics.sums import float_sums, integer_limits, integer_sums, wrapped
from codesign.ops.base import Array, Operator

Read = Callable[[str], Array]

_MULTIPLIED = {"attention": 3, "scan": 3}
"""How many of the first inputs are operands, in classes whose others are masks, lengths and states."""


class Arithmetic:
    """Numerics of an executor: computes a graph as a policy says.

    `ranges` are the calibrated ranges of static tensors by name (see `calibrate`); without one, a static tensor takes
    the range of the values at hand. `overflows` counts by operation the sums that left an integer accumulator;
    `weight_bits` are those that each held weight takes. What follows a product (scales, bias, fused operations) is
    computed in the model's own type, and so is what an attention that is one operation does inside.
    """

    def __init__(self, graph: Graph, policy: Policy, ranges: Mapping[str, Range] | None = None) -> None:
        self.policy = policy
        self.ranges = dict(ranges or {})
        self.overflows: Counter[str] = Counter()
        self.weight_bits: dict[str, int] = {}
        self.plans = Plans(graph, policy)
        self._weights: dict[tuple[str, Holding, Layout], Held] = {}

    def compute(self, op: Op, operator: Operator, inputs: Sequence[Array | None], read: Read) -> list[Array]:
        plan = self.plans.of(op, operator, inputs)
        contractor = _contractor(op, inputs)
        if contractor is None:
            outputs = operator.compute(op, self._operands(op, plan, inputs))
        else:
            outputs = [self._contract(op, operator, contractor, plan, inputs)]
        if op.epilogue:
            followed = follow(op.epilogue, outputs[0], inputs, lambda name: self._addend(plan, name, read(name)))
            outputs = [followed, *outputs[1:]]
        return [self._output(plan, name, array) for name, array in zip(op.outputs, outputs, strict=False)]

    def _operands(self, op: Op, plan: Plan, inputs: Sequence[Array | None]) -> list[Array | None]:
        """The inputs of an operation that is no plain product, floats among its operands held."""
        accumulator = plan.formats.accumulator
        narrow = accumulator is not None and accumulator.can_lose and plan.operation_class == "contraction"
        if narrow and any(_is_float(array) for array in inputs[:2]):
            raise BadParameter(f"node '{op.name}' ({op.kind}): sums only in fp32 or int32; give it such an accumulator")
        count = _MULTIPLIED.get(plan.operation_class, len(inputs))
        held: list[Array | None] = list(inputs)
        for index, array in enumerate(inputs[:count]):
            if array is not None and _is_float(array):
                values = self._held(plan, op.inputs[index], array, row_layout(array.ndim)).values
                held[index] = self._with_masks(values, array, plan.formats.activations)
        return held

    def _held(self, plan: Plan, name: str, array: Array, layout: Layout) -> Held:
        """An operand as the plan says, weights held once."""
        weight = name in self.plans.weights
        holding = plan.formats.weights if weight else plan.formats.activations
        if holding is None or holding.form is None:
            return as_is(array)
        if not weight:
            known = self.ranges.get(name) if holding.is_static else None
            return hold(array, holding, layout, False, known, self._seed(name))
        key = (name, holding, layout)
        if key not in self._weights:
            self._weights[key] = hold(array, holding, layout, True, None, self._seed(name))
            self.weight_bits[name] = held_bits(array.shape, holding, layout)
        return self._weights[key]

    def _seed(self, name: str) -> int:
        """Of a tensor's stochastic rounding: its own, so that no two tensors share their noise."""
        return (zlib.crc32(name.encode()) ^ self.policy.seed) & 0xFFFFFFFF

    def _addend(self, plan: Plan, name: str, array: Array) -> Array:
        """A constant that is added to a sum: in the weights' format where that is a float without a scale."""
        holding = plan.formats.weights
        if holding is None or name not in self.plans.weights or not _is_float(array):
            return array
        if not isinstance(holding.form, FloatFormat) or holding.shared(True) != "none":
            return array
        return self._held(plan, name, array, row_layout(array.ndim)).values

    def _output(self, plan: Plan, name: str, array: Array) -> Array:
        holding = plan.formats.output
        if holding is None or not name or not _is_float(array):
            return array
        known = self.ranges.get(name) if holding.is_static else None
        held = hold(array, holding, row_layout(array.ndim), False, known, self._seed(name)).values
        return self._with_masks(held, array, holding)

    def _with_masks(self, held: Array, exact: Array, holding: Holding | None) -> Array:
        """Values as held, but under a scale masks as they were: a device skips what they hide, whatever it can hold."""
        if holding is None or (isinstance(holding.form, FloatFormat) and holding.shared(False) == "none"):
            return held
        hidden = -self.policy.calibration.mask_beyond
        return np.where(exact <= hidden, exact, held) if exact.min(initial=0) <= hidden else held

    def _contract(
        self, op: Op, operator: Operator, contractor: Contractor, plan: Plan, inputs: Sequence[Array | None]
    ) -> Array:
        """Input 0 times input 1, summed in the accumulator, plus input 2."""
        first, second, addend = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
        assert first is not None
        assert second is not None
        layouts = contractor.layouts(op, first.shape, second.shape)
        left, right = (
            self._held(plan, name, array, layout)
            for name, array, layout in zip(op.inputs, (first, second), layouts, strict=False)
        )
        added = None if addend is None else self._addend(plan, op.inputs[2], addend)
        accumulator = plan.formats.accumulator
        if accumulator is None or accumulator.format == "fp32":
            given = [left.values, right.values]
            return operator.compute(op, given if added is None else [*given, added])[0]
        if accumulator.bits is None:
            product = contractor.product(op, left.values.astype(np.float32), right.values.astype(np.float32))
            result = product.result(float_sums(product, accumulator))
        else:
            result = self._integer_product(op, operator, contractor, left, right, accumulator)
        result = result.astype(first.dtype, copy=False)
        return result if added is None else contractor.add(op, result, added)

    def _integer_product(
        self, op: Op, operator: Operator, contractor: Contractor, left: Held, right: Held, accumulator: Accumulator
    ) -> Array:
        """Sums of whole numbers in the accumulator, times the scales."""
        a, b = left.whole, right.whole
        if a is None or b is None or a.group is not None:
            raise BadParameter(
                f"node '{op.name}' ({op.kind}): accumulator {accumulator.format} needs integer weights and "
                "activations, activations with one scale a tensor or token"
            )
        run = contractor.layouts(op, a.codes.shape, b.codes.shape)[1].run
        bound = math.prod(b.codes.shape[axis] for axis in run) * a.peak * b.peak
        kind = np.dtype(np.float32 if bound < 1 << 24 else np.float64)  # in which every partial sum is exact
        high = integer_limits(accumulator)[1]
        if b.group is not None and b.group * a.peak * b.peak <= high:
            return operator.compute(op, [a.codes, right.values])[0] * contractor.scale(op, a.scale, _one(b.scale))
        if b.group is None and bound <= high:
            sums = operator.compute(op, [a.codes.astype(kind, copy=False), b.codes.astype(kind, copy=False)])[0]
            return sums.astype(np.float32) * contractor.scale(op, a.scale, b.scale)
        product = contractor.product(op, a.codes.astype(kind, copy=False), b.codes.astype(kind, copy=False))
        if b.group is not None:
            scales = contractor.product(op, a.codes, b.scale).right
            total = self._group_sums(op, product, scales, b.group, accumulator)
            return product.result(total) * contractor.scale(op, a.scale, _one(b.scale))
        sums = self._sums(op, product, accumulator)
        return product.result(sums.astype(np.float32)) * contractor.scale(op, a.scale, b.scale)

    def _group_sums(self, op: Op, product: Product, scales: Array, group: int, accumulator: Accumulator) -> Array:
        """Each group of weights summed in the accumulator, scaled, and added up in float32."""
        total = np.zeros((*product.left.shape[:2], product.right.shape[2]), np.float32)
        depth = product.left.shape[2]
        # Groups of a transposed convolution's weights may begin in the middle of those of its channel groups.
        changes = np.flatnonzero((scales[:, 1:] != scales[:, :-1]).any(axis=(0, 2))) + 1
        starts = sorted({*range(0, depth, group), *changes.tolist()})
        for start, end in pairwise([*starts, depth]):
            part = slice(start, end)
            piece = Product(product.left[:, :, part], product.right[:, part], product.result)
            total += self._sums(op, piece, accumulator).astype(np.float32) * scales[:, start, None]
        return total

    def _sums(self, op: Op, product: Product, accumulator: Accumulator) -> Array:
        """Sums (b, m, n) of whole numbers as the accumulator holds them, those that leave its range counted."""
        low, high = integer_limits(accumulator)
        exact = np.matmul(product.left, product.right)
        if accumulator.overflow == "wrap":
            outside = (exact < low) | (exact > high)
            self.overflows[op.name] += int(np.count_nonzero(outside))
            return wrapped(exact.astype(np.int64), accumulator.bits or 64) if outside.any() else exact
        if np.matmul(np.abs(product.left), np.abs(product.right)).max(initial=0) <= high:
            return exact  # no order of summation leaves the range on the way
        found, overflows = integer_sums(product, accumulator)
        self.overflows[op.name] += overflows
        return found


def _one(scale: Array) -> Array:
    """A scale of one, of the same rank."""
    return np.ones((1,) * scale.ndim, np.float32)


def _contractor(op: Op, inputs: Sequence[Array | None]) -> Contractor | None:
    """How the operation is a product of floats; None when it is none."""
    if len(inputs) < 2 or not _is_float(inputs[0]) or not _is_float(inputs[1]):
        return None
    first, second = inputs[0], inputs[1]
    return None if first is None or second is None else contractor_of(op, first.shape, second.shape)


def _is_float(value: Any) -> bool:
    """Whether a value is a tensor of floats: scalars, sequences and what is absent are left as they are."""
    return isinstance(value, np.ndarray) and value.ndim > 0 and dtype(name_of(value.dtype)).is_float


class _Watch:
    """Numerics that compute exactly and note what a policy's static tensors hold."""

    def __init__(self, graph: Graph, policy: Policy) -> None:
        self.plans = Plans(graph, policy)
        self.seen: dict[str, Seen] = {}
        self.holdings: dict[str, Holding] = {}
        self.counting = False
        self._exact = Exact()
        self._mask_beyond = policy.calibration.mask_beyond

    def compute(self, op: Op, operator: Operator, inputs: Sequence[Array | None], read: Read) -> list[Array]:
        formats = self.plans.of(op, operator, inputs).formats
        outputs = self._exact.compute(op, operator, inputs, read)
        for holding, names, arrays in ((formats.activations, op.inputs, inputs), (formats.output, op.outputs, outputs)):
            if holding is not None and holding.is_static:
                for name, array in zip(names, arrays, strict=False):
                    if name and array is not None and _is_float(array) and name not in self.plans.weights:
                        self._note(name, array, holding)
        return outputs

    def _note(self, name: str, array: Array, holding: Holding) -> None:
        self.holdings.setdefault(name, holding)
        seen = self.seen.setdefault(name, Seen())
        values = array.astype(np.float32, copy=False)
        if self.counting:
            seen.count(values)
        else:
            seen.widen(values, self._mask_beyond)


def calibrate(
    graph: Graph, policy: Policy, samples: Iterable[Mapping[str, Any]], seed_weights: int | None = None
) -> dict[str, Range]:
    """Ranges of the policy's static tensors by name, from the exact values that sample inputs give them.

    Samples are inputs by name, as `Executor.run` takes them. Raises BadParameter when there is none.
    """
    return calibrate_by(Executor(graph, Exact(), seed_weights), policy, samples)


def calibrate_by(executor: Executor, policy: Policy, samples: Iterable[Mapping[str, Any]]) -> dict[str, Range]:
    """`calibrate` for the graph of an executor, which lends its weights."""
    samples = list(samples)
    if not samples:
        raise BadParameter("calibration needs at least one sample of the inputs")
    watch = _Watch(executor.graph, policy)
    executor = executor.with_numerics(watch)
    for sample in samples:
        executor.run(sample)
    if any(needs_counts(holding, policy.calibration) for holding in watch.holdings.values()):
        watch.counting = True
        for sample in samples:
            executor.run(sample)
    # A tensor of nothing but zeros and masks has no range: it takes that of its values, which holds both exactly.
    seen = {name: found for name, found in watch.seen.items() if found.low < found.high}
    return {name: range_of(found, watch.holdings[name], policy.calibration) for name, found in seen.items()}
