"""Accuracy of number formats: a graph in a policy's arithmetic beside exact arithmetic, operation by operation.

Three executors walk side by side: exact; in the policy's arithmetic; and the same fed with exact values, which shows
what each operation loses by itself. No value is kept longer than an executor keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.dtypes import dtype, name_of
from codesign.errors import BadParameter
from codesign.executor import Executor
from codesign.executor.executor import Exact
from codesign.executor.kernels.distribution import agreement_sums
from codesign.graph import Graph, Op
from codesign.numerics.arithmetic import Arithmetic, calibrate_by
from codesign.numerics.holding import Range
from codesign.numerics.policy import Formats, Policy, policy
from codesign.report.accuracy import AccuracyDocument, AccuracyReport, Agreement, OpAccuracy
from codesign.transforms import Quantised, optimise

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Any]
Progress = Callable[[int, int], None]
"""Called with how many operations are done, and how many there are."""

OPAQUE = ("fuse_attention",)
"""Transforms left out, so that both products of an attention and its softmax are held in their own formats."""


def accuracy(
    graph: Graph,
    numerics: str | Path | Policy,
    inputs: Sample | Iterable[Sample],
    seed_weights: int | None = None,
    calibration: Iterable[Sample] | None = None,
    ranges: Mapping[str, Range] | None = None,
    progress: Progress | None = None,
    quantised: Quantised = "fused",
) -> AccuracyReport:
    """Compute a loaded graph in the formats of `numerics` (a preset, a YAML file or a policy), beside exact arithmetic.

    `inputs` are one sample, arrays by name, or several. Ranges of activations come from `ranges`, or from the samples
    in `calibration`, or, with a warning, from the inputs themselves. `quantised` is how the graph's own dequantised
    values are computed on, as `optimise` takes it. Raises BadParameter for a policy that the graph cannot follow, and
    what Executor.run raises.
    """
    chosen = numerics if isinstance(numerics, Policy) else policy(numerics)
    samples = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    if not samples:
        raise BadParameter("a comparison needs at least one sample of the inputs")
    fused = optimise(graph, quantised, OPAQUE)
    given = None if calibration is None else list(calibration)
    exact = Executor(fused, Exact(), seed_weights)
    if ranges is None:
        ranges = calibrate_by(exact, chosen, samples if given is None else given)
    arithmetic = Arithmetic(fused, chosen, ranges)
    comparison = _Comparison(exact, arithmetic, seed_weights)
    outputs, stored = comparison.run(samples, progress), _stored_bits(fused)
    document = AccuracyDocument(
        model=graph.source or graph.name,
        numerics=chosen.name or "a policy",
        description=chosen.description,
        samples=len(samples),
        calibration=_calibrated(chosen, ranges, given),
        ranges=dict(ranges),
        weight_bytes=sum(stored.values()) // 8,
        held_weight_bytes=sum({**stored, **arithmetic.weight_bits}.values()) // 8,
        outputs=comparison.outputs(),
        ops=comparison.records(),
        warnings=[*_calibration_warnings(ranges, given), *_opaque_warnings(arithmetic)],
    )
    return AccuracyReport(document, outputs)


def _calibrated(chosen: Policy, ranges: Mapping[str, Range], given: Sequence[Sample] | None) -> str:
    if not ranges:
        return "no calibrated ranges"
    source = "the inputs themselves" if given is None else f"{len(given)} sample{'s' if len(given) > 1 else ''}"
    return f"{len(ranges)} ranges calibrated by {chosen.calibration.method} on {source}"


def _calibration_warnings(ranges: Mapping[str, Range], given: Sequence[Sample] | None) -> list[str]:
    if not ranges or given is not None:
        return []
    return ["ranges were calibrated on the inputs that are compared; give other samples for an honest figure"]


def _opaque_warnings(arithmetic: Arithmetic) -> list[str]:
    """Of operations that hide products of their own."""
    hidden = {
        op.kind
        for op, plan in arithmetic.plans.made()
        if plan.operation_class in ("attention", "scan") and (plan.formats.weights or plan.formats.activations)
    }
    return [
        f"{kind} is one operation in this model: its operands are held, what it computes inside is not"
        for kind in sorted(hidden)
    ]


def _stored_bits(graph: Graph) -> dict[str, int]:
    """Bits of each learned weight as the model stores it."""
    read = {name for op in graph.ops for name in op.reads()}
    learned = {name: weight.tensor for name, weight in graph.weights.items() if weight.is_parameter and name in read}
    return {name: 8 * tensor.bytes for name, tensor in learned.items()}


class _Comparison:
    """Executors side by side, and what was seen of each operation."""

    def __init__(self, exact: Executor, arithmetic: Arithmetic, seed_weights: int | None) -> None:
        self._graph = graph = exact.graph
        self._arithmetic = arithmetic
        self._seed = seed_weights
        self._exact, self._device = exact, exact.with_numerics(arithmetic)
        masks = -arithmetic.policy.calibration.mask_beyond
        self._own = [_Sums(masks) for _ in graph.ops]
        self._accumulated = [_Sums(masks) for _ in graph.ops]
        self._overflows = [0] * len(graph.ops)
        self._outputs: dict[str, _Sums] = {name: _Sums(masks) for name in graph.outputs}

    def run(self, samples: Sequence[Sample], progress: Progress | None) -> dict[str, Any]:
        """Compare all samples; the outputs of the first in the policy's arithmetic."""
        total, done = len(samples) * len(self._graph.ops), 0
        kept: list[dict[str, Any]] = []
        for sample in samples:
            found: dict[str, Any] = {}
            for op, device in self._walk(sample):
                if not kept:
                    found.update(item for item in zip(op.outputs, device, strict=False) if item[0] in self._outputs)
                done += 1
                if progress is not None:
                    progress(done, total)
            kept = kept or [self._complete(found, sample)]
        return kept[0]

    def _complete(self, found: dict[str, Any], sample: Sample) -> dict[str, Any]:
        """All outputs, in order: those that no operation makes are inputs or weights."""
        for name in self._graph.outputs:
            if name not in found:
                weight = self._graph.weights.get(name)
                found[name] = np.asarray(sample[name]) if weight is None else weight.array(self._seed)
        return {name: found[name] for name in self._graph.outputs}

    def _walk(self, sample: Sample) -> Iterator[tuple[Op, list[Any]]]:
        """Every operation and its outputs in the policy's arithmetic, compared before it is yielded."""
        devices, alone = self._device.steps(sample), self._device.steps(sample)
        counts = self._arithmetic.overflows
        for index, (op, exact) in enumerate(self._exact.steps(sample)):
            before = counts[op.name]
            _, device = next(devices)
            self._overflows[index] += counts[op.name] - before
            _, own = next(alone)
            self._own[index].add_all(exact, own)
            self._accumulated[index].add_all(exact, device)
            for name, right, here in zip(op.outputs, exact, device, strict=False):
                if name in self._outputs:
                    self._outputs[name].add(right, here)
            own[:] = exact
            yield op, device

    def outputs(self) -> dict[str, Agreement]:
        return {name: sums.agreement() for name, sums in self._outputs.items() if sums.seen}

    def records(self) -> list[OpAccuracy]:
        plans = {id(op): plan for op, plan in self._arithmetic.plans.made()}
        return [
            OpAccuracy(
                name=op.name,
                onnx_nodes=list(op.sources),
                op="+".join([op.kind, *(follower.kind for follower in op.epilogue)]),
                formats=_named(op, plans[id(op)].formats, self._arithmetic.plans.weights) if id(op) in plans else {},
                own=self._own[index].agreement(),
                accumulated=self._accumulated[index].agreement(),
                overflows=self._overflows[index],
            )
            for index, op in enumerate(self._graph.ops)
        ]


def _named(op: Op, formats: Formats, weights: set[str]) -> dict[str, str]:
    """Names of the formats that the operation has a use for."""
    parts = {part: holding.format for part in Formats.model_fields if (holding := getattr(formats, part)) is not None}
    if not any(name in weights for name in op.inputs):
        parts.pop("weights", None)
    return {part: name for part, name in parts.items() if name != "none"}


class _Sums:
    """Sums over all values of a tensor, or of all outputs of an operation, from which its agreement follows; values
    that are `masks` or less in exact arithmetic stand for masks and are passed over."""

    def __init__(self, masks: float) -> None:
        self.seen, self._masks = False, masks
        self._signal = self._other = self._dot = self._noise = self._largest = 0.0
        self._rows = self._same = self._not_finite = 0

    def add_all(self, exact: Sequence[Any], found: Sequence[Any]) -> None:
        for right, here in zip(exact, found, strict=False):
            self.add(right, here)

    def add(self, exact: Any, found: Any) -> None:
        """Compare two tensors; what is no tensor of numbers is passed over."""
        if not isinstance(exact, np.ndarray) or dtype(name_of(exact.dtype)).kind in ("string", "complex"):
            return
        if not isinstance(found, np.ndarray) or found.shape != exact.shape or not exact.size:
            return
        self.seen = True
        right, here = (_in_rows(values) for values in (exact, found))
        signal, other, dot, noise, largest, same, not_finite = agreement_sums(right, here, self._masks)
        self._signal += signal
        self._other += other
        self._dot += dot
        self._noise += noise
        self._largest = max(self._largest, largest)
        self._not_finite += not_finite
        if right.shape[1] > 1:
            self._rows += len(right)
            self._same += same

    def agreement(self) -> Agreement:
        lengths = math.sqrt(self._signal) * math.sqrt(self._other)
        return Agreement(
            sqnr_dB=10 * math.log10(self._signal / self._noise) if self._noise and self._signal else None,
            cosine=min(self._dot / lengths, 1.0) if lengths else None,
            max_error=self._largest,
            top1=self._same / self._rows if self._rows else None,
            not_finite=self._not_finite,
        )


def _in_rows(values: Array) -> Array:
    """Rows along the last axis, in float32 or float64."""
    kind = np.float32 if values.dtype.itemsize <= 4 and dtype(name_of(values.dtype)).is_float else np.float64
    return np.ascontiguousarray(values, kind).reshape(-1, values.shape[-1] if values.ndim else 1)
