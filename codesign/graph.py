"""The Graph: operator IR with typed tensors, every dimension a known integer, operations in topological order.

A graph that is only executed may hold values whose shape comes from data: they are named, and have no Tensor.
A Graph is a value. Transforms take one and return another; nothing else builds or edits it after the front end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.dtypes import dtype, numpy_dtype
from codesign.errors import UnboundDimension

if TYPE_CHECKING:
    from codesign.statistics.document import Statistics


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, shape and element type of a value. `shape` holds ints only."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return dtype(self.dtype).bytes_for(self.elements)


class Weight:
    """A constant whose values are read, made or derived only when asked for.

    A stored weight has a `value` in memory or a `load` that reads it; with neither its values are absent (a
    structure-only model): simulation needs none. A derived one is what `derive` makes of the arrays of its `sources`,
    so that it changes neither when a transform derives it nor when its sources are made up from a seed.
    """

    __slots__ = ("_derive", "_load", "_value", "is_parameter", "sources", "tensor")

    def __init__(
        self,
        tensor: Tensor,
        value: np.ndarray[Any, Any] | None = None,
        load: Callable[[], np.ndarray[Any, Any]] | None = None,
        is_parameter: bool = True,
        sources: Sequence[Weight] = (),
        derive: Callable[..., np.ndarray[Any, Any]] | None = None,
    ) -> None:
        self.tensor = tensor
        self._value = value
        self._load = load
        self.is_parameter = is_parameter
        self.sources = tuple(sources)
        self._derive = derive

    @property
    def has_value(self) -> bool:
        return next(self.absent(), None) is None

    def absent(self) -> Iterator[str]:
        """Names of the stored weights whose values this one needs and the model does not hold."""
        for weight in self._needed():
            if weight.is_made and weight._derive is None:
                yield weight.tensor.name

    def _needed(self) -> list[Weight]:
        """This weight and all that it derives from, each once, before what derives from it. (A hostile file can chain
        any number, or use each twice: neither recursion nor a tree would end.)"""
        order: list[Weight] = []
        seen: set[int] = set()
        pending = [(self, False)]
        while pending:
            weight, is_ready = pending.pop()
            if is_ready:
                order.append(weight)
            elif id(weight) not in seen:
                seen.add(id(weight))
                pending.append((weight, True))
                if weight.is_made:
                    pending.extend((source, False) for source in reversed(weight.sources))
        return order

    @property
    def is_made(self) -> bool:
        """True when the values are derived or made up when asked for: neither in memory nor in a file."""
        return self._value is None and self._load is None

    @property
    def inline(self) -> np.ndarray[Any, Any] | None:
        """The array if it is already in memory, else None: never reads a file."""
        return self._value

    def array(self, seed: int | None = None) -> np.ndarray[Any, Any] | None:
        """The values, shape and type as in `tensor`. Absent ones are made up from `seed`; None when there is none.

        Not kept: the caller owns the memory.
        """
        needed = self._needed()
        uses = Counter(id(source) for weight in needed for source in weight.sources)
        arrays: dict[int, np.ndarray[Any, Any] | None] = {}
        for weight in needed:
            arrays[id(weight)] = weight._made(seed, [arrays.get(id(source)) for source in weight.sources])
            for source in weight.sources:
                uses[id(source)] -= 1
                if not uses[id(source)]:
                    arrays.pop(id(source), None)
        return arrays[id(self)]

    def _made(
        self, seed: int | None, sources: Sequence[np.ndarray[Any, Any] | None]
    ) -> np.ndarray[Any, Any] | None:  # fmt: skip
        if self._value is not None:
            return self._value
        if self._load is not None:
            return self._load()
        if self._derive is None:
            return None if seed is None else seeded_weight(self.tensor, seed)
        return None if any(array is None for array in sources) else self._derive(*sources)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    `kind` names the operator (ONNX's name, or ours for a fused form); `inputs` holds tensor names, "" for an absent
    optional. `epilogue` holds elementwise or per-channel operations computed on the result before it is stored: each
    reads the value so far as its input "@" beside tensors of its own. `sources` are the ONNX nodes it came from;
    `absorbed` the kinds of operations that were folded into its weights, by a transform or by the exporter.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    opset: int = 0
    sources: tuple[str, ...] = ()
    epilogue: tuple[Op, ...] = ()
    bodies: Mapping[str, Graph] = field(default_factory=dict)
    absorbed: tuple[str, ...] = ()

    def reads(self) -> Iterator[str]:
        """Names of all tensors read, the epilogue's and (for control flow) the captured outer values included."""
        yield from (name for name in self.inputs if name and name != "@")
        for follower in self.epilogue:
            yield from (name for name in follower.inputs if name and name != "@")
        for body in self.bodies.values():
            yield from body.captured


@dataclass(frozen=True)
class Graph:
    """A model. `tensors` describes values by name; `weights` those that are constants.

    `unknown` names the values whose shape is not known before the graph runs, or that are sequences, each with the
    reason. They have no entry in `tensors`; every graph that is simulated has none. `statistics`, where they were
    measured, say what the values are like.
    """

    name: str
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Weight]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...] = ()
    source: str = ""
    batch: int = 1
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    statistics: Statistics | None = None

    @property
    def parameters(self) -> int:
        """Number of learned values: elements of weights that are not shapes, masks or other folded constants."""
        return sum(weight.tensor.elements for weight in self.weights.values() if weight.is_parameter)

    @property
    def weight_bytes(self) -> int:
        return sum(weight.tensor.bytes for weight in self.weights.values() if weight.is_parameter)

    def with_ops(self, ops: tuple[Op, ...], **changes: Any) -> Graph:
        """A copy with other operations; tensors, weights and captured values that nothing uses any more are dropped."""
        new = replace(self, ops=ops, **changes)
        used = {name for op in new.ops for name in (*op.reads(), *op.outputs) if name}
        used.update(new.inputs, new.outputs)
        return replace(
            new,
            tensors={name: tensor for name, tensor in new.tensors.items() if name in used},
            weights={name: weight for name, weight in new.weights.items() if name in used},
            unknown={name: reason for name, reason in new.unknown.items() if name in used},
            captured=tuple(name for name in new.captured if name in used),
        )

    def check_known(self) -> None:
        """Raises UnboundDimension, naming the first operation at fault, when a shape is not known before a run."""
        for graph in (self, *(body for op in self.ops for body in op.bodies.values())):
            for reason in graph.unknown.values():
                raise UnboundDimension(f"{self.source or self.name}: {reason}")

    def producers(self) -> dict[str, Op]:
        """The operation that writes each tensor."""
        return {name: op for op in self.ops for name in op.outputs if name}

    def consumers(self) -> dict[str, list[Op]]:
        """The operations that read each tensor, in order; graph outputs are not operations and are not listed."""
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.reads():
                readers.setdefault(name, []).append(op)
        return readers


def seeded_weight(tensor: Tensor, seed: int) -> np.ndarray[Any, Any]:
    """Reproducible values for an absent weight: normal with standard deviation 1/sqrt(fan-in) for matrices, and
    values around one for vectors, so that activations keep their scale. The stream depends on the name, not the order.
    """
    import zlib

    generator = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    if not dtype(tensor.dtype).is_float:
        return generator.integers(-8, 8, tensor.shape).astype(numpy_dtype(tensor.dtype))
    if len(tensor.shape) < 2:
        values = 1.0 + 0.1 * generator.standard_normal(tensor.shape, dtype=np.float32)
        return np.asarray(values).astype(numpy_dtype(tensor.dtype))
    fan_in = max(1, tensor.elements // max(tensor.shape[0], 1))
    values = generator.standard_normal(tensor.shape, dtype=np.float32) / np.float32(math.sqrt(fan_in))
    return values.astype(numpy_dtype(tensor.dtype))
