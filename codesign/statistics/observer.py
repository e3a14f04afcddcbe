"""Measuring: run a graph on sample inputs and observe every value that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from codesign.dtypes import dtype, name_of
from codesign.errors import BadParameter
from codesign.executor import Executor
from codesign.executor.inputs import checked_inputs
from codesign.executor.kernels.distribution import BINS, count_bins, fullest_groups, moments
from codesign.graph import Graph, Op, Weight
from codesign.ops.base import Array
from codesign.statistics.document import Histogram, Routing, Statistics, TensorStatistics, attach
from codesign.statistics.roles import CHOOSING, LOOKED_UP, ROUTED, SUMMED, ZERO_POINTS
from codesign.transforms import optimise

Role = Literal["input", "weight", "activation"]
Samples = Mapping[str, Any] | Iterable[Mapping[str, Any]]

_LEAST_EXPONENT = -1000
"""Values below two to this power share the two bins beside zero."""
_CHUNK = 1 << 20
"""Elements of a type that numba lacks (half, bfloat16, float8) converted at a time."""


def measure(graph: Graph, inputs: Samples, seed_weights: int | None = None, fused: bool = True) -> Graph:
    """The graph with statistics of its values on `inputs`: one sample, by name, or several.

    Weights are measured both as loaded and as the transforms leave them; activations where the optimised graph holds
    them, as it is what devices run, or with `fused=False` where the graph as loaded does. Only statistics are kept,
    and one sample is in memory at a time. Raises what Executor.run raises.
    """
    chosen = optimise(graph) if fused else graph
    observer = _Observer(chosen)
    executor = Executor(chosen, seed_weights=seed_weights)
    samples = 0
    for sample in (inputs,) if isinstance(inputs, Mapping) else inputs:
        for name, array in checked_inputs(chosen, sample).items():
            observer.add(name, array, "input")
        executor.run(sample, observe=observer.observe)
        samples += 1
    if not samples:
        raise BadParameter("statistics need at least one sample of inputs")
    for weights in (graph.weights, chosen.weights):
        for name, weight in weights.items():
            observer.add_weight(name, weight, seed_weights)
    return attach(graph, observer.document(graph.source or graph.name, samples))


class _Running:
    """What is known so far of one tensor."""

    def __init__(self, role: Role, array: Array, zero: int) -> None:
        self.role, self.dtype, self.shape, self.zero = role, array.dtype.name, array.shape, zero
        self.elements = self.finite = self.zeros = 0
        self.minimum, self.maximum, self.total, self.squares = math.inf, -math.inf, 0.0, 0.0
        self.centre = 0.0
        self.exponent = _LEAST_EXPONENT  # of the histogram's outer edges
        self.counts = np.zeros(BINS, np.int64)
        self.patterns: dict[int, int] = {}
        self.slices = self.filled = 0

    def add(self, array: Array) -> None:
        flat = array.ravel(order="K")
        if flat.dtype == np.bool_:
            flat = flat.view(np.uint8)
        if flat.dtype.isbuiltin != 1 or flat.dtype == np.float16:
            for start in range(0, flat.size, _CHUNK):
                self._add(flat[start : start + _CHUNK].astype(np.float32))
        else:
            self._add(flat)

    def add_slices(self, array: Array) -> None:
        """Count the slices along the first axis, and those that hold anything."""
        self.slices += array.shape[0]
        self.filled += int(np.count_nonzero((array != self.zero).reshape(array.shape[0], -1).any(axis=1)))

    def _add(self, flat: Array) -> None:
        if not self.finite and flat.size and np.isfinite(flat[0]):
            self.centre = float(flat[0])  # so that no large mean cancels the variance
        finite, zeros, least, greatest, total, squares = moments(flat, flat.dtype.type(self.zero), self.centre)
        self.elements += flat.size
        self.finite += finite
        self.zeros += zeros
        self.minimum, self.maximum = min(self.minimum, least), max(self.maximum, greatest)
        self.total += total
        self.squares += squares
        if finite:
            self._widen(max(abs(least), abs(greatest)))
            count_bins(flat, 1 / self._width, self.counts)

    @property
    def _width(self) -> float:
        """Width of a bin."""
        return math.ldexp(2.0 / BINS, self.exponent)

    def _widen(self, reach: float) -> None:
        """Make the bins so wide that `reach` is inside the outer edges: a power of two wider, bins are merged whole."""
        exponent = math.frexp(reach)[1]  # reach < 2 ** exponent
        if exponent > self.exponent and reach:
            merged = np.zeros_like(self.counts)
            places = (np.arange(BINS) - BINS // 2 >> min(exponent - self.exponent, 62)) + BINS // 2
            np.add.at(merged, places, self.counts)
            self.counts, self.exponent = merged, exponent

    def document(self) -> TensorStatistics:
        some, shift = self.finite > 0, self.total / max(self.finite, 1)
        variance = max(self.squares / max(self.finite, 1) - shift * shift, 0.0)
        return TensorStatistics(
            role=self.role,
            dtype=self.dtype,
            shape=self.shape,
            elements=self.elements,
            density=1 - self.zeros / self.elements if self.elements else 1.0,
            zero=self.zero,
            not_finite=self.elements - self.finite,
            minimum=self.minimum if some else None,
            maximum=self.maximum if some else None,
            mean=self.centre + shift if some else None,
            standard_deviation=math.sqrt(variance) if some else None,
            histogram=self._histogram() if some else None,
            filled=self.filled / self.slices if self.slices else None,
            patterns=tuple((most, size) for size, most in sorted(self.patterns.items()) if most < size),
        )

    def _histogram(self) -> Histogram:
        occupied = np.flatnonzero(self.counts)
        first, last = int(occupied[0]), int(occupied[-1])
        counts = tuple(self.counts[first : last + 1].tolist())
        return Histogram(low=(first - BINS // 2) * self._width, width=self._width, counts=counts)


class _Pointed:
    """Where the indices of one tensor have pointed so far."""

    def __init__(self, op: str, choices: int, best: int = 0) -> None:
        """`best` is how many of each row of scores are chosen, where the tensor holds these instead of indices."""
        self.op, self.choices, self.best = op, choices, best
        self.counts = np.zeros(choices, np.int64)
        self.indices, self.distinct = 0, 0

    def add(self, array: Array) -> None:
        if self.best:
            array = np.argpartition(-array.astype(np.float32), self.best - 1, axis=-1)[..., : self.best]
        inside = array[(array >= -self.choices) & (array < self.choices)].astype(np.int64) % self.choices
        counts = np.bincount(inside, minlength=self.choices)
        self.indices += array.size
        self.distinct += int(np.count_nonzero(counts))
        self.counts += counts

    def document(self, samples: int) -> Routing:
        places = np.flatnonzero(self.counts)
        counts = dict(zip(places.tolist(), self.counts[places].tolist(), strict=True))
        return Routing(
            op=self.op,
            choices=self.choices,
            indices=self.indices // samples,
            distinct=self.distinct / samples,
            counts=counts,
        )


class _Observer:
    """Collects what the executor shows it. Tensors of bodies of control flow are counted each time they are made."""

    def __init__(self, graph: Graph) -> None:
        self._zeros: dict[str, int] = {}
        self._summed: dict[str, list[Op]] = {}
        self._pointed: dict[str, _Pointed] = {}
        self._grouped: set[str] = set()
        self._tensors: dict[str, _Running] = {}
        self._study(graph)

    def _study(self, graph: Graph) -> None:
        """Find the zero points, the weights of products and the tensors of indices."""
        for op in graph.ops:
            for body in op.bodies.values():
                self._study(body)
            for place, zero in ZERO_POINTS.get(op.kind, {}).items():
                if zero < len(op.inputs) and op.inputs[zero]:
                    self._note_zero(graph, op.inputs[place], op.inputs[zero])
            if op.kind in SUMMED:
                self._summed.setdefault(op.inputs[SUMMED[op.kind][0]], []).append(op)
            if op.kind == "MatMul" and op.inputs[1] in graph.weights and len(graph.tensors[op.inputs[1]].shape) == 3:
                self._grouped.add(op.inputs[0])
            self._note_indices(graph, op)

    def _note_zero(self, graph: Graph, name: str, zero_point: str) -> None:
        weight = graph.weights.get(zero_point)
        values = weight.array() if weight is not None else None
        if values is not None and values.size and (values == values.flat[0]).all():
            self._zeros[name] = int(values.flat[0])

    def _note_indices(self, graph: Graph, op: Op) -> None:
        if op.kind in ROUTED:
            name = op.inputs[ROUTED[op.kind]]
            choices, best = graph.tensors[name].shape[-1], int(op.attributes.get("k", 1))
            self._pointed[name] = _Pointed(op.name, choices, min(best, choices))
            return
        if op.kind in LOOKED_UP:
            place, data = LOOKED_UP[op.kind]
            name = op.inputs[place]
        elif op.kind in CHOOSING and len(op.outputs) > CHOOSING[op.kind]:
            name, data = op.outputs[CHOOSING[op.kind]], 0
        else:
            return
        tensor = graph.tensors.get(op.inputs[data])
        axis = int(op.attributes.get("axis", -1 if op.kind == "TopK" else 0))
        shape = tensor.shape if tensor is not None else ()
        if name and name not in graph.weights and name not in self._pointed and shape and shape[axis]:
            self._pointed[name] = _Pointed(op.name, shape[axis])

    def observe(self, op: Op, outputs: Sequence[Array]) -> None:
        for name, array in zip(op.outputs, outputs, strict=False):
            if name:
                self.add(name, array, "activation")

    def add(self, name: str, value: Any, role: Role) -> None:
        array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
        if array is None or dtype(name_of(array.dtype)).kind in ("string", "complex"):
            return  # sequences, optionals and text have no statistics
        running = self._tensors.get(name)
        if running is None:
            running = self._tensors[name] = _Running(role, array, self._zeros.get(name, 0))
        running.add(array)
        if name in self._pointed:
            self._pointed[name].add(array)
        if name in self._grouped:
            running.add_slices(array)

    def add_weight(self, name: str, weight: Weight, seed: int | None) -> None:
        """Measure a weight, unless it is or its values are absent."""
        array = None if name in self._tensors else weight.array(seed)
        if array is None:
            return
        self.add(name, array, "weight")
        for op in self._summed.get(name, ()):
            axis = SUMMED[op.kind][1](op, array.ndim)
            for size, most in fullest_groups(array, self._zeros.get(name, 0), axis).items():
                patterns = self._tensors[name].patterns
                patterns[size] = max(most, patterns.get(size, 0))

    def document(self, model: str, samples: int) -> Statistics:
        return Statistics(
            model=model,
            samples=samples,
            tensors={name: running.document() for name, running in self._tensors.items()},
            routing={name: found.document(samples) for name, found in self._pointed.items() if found.indices},
        )
