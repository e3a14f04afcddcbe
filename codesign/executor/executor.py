"""The functional executor: walks a graph in order, computes each operation, and frees every value once it is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from codesign.errors import BadModel, CodesignError, DoesNotFit
from codesign.executor.bodies import lend
from codesign.executor.epilogue import follow
from codesign.executor.inputs import checked_inputs
from codesign.executor.limits import Limits, check_graph, check_result, current, made_bytes, peak, use
from codesign.executor.prepared import prepare
from codesign.executor.prepared.step import Prepared
from codesign.executor.values import described, owned
from codesign.executor.weights import CACHE_BYTES, WeightStore
from codesign.graph import Graph, Op
from codesign.memory import last_uses
from codesign.ops.base import Array, Operator, find

Observer = Callable[[Op, Sequence[Array]], None]


class Numerics(Protocol):
    """The arithmetic of a device: what an operation yields when operands, sums and results are held in its formats."""

    def compute(
        self, op: Op, operator: Operator, inputs: Sequence[Array | None], read: Callable[[str], Array]
    ) -> list[Array]:
        """The outputs of one operation, its epilogue applied. `read` gives the values that the epilogue reads by name.

        Inputs and what is read must not be written to.
        """


class Exact:
    """The arithmetic of the standard: each operator computes in the element types of the graph."""

    def compute(
        self, op: Op, operator: Operator, inputs: Sequence[Array | None], read: Callable[[str], Array]
    ) -> list[Array]:
        outputs = operator.compute(op, inputs)
        return [follow(op.epilogue, outputs[0], inputs, read), *outputs[1:]] if op.epilogue else outputs


class SaturatingPairs(Exact):
    """That of x86 processors without VNNI for products of unsigned and signed bytes, as onnxruntime runs them there:
    pairs of products are added in 16 bits, which large weights exceed (see kernels/saturating.py)."""

    def compute(
        self, op: Op, operator: Operator, inputs: Sequence[Array | None], read: Callable[[str], Array]
    ) -> list[Array]:
        from codesign.executor.kernels.saturating import saturating_pairs

        with saturating_pairs():
            return super().compute(op, operator, inputs, read)


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation ready to run, with the names of the values that nothing reads after it; `is_unknown` when a shape
    of its results is known only then."""

    op: Op
    operator: Operator
    dead: tuple[str, ...]
    prepared: Prepared | None
    is_unknown: bool


class Executor:
    """Runs one graph, any number of times.

    `numerics` replaces the arithmetic; None computes as the standard defines. `seed_weights` makes up the values of
    weights that the model does not hold. `weight_cache_bytes` bounds what is kept of the weights between operations.
    `limits` bound the trips of loops and the memory of a run; None takes those in use (see `limits`).
    """

    def __init__(
        self,
        graph: Graph,
        numerics: Numerics | None = None,
        seed_weights: int | None = None,
        weight_cache_bytes: int = CACHE_BYTES,
        limits: Limits | None = None,
    ) -> None:
        self.graph = graph
        self._given_numerics = numerics
        self._numerics = numerics or Exact()
        self._seed = seed_weights
        self._cache_bytes = weight_cache_bytes
        self._weights = WeightStore(graph, seed_weights, weight_cache_bytes)
        self._steps = _plan(graph, self._weights if numerics is None else None)
        self._bodies: dict[int, Executor] = {}
        self._limits = limits or current()
        self._peak = peak(graph)
        self._made_bytes = made_bytes(graph, weight_cache_bytes)

    def with_numerics(self, numerics: Numerics) -> Executor:
        """An executor of the same graph that reads the same weights and computes in other arithmetic."""
        other = copy(self)
        other._given_numerics = other._numerics = numerics
        other._steps, other._bodies = _plan(self.graph, None), {}
        return other

    def run(self, inputs: Mapping[str, Any], observe: Observer | None = None) -> dict[str, Array]:
        """Outputs by name, of the shapes and types the graph states, for inputs by name.

        A sequence is a list of arrays, an optional that holds nothing None, in and out and wherever they are observed.
        `observe` is called with each operation and its outputs (epilogue applied) before any of them is freed.
        Raises BadParameter for a missing, unknown or ill-shaped input, BadModel naming the node that fails, and
        DoesNotFit when memory runs out.
        """
        arrays = self._begin(inputs)
        outputs = self._run(dict(arrays), observe)
        return owned(outputs, [*arrays.values(), *self._weights.kept()])

    def steps(self, inputs: Mapping[str, Any]) -> Iterator[tuple[Op, list[Array]]]:
        """Run one operation at each turn and yield it with its outputs, so that executors can walk side by side.

        The list may be changed before the next turn: what it holds then is what later operations read. The next turn
        empties it, so that nothing is kept longer than it is needed. Raises as `run` does.
        """
        return self._walk(self._begin(inputs), None)

    def _begin(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The inputs checked, and the memory that a run takes."""
        arrays = checked_inputs(self.graph, inputs)
        check_graph(self.graph, self._peak, max(self._made_bytes - self._weights.kept_bytes, 0), self._limits)
        return arrays

    def _run(self, values: dict[str, Array], observe: Observer | None) -> dict[str, Array]:
        for op, outputs in self._walk(values, observe):
            if observe is not None:
                observe(op, tuple(outputs))
        return {name: values[name] if name in values else self._weights[name] for name in self.graph.outputs}

    def _walk(self, values: dict[str, Array], observe: Observer | None) -> Iterator[tuple[Op, list[Array]]]:
        """The steps in order; `values` holds what is alive, at the end the outputs of the graph."""

        def read(name: str) -> Array:
            return values[name] if name in values else self._weights[name]

        for step in self._steps:
            outputs = self._compute(step, read, observe)
            yield step.op, outputs
            values.update((name, value) for name, value in zip(step.op.outputs, outputs, strict=False) if name)
            outputs.clear()
            for name in step.dead:
                values.pop(name, None)

    def _compute(self, step: _Step, read: Callable[[str], Array], observe: Observer | None) -> list[Array]:
        op = step.op
        try:
            outputs = step.prepared(read) if step.prepared is not None else None
            if outputs is not None:
                return outputs
            inputs = [read(name) if name else None for name in op.inputs]
            if step.is_unknown and not op.bodies:
                check_result(op, step.operator, inputs, self._limits)
            with np.errstate(all="ignore"):
                if op.bodies:
                    runner = partial(self._run_body, read=read, observe=observe)
                    with use(self._limits), lend(runner):
                        return list(self._numerics.compute(op, step.operator, inputs, read))
                return list(self._numerics.compute(op, step.operator, inputs, read))
        except CodesignError:
            raise
        except MemoryError as error:
            raise DoesNotFit(f"node '{op.name}' ({op.kind}): not enough memory for its result: {error}") from error
        except Exception as error:
            shapes = ", ".join(described(read(name) if name else None) for name in op.inputs)
            raise BadModel(f"node '{op.name}' ({op.kind}): cannot compute for inputs {shapes}: {error}") from error

    def _run_body(
        self, body: Graph, arguments: Sequence[Array], read: Callable[[str], Array], observe: Observer | None
    ) -> list[Array]:
        """The outputs of a body of one of the graph's operations; `read` gives the values around it."""
        inner = self._bodies.get(id(body))
        if inner is None:
            inner = self._bodies[id(body)] = Executor(
                body, self._given_numerics, self._seed, self._cache_bytes, self._limits
            )
        values = {name: read(name) for name in body.captured if name not in body.weights}
        values.update(zip(body.inputs, arguments, strict=True))
        outputs = inner._run(values, observe)
        return [outputs[name] for name in body.outputs]


def _plan(graph: Graph, weights: WeightStore | None) -> list[_Step]:
    """The steps; made ready with `weights` where the arithmetic is the standard's."""
    dying: dict[int, list[str]] = {}
    for name, index in last_uses(graph).items():
        dying.setdefault(index, []).append(name)
    steps = []
    for index, op in enumerate(graph.ops):
        ready = None if weights is None else prepare(op, graph, weights)
        is_unknown = any(name in graph.unknown for name in op.outputs)
        steps.append(_Step(op, find(op), tuple(dying.get(index, ())), ready, is_unknown))
    return steps


def execute(
    graph: Graph, inputs: Mapping[str, Any], numerics: Numerics | None = None, seed_weights: int | None = None
) -> dict[str, Array]:
    """Run a graph once: `Executor(graph, numerics, seed_weights).run(inputs)`."""
    return Executor(graph, numerics, seed_weights).run(inputs)
